"""Phase images that say something else than they should, and the chain that must notice.

Each function of `FAULTS` takes a random generator and the images of a series, (x, y, z, echo), phase in rad,
and returns them spoiled.
"""

from dataclasses import dataclass

import numpy as np

from bids_qsm.errors import UserError
from bids_qsm.interfaces.masking import judge
from bids_qsm.phantom.gre import Protocol, simulate
from bids_qsm.phantom.head import make_head
from bids_qsm.recon.background import BACKGROUND
from bids_qsm.recon.conditioning import condition
from bids_qsm.recon.field import linear
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.inversion import INVERSION
from bids_qsm.recon.masking import refine
from bids_qsm.recon.misfit import find_misfit
from bids_qsm.recon.phase import remove_offset, wrap
from bids_qsm.recon.unwrap import romeo

LEAST = 0.5
"""Share of the correlation of the clean map below which a map is wrong."""


def _offsets(rng, phase, size, echoes):
    shape = [1, 1, 1, echoes]
    axis = int(rng.integers(3))
    shape[axis] = phase.shape[axis]
    return wrap(phase + rng.uniform(-size, size, shape).astype(np.float32))


def offsets_of_slices(rng, magnitude, phase):
    return magnitude, _offsets(rng, phase, rng.uniform(0.5, np.pi), 1)


def offsets_of_slices_and_echoes(rng, magnitude, phase):
    return magnitude, _offsets(rng, phase, rng.uniform(0.1, np.pi), phase.shape[3])


def filtered(rng, magnitude, phase):
    """Divided by a copy that was filtered in two axes, up to wavelengths of 3 to 10 voxels."""
    axes, cut = rng.permutation(3)[:2], 1 / rng.uniform(3, 10)
    signal = magnitude * np.exp(1j * phase)
    spectrum = np.fft.fftn(signal, axes=axes)
    for axis in axes:
        k = np.abs(np.fft.fftfreq(signal.shape[axis])) / cut
        window = np.where(k < 1, 0.5 + 0.5 * np.cos(np.pi * np.minimum(k, 1)), 0)
        spectrum *= window.reshape([-1 if a == axis else 1 for a in range(4)])
    return magnitude, np.angle(signal * np.conj(np.fft.ifftn(spectrum, axes=axes))).astype(np.float32)


def checkerboard(rng, magnitude, phase):
    axes = rng.permutation(3)[: rng.integers(1, 4)]
    place = sum(np.arange(phase.shape[a]).reshape([-1 if b == a else 1 for b in range(3)]) for a in axes)
    turned = (phase.T + np.pi * (place % 2).T).T
    echoes = [*range(phase.shape[3])] if rng.random() < 0.5 else [int(rng.integers(phase.shape[3]))]
    spoiled = phase.copy()
    spoiled[..., echoes] = wrap(turned[..., echoes])
    return magnitude, spoiled


def units_of_an_echo(rng, magnitude, phase):
    k = int(rng.integers(phase.shape[3]))
    spoiled = phase.copy()
    spoiled[..., k] *= rng.choice([180 / np.pi, 4096 / 2 / np.pi, 0.1, 1000])
    return magnitude, spoiled


def sign_of_an_echo(rng, magnitude, phase):
    k = int(rng.integers(phase.shape[3]))
    spoiled = phase.copy()
    spoiled[..., k] *= -1
    return magnitude, spoiled


def echoes_swapped(rng, magnitude, phase):
    k = int(rng.integers(phase.shape[3] - 1))
    spoiled = phase.copy()
    spoiled[..., [k, k + 1]] = phase[..., [k + 1, k]]
    return magnitude, spoiled


def echo_doubled(rng, magnitude, phase):
    k = int(rng.integers(phase.shape[3]))
    spoiled = phase.copy()
    spoiled[..., k] = wrap(2 * phase[..., k])
    return magnitude, spoiled


def _shuffled(rng, n):
    orders = (rng.permutation(n), [*range(0, n, 2), *range(1, n, 2)], np.roll(np.arange(n), n // 3))
    return orders[rng.integers(3)]


def slices_out_of_order(rng, magnitude, phase):
    axis = int(rng.integers(3))
    order = _shuffled(rng, phase.shape[axis])
    return np.take(magnitude, order, axis), np.take(phase, order, axis)


def phase_out_of_order(rng, magnitude, phase):
    axis = int(rng.integers(3))
    return magnitude, np.take(phase, rng.permutation(phase.shape[axis]), axis)


def noise(rng, magnitude, phase):
    return magnitude, rng.uniform(-np.pi, np.pi, phase.shape).astype(np.float32)


FAULTS = {
    fault.__name__: fault
    for fault in (
        offsets_of_slices, offsets_of_slices_and_echoes, filtered, checkerboard, units_of_an_echo,
        sign_of_an_echo, echoes_swapped, echo_doubled, slices_out_of_order, phase_out_of_order, noise,
    )
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """Correlation of the map with the truth, NaN without a map; and what was said: warnings, or an error."""

    correlation: float
    said: tuple[str, ...]


def acquire(seed=0, *, voxel=4.0, echo_times=(0.004, 0.011, 0.018), **protocol):
    """A coarse scan of a digital head."""
    shape = {'voxel_size': (voxel,) * 3, 'fov': (180.0, 216.0, 168.0), 'rotation': (9, 4, 0)}
    return simulate(make_head(seed, spacing=2.0), Protocol(**shape, echo_times=echo_times, **protocol), seed)


def put_through(simulation, magnitude, phase):
    """Map susceptibility in the true brain by the quickest methods; say what a user would be told."""
    protocol, truth = simulation.protocol, simulation.truth
    times, strength = list(protocol.echo_times), protocol.field_strength
    grid = Grid.from_affine(phase.shape[:3], simulation.affine)
    try:
        images = np.asfortranarray(magnitude, np.float32), np.asfortranarray(phase, np.float32)
        magnitude, phase, findings = condition(*images, times, grid, field_strength=strength)
        phase, _ = remove_offset(phase, magnitude, None, times, grid)
        brain = truth['mask']
        unwrapped = romeo(phase, magnitude, brain, times)
        field, noise_of_field, residual = linear(unwrapped, magnitude, brain, times, strength)
        findings = [*findings, judge(find_misfit(residual, magnitude, brain))]
        mask = refine(brain, residual, noise_of_field, grid)
        local, inner = BACKGROUND['vsharp'](field, mask, grid)
        chi = INVERSION['tkd'](local, inner, grid)
    except UserError as error:
        return Outcome(np.nan, (str(error),))
    said = tuple(one['found'] for one in findings if one and one['level'] == 'warning')
    return Outcome(float(np.corrcoef(chi[inner], truth['chi'][inner])[0, 1]), said)
