import numpy as np
import pytest

from bids_qsm.errors import UserError
from bids_qsm.recon.masking import MASK, brain_mask, combined, magnitude_mask, otsu, quality_mask


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.fixture(scope='module')
def scan(head):
    """Magnitude (one echo, with noise) and quality, with a vein inside and dead signal over the sinus."""
    rng = np.random.default_rng(0)
    tissue = head.head & (head.total > -5)
    bone_or_air = (np.abs(head.total - head.local) > 3) & ~head.brain
    signal = np.where(tissue & ~bone_or_air, 1.0, 0.0).astype(np.float32)
    quality = np.where(signal > 0, 0.85, 0.2) + 0.05 * rng.standard_normal(head.grid.shape)
    centre = [n // 2 for n in head.grid.shape]
    vein = np.zeros(head.grid.shape, bool)
    vein[centre[0], centre[1] - 5 : centre[1] + 5, centre[2]] = True
    front = np.argwhere(head.brain[centre[0], :, centre[2]]).max()
    dead = np.zeros(head.grid.shape, bool)
    dead[centre[0] - 4 : centre[0] + 5, front - 4 : front + 9, centre[2] - 4 : centre[2] + 5] = True
    dead &= head.brain
    for spot in (vein, dead):
        quality[spot] = 0.15
        signal[spot] = 0.15
    noise = 0.02 * rng.standard_normal((2, *head.grid.shape))
    magnitude = np.hypot(signal + noise[0], noise[1]).astype(np.float32)[..., None]
    return {
        'magnitude': magnitude,
        'quality': np.clip(quality, 0, 1).astype(np.float32),
        'vein': vein,
        'dead': dead,
    }


def test_combined_keeps_veins_and_drops_dead_signal(head, scan):
    mask = combined(scan['magnitude'], scan['quality'], head.brain, head.grid)
    assert mask.dtype == bool
    assert not (mask & ~head.brain).any()
    assert mask[scan['vein']].all()
    assert mask[scan['dead']].mean() < 0.3
    assert dice(mask, head.brain & ~scan['dead']) > 0.97


def test_all_good_quality_cuts_nothing(head, scan):
    rng = np.random.default_rng(1)
    quality = (0.8 + 0.04 * rng.standard_normal(head.grid.shape)).astype(np.float32)
    mask = combined(scan['magnitude'], quality, head.brain, head.grid)
    assert dice(mask, head.brain) > 0.995


def test_without_a_brain_mask_the_head_stays(head, scan):
    mask = combined(scan['magnitude'], scan['quality'], None, head.grid)
    np.testing.assert_array_equal(mask, quality_mask(scan['magnitude'], scan['quality'], head.grid))
    assert mask[head.brain & ~scan['dead']].mean() > 0.97
    assert mask[~head.head].mean() < 0.01


def test_magnitude_alone(head, scan):
    mask = magnitude_mask(scan['magnitude'], head.grid)
    assert mask[head.brain & ~scan['dead']].mean() > 0.97
    assert mask[~head.head].mean() < 0.01


def test_brain_erodes_in_mm(head):
    assert dice(brain_mask(head.brain, head.grid), head.brain) > 0.999
    layer = brain_mask(head.brain, head.grid, erosion_mm=3.0)
    assert 0.7 * head.brain.sum() < layer.sum() < head.brain.sum()
    spot = head.brain.copy()
    spot[0, 0, 0] = True
    assert not brain_mask(spot, head.grid)[0, 0, 0]


def test_errors(head, scan):
    empty = np.zeros_like(head.brain)
    with pytest.raises(UserError, match='needs a brain mask'):
        brain_mask(None, head.grid)
    with pytest.raises(UserError, match='empty'):
        combined(scan['magnitude'], scan['quality'], empty, head.grid)
    with pytest.raises(UserError, match='empty'):
        combined(scan['magnitude'], np.zeros_like(scan['quality']), head.brain, head.grid)
    with pytest.raises(UserError, match='zero almost everywhere'):
        magnitude_mask(np.zeros_like(scan['magnitude']), head.grid)


def test_every_method_is_tested():
    assert set(MASK) == {'combined', 'brain', 'quality', 'magnitude'}


def test_otsu_of_two_gaussians():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0, 1, 4000), rng.normal(8, 1, 2000)])
    assert 3 < otsu(values) < 5
