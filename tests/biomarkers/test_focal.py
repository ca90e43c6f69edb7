import tracemalloc
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from bids_qsm.biomarkers.focal import _distinct, find_candidates
from bids_qsm.biomarkers.focal_brain import tissue_contrast
from bids_qsm.biomarkers.focal_columns import dictionary
from bids_qsm.biomarkers.focal_evidence import EVIDENCE
from bids_qsm.biomarkers.focal_sources import Source
from bids_qsm.biomarkers.moment import point_dipole
from bids_qsm.recon.grid import Grid

LABELS = pd.DataFrame(
    {'index': [3, 5], 'name': ['L_GPe', 'R_Lobe'], 'hemisphere': ['L', 'R'], 'region': ['GPe', 'Lobe']}
)


class Brain:
    """A ball of tissue with noise, an iron-rich nucleus and a vein through it."""

    def __init__(self, voxel=(1.0, 1.0, 1.0), seed=0):
        self.shape = tuple(round(56 / v) for v in voxel)
        self.affine = np.diag([*voxel, 1.0])
        self.affine[:3, 3] = -28 + np.array(voxel) / 2
        axes = np.indices(self.shape, np.float32)
        self.xyz = np.stack([a * v - 28 + v / 2 for a, v in zip(axes, voxel, strict=True)])
        rng = np.random.default_rng(seed)
        noise = ndimage.gaussian_filter(rng.standard_normal(self.shape), 0.6)
        self.chi = (0.012 * noise / noise.std()).astype(np.float32)
        noise = ndimage.gaussian_filter(rng.standard_normal(self.shape), 0.6)
        self.r2star = (20 + 2 * noise / noise.std()).astype(np.float32)
        self.mask = self.away((0, 0, 0)) < 26
        self.dseg = np.zeros(self.shape, np.int32)
        nucleus = self.away((-13, 0, 0)) < 4.5
        self.dseg[nucleus] = 3
        self.add(nucleus, 0.15, 15)
        self.add(np.hypot(self.xyz[0] - 14, self.xyz[1] - 6) < 1.2, 0.18, 25)

    def away(self, centre):
        """Distance (mm) of every voxel from a point."""
        return np.sqrt(sum((a - c) ** 2 for a, c in zip(self.xyz, centre, strict=True)))

    def add(self, where, chi, r2star):
        self.chi[where] += chi
        self.r2star[where] += r2star

    def source(self, centre, radius, chi, r2star=50):
        """Put in a ball, soft as a voxel is."""
        inside = ndimage.gaussian_filter((self.away(centre) <= radius).astype(np.float32), 0.5)
        self.chi += inside * chi
        self.r2star += inside * r2star

    def field_of(self, place, radius, chi, b0_dir=(0.0, 0.0, 1.0)):
        """Local field (ppm) of a ball, with noise, and its moment (ppm mm^3)."""
        offset = np.moveaxis(self.xyz, 0, -1) - place
        distance = np.linalg.norm(offset, axis=-1)
        offset[distance == 0] = 1
        moment = chi * 4 / 3 * np.pi * radius**3
        field = 0.002 * np.random.default_rng(1).standard_normal(self.shape)
        field += np.where(distance > radius, moment * point_dipole(offset, b0_dir), 0)
        return field.astype(np.float32), moment

    def find(self, r2star=True, **params):
        fields = (params.pop(name, None) for name in ('localfield', 'field', 'magnitude'))
        maps = (self.chi, *fields, self.r2star if r2star else None, self.mask)
        grid = params.pop('grid', None) or Grid.from_affine(self.shape, self.affine)
        return find_candidates(*maps, self.dseg, LABELS, grid, self.affine, **params)[:2]


COS, SIN = np.cos(0.4), np.sin(0.4)
FLIPPED = np.diag([-1.0, 1.0, -1.0, 1.0])
TURNED = np.array([[1, 0, 0, 0], [0, COS, -SIN, 0], [0, SIN, COS, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ('voxel', 'r2star', 'turn'),
    [
        ((1.0, 1.0, 1.0), False, np.eye(4)),
        ((0.8, 0.8, 1.6), True, np.eye(4)),
        ((1.0, 1.0, 1.0), True, FLIPPED),
        ((0.8, 0.8, 1.6), False, TURNED),
    ],
)
def test_bleeds_and_stones_are_found_and_nothing_else(voxel, r2star, turn):
    brain = Brain(voxel)
    brain.affine = turn @ brain.affine
    brain.source((0, 10, 2), 2.0, 0.5)
    brain.source((2, -12, -6), 1.5, -0.5)
    shift = np.eye(4)
    shift[:3, 3] = (100, 0, 0)
    image, table = brain.find(r2star, to_template=[shift], reference='CSF')
    assert sorted(table['class']) == ['calcification', 'microbleed']
    assert table['candidate'].tolist() == [1, 2]
    rows = table.set_index('class')
    for kind, place, chi, radius in (
        ('microbleed', (0, 10, 2), 0.5, 2.0),
        ('calcification', (2, -12, -6), -0.5, 1.5),
    ):
        row = rows.loc[kind]
        np.testing.assert_allclose(row[['x', 'y', 'z']].astype(float), turn[:3, :3] @ place, atol=0.6)
        assert row['template_x'] == pytest.approx(row['x'] + 100)
        assert row['diameter_mm'] == pytest.approx(2 * radius, rel=0.2)
        assert row['volume_mm3'] == pytest.approx(
            (image == row['candidate']).sum() * np.prod(voxel), rel=1e-3
        )
        true = chi * (brain.away(place) <= radius).sum() * np.prod(voxel)
        assert row['moment'] == pytest.approx(true, rel=0.15)
        assert 0.5 <= row['confidence'] <= 1
        assert row['confidence'] == row[list(EVIDENCE)].min()
        assert np.isnan(row['R2star_mean']) == (not r2star)
        assert row['reference'] == 'CSF'
        assert row['nearest_region'] == 'GPe'
    assert image.dtype == np.int32
    assert image.max() == 2


def test_plain_brains_have_none():
    for seed in range(2):
        image, table = Brain(seed=seed).find()
        assert not image.any()
        assert list(table) == list(dictionary())
        assert len(table) == 0


def test_a_source_without_decay_is_not_told():
    brain = Brain()
    brain.source((0, 10, 2), 2.0, 0.5, r2star=-5)
    assert len(brain.find()[1]) == 0
    # without R2*, nothing speaks against it
    assert len(brain.find(r2star=False)[1]) == 1


def test_side_lobes_shoulders_and_long_things_are_not_told():
    brain = Brain()
    brain.source((0, 10, 2), 2.0, 1.0)
    brain.source((0, 10, 6.5), 1.2, -0.3)
    brain.source((-4, -10, 0), 1.5, 0.4)
    brain.source((-4, -6, 0), 1.5, 0.4)
    brain.source((-4, -2, 0), 1.5, 0.4)
    brain.source((-4, -8, 0), 1.5, 0.4)
    brain.source((-4, -4, 0), 1.5, 0.4)
    table = brain.find()[1]
    assert table['class'].tolist() == ['microbleed']
    np.testing.assert_allclose(table.loc[0, ['x', 'y', 'z']].astype(float), (0, 10, 2), atol=0.7)


@pytest.mark.parametrize(('radius', 'chi'), [(1.6, 0.45), (2.0, 0.3), (1.5, 0.3)])
def test_a_bulge_of_a_vein_is_a_vein(radius, chi):
    brain = Brain()
    brain.source((14, 6, 0), radius, chi)
    told = brain.find()[1]
    assert set(told['class']) <= {'vein'}
    if len(told):
        assert told['vein_arms'].iloc[0] >= 2
        assert told['reason'].iloc[0] == 'a vein enters and leaves'


def test_a_bleed_beside_a_vein_is_told():
    brain = Brain()
    brain.source((9, 6, 0), 2.0, 0.45)
    row = brain.find()[1].iloc[0]
    assert row['apart'] == 1
    assert row['class'] == 'microbleed'
    assert row['dist_vein_mm'] == pytest.approx(3, abs=0.1)


def test_the_edge_and_the_border_of_nuclei_are_searched_and_said():
    brain = Brain()
    brain.source((0, 22.5, 0), 1.5, 0.5)
    brain.source((-13, 7, 0), 1.2, 0.6)
    table = brain.find()[1]
    for place, edge, beside in (((0, 22.5, 0), True, 'no'), ((-13, 7, 0), False, 'yes')):
        near = np.linalg.norm(table[['x', 'y', 'z']].to_numpy() - place, axis=1) < 1
        row = table[near].iloc[0]
        assert (row['class'], row['dist_edge_mm'] <= 3, row['beside_nucleus']) == ('microbleed', edge, beside)


def test_calcium_whose_peak_flips_is_told_by_its_field():
    brain = Brain()
    place, radius, chi = (0.5, 10.5, 2.5), 2.0, -1.5
    field, _ = brain.field_of(place, radius, chi)
    brain.source(place, radius, 0.5, r2star=150)
    # the map is right but for the ball itself
    row = brain.find(localfield=field)[1].iloc[0]
    assert row['chi_peak'] > 0.3
    assert (row['class'], row['sign'], row['moment_from']) == ('calcification', 'diamagnetic', 'local field')


def test_b0_is_that_of_the_scanner_and_not_of_the_affine():
    """After an alignment the world is turned against the scanner: the qform still knows it."""
    brain = Brain()
    place, b0_dir = (0.5, 10.5, 2.5), (0.0, float(np.sin(0.6)), float(np.cos(0.6)))
    field, moment = brain.field_of(place, 2.0, 1.0, b0_dir)
    brain.source(place, 2.0, 0.3, r2star=100)
    row = brain.find(localfield=field, grid=Grid(brain.shape, b0_dir=b0_dir))[1].iloc[0]
    assert row['moment'] == pytest.approx(moment, rel=0.06)


def test_sources_of_the_total_field_are_parts_of_those_beside_them():
    ball = np.argwhere(Brain().away((0, 0, 0)) < 8)
    fields = ('local field', 'local field', 'total field', 'total field')
    rows = [
        (
            {'moment_from': source, 'moment': moment, 'moment_se': 1.0},
            Source(ball + np.array([0, 0, up]), (), 0, ''),
        )
        for source, up, moment in zip(fields, (0, 3, 19, 25), (5.0, 4.0, 9.0, 8.0), strict=True)
    ]
    tracemalloc.start()
    kept = _distinct(rows, SimpleNamespace(size=np.ones(3)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [row['moment'] for row, _ in kept] == [5.0, 4.0, 8.0]
    assert peak < 5e6


def test_large_ones_are_a_class_of_their_own():
    brain = Brain()
    brain.source((0, 8, 0), 5.6, 0.5)
    row = brain.find()[1].iloc[0]
    assert (row['class'], row['size_class']) == ('large focus', '>10 mm')


def test_regions_that_are_not_rich_in_iron_are_searched():
    brain = Brain()
    brain.source((0, 10, 2), 2.0, 0.5)
    brain.dseg[(brain.dseg == 0) & (brain.xyz[1] > 0)] = 5
    row = brain.find()[1].iloc[0]
    assert (row['nearest_region'], row['hemisphere'], row['region_distance_mm']) == ('Lobe', 'R', 0)


def test_a_bleed_whose_middle_the_mask_left_out_is_found():
    brain = Brain()
    brain.source((0.5, 10.5, 2.5), 2.5, 0.5)
    brain.mask[brain.away((0.5, 10.5, 2.5)) < 0.6] = False
    row = brain.find()[1].iloc[0]
    np.testing.assert_allclose(row[['x', 'y', 'z']].astype(float), (0.5, 10.5, 2.5), atol=0.7)


def test_no_brain_no_candidates():
    brain = Brain()
    brain.mask[:] = False
    image, table = brain.find()
    assert not image.any()
    assert len(table) == 0


def test_the_spread_of_tissue_does_not_count_what_stands_out():
    rng = np.random.default_rng(0)
    chi = 0.5 + 0.02 * rng.standard_normal((40, 40, 40)).astype(np.float32)
    chi[20, 20] += 0.4
    contrast, spread = tissue_contrast(chi, np.ones(chi.shape, bool), Grid(chi.shape))
    assert spread == pytest.approx(0.02, rel=0.15)
    assert contrast[20, 20].mean() == pytest.approx(0.4, abs=0.02)
    assert contrast[5:15].mean() == pytest.approx(0, abs=0.002)


def test_every_column_is_described():
    assert all(column['Description'] for column in dictionary().values())
