"""Positions of a head on one grid: B0 in its frame, oblique and left-handed affines, tables of B0."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from bids_qsm.biomarkers import positions as module
from bids_qsm.biomarkers.positions import (
    Position,
    align,
    axes_of,
    b0_in_world,
    check_session,
    distinct,
    position_table,
    positions_of,
    register,
    stated_b0,
)
from bids_qsm.errors import UserError
from bids_qsm.phantom.head import rigid
from bids_qsm.recon.grid import Grid

SHAPE, STEP = (30, 34, 28), 5.0


def affine_of(rotation=(0, 0, 0), flip=1):
    """Affine of a slab whose middle is the isocentre; ``flip`` -1 is left-handed."""
    affine = np.eye(4)
    affine[:3, :3] = rigid(rotation)[:3, :3] * STEP @ np.diag([flip, 1, 1])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(SHAPE) - 1) / 2)
    return affine


def head(turn, affine):
    """A head of smooth blobs, turned about the isocentre: magnitude, mask and a field that goes along."""
    points = (
        np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing='ij'), -1) @ affine[:3, :3].T + affine[:3, 3]
    )
    points = points @ rigid(turn)[:3, :3]
    x, y, z = np.moveaxis(points, -1, 0)
    mask = (x / 50) ** 2 + (y / 65) ** 2 + (z / 48) ** 2 < 1
    blobs = ((20, 10, 5), (-15, 30, 20), (5, -35, -15))
    bright = sum(
        w * np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / 300)
        for w, (a, b, c) in zip((1, -0.5, 0.8), blobs, strict=True)
    )
    rng = np.random.default_rng(0)
    field = 0.02 * np.sin(x / 15) * np.cos(y / 20) + 1e-4 * rng.standard_normal(SHAPE)
    return (100 * mask * (1 + bright)).astype(np.float32), mask, (field * mask).astype(np.float32)


def position(name, turn, rotation=(0, 0, 0), flip=1):
    affine = affine_of(rotation, flip)
    magnitude, mask, field = head(turn, affine)
    b0 = b0_in_world(Grid.from_affine(SHAPE, affine), affine)
    return Position(name, field, mask, magnitude, affine, b0)


@pytest.mark.parametrize(('rotation', 'flip'), [((0, 0, 0), 1), ((20, -10, 5), -1)])
def test_b0_is_turned_into_the_frame_of_the_first(rotation, flip):
    """Whatever the slabs: B0 of the second position is that of the scanner, turned back with the head."""
    first = position('first', (0, 0, 0), rotation, flip)
    second = position('second', (25, 0, 0), (10, 0, 0))
    found = align([first, second], [np.eye(4), rigid((25, 0, 0))])
    world = found.directions @ axes_of(first.affine).T
    np.testing.assert_allclose(world[0], (0, 0, 1), atol=1e-6)
    np.testing.assert_allclose(world[1], rigid((25, 0, 0))[2, :3], atol=1e-6)
    inside = found.masks[1] & found.masks[0]
    assert inside.sum() > 0.8 * found.masks[0].sum()
    assert np.abs(found.fields[1] - found.fields[0])[inside].max() < 2e-3
    assert np.median(found.noises[1][inside]) == pytest.approx(1e-4, rel=0.4)
    table = position_table([first, second], found, found.fields, found.fields[0], inside)
    assert table['angle_deg'].tolist() == pytest.approx([0, 25], abs=0.01)
    assert table['same_affine'].tolist() == [True, False]
    assert table['filtered'].tolist() == [False, True]


def test_the_field_of_a_slab_of_the_same_voxels_is_kept_as_it_was_measured():
    """Rough fields too, whose highest frequencies are not empty, in a slab of odd sides."""
    rng = np.random.default_rng(0)
    one = position('oblique', (0, 0, 0), (20, -10, 5), -1)
    cut = (slice(None), slice(1, None), slice(1, None))
    one = replace(one, field=one.field[cut], mask=one.mask[cut], magnitude=one.magnitude[cut])
    affine = one.affine.copy()
    affine[:3, 3] += affine[:3, 1] + affine[:3, 2]
    rough = (0.05 * rng.standard_normal(one.mask.shape) * one.mask).astype(np.float32)
    one = replace(one, affine=affine, field=rough)
    found = align([replace(one, name='first'), one], [np.eye(4), np.eye(4)])
    assert found.filtered == [False, False]
    inside = found.masks[1]
    np.testing.assert_array_equal(inside, one.mask)
    np.testing.assert_allclose(found.fields[1][inside], rough[inside], atol=1e-4 * rough.std())


def test_a_head_that_does_not_overlap_is_refused(monkeypatch):
    first, second = position('first', (0, 0, 0)), position('second', (20, 0, 0))
    monkeypatch.setattr(module, 'correct_bias', lambda image, _: (image, None))
    monkeypatch.setattr(module, 'rigid', lambda *_: rigid((20, 0, 0)))
    np.testing.assert_array_equal(register(second, first, first.magnitude), rigid((20, 0, 0)))
    monkeypatch.setattr(module, 'rigid', lambda *_: rigid((0, 0, 0), (60, 0, 0)))
    with pytest.raises(UserError, match='second could not be aligned to first'):
        register(second, first, first.magnitude)


def test_positions_of_other_voxels_are_refused():
    flat, coarse = (2.0, 2.0, 4.0), (4.0, 4.0, 2.0)
    assert check_session(['first', 'flat'], [(2.0, 2.0, 2.0), flat], {}) == {}
    for sizes in ([(2.0, 2.0, 2.0), coarse], [coarse, (2.0, 2.0, 2.0)]):
        larger = 'larger' if sizes[1] is coarse else 'smaller'
        refused = check_session(['first', 'second'], sizes, {})
        assert f'second has voxels that are 1.59 times {larger} in mean size' in refused['second']
    assert check_session(['first', 'second'], [(0.8,) * 3, (1.2000001,) * 3], {}) == {}
    refused = check_session(['first', 'second'], [(1.0,) * 3, (1.503,) * 3], {})
    assert re.search(r'are 1\.51 times larger .* up to 1\.5 times', refused['second'])
    # the odd one is left out, also where it is the first
    assert [*check_session(['first', 'second', 'third'], [coarse, (2.0,) * 3, (2.0,) * 3], {})] == ['first']


def stating(*files):
    return pd.DataFrame({'file': files, 'x': [0.0] * len(files), 'y': 3, 'z': [4, *range(1, len(files))]})


def test_a_table_states_b0():
    table = stating('anat/sub-01_acq-a_echo-1.nii.gz')
    np.testing.assert_allclose(stated_b0(table, ['sub-01_acq-a']), [(0, 0.6, 0.8)])
    assert stated_b0(None, ['sub-01']) is None
    with pytest.raises(UserError, match='no direction of B0 for sub-01_acq-a'):
        stated_b0(table.assign(y=0, z='n/a'), ['sub-01_acq-a'])
    with pytest.raises(UserError, match='no column z'):
        stated_b0(table.drop(columns='z'), ['sub-01_acq-a'])
    one = position('x', (0, 0, 0))
    grid = Grid.from_affine(SHAPE, one.affine)
    parts = [['sub-01_acq-a'], [one.field], [one.mask], [one.magnitude], [one.affine], [grid]]
    (found,) = positions_of(*parts, table)
    np.testing.assert_allclose(found.b0, (0, 0.6, 0.8))
    assert found.is_stated


def test_a_table_states_b0_of_each_series_by_its_entities():
    table = stating('sub-01_acq-tilt_echo-1_MEGRE.nii.gz', 'sub-01_run-1_part-phase_MEGRE.nii.gz')
    vectors = stated_b0(table, ['sub-01_run-01', 'sub-01_acq-tilt'])
    np.testing.assert_allclose(vectors[:, 2] / vectors[:, 1], [1 / 3, 4 / 3])
    with pytest.raises(UserError, match='no row for sub-01, sub-01_acq-b;'):
        stated_b0(table, ['sub-01', 'sub-01_acq-tilt', 'sub-01_acq-b'])
    with pytest.raises(UserError, match='no row for sub-01;'):
        stated_b0(table.iloc[:0], ['sub-01'])
    echoes = ('sub-01_ses-1_echo-1_MEGRE.nii.gz', 'sub-01_ses-1_echo-2_MEGRE.nii.gz')
    with pytest.raises(UserError, match='rows for sub-01_ses-1 that differ'):
        stated_b0(stating(*echoes), ['sub-01_ses-1'])
    assert len(stated_b0(stating(*echoes).assign(z=4), ['sub-01_ses-1'])) == 1
    # a table of another session says nothing of this one
    assert stated_b0(stating(*echoes), ['sub-01_ses-2']) is None


def test_opposite_and_near_directions_are_one():
    h = np.array([[0, 0, 1], [0, 0, -1], [0, np.sin(0.03), np.cos(0.03)], [0, np.sin(0.2), np.cos(0.2)]])
    assert distinct(h) == 2
