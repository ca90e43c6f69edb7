from dataclasses import replace

import numpy as np
import pytest

from bids_qsm.anatomy import atlas
from bids_qsm.phantom.gre import PHASE_FORMATS, Protocol, simulate, store_phase
from bids_qsm.phantom.t1w import simulate_t1w
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.units import ppm_per_radian


def turn(simulation, first, second):
    """Phase gained between two echoes, wrapped."""
    a, b = simulation.phase[..., first], simulation.phase[..., second]
    return np.angle(np.exp(1j * (b - a)))


def test_shapes_and_types(simulation):
    shape = simulation.protocol.shape
    assert shape == (48, 56, 44)
    assert simulation.magnitude.shape == simulation.phase.shape == (*shape, 3)
    assert simulation.magnitude.dtype == simulation.phase.dtype == np.float32
    assert np.abs(simulation.phase).max() <= np.float32(np.pi)
    assert simulation.truth['mask'].dtype == bool
    for name, value in simulation.truth.items():
        assert value.shape == shape, name
        assert np.all(np.isfinite(value)), name


def test_affine_is_oblique_and_centred():
    protocol = Protocol((1.0, 1.0, 2.0), rotation=(20, 0, 0), radiological=True)
    grid = Grid.from_affine(protocol.shape, protocol.affine)
    assert grid.voxel_size == pytest.approx((1, 1, 2))
    assert grid.b0_dir == pytest.approx((0, np.sin(np.radians(20)), np.cos(np.radians(20))))
    assert protocol.affine[0, 0] < 0
    middle = protocol.affine @ [*(np.array(protocol.shape) - 1) / 2, 1]
    assert middle[:3] == pytest.approx((0, 0, 0), abs=1e-9)


def test_phase_grows_with_the_true_field(simulation):
    truth, times = simulation.truth, simulation.protocol.echo_times
    radian = ppm_per_radian(3.0, times[1] - times[0])
    expected = truth['total_field'] / radian
    good = truth['mask'] & (simulation.magnitude[..., 2] > 100)
    error = np.angle(np.exp(1j * (turn(simulation, 0, 1) - expected)))[good]
    assert good.sum() > 0.7 * truth['mask'].sum()
    assert np.median(np.abs(error)) < 0.08


def test_magnitude_decays_with_the_true_relaxation(simulation):
    truth, times = simulation.truth, simulation.protocol.echo_times
    rate = np.log(simulation.magnitude[..., 0] / simulation.magnitude[..., 1]) / (times[1] - times[0])
    deep = truth['mask'] & (np.abs(truth['background_field']) < 0.15)
    assert np.median(rate[deep]) == pytest.approx(np.median(truth['r2star'][deep]), rel=0.25)
    # dephasing near the sinuses costs signal beyond the tissue's own decay
    assert np.percentile(rate[truth['mask']], 99) > 2 * np.percentile(truth['r2star'][truth['mask']], 95)


def test_snr_is_what_the_protocol_says(head, simulation):
    white = head.sample(simulation.protocol.shape, simulation.affine, ('white',))['white'] > 0.9
    clean = simulate(head, replace(simulation.protocol, snr=1e6), 3)
    first, ideal = (
        s.magnitude[..., 0] * np.exp(1j * s.phase[..., 0]) / s.magnitude[..., 0][white].mean()
        for s in (simulation, clean)
    )
    noise = first - ideal
    for channel in (noise.real, noise.imag):
        assert 1 / channel[white].std() == pytest.approx(70, rel=0.1)


def test_fields_are_those_of_the_susceptibility(simulation):
    """They add up, and what comes from outside the brain is harmonic within it."""
    truth = simulation.truth
    np.testing.assert_allclose(
        truth['total_field'], truth['local_field'] + truth['background_field'], atol=1e-6
    )
    inside = truth['mask']
    assert 0.05 < truth['total_field'][inside].std() < 0.5
    assert np.abs(truth['total_field'][inside]).max() > 0.8
    assert 0.003 < truth['local_field'][inside].std() < 0.03
    few = inside.copy()
    for axis in range(3):
        few &= np.roll(inside, 2, axis) & np.roll(inside, -2, axis)

    def laplacian(field):
        return sum(np.roll(field, s, a) for a in range(3) for s in (1, -1)) - 6 * field

    roughness = [np.median(np.abs(laplacian(truth[n])[few])) for n in ('background_field', 'local_field')]
    assert roughness[0] < 0.2 * roughness[1]


def test_truth_holds_what_the_nuclei_were_given(head, simulation):
    truth = simulation.truth
    given = {n.index: n.chi for n in head.nuclei}
    labels = atlas.labels().set_index('index')
    measured = {r: [] for r in ('GPe', 'Putamen', 'Thalamus')}
    for index, region in labels.region.items():
        if region in measured:
            measured[region].append(truth['chi'][truth['dseg'] == index].mean() / given[index])
    # voxels of 4 mm hold much else, but not another sign
    for region, share in measured.items():
        assert 0.3 < np.mean(share) < 1.3, region
    assert not truth['chi'][~truth['mask']].any()


def test_a_seed_gives_the_same_series_and_another_seed_other_noise(head, simulation):
    protocol = simulation.protocol
    again, other = simulate(head, protocol, 3), simulate(head, protocol, 4)
    assert np.array_equal(again.magnitude, simulation.magnitude)
    assert np.array_equal(again.phase, simulation.phase)
    assert not np.array_equal(other.magnitude, simulation.magnitude)
    assert np.array_equal(other.truth['chi'], simulation.truth['chi'])


def test_vendor_conventions(head, simulation):
    protocol = simulation.protocol
    flipped = simulate(head, replace(protocol, sign=-1, slice_flip=True), 3)
    jump = np.angle(np.exp(1j * (-flipped.phase - simulation.phase)))
    np.testing.assert_allclose(jump[:, :, ::2], 0, atol=1e-3)
    np.testing.assert_allclose(np.abs(jump[:, :, 1::2]), np.pi, atol=1e-3)
    holes = simulate(head, replace(protocol, nan_outside=True), 3)
    assert np.isnan(holes.phase).mean() > 0.2
    assert np.all(np.isfinite(holes.phase[holes.truth['mask']]))


def test_bipolar_readout_adds_a_phase_that_alternates_along_the_readout(head, simulation):
    bipolar = simulate(head, replace(simulation.protocol, bipolar=True), 3)
    mask = simulation.truth['mask']
    ramp = np.angle(np.exp(1j * (bipolar.phase - simulation.phase)))
    y = np.broadcast_to(np.linspace(-1, 1, mask.shape[1])[:, None], mask.shape)[mask]
    for n, sign in enumerate((1, -1, 1)):
        offset = np.median(ramp[..., n][mask] - sign * (0.25 + 0.9 * y))
        assert offset == pytest.approx(0, abs=0.1)
        assert np.corrcoef(ramp[..., n][mask], sign * y)[0, 1] > 0.8


def test_field_strength_scales_phase_and_decay(head, simulation):
    strong = simulate(head, replace(simulation.protocol, field_strength=7.0), 3)
    np.testing.assert_allclose(strong.truth['total_field'], simulation.truth['total_field'])
    mask = simulation.truth['mask']
    ratio = np.median(strong.truth['r2star'][mask]) / np.median(simulation.truth['r2star'][mask])
    assert ratio == pytest.approx(0.3 + 0.7 * 7 / 3, rel=0.01)


@pytest.mark.parametrize('name', PHASE_FORMATS)
def test_stored_phase_keeps_the_phase(name):
    phase = np.linspace(-np.pi, np.pi, 999, dtype=np.float32)
    stored = store_phase(phase, name)
    limits = {'siemens': (-4096, 4094), 'siemens12': (0, 4095), 'philips': (-3141.59, 3141.59)}
    if name in limits:
        assert (stored.min(), stored.max()) == pytest.approx(limits[name])
    scale = 2 * np.pi / (float(stored.max()) - float(stored.min()))
    back = (stored.astype(float) - stored.min()) * scale - np.pi
    np.testing.assert_allclose(back, phase, atol=1e-3)


def test_t1w_shows_a_whole_head(head):
    image, affine = simulate_t1w(head, 1, voxel_size=(4.0, 4.0, 4.0))
    tissue = head.sample(image.shape, affine, ('white', 'csf', 'fat', 'density'))
    white, csf, fat = (image[tissue[n] > 0.9].mean() for n in ('white', 'csf', 'fat'))
    air = image[tissue['density'] < 0.01].mean()
    assert fat > white > 2 * csf > 4 * air
