"""Images are read to their end, and damage is said with the name of the file."""

import re

import nibabel as nib
import numpy as np
import pytest

from bids_qsm.errors import UserError
from bids_qsm.interfaces.io import load, load_shares, read, save_shares
from bids_qsm.interfaces.xfm import load_xfm

DATA = np.random.default_rng(0).integers(0, 4000, (20, 21, 22)).astype(np.int16)


@pytest.fixture(params=['a.nii', 'a.nii.gz', 'two.nii.gz'])
def image(request, tmp_path):
    """A plain, a compressed and a NIfTI-2 image, each with a scale."""
    kind = nib.Nifti2Image if request.param.startswith('two') else nib.Nifti1Image
    made = kind(DATA, np.diag([1, 2, 3, 1]))
    made.header.set_slope_inter(2.0, 1.0)
    made.to_filename(tmp_path / request.param)
    return tmp_path / request.param


def test_whole_images_are_read_as_nibabel_reads_them(image):
    data, affine = read(image)
    expected = nib.load(image)
    np.testing.assert_array_equal(data, expected.get_fdata())
    np.testing.assert_array_equal(affine, expected.affine)


@pytest.mark.parametrize('keep', [0.0, 0.01, 0.5, 0.9999])
def test_cut_images_are_said(image, keep):
    content = image.read_bytes()
    image.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(UserError, match=re.escape(str(image))):
        load(image)


@pytest.mark.parametrize('image', ['a.nii.gz', 'two.nii.gz'], indirect=True)
def test_any_flipped_bit_of_a_compressed_image_is_said(image):
    content = image.read_bytes()
    for place in np.linspace(0, len(content) - 1, 40).astype(int):
        if 3 <= place < 10 + len(image.name):
            continue  # date and name in the header of gzip, which mean nothing
        spoiled = bytearray(content)
        spoiled[place] ^= 16
        image.write_bytes(bytes(spoiled))
        with pytest.raises(UserError, match=re.escape(str(image))):
            load(image)


@pytest.mark.parametrize('content', [b'', b'\x89HDF\r\n\x1a\n' + bytes(200), b'not HDF5'])
def test_damaged_transforms_are_said(tmp_path, content):
    path = tmp_path / 'xfm.h5'
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(str(path))):
        load_xfm(path)


def test_shares_are_bytes_that_others_read_as_0_to_1(image, tmp_path):
    shares = np.zeros((*DATA.shape, 2), np.uint8)
    shares[3, 4, 5] = 255, 51
    path = save_shares(shares, image, tmp_path, 'shares.nii.gz')
    found = load_shares(path)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, shares)
    np.testing.assert_allclose(nib.load(path).get_fdata()[3, 4, 5], [1, 0.2], atol=1e-6)
    np.testing.assert_array_equal(nib.load(path).affine, nib.load(image).affine)
