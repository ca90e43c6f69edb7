"""Evidence, size, names and tables of veins."""

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from bids_qsm.biomarkers import veins_evidence as ev
from bids_qsm.biomarkers.oximetry_veins import veins_of_tables
from bids_qsm.biomarkers.veins import _named, find_veins
from bids_qsm.biomarkers.veins_graph import Branch, nearest
from bids_qsm.biomarkers.veins_mask import chain_score
from bids_qsm.biomarkers.veins_names import COURSES, NAMES, name_segments
from bids_qsm.biomarkers.veins_size import (
    ASSUMED_CHI,
    POSSIBLE_CHI,
    blood_susceptibility,
    filled_shares,
    sections,
)
from bids_qsm.biomarkers.veins_table import (
    LINE_COLUMNS,
    MAPS,
    SEGMENT_COLUMNS,
    density_table,
    line_table,
    segment_table,
)
from bids_qsm.recon.grid import Grid
from tests.biomarkers.vein_maps import make_maps

SHAPE = (40, 40, 30)
GRID = Grid(SHAPE, (1.0, 1.0, 1.5))
SIDES = np.array(GRID.voxel_size)
MASK = np.ones(SHAPE, bool)


def offset_from(start, along):
    """Distance (mm) of voxels from a line, and their place along it."""
    index = np.stack(np.indices(SHAPE), -1) * SIDES - start
    forward = index @ along
    return np.linalg.norm(index - forward[..., None] * along, axis=-1), forward


def test_a_map_counts_by_what_it_tells():
    rng = np.random.default_rng(0)
    seeds = np.zeros(SHAPE, bool)
    seeds[18:22] = True
    clear, faint = (rng.standard_normal(SHAPE).astype(np.float32) + size * seeds for size in (8, 1))
    evidence, weights = ev.combine({'chi': clear, 'swi': faint}, seeds, MASK)
    assert weights['chi'] == pytest.approx(8 / 9, abs=0.03)
    assert evidence[~seeds].std() == pytest.approx(1, abs=0.05)
    assert evidence[seeds].mean() == pytest.approx(np.hypot(8, 1), abs=0.2)


def test_nuclei_are_levelled_and_swi_is_dark_in_veins():
    rng = np.random.default_rng(1)
    nuclei = np.zeros(SHAPE, np.int32)
    nuclei[10:20, 10:20, 10:20] = 3
    chi = (0.02 * rng.standard_normal(SHAPE) + 0.15 * (nuclei > 0)).astype(np.float32)
    swi = (1 + 0.05 * rng.standard_normal(SHAPE)).astype(np.float32)
    swi[30, 30, 5:25] = 0.4
    contrast, spread = ev.contrasts({'chi': chi, 'swi': swi, 'r2star': None}, MASK, nuclei, GRID)
    assert list(contrast) == ['chi', 'swi']
    assert abs(np.median(contrast['chi'][nuclei > 0])) < 1
    assert np.median(spread['chi']) == pytest.approx(0.02, rel=0.2)
    assert contrast['swi'][30, 30, 10:20].min() > 5


def test_a_tube_goes_on_and_a_ball_does_not():
    away, _ = offset_from((10, 20, 0), np.array([0, 0.0, 1]))
    index = np.stack(np.indices(SHAPE), -1) * SIDES
    ball = np.linalg.norm(index - (28, 20, 22), axis=-1)
    rng = np.random.default_rng(2)
    image = 10 * np.exp(-(away**2) / 3) + 10 * np.exp(-(ball**2) / 3) + rng.standard_normal(SHAPE)
    strength, axis, scale = ev.tube_strength(image.astype(np.float32), MASK, GRID, [0.9, 1.35])
    assert abs(axis[10, 20, 15, 2]) > 0.95
    assert scale[10, 20, 15] in (np.float32(0.9), np.float32(1.35))
    along = ev.continue_along(strength, axis, GRID)
    assert along[10, 20, 15] > 0.8 * strength[10, 20, 15]
    around = along[24:33, 16:25, 10:20].max()
    assert around < 0.5 * along[10, 20, 10:20].min()


def test_no_tube_passes_where_decoys_are_as_many():
    score = np.linspace(0, 1, 500)
    assert ev.thresholds(score, score, [0.5]) == [np.inf]
    low, high = ev.thresholds(np.r_[score, np.full(100, 2.0)], score, [0.3, 0.01])
    assert 0.8 < low < high < 2.01


def test_scales_are_no_finer_than_voxels():
    assert ev.scales_of(Grid(SHAPE, (2.0, 2.0, 2.0)))[0] == pytest.approx(1.2)
    assert ev.scales_of(Grid(SHAPE, (0.5, 0.5, 0.5)))[0] == pytest.approx(0.4)


@pytest.mark.parametrize('radius', [0.4, 0.8, 1.6])
def test_the_area_of_a_section_survives_blur(radius):
    """A blurred oblique vein of 0.4 ppm on a level of its own."""
    along = np.array([0.6, 0.48, 0.64])
    start = np.array([6.2, 8.3, 4.4])
    length = 30.0
    points = start + np.arange(0, length, 0.5)[:, None] * along
    places = np.argwhere(MASK) * SIDES
    line, point, distance = nearest([points], places, 6.0)
    kept = line >= 0
    ends = np.where(point == 0, -1, np.where(point == len(points) - 1, 1, 0))
    share = np.zeros(SHAPE)
    share[MASK] = np.where(
        kept,
        filled_shares(
            places, points[point], np.tile(along, (len(places), 1)), np.full(len(places), radius), ends, SIDES
        ),
        0,
    )
    volume = share.sum() * GRID.voxel_volume
    assert volume == pytest.approx(np.pi * radius**2 * length, rel=0.12)
    chi = 0.03 + 0.4 * ndimage.gaussian_filter(share, 0.6)
    moments = sections(
        chi[MASK][kept],
        line[kept],
        point[kept],
        distance[kept],
        [points],
        [np.full(len(points), radius + 2.5)],
        GRID.voxel_volume,
    )
    diameter = 2 * np.sqrt(moments[0] / 0.4 / np.pi)
    assert np.median(diameter) == pytest.approx(2 * radius, rel=0.08)


def test_blood_is_measured_in_wide_veins_only():
    away, _ = offset_from((20, 20, 0), np.array([0, 0.0, 1]))
    wide, thin = away <= 2.5, away <= 0.9
    rng = np.random.default_rng(4)
    noise = 0.02 * rng.standard_normal(SHAPE)
    chi, source = blood_susceptibility((0.47 * wide + noise).astype(np.float32), wide, MASK, GRID)
    assert source == 'measured'
    assert chi == pytest.approx(0.47, abs=0.02)
    few = wide & (np.indices(SHAPE)[2] < 6)
    drawn, source = blood_susceptibility((0.3 * few + noise).astype(np.float32), few, MASK, GRID)
    assert source == 'measured'
    assert 0.302 < drawn < 0.32
    # no venous blood
    for other in (0.15, 1.2):
        chi, source = blood_susceptibility((other * wide + noise).astype(np.float32), wide, MASK, GRID)
        assert source == 'assumed'
        assert chi in (ASSUMED_CHI, POSSIBLE_CHI[1])
    chi, source = blood_susceptibility((0.2 * thin + noise).astype(np.float32), thin, MASK, GRID)
    assert (chi, source) == (ASSUMED_CHI, 'assumed')


def test_names_follow_courses():
    """Pieces of courses a few mm aside get their names; what crosses them, or is thin, does not."""
    pieces = []
    for course in COURSES:
        corner = np.array(course.waypoints[1:3])
        pieces.append(np.linspace(*corner, 15) + np.array([0, 2, 1]))
    crossing = np.linspace((-15, -67, -2), (15, -67, -2), 30)
    shift = np.eye(4)
    shift[:3, 3] = 5, 0, 0
    moved = [piece - np.array([5, 0, 0]) for piece in (*pieces, crossing, pieces[0])]
    sizes = [6.0] * (len(pieces) + 1) + [0.4]
    names = name_segments(moved, [20.0] * (len(pieces) + 1) + [3.0], sizes, [shift])
    assert names == [*(course.name for course in COURSES), NAMES[6], NAMES[5]]
    assert set(name_segments(moved, [20.0] * len(moved), sizes, [])) == {NAMES[6]}
    # where all veins that were found are wide
    sizes[0] = 3.0
    assert name_segments(moved, [20.0] * len(moved), sizes, [shift])[0] == COURSES[0].name


def test_veins_at_the_end_of_a_slab_are_as_deep_as_before():
    """In the middle of the head, a vein in the first plane of a slab is deep, and not at the rim."""
    x, y, _ = np.indices((50, 50, 6))
    mask = (x - 25) ** 2 + (y - 25) ** 2 < 20**2
    grid = Grid(mask.shape, (1.0, 1.0, 1.5))
    lines = pd.DataFrame({'x': np.arange(21.0, 29), 'y': 25.0, 'z': 0.0, 'segment': 1})
    lines[['direction_x', 'direction_y', 'direction_z', 'diameter_mm', 'tilt_deg']] = 1, 0, 0, 2, 90
    numbers = np.zeros(mask.shape, int)
    numbers[21:29, 25, 0] = 1
    for off, name, at_rim in ((0, NAMES[6], 0), (-18, NAMES[5], 1)):
        here = lines.assign(y=25.0 + off)
        veins = veins_of_tables(numbers > 0, numbers, here, {}, np.diag([1, 1, 1.5, 1]))
        named = _named(veins, mask, grid, [])
        assert named.segments[0].name == name
        assert segment_table(named, None, None, mask, grid)['at_rim'].tolist() == [at_rim]


def test_tables_add_up():
    head = make_maps()
    veins = find_veins(*(head[name] for name in ('chi', 'swi', 'r2star', 'mask', 'dseg', 'affine', 'grid')))
    mask, grid = head['mask'], head['grid']
    segments = segment_table(veins, head['chi'], head['chi'] / 0.02, mask, grid)
    assert list(segments) == list(SEGMENT_COLUMNS)
    assert segments['segment'].tolist() == [one.number for one in veins.segments]
    assert segments['length_mm'].sum() == pytest.approx(sum(s.length_mm for s in veins.segments), rel=1e-3)
    assert segments['volume_mm3'].sum() == pytest.approx(veins.share.sum() * grid.voxel_volume, rel=1e-3)
    assert (segments['chi_mean'] > 0.05).all()
    lines = line_table(veins.segments)
    assert list(lines) == list(LINE_COLUMNS)
    assert len(lines) == sum(len(s.points) for s in veins.segments)
    labels = pd.DataFrame({'index': [1], 'hemisphere': ['R'], 'region': ['Dentate']})
    density = density_table(veins, mask, head['dseg'], labels, mask, grid).set_index(['region', 'map'])
    assert set(density.index.get_level_values('map')) == set(MAPS)
    whole = density.loc['Brain']
    volume = mask.sum() * grid.voxel_volume
    assert whole.loc['vein_fraction', 'mean'] == pytest.approx(
        veins.share[mask].sum() * grid.voxel_volume / volume
    )
    inside = segments['length_mm'].sum() / volume * 1e3
    assert whole.loc['vein_length_density', 'mean'] == pytest.approx(inside, rel=0.05)
    assert 0 < whole.loc['vein_length_density', 'se'] < whole.loc['vein_length_density', 'mean']
    assert density.loc[('Dentate', 'vein_fraction'), 'mean'] < 0.01
    assert density.loc[('White matter', 'vein_distance'), 'mean'] > 1
    empty = find_veins(None, None, None, np.zeros_like(mask), None, head['affine'], grid)
    assert segment_table(empty, None, None, mask, grid).empty
    assert line_table(empty.segments).empty
    none = density_table(empty, mask, None, None, None, grid)
    assert none.loc[none['map'] == 'vein_fraction', 'mean'].tolist() == [0.0]


def test_artefacts_in_one_place_do_not_hide_veins_elsewhere():
    rng = np.random.default_rng(5)
    found, decoy = (np.abs(rng.standard_normal(SHAPE)).astype(np.float32) for _ in range(2))
    found[5:8, :30, 12:18] = 7
    decoy[34:] *= 8
    assert ev.thresholds(found.ravel(), decoy.ravel(), [0.3]) == [np.inf]
    excess = ev.decoy_excess(decoy, MASK, GRID, reach_mm=3.0)
    assert excess.min() == 1
    assert excess[:20].mean() == pytest.approx(1, abs=0.1)
    assert excess[38:].mean() == pytest.approx(8, rel=0.1)
    high = ev.thresholds((found / excess).ravel(), (decoy / excess).ravel(), [0.3])[0]
    assert 2 < high < 7
    assert (ev.decoy_excess(0 * decoy, MASK, GRID) == 1).all()


def test_long_chains_are_clearer_than_short_ones():
    score = np.ones(SHAPE, np.float32)
    score[:10] = 1.5
    line = np.stack([np.arange(25), np.full(25, 3), np.full(25, 3)], 1)
    assert chain_score(Branch(line[10:19], (0, 0)), score) == pytest.approx(3)
    assert chain_score(Branch(line, (0, 0)), score) == pytest.approx(5 * 1.2)
