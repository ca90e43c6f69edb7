from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bids_qsm.errors import UserError
from bids_qsm.recon.field import linear
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.phase import remove_offset, wrap
from bids_qsm.recon.registry import call
from bids_qsm.recon.scaling import phase_to_radians
from bids_qsm.recon.unwrap import UNWRAP, laplacian, romeo, voxel_quality
from tests.recon.simulated_gre import scan

SHARED = Path(__file__).resolve().parents[2].parent / 'shared' / 'data'


def _wrong(unwrapped, true, alive):
    """Share of voxels in each echo that are not on the right turn; all may be off by one common turn."""
    turns = [np.rint((unwrapped - true)[..., e][alive[..., e]] / (2 * np.pi)) for e in range(true.shape[3])]
    common = np.median(turns[0])
    return [float((t != common).mean()) for t in turns]


def _smooth_phase(shape=(30, 26, 22), echo_times=(0.005, 0.01, 0.02)):
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing='ij')
    rate = 900 * np.exp(-2 * (x**2 + y**2 + z**2)) + 300 * x * y - 400 * z
    return np.float32(rate[..., None] * np.array(echo_times))


def test_romeo_on_a_head():
    s = scan(64)
    phase, _ = remove_offset(s.phase, s.magnitude, s.brain, s.echo_times, s.grid)
    unwrapped = romeo(phase, s.magnitude, s.brain, s.echo_times)
    np.testing.assert_allclose(np.exp(1j * unwrapped[s.brain]), np.exp(1j * phase[s.brain]), atol=1e-5)
    assert not unwrapped[~s.brain].any()
    # Where the phase turns by more than pi from one voxel to the next, no method can know.
    steepest = np.max([np.abs(np.gradient(s.true_phase, axis=a)) for a in range(3)], axis=0)
    alive = (s.magnitude > 5 / 70) & (steepest < np.pi) & s.brain[..., None]
    assert max(_wrong(unwrapped, s.true_phase, alive)) < 0.003


@pytest.mark.parametrize('name', UNWRAP)
@pytest.mark.parametrize('order', ['C', 'F'])
def test_smooth_phase_is_recovered(name, order):
    true = _smooth_phase()
    mask = np.zeros(true.shape[:3], bool)
    mask[2:-3, 1:-1, :-4] = True
    data = {
        'phase': np.array(wrap(true), order=order),
        'magnitude': np.array(np.ones_like(true), order=order),
        'mask': np.array(mask, order=order),
        'echo_times': (0.005, 0.01, 0.02),
        'grid': Grid(mask.shape, (1.0, 0.8, 2.0)),
    }
    unwrapped = call(UNWRAP[name], data, {})
    assert unwrapped.dtype == np.float32
    if name == 'romeo':
        np.testing.assert_allclose(unwrapped[mask], true[mask], atol=1e-4)
        return
    # The difference is harmonic inside: its Laplacian vanishes, as does that of its part linear in TE.
    difference = unwrapped - true
    inner = difference[5:-6, 4:-4, 3:-7]
    step = difference[4:-5, 3:-3, 2:-6]
    bend = 0
    for axis, size in enumerate((1.0, 0.8, 2.0)):
        within = tuple(slice(None) if a == axis else slice(1, -1) for a in range(3))
        bend = bend + np.diff(step, 2, axis=axis)[within] / size**2
    assert bend.shape == inner.shape
    assert np.abs(bend).max() < 2e-3 * np.abs(np.diff(true, 2, axis=0)).max() + 2e-3
    np.testing.assert_allclose(np.ptp(unwrapped[mask][:, 2] - 4 * unwrapped[mask][:, 0]), 0, atol=0.02)


def test_laplacian_echoes_agree():
    s = scan()
    phase, _ = remove_offset(s.phase, s.magnitude, s.brain, s.echo_times, s.grid)
    unwrapped = laplacian(phase, s.brain, s.echo_times, s.grid)
    _, _, residual = linear(unwrapped, s.magnitude, s.brain, s.echo_times, 3.0)
    assert np.median(residual[s.brain]) < 0.2


def test_pieces_of_a_mask_and_echoes_share_their_turns():
    true = _smooth_phase()
    true = true - 0.4 * np.float32([0.25, 0.5, 1])
    mask = np.ones(true.shape[:3], bool)
    mask[14:16] = False
    mask[0, 0, 0:2] = False
    unwrapped = romeo(wrap(true), np.ones_like(true), mask, (0.005, 0.01, 0.02))
    residual = linear(unwrapped, np.ones_like(true), mask, (0.005, 0.01, 0.02), 3.0)[2]
    assert residual.max() < 1e-3
    np.testing.assert_allclose(unwrapped[mask], true[mask], atol=1e-4)


def test_offset_may_stay():
    """Echoes are aligned by their differences too where no offset was removed."""
    true = _smooth_phase()
    unwrapped = romeo(wrap(true + 2), np.ones_like(true), np.ones(true.shape[:3], bool), (0.005, 0.01, 0.02))
    np.testing.assert_allclose(unwrapped - true, 2, atol=1e-4)


@pytest.mark.parametrize('name', UNWRAP)
def test_empty_mask(name):
    true = _smooth_phase()
    data = {
        'phase': true,
        'magnitude': true,
        'mask': np.zeros(true.shape[:3], bool),
        'echo_times': (0.005, 0.01, 0.02),
        'grid': Grid(true.shape[:3]),
    }
    assert not call(UNWRAP[name], data, {}).any()


def test_quality_tells_tissue_from_noise():
    s = scan()
    for echoes in (slice(None), slice(0, 1)):
        quality = voxel_quality(s.phase[..., echoes], s.magnitude[..., echoes], s.echo_times[echoes])
        assert quality.shape == s.grid.shape
        assert quality.min() >= 0
        assert quality.max() <= 1
        air = s.magnitude[..., 0] < 0.04
        assert (quality[s.brain] > 0.3).mean() > 0.9
        assert (quality[air] < 0.3).mean() > 0.98


@pytest.mark.skipif(not SHARED.is_dir(), reason='shared data are not at hand')
def test_real_three_echo_crop():
    def data(part):
        return np.asarray(nib.load(SHARED / 'gre_crop_3echo' / f'{part}.nii').dataobj, np.float32)

    magnitude, (raw, _) = data('Mag'), phase_to_radians(data('Phase'))
    times, grid = (0.004, 0.008, 0.012), Grid(raw.shape[:3], (0.46875, 0.46875, 1.0))
    mask = np.ones(raw.shape[:3], bool)
    phase, _ = remove_offset(raw, magnitude, mask, times, grid)
    unwrapped = romeo(phase, magnitude, mask, times)
    field, noise, residual = linear(unwrapped, magnitude, mask, times, 3.0)
    assert np.median(residual) < 0.05
    assert (residual > 0.5).mean() < 0.002
    assert np.isfinite(field).all()
    assert 0.001 < np.median(noise) < 0.01
    # No jump of a turn between neighbours, but at a few voxels of the vein.
    assert (np.abs(np.diff(unwrapped[..., 2], axis=0)) > np.pi).mean() < 2e-3


@pytest.mark.skipif(not SHARED.is_dir(), reason='shared data are not at hand')
def test_real_single_echo_with_residues():
    def data(part):
        return np.asarray(nib.load(SHARED / 'gre_crop_1echo' / f'{part}.nii').dataobj, np.float32)[..., None]

    magnitude, phase = data('Mag'), data('Phase')
    unwrapped = romeo(phase, magnitude, np.ones(phase.shape[:3], bool), (0.02,))
    np.testing.assert_allclose(np.exp(1j * unwrapped), np.exp(1j * phase), atol=1e-5)
    jumps = [(np.abs(np.diff(p, axis=a)) > np.pi).mean() for p in (unwrapped, phase) for a in range(3)]
    # A fringe line that ends inside cannot be unwrapped without a cut; the cut is small.
    assert max(jumps[:3]) < 0.01
    assert max(jumps[3:]) > 3 * max(jumps[:3])


@pytest.mark.parametrize('template', [1, 2])
def test_template_with_unwrapping_in_time(template):
    s = scan(with_offset=False)
    unwrapped = romeo(s.phase, s.magnitude, s.brain, s.echo_times, template=template)
    away = (unwrapped - s.true_phase)[s.brain]
    assert ((np.abs(away) > np.pi).mean(0) < 0.003).all()
    assert not unwrapped[~s.brain].any()
    turns = (unwrapped - s.phase)[s.brain] / (2 * np.pi)
    np.testing.assert_allclose(turns, np.rint(turns), atol=1e-3)


def test_template_must_be_an_echo():
    s = scan()
    with pytest.raises(UserError, match='no echo'):
        romeo(s.phase, s.magnitude, s.brain, s.echo_times, template=5)
