from dataclasses import replace

import numpy as np
import pytest

from bids_qsm.anatomy import atlas
from bids_qsm.phantom.families import BODIES, FAMILIES, Family, Posed, Superquadric, aged, draw_solids, traits
from bids_qsm.phantom.head import CHANNELS, make_head
from bids_qsm.phantom.tissue import NUCLEI

SHAPE, AFFINE = (80, 100, 80), np.eye(4)
AFFINE[:3, 3] = (-40, -75, -50)
MOVING = Family('ellipsoid', shift_mm=3.0)
BODY = {region: body for body, regions in BODIES.items() for region in regions}


def shifts(solids):
    """Shift (mm) of each body from the atlas, by name and side; of all its parts alike."""
    found = {}
    for at_rest, solid in zip(atlas.ellipsoids(), solids, strict=True):
        if at_rest.region in BODY:
            found.setdefault((BODY[at_rest.region], at_rest.hemisphere), []).append(solid.shift)
    return found


@pytest.fixture(scope='module')
def moved():
    return make_head(5, spacing=2.0, family=replace(MOVING, t1w='none'))


def test_nuclei_move_their_own_way_and_no_farther_than_the_limit():
    lengths = []
    for seed in range(3):
        ways = shifts(draw_solids(MOVING, np.random.default_rng(seed)))
        assert len(ways) == 2 * len(BODIES)
        for parts in ways.values():
            np.testing.assert_allclose(parts, parts[:1] * len(parts), atol=1e-12)
        first = np.array([parts[0] for parts in ways.values()])
        apart = np.linalg.norm(first[:, None] - first[None], axis=-1)[np.triu_indices(len(ways), 1)]
        assert apart.min() > 0
        lengths += list(np.linalg.norm(first, axis=1))
    assert max(lengths) <= 3.0
    assert np.median(lengths) > 1.5


def test_what_moves_together_moves_alike():
    family = Family('ellipsoid', together_mm=4.0)
    ways = shifts(draw_solids(family, np.random.default_rng(1))).values()
    (step,) = {tuple(np.round(shift, 9)) for parts in ways for shift in parts}
    assert 0 < np.linalg.norm(step) <= 4.0


def test_moved_nuclei_do_not_run_into_their_neighbours():
    axes = [np.arange(low, low + size, 0.8) for low, size in ((-32, 64), (-30, 48), (-22, 32))]
    points = np.stack(np.meshgrid(*axes, indexing='ij'), -1)
    before = atlas.classify(points, atlas.ellipsoids())
    regions = atlas.labels().set_index('index').region
    for seed in range(3):
        after = atlas.classify(points, draw_solids(MOVING, np.random.default_rng(seed)))
        for index in (n for n, region in regions.items() if region in ('GPe', 'GPi', 'SNr', 'RN', 'STN')):
            assert (after == index).sum() > 0.65 * (before == index).sum(), (seed, regions[index])


def test_a_posed_solid_keeps_its_volume_but_for_its_size():
    ball = next(e for e in atlas.ellipsoids() if e.region == 'RN')
    posed = Posed(ball, np.diag([1.2, 1.0, 1.0]), ball.centre, np.array([1.0, 2.0, 3.0]))
    axes = [np.arange(-r - 1, r + 1, 0.25) for r in posed.reach]
    points = posed.centre + np.stack(np.meshgrid(*axes, indexing='ij'), -1)
    inside = posed.distance(points) <= 1
    assert inside.sum() * 0.25**3 == pytest.approx(1.2 * ball.volume, rel=0.03)
    np.testing.assert_allclose(points[inside].mean(0), ball.centre + np.array([1, 2, 3]), atol=0.2)


def test_a_superquadric_of_exponents_one_is_an_ellipsoid():
    ball = next(e for e in atlas.ellipsoids() if e.region == 'STN')
    lengths, axes = np.linalg.eigh(np.linalg.inv(ball.precision))
    axes = (axes * np.sqrt(lengths))[:, ::-1]
    same = Superquadric(ball.index, ball.region, ball.hemisphere, ball.centre, axes, (1.0, 1.0), 0.0)
    points = ball.centre + np.random.default_rng(0).normal(0, 4, (200, 3))
    np.testing.assert_allclose(same.distance(points), ball.distance(points), rtol=1e-3)
    assert same.volume == pytest.approx(ball.volume, rel=0.05)


def test_a_head_holds_its_nuclei_where_its_labels_are(head, moved):
    labels = atlas.labels().set_index('index').region
    wanted = {n for n, region in labels.items() if region in ('GPe', 'GPi', 'SNc', 'SNr', 'RN', 'STN')}
    chi, dseg = moved.sample(SHAPE, AFFINE, ('chi',))['chi'], moved.labels(SHAPE, AFFINE)
    old = head.labels(SHAPE, AFFINE)
    # on the coarse lattice of the fixture small nuclei lose half of their height
    inside = chi[np.isin(dseg, list(wanted))].mean()
    left = chi[np.isin(old, list(wanted)) & (dseg == 0)].mean()
    assert inside > 0.07
    assert left < 0.4 * inside


def test_t1w_shows_the_nuclei_as_the_family_says(head, moved):
    channel = CHANNELS.index('t1w')
    shown = {
        t1w: make_head(5, spacing=2.0, family=replace(MOVING, t1w=t1w)).tissue.data[..., channel]
        for t1w in ('template', 'true')
    }
    assert np.array_equal(shown['template'], head.tissue.data[..., channel])
    different = np.abs(shown['true'] - moved.tissue.data[..., channel]) > 0.01
    assert 5000 < 8 * different.sum() < 80_000
    assert np.array_equal(moved.veins.data, head.veins.data)
    assert np.array_equal(moved.warp.nodes, head.warp.nodes)


def test_the_atlas_family_has_the_ellipsoids_of_the_table(head):
    for ellipsoid, solid in zip(atlas.ellipsoids(), head.shapes, strict=True):
        np.testing.assert_allclose(solid.centre, ellipsoid.centre, atol=1e-9)
        assert solid.volume == pytest.approx(ellipsoid.volume)


def test_a_seed_gives_the_same_head_again():
    first, second = (make_head(9, spacing=4.0, family='moved') for _ in range(2))
    np.testing.assert_array_equal(first.tissue.data, second.tissue.data)


@pytest.mark.parametrize('name', FAMILIES)
def test_every_family_gives_a_head_with_all_nuclei(name):
    head = make_head(9, spacing=3.0, family=name)
    assert np.isfinite(head.tissue.data).all()
    present = sorted(set(np.unique(head.labels(SHAPE, AFFINE))) - {0})
    found = set(atlas.labels().set_index('index').region[present])
    assert {'GPe', 'GPi', 'SNr', 'RN', 'STN', 'Putamen', 'Caudate', 'Thalamus'} <= found


def test_age_and_disease_set_the_strength_of_nuclei():
    family = Family(ages=(20, 20), diseases=(('GP', 2.5),))
    effects = traits(family, np.random.default_rng(0))
    assert effects['GP'] == pytest.approx(2.5 * aged('GP', 20))
    assert effects['Putamen'] == pytest.approx(aged('Putamen', 20))
    nuclei = make_head(3, spacing=4.0, variation=0.0, family=family).nuclei
    (strength,) = {round(n.chi / NUCLEI[n.region].chi, 6) for n in nuclei if n.region == 'GPi'}
    assert strength == pytest.approx(2.5 * aged('GP', 20))


def test_wide_ventricles_are_wider():
    plain, wide = (make_head(4, spacing=3.0, family=Family(ventricles=amount)) for amount in (0.0, 0.4))
    csf = [h.sample(SHAPE, AFFINE, ('csf',))['csf'][:, :, 55:].sum() for h in (plain, wide)]
    assert csf[1] > 1.1 * csf[0]


def test_without_variation_both_sides_have_what_the_table_says():
    nuclei = make_head(3, spacing=4.0, variation=0.0).nuclei
    for nucleus in nuclei:
        assert nucleus.chi == pytest.approx(NUCLEI[nucleus.region].chi)
    varied = {n.index: n.chi / NUCLEI[n.region].chi for n in make_head(3, spacing=4.0).nuclei}
    rates = [varied[n] for n in atlas.labels().query('region == "Putamen"')['index']]
    assert 0.001 < abs(rates[0] - rates[1]) < 0.15


def test_effects_follow_the_moved_nuclei(moved):
    changed = moved.changed({'SN': 2.0})
    dseg = changed.labels(SHAPE, AFFINE)
    assert np.array_equal(dseg, moved.labels(SHAPE, AFFINE))
    gain = changed.sample(SHAPE, AFFINE, ('chi',))['chi'] - moved.sample(SHAPE, AFFINE, ('chi',))['chi']
    regions = atlas.labels().set_index('index').region
    nigra = np.isin(dseg, [n for n, region in regions.items() if region in ('SNc', 'SNr')])
    assert gain[nigra].mean() > 0.05
    assert np.abs(gain[np.isin(dseg, [n for n, region in regions.items() if region == 'GPi'])]).max() < 1e-6
