import os

import numpy as np
import pydicom
import pytest

from bids_qsm.dicom.headers import part_of, read_folder
from bids_qsm.errors import UserError
from tests.dicom.scanners import Scan, write_classic, write_enhanced


@pytest.mark.parametrize(
    ('words', 'part'),
    [
        ('ORIGINAL\\PRIMARY\\M\\ND\\NORM', 'mag'),
        ('ORIGINAL\\PRIMARY\\P\\ND', 'phase'),
        ('DERIVED\\PRIMARY\\P\\ND\\SWI', 'phase'),
        ('ORIGINAL\\PRIMARY\\M_FFE\\M\\FFE', 'mag'),
        ('ORIGINAL\\PRIMARY\\PHASE MAP\\P\\FFE', 'phase'),
        ('ORIGINAL\\PRIMARY\\R_FFE\\R\\FFE', 'real'),
        ('ORIGINAL\\PRIMARY\\I_FFE\\I\\FFE', 'imag'),
        ('ORIGINAL\\PRIMARY\\PHASE', 'phase'),
        ('ORIGINAL\\PRIMARY\\OTHER', 'mag'),
        ('ORIGINAL\\PRIMARY\\M\\P', None),
    ],
)
def test_image_type_tells_the_part(words, part):
    assert part_of({}, words.split('\\')) == part


def test_what_else_tells_the_part_and_contradictions():
    other = ('ORIGINAL', 'PRIMARY', 'OTHER')
    assert [part_of({'GEPart': n}, other) for n in range(4)] == ['mag', 'phase', 'real', 'imag']
    assert part_of({'ComplexImageComponent': 'IMAGINARY'}, ('ORIGINAL', 'PRIMARY', 'VOLUME')) == 'imag'
    assert part_of({'ComplexImageComponent': 'MIXED'}, other) == 'mag'
    assert part_of({'GEPart': 1}, ('ORIGINAL', 'PRIMARY', 'M')) is None


@pytest.mark.parametrize('write', [write_classic, write_enhanced])
def test_groups_have_parts_echoes_and_places(write, tmp_path):
    scan = Scan('Philips', 7, echo_times=(4, 9))
    write(tmp_path, scan)
    found = read_folder(tmp_path)
    assert [group.part for group in found.groups] == ['mag', 'phase']
    assert not found.problems
    for group in found.groups:
        assert sorted(group.echoes) == [4, 9]
        assert (group.volumes, group.is_even, group.size) == (1, True, (8, 7, 4))
        np.testing.assert_allclose(np.diff(group.places), 2, atol=0.03)
        assert group.person == ('HOSP-7731', 'Mustermann^Erika', '19640812', 'F')


def test_files_that_cannot_be_used_are_named(tmp_path):
    files = write_classic(tmp_path / 'd', Scan('Siemens', 1, echo_times=(5,)))
    files[0].write_bytes(files[0].read_bytes()[:-40])
    files[1].write_bytes(files[1].read_bytes()[:700])
    (tmp_path / 'd' / 'notes.txt').write_text('hello')
    (tmp_path / 'd' / 'empty').touch()
    os.mkfifo(tmp_path / 'd' / 'pipe')  # would never end
    found = read_folder(tmp_path / 'd')
    assert found.problems[0] == f'{files[0]}: it is truncated; copy it again from the scanner or the archive.'
    assert len(found.problems) + found.n_others == 4
    assert found.n_files == 6
    assert found.groups[0].volumes == 1


@pytest.mark.parametrize(
    ('key', 'value', 'why'),
    [
        ('ImagePositionPatient', ['0', 'nan', '0'], 'the place of the image cannot be'),
        ('PixelSpacing', ['0', '1'], 'the place of the image cannot be'),
        ('EchoTime', '1e30', 'the echo time cannot be'),
        ('TransferSyntaxUID', '1.2.3', 'its transfer syntax 1.2.3 is none of the standard'),
    ],
)
def test_values_that_cannot_be_leave_one_file_out(key, value, why, tmp_path):
    path, *others = write_classic(tmp_path, Scan('Siemens', 1, echo_times=(5,), parts=('mag',)))
    with pydicom.config.disable_value_validation():
        one = pydicom.dcmread(path)
        if key == 'TransferSyntaxUID':
            one.file_meta.TransferSyntaxUID = value
            one.save_as(path, implicit_vr=False, little_endian=True)
        else:
            setattr(one, key, value)
            one.save_as(path)
    found = read_folder(tmp_path)
    assert found.n_files == len(others)
    assert str(path) in found.problems[0]
    assert why in found.problems[0]


def test_copies_of_a_file_count_once(tmp_path):
    for path in write_classic(tmp_path, Scan('Siemens', 1, echo_times=(5,), parts=('mag',))):
        path.with_name(f'copy-{path.name}').write_bytes(path.read_bytes())
    found = read_folder(tmp_path)
    assert (found.groups[0].volumes, found.groups[0].repeated, found.problems) == (1, 0, ())


def test_files_without_an_identity_are_no_copies(tmp_path):
    for path in write_classic(tmp_path, Scan('Siemens', 1, echo_times=(5,), parts=('mag',))):
        one = pydicom.dcmread(path)
        del one.SOPInstanceUID
        one.save_as(path)
    assert read_folder(tmp_path).groups[0].size == (8, 7, 4)


def test_a_folder_without_images_is_an_error(tmp_path):
    with pytest.raises(UserError, match='is not a folder'):
        read_folder(tmp_path / 'nothing')
    (tmp_path / 'a.txt').write_text('x')
    with pytest.raises(UserError, match='holds no DICOM images'):
        read_folder(tmp_path)


def test_the_private_image_type_of_siemens_xa_tells_the_part(tmp_path):
    scan = Scan('Siemens', 1, echo_times=(5,), parts=('phase',), image_type='ORIGINAL\\PRIMARY\\OTHER')
    for path in write_classic(tmp_path, scan):
        one = pydicom.dcmread(path)
        one.private_block(0x0021, 'SIEMENS MR SDI 02', create=True).add_new(0x75, 'CS', ['P', 'ND'])
        one.save_as(path)
    assert [group.part for group in read_folder(tmp_path).groups] == ['phase']
