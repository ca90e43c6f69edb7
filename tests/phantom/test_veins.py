import numpy as np
import pytest

from bids_qsm.phantom.blood import Blood, blood_chi
from bids_qsm.phantom.head import make_head
from bids_qsm.phantom.vessels import CLASSES, Segment, clip, draw


def flows_into(tree):
    """Segments by the one that they flow into."""
    fed = {}
    for s in tree:
        fed.setdefault(s.downstream, []).append(s)
    return fed


def test_radii_obey_murray_where_veins_meet(head):
    fed = flows_into(head.tree)
    junctions = [(s, fed[s.index]) for s in head.tree if s.index in fed]
    assert sum(len(above) > 1 for _, above in junctions) > 2000
    for s, above in junctions:
        assert s.radius[0] ** 3 == pytest.approx(sum(a.radius[-1] ** 3 for a in above), rel=1e-9)
        for a in above:
            np.testing.assert_allclose(a.points[-1], s.points[0])


def test_every_vein_reaches_a_jugular_vein_through_a_sinus(head):
    assert [s.index for s in head.tree] == list(range(len(head.tree)))
    roots = {s.index for s in head.tree if s.downstream < 0}
    ends = {tuple(np.round(head.tree[n].points[-1])) for n in roots}
    assert ends == {(30, -30, -75), (-30, -30, -75)}
    down = np.array([s.downstream for s in head.tree])
    at = np.arange(len(down))
    for _ in range(500):
        at = np.where(down[at] >= 0, down[at], at)
    assert set(at) == roots
    # deep veins go through the vein of Galen and the straight sinus
    kinds = [s.kind for s in head.tree]
    deep = next(n for n, k in enumerate(kinds) if k == 'deep medullary vein')
    way = [kinds[deep]]
    while down[deep] >= 0:
        deep = down[deep]
        way.append(kinds[deep])
    assert {'vein of Galen', 'straight sinus'} <= set(way)
    assert 'superior sagittal sinus' not in way


def test_sizes_are_those_of_veins(head):
    diameters = np.array([s.diameter for s in head.tree])
    assert 0.3 <= diameters.min() < 0.31
    assert 3.5 < diameters.max() < 6.0
    assert {s.kind for s in head.tree} == set(CLASSES)
    largest = {k: max(s.diameter for s in head.tree if s.kind == k) for k in CLASSES}
    assert largest['superior sagittal sinus'] > largest['cortical vein'] > largest['deep medullary vein']
    assert 3 < largest['straight sinus'] < 6
    blood = sum(np.pi * s.radius[0] ** 2 * s.length for s in head.tree)
    brain = head.tissue.data[..., 6].sum() * head.tissue.spacing**3
    assert 0.01 < blood / brain < 0.02
    # what is drawn keeps the volume of the tubes
    share = head.veins.data[..., 0].sum() * head.veins.unit
    assert share * head.veins.spacing**3 == pytest.approx(blood, rel=0.08)


def test_blood_mixes_downstream(head):
    """Sinuses lie between their tributaries, weighted by flow; chi follows oxygenation and hematocrit."""
    blood, fed = head.blood, flows_into(head.tree)
    for s in head.tree:
        assert s.chi == pytest.approx(blood_chi(s.oxygenation, blood.hematocrit))
        if above := fed.get(s.index):
            flow = np.array([a.radius[0] ** 3 for a in above])
            mean = flow @ [a.oxygenation for a in above] / flow.sum()
            assert s.oxygenation == pytest.approx(mean, abs=1e-9)
    means = {k: np.mean([s.oxygenation for s in head.tree if s.kind == k]) for k in CLASSES}
    assert means['internal cerebral vein'] == pytest.approx(blood.deep, abs=0.003)
    assert means['superior sagittal sinus'] == pytest.approx(blood.cortical, abs=0.003)
    assert blood.cortical < means['straight sinus'] < blood.deep


def test_trees_differ_between_persons_and_blood_can_be_given(head):
    other = make_head(6, spacing=2.0, blood=Blood(hematocrit=0.35, deep=0.7))
    assert len(other.tree) != len(head.tree)
    deep = next(s for s in other.tree if s.kind == 'internal cerebral vein')
    assert deep.chi == pytest.approx(blood_chi(0.7, 0.35), abs=0.01)


def test_effect_on_veins_changes_their_deoxygenation(head):
    changed = head.changed({'Vein': 0.8})
    names, affine = ('chi', 'blood', 'vein_chi'), np.diag([2.0, 2, 2, 1])
    affine[:3, 3] = (-20, -100, -20)
    before, after = (h.sample((20, 60, 40), affine, names) for h in (head, changed))
    full = before['blood'] > 0.5
    assert full.sum() > 50
    np.testing.assert_allclose(after['vein_chi'][full], 0.8 * before['vein_chi'][full], rtol=1e-5)
    np.testing.assert_allclose(
        (before['chi'] - after['chi'])[full], (0.2 * before['blood'] * before['vein_chi'])[full], atol=1e-5
    )
    first, last = head.vessels()[7], changed.vessels()[7]
    assert 1 - last.oxygenation == pytest.approx(0.8 * (1 - first.oxygenation))


def test_points_go_to_the_scanner_and_back(head):
    points = np.random.default_rng(0).uniform((-60, -90, -50), (60, 60, 60), (40, 3))
    there = head.to_scanner(points)
    for point, place in zip(points, there, strict=True):
        affine = np.eye(4)
        affine[:3, 3] = place
        np.testing.assert_allclose(head.to_template((1, 1, 1), affine)[0, 0, 0], point, atol=0.01)


@pytest.mark.parametrize('diameter', [0.3, 0.8, 1.7, 4.0])
def test_drawing_keeps_the_volume_of_a_tube(diameter):
    points = np.stack([np.linspace(-40, 60, 60), np.linspace(3.3, 22.1, 60), np.full(60, 10.2)], 1)
    tube = Segment(points, np.full(60, diameter / 2), 0.6, 0.5)
    share, owner = draw((tube,), (20, 40, 20), np.eye(4))
    length = 20 * np.hypot(1, 18.8 / 100)
    assert share.sum() == pytest.approx(np.pi * diameter**2 / 4 * length, rel=0.03)
    assert share.max() <= 1
    assert np.array_equal(owner == 0, share > 0)


def test_a_vein_that_leaves_a_grid_and_returns_is_clipped_to_two():
    points = np.stack([np.linspace(0, 30, 31), 12 - np.abs(np.linspace(-15, 15, 31)), np.zeros(31)], 1)
    parts = clip((Segment(points, np.ones(31), 0.6, 0.5),), (31, 8, 3), np.eye(4))
    assert [len(p.points) for p in parts] == [8, 8]
    assert all(p.points[:, 1].max() <= 7.5 for p in parts)
