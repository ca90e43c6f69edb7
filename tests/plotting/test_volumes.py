import gzip

import nibabel as nib
import numpy as np
import pytest

from bids_qsm.plotting.volumes import (
    NOTHING,
    Volume,
    around,
    crop,
    grey_step,
    packed,
    sample_size,
    thin,
    unpacked,
    whole_numbers,
)

AFFINE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.1, 0.2, 0.3) @ np.diag([-1.0, 1.5, 2.5]), [30, -40, -20]
)


def slowly_unpacked(data, shape):
    """What the page reads from packed values, as `values` of viewer.js does."""
    planes = np.frombuffer(gzip.decompress(data), np.uint8).astype(int)
    zigzag = (planes[: planes.size // 2] | (planes[planes.size // 2 :] << 8)).reshape(shape, order='F')
    steps = (zigzag >> 1) ^ -(zigzag & 1)
    found = np.zeros([n + 1 for n in shape], int)  # with a border of zeros
    for x, y, z in np.ndindex(*shape):
        median = sorted((found[x, y + 1, z + 1], found[x + 1, y, z + 1], found[x + 1, y + 1, z]))[1]
        found[x + 1, y + 1, z + 1] = (median + steps[x, y, z] + 32768) % 65536 - 32768
    return found[1:, 1:, 1:]


def world(shape, affine):
    """Coordinates (mm) of all voxels."""
    return np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]


def test_packed_values_come_back():
    rng = np.random.default_rng(0)
    values = rng.integers(-32768, 32768, (7, 5, 9), dtype=np.int16)
    values[0, 0, :2] = -32768, 32767
    for undo in (unpacked, slowly_unpacked):
        assert np.array_equal(undo(packed(values), values.shape), values)
    for data, shape in (
        (packed(values)[:-5], values.shape),
        (b'', values.shape),
        (packed(values), (7, 5, 8)),
    ):
        with pytest.raises(ValueError, match=r'incomplete|reshape'):
            unpacked(data, shape)
    assert packed(values) == packed(values.copy())


def test_values_are_exact_to_half_a_step():
    data = np.random.default_rng(0).normal(0, 0.3, (6, 7, 8)).astype(np.float32)
    data[0, 0] = np.nan
    data[1, 1, :3] = 1e9, np.inf, -np.inf
    whole = whole_numbers(Volume(data, 0.001), 2)
    assert np.array_equal(whole[1, 1, :3], [32767, 32767, -32767])
    assert np.array_equal(whole == NOTHING, np.isnan(data))
    rest = np.abs(data) < 10
    assert np.abs(whole[rest] * 0.002 - data[rest]).max() <= 0.00101


def test_sizes_are_estimated():
    values = np.random.default_rng(0).integers(0, 60, (90, 100, 80)).astype(np.int16)
    assert sample_size(Volume(values, 1.0)) == pytest.approx(len(packed(values)), rel=0.05)
    thick = np.asfortranarray(values.reshape(300, 800, 3))  # of few slices nothing is left to guess
    assert sample_size(Volume(thick, 1.0)) == len(packed(thick))


def test_the_part_with_the_brain_keeps_its_place():
    mask = np.zeros((30, 20, 12), bool)
    mask[10:14, 8:12, 5:7] = True
    part, moved = crop(mask, AFFINE)
    places = world(mask.shape, AFFINE)
    assert mask[part].sum() == mask.sum()
    assert mask[part].shape == (12, 10, 6)
    np.testing.assert_allclose(world(mask[part].shape, moved), places[part])


def test_joined_voxels_keep_their_place_and_small_labels():
    shape = (9, 6, 4)
    places = world(shape, AFFINE)
    ramp = places @ [1.0, 2.0, -1.0]
    ramp[:2] = np.nan
    ramp[2] = np.nan
    labels = np.zeros(shape, np.int16)
    labels[5, 3, 2] = 7
    values, numbered, affine = Volume(ramp, 0.1), Volume(labels, 0.0), AFFINE
    for expected in ((4, 6, 4), (4, 3, 4)):
        numbered, _ = thin(numbered, affine)
        values, affine = thin(values, affine)
        assert values.data.shape == numbered.data.shape == expected
        assert (numbered.data == 7).sum() == 1
    found = world(expected, affine) @ [1.0, 2.0, -1.0]
    np.testing.assert_allclose(values.data[2:], found[2:], rtol=1e-6)
    assert np.isnan(values.data[0]).all()
    # of a pair with one value that value stays
    assert np.isfinite(values.data[1]).all()


def test_grey_values_follow_what_nearly_all_of_the_brain_stays_below():
    data = np.random.default_rng(0).uniform(0, 4000, (10, 11, 12)).astype(np.float32)
    mask = np.ones(data.shape, bool)
    assert grey_step(data, mask) == pytest.approx(16, rel=0.01)
    assert grey_step(np.zeros_like(data), mask) == 1


def test_there_is_no_face_around_the_brain():
    mask = np.zeros((40, 16, 12), bool)
    mask[20:30, 4:8, 4:8] = True
    shown = around(mask, np.diag([1.0, 1.5, 2.5, 1]))
    assert shown[mask].all()
    assert not shown[:15].any()
    assert not shown[35:].any()
    assert shown[16:34, 6, 6].all()
