from dataclasses import replace

import numpy as np
import pytest

from bids_qsm.phantom import tissue as t
from bids_qsm.phantom.fine import Bed, acquire, tube
from bids_qsm.phantom.forward import dipole_field
from bids_qsm.phantom.gre import Protocol, steady
from bids_qsm.phantom.head import Lesion
from bids_qsm.phantom.vessels import CLASSES, average
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.units import ppm_per_radian

SMALL = Protocol((1.0, 1.0, 1.0), fov=(24, 24, 20), echo_times=(0.006, 0.014), rotation=(15, 5, 0))


def radial(block, vein):
    """Distance (mm) of each voxel to a straight vein, and the cosine of its angle to B0's projection."""
    shape = block.signal.shape[:3]
    points = np.stack(np.meshgrid(*map(np.arange, shape), indexing='ij'), -1) @ block.affine[:3, :3].T
    points = points + block.affine[:3, 3] - vein.points[0]
    along = vein.points[-1] - vein.points[0]
    along = along / np.linalg.norm(along)
    away = points - (points @ along)[..., None] * along
    distance = np.linalg.norm(away, axis=-1)
    across = np.array([0, 0, 1]) - along[2] * along
    across /= max(np.linalg.norm(across), 1e-9)
    return distance, (away @ across) / np.maximum(distance, 1e-9)


@pytest.mark.parametrize('tilt', [0, 35, 54.7356, 90])
def test_a_long_vein_has_the_field_of_a_cylinder(tilt):
    r"""Outside :math:`(\Delta\chi / 2) \sin^2\theta (a / r)^2 \cos 2\phi`, inside Lorentz-corrected."""
    vein = tube(diameter=5.0, tilt=tilt, azimuth=40, centre=(0.3, -0.2, 0.4), oxygenation=0.6)
    block = acquire(Bed((vein,), 'grey'), SMALL, factor=4)
    field, (distance, cosine) = block.truth['local_field'], radial(block, vein)
    difference, sine = 0.42 * 4 * np.pi * 0.27 * 0.4 - 0.020, np.sin(np.radians(tilt))
    assert vein.tilt == pytest.approx(tilt, abs=1e-3)
    expected = difference / 2 * sine**2 * (2.5 / np.maximum(distance, 1)) ** 2 * (2 * cosine**2 - 1)
    outside, inside = distance > 3.8, distance < 1.5
    error = (field - expected)[outside]
    assert np.sqrt(np.mean(error**2)) < 0.0015
    assert np.abs(error).max() < 0.012
    assert field[inside].mean() == pytest.approx(difference * (2 - 3 * sine**2) / 6, abs=0.003)


def test_a_thin_vein_keeps_its_moment():
    vein = tube(diameter=0.4, tilt=90)
    block = acquire(Bed((vein,)), SMALL)
    length = SMALL.shape[0] / np.cos(np.radians(5))  # of the axis x within a block turned by 5 degrees
    assert block.truth['veins'].sum() == pytest.approx(np.pi * 0.04 * length, rel=0.05)
    excess = (block.truth['chi'] + 0.030).sum() / block.truth['veins'].sum()
    assert excess == pytest.approx(vein.chi + 0.030, rel=0.01)
    distance, cosine = radial(block, vein)
    outside = (distance > 1.5) & (distance < 6)
    shape = ((2 * cosine**2 - 1) / distance**2)[outside]
    moment = (shape @ block.truth['local_field'][outside]) / (shape @ shape)
    assert moment == pytest.approx((vein.chi + 0.030) / 2 * 0.04, rel=0.05)


def test_signal_is_the_mean_over_the_fine_grid():
    """One voxel of a block by hand: the same tissue as a block of fine voxels, summed as complex numbers."""
    vein = tube(diameter=1.5, tilt=70, centre=(0.2, 0.1, 0))
    coarse = replace(SMALL, snr=1e9, rotation=(0, 0, 0))
    block = acquire(Bed((vein,)), coarse, factor=4)
    fine = replace(coarse, voxel_size=(0.25, 0.25, 0.25))
    parts = acquire(Bed((vein,)), fine, factor=1, margin=16).signal
    summed = parts.reshape(24, 4, 24, 4, 20, 4, 2).mean((1, 3, 5))
    np.testing.assert_allclose(block.signal, summed, atol=2e-5)
    # the vein dephases, so that the mean of the magnitudes is larger
    apart = np.abs(parts).reshape(24, 4, 24, 4, 20, 4, 2).mean((1, 3, 5))
    assert (apart - block.magnitude).max() > 0.01 * apart.max()


def test_uniform_tissue_has_the_signal_of_its_steady_state():
    block = acquire(Bed((), 'grey'), replace(SMALL, snr=1e9, field_strength=7.0), factor=2)
    grey = t.TISSUES['grey']
    rate = t.scale_r2star(grey.r2star, 7.0)
    start = steady(grey.density, grey.r1, block.protocol)
    expected = start * np.exp(-rate * np.array(SMALL.echo_times))
    np.testing.assert_allclose(block.magnitude, np.broadcast_to(expected, block.magnitude.shape), rtol=1e-4)
    assert np.abs(block.phase).max() < 1e-4
    assert not block.truth['veins'].any()
    assert not block.segments


def test_phase_follows_the_field_and_noise_the_protocol():
    vein = tube(diameter=3.0, tilt=90)
    block, clean = (acquire(Bed((vein,)), replace(SMALL, snr=s), seed=1, factor=3) for s in (70, 1e9))
    distance, _ = radial(block, vein)
    far = distance > 4
    turns = np.array(SMALL.echo_times) / ppm_per_radian(3.0)
    error = clean.phase - clean.truth['local_field'][..., None] * turns
    assert np.abs(error[far]).max() < 2e-3
    noise = block.signal - clean.signal
    assert noise.real.std() == pytest.approx(noise.imag.std(), rel=0.05)
    assert clean.magnitude[far][:, 0].mean() / noise.real.std() == pytest.approx(70, rel=0.05)


def test_a_seed_gives_the_same_block():
    bed = Bed((tube(diameter=2.0, tilt=60),), texture=0.01)
    first, again, other = (acquire(bed, SMALL, seed=s, factor=3) for s in (3, 3, 4))
    assert np.array_equal(first.signal, again.signal)
    assert not np.array_equal(first.signal, other.signal)
    assert np.array_equal(first.truth['chi'], other.truth['chi'])
    tissue = first.truth['veins'] == 0
    assert first.truth['chi'][tissue].std() == pytest.approx(0.009, abs=0.004)


def test_truth_names_the_vein_and_clips_it():
    veins = (
        tube(diameter=3.0, tilt=90, centre=(0, -5, 0), kind='straight sinus', oxygenation=0.7),
        tube(diameter=1.0, tilt=90, centre=(0, 5, 0), kind='cortical vein', oxygenation=0.5, bend=1 / 60),
    )
    block = acquire(Bed(veins), SMALL, factor=4)
    assert {s.kind for s in block.segments} == {'straight sinus', 'cortical vein'}
    corner = block.affine[:3, :3] @ (np.array(block.signal.shape[:3]) - 0.5) + block.affine[:3, 3]
    for s in block.segments:
        assert np.all(np.linalg.norm(s.points, axis=1) < np.linalg.norm(corner) + 1)
        found = block.truth['vein_dseg'] == CLASSES[s.kind]
        assert found.any()
        np.testing.assert_allclose(block.truth['vein_chi'][found], s.chi, rtol=1e-4)
    whole = np.sum(block.truth['veins'] > 0.99)
    assert 0 < whole < block.truth['veins'].sum()


def test_a_bent_vein_is_an_arc():
    vein = tube(diameter=1.0, tilt=30, bend=1 / 40, centre=(2, 3, 4))
    assert vein.length == pytest.approx(np.pi * 40, rel=1e-3)
    middle = vein.points[len(vein.points) // 2]
    np.testing.assert_allclose(middle, (2, 3, 4), atol=0.6)
    centre = np.array((2, 3, 4)) + 40 * np.array((np.cos(np.pi / 6), 0, -np.sin(np.pi / 6)))
    np.testing.assert_allclose(np.linalg.norm(vein.points - centre, axis=1), 40, rtol=1e-6)


def test_lesions_lie_where_they_are_put():
    bleed, stone = (
        Lesion((-5, 0, 0), 2.0, 1.0, kind='microbleed'),
        Lesion((5, 0, 0), 2.0, -0.5, kind='calcification'),
    )
    block = acquire(Bed(()), replace(SMALL, rotation=(0, 0, 0)), lesions=(bleed, stone), factor=4)
    excess, volume = block.truth['chi'] + 0.030, 4 / 3 * np.pi * 8
    assert excess[:12].sum() == pytest.approx(1.0 * volume, rel=0.05)
    assert excess[12:].sum() == pytest.approx(-0.5 * volume, rel=0.05)
    assert block.magnitude[17, 12, 10, 1] < 0.7 * block.magnitude[12, 20, 10, 1]


def test_a_block_of_a_head_has_the_fields_of_the_whole_head(head):
    """Against the head sampled as a whole, through its own lattices of tissue and veins."""
    protocol = Protocol((4.0, 4.0, 4.0), fov=(48, 48, 40), echo_times=(0.006, 0.014), rotation=(10, 0, 5))
    block = acquire(head, replace(protocol, snr=1e9), centre=(0, -20, 10), factor=2, background=True)
    truth, shape, edge = block.truth, [2 * n for n in block.signal.shape[:3]], 40
    affine = block.affine @ np.diag([0.5, 0.5, 0.5, 1])
    affine[:3, 3] = block.affine[:3, :3] @ np.full(3, -0.25 - edge / 2) + block.affine[:3, 3]
    wide = tuple(n + 2 * edge for n in shape)
    whole = head.sample(wide, affine, ('chi', 'brain', 'blood'))
    source = whole['chi'] * np.maximum(whole['brain'], whole['blood'])
    middle = (slice(edge, -edge),) * 3
    grid = Grid.from_affine(wide, affine)
    local, rest = (
        average(dipole_field(chi, grid)[middle], 2) for chi in (source, whole['chi'] - head.air_chi - source)
    )
    chi, share = (average(whole[name][middle], 2) for name in ('chi', 'blood'))
    tissue = truth['mask'] & (truth['veins'] < 0.02)
    assert tissue.mean() > 0.5
    assert truth['chi'][tissue] == pytest.approx(chi[tissue], abs=0.08)
    assert np.std((truth['chi'] - chi)[tissue]) < 0.3 * np.std(chi[tissue])
    assert truth['veins'].sum() == pytest.approx(share.sum(), rel=0.12)
    assert np.corrcoef(truth['veins'].ravel(), share.ravel())[0, 1] > 0.95
    error = (truth['local_field'] - local)[tissue]
    assert np.std(error) < 0.2 * np.std(local[tissue])
    # the background is that of skull and air, less what a shim changes
    at = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in rest.shape), indexing='ij'), -1)[tissue]
    terms = np.stack([np.ones(len(at)), *at.T, *(at[:, [0, 0, 1]] * at[:, [1, 2, 2]]).T, *(at**2).T], -1)
    left = [
        f[tissue] - terms @ np.linalg.lstsq(terms, f[tissue], rcond=None)[0]
        for f in (truth['background_field'], rest)
    ]
    assert np.corrcoef(*left)[0, 1] > 0.8
    turns = np.array(protocol.echo_times) / ppm_per_radian(3.0)
    expected = (truth['local_field'] + truth['background_field'])[..., None] * turns
    assert np.abs(np.angle(np.exp(1j * (block.phase - expected))))[tissue].max() < 0.05
    kinds = {s.kind for s in block.segments}
    assert {'internal cerebral vein', 'vein of Galen', 'deep medullary vein'} <= kinds


def test_errors():
    with pytest.raises(ValueError, match='too many'):
        acquire(Bed(()), Protocol())
    with pytest.raises(ValueError, match='no background'):
        acquire(Bed(()), SMALL, background=True)
