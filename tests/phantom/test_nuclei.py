import numpy as np
import pytest

from bids_qsm.anatomy import atlas
from bids_qsm.phantom.head import CHANNELS, make_head
from bids_qsm.phantom.nuclei import TOGETHER, displaced
from bids_qsm.phantom.tissue import NUCLEI

SHAPE, AFFINE = (80, 100, 80), np.eye(4)
AFFINE[:3, 3] = (-40, -75, -50)
MOVED = {region for regions in TOGETHER.values() for region in regions}


def steps(shapes):
    """Displacement (mm) of each ellipsoid from where the atlas has it."""
    return [(e, s.centre - e.centre) for e, s in zip(atlas.ellipsoids(), shapes, strict=True)]


@pytest.fixture(scope='module')
def moved():
    return make_head(5, spacing=2.0, nuclei_mm=3.0)


def test_structures_move_their_own_way_and_no_farther_than_the_limit():
    lengths = []
    for seed in range(6):
        ways = {}
        for ellipsoid, step in steps(displaced(np.random.default_rng(seed), 3.0)):
            if ellipsoid.region not in MOVED:
                assert not step.any()
                continue
            name = next(n for n, regions in TOGETHER.items() if ellipsoid.region in regions)
            ways.setdefault((name, ellipsoid.hemisphere), []).append(step)
        assert len(ways) == 8
        for parts in ways.values():
            np.testing.assert_allclose(parts, parts[:1] * len(parts), atol=1e-12)
        first = np.array([parts[0] for parts in ways.values()])
        apart = np.linalg.norm(first[:, None] - first[None], axis=-1)[np.triu_indices(8, 1)]
        assert apart.min() > 0
        lengths += list(np.linalg.norm(first, axis=1))
    assert max(lengths) <= 3.0
    assert np.median(lengths) > 1.5


def test_displaced_nuclei_do_not_run_into_their_neighbours():
    axes = [np.arange(low, low + size, 0.8) for low, size in ((-32, 64), (-30, 48), (-22, 32))]
    points = np.stack(np.meshgrid(*axes, indexing='ij'), -1)
    for seed in range(4):
        shapes = displaced(np.random.default_rng(seed), 3.0)
        before, after = atlas.classify(points), atlas.classify(points, shapes)
        regions = atlas.labels().set_index('index').region
        for index in (n for n, region in regions.items() if region in ('GPe', 'GPi', 'SNr', 'RN', 'STN')):
            assert (after == index).sum() > 0.7 * (before == index).sum(), (seed, regions[index])


def test_a_head_holds_its_displaced_nuclei_where_its_labels_are(head, moved):
    labels = atlas.labels().set_index('index').region
    wanted = {n for n, region in labels.items() if region in ('GPe', 'GPi', 'SNc', 'SNr', 'RN', 'STN')}
    chi, dseg = moved.sample(SHAPE, AFFINE, ('chi',))['chi'], moved.labels(SHAPE, AFFINE)
    old = head.labels(SHAPE, AFFINE)
    # on the coarse lattice of the fixture small nuclei lose half of their height
    inside = chi[np.isin(dseg, list(wanted))].mean()
    left = chi[np.isin(old, list(wanted)) & (dseg == 0)].mean()
    assert inside > 0.07
    assert left < 0.4 * inside
    for index in wanted:
        assert (dseg == index).sum() == pytest.approx((old == index).sum(), rel=0.35), labels[index]


def test_t1w_shows_nothing_of_it(head, moved):
    channel = CHANNELS.index
    for name in ('t1w', 'brain', 'csf', 'white', 'fat'):
        same = moved.tissue.data[..., channel(name)] == head.tissue.data[..., channel(name)]
        assert same.all(), name
    for name in ('chi', 'r2star', 'density', 'r1'):
        assert (moved.tissue.data[..., channel(name)] != head.tissue.data[..., channel(name)]).any(), name
    assert np.array_equal(moved.veins.data, head.veins.data)
    assert np.array_equal(moved.warp.nodes, head.warp.nodes)
    assert [n.chi for n in moved.nuclei] == [n.chi for n in head.nuclei]


def test_without_a_limit_nothing_moves(head):
    assert all(not step.any() for _, step in steps(head.shapes))
    assert all(not step.any() for _, step in steps(displaced(np.random.default_rng(1), 0.0)))


def test_without_variation_both_sides_have_what_the_table_says():
    nuclei = make_head(3, spacing=2.0, variation=0.0).nuclei
    for nucleus in nuclei:
        assert nucleus.chi == pytest.approx(NUCLEI[nucleus.region].chi)
    varied = {n.index: n.chi / NUCLEI[n.region].chi for n in make_head(3, spacing=2.0).nuclei}
    rates = [varied[n] for n in atlas.labels().query('region == "Putamen"')['index']]
    assert 0.001 < abs(rates[0] - rates[1]) < 0.15


def test_effects_follow_the_displaced_nuclei(moved):
    changed = moved.changed({'SN': 2.0})
    dseg = changed.labels(SHAPE, AFFINE)
    assert np.array_equal(dseg, moved.labels(SHAPE, AFFINE))
    gain = changed.sample(SHAPE, AFFINE, ('chi',))['chi'] - moved.sample(SHAPE, AFFINE, ('chi',))['chi']
    regions = atlas.labels().set_index('index').region
    nigra = np.isin(dseg, [n for n, region in regions.items() if region in ('SNc', 'SNr')])
    assert gain[nigra].mean() > 0.05
    assert np.abs(gain[np.isin(dseg, [n for n, region in regions.items() if region == 'GPi'])]).max() < 1e-6
