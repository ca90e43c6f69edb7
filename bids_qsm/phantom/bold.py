"""A simulated BOLD run: neural responses in grey matter, and what veins add to them downstream.

A task drives a patch of cortex. The vein that drains the patch carries the same response further on: larger,
as blood of many capillaries meets in it, and later [1]_. All veins share fluctuations near 0.1 Hz and the
aliased pulse, which no neuron has. Echo-planar distortion moves tissue along the second axis.

.. [1] Turner (2002), NeuroImage 16:1062. doi:10.1006/nimg.2002.1082
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import ndimage, sparse, spatial
from scipy.sparse import csgraph

from bids_qsm.phantom.head import Head
from bids_qsm.phantom.tissue import TISSUES

FINE = 3
"""Points along each side of a voxel that tissue is drawn at."""
FRONTAL, TEMPORAL = (0.0, 52.0, -12.0), (48.0, -28.0, -24.0)
"""Where air distorts echo-planar images (mm of the template): above the frontal sinus and the ears."""

ABOVE_MM = 10.0
"""Height (scanner, mm) above which patches lie: in the cerebrum."""


@dataclass(frozen=True)
class BoldProtocol:
    """Parameters of the run.

    ``response`` and ``gain`` are the neural response and that of a pure vein in multiples of it; ``delay`` is
    the range (s) in which the vein follows, from the patch to ``reach_mm`` downstream. ``resting`` and
    ``venous`` are standard deviations of neural networks and of what only veins have. Signals are shares of
    that of the voxel. ``tsnr`` is the mean over the standard deviation of noise in grey matter.
    ``distortion_mm`` is the largest displacement that preprocessing left, ``unsteady`` the number of frames
    before the steady state, which are brighter.
    """

    voxel_size: tuple[float, float, float] = (3.0, 3.0, 3.0)
    fov: tuple[float, float, float] = (168.0, 204.0, 150.0)
    frames: int = 150
    repetition_time: float = 2.0
    echo_time: float = 0.030
    response: float = 0.02
    gain: float = 5.0
    delay: tuple[float, float] = (1.0, 2.0)
    reach_mm: float = 35.0
    radius_mm: float = 12.0
    resting: float = 0.006
    venous: float = 0.06
    tsnr: float = 80.0
    distortion_mm: float = 1.0
    unsteady: int = 2

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each axis, even."""
        return tuple(int(2 * round(f / v / 2)) for f, v in zip(self.fov, self.voxel_size, strict=True))

    @property
    def affine(self) -> np.ndarray:
        """Voxel to scanner coordinates (RAS, mm)."""
        affine = np.diag([*self.voxel_size, 1.0])
        affine[:3, 3] = -affine[:3, :3] @ ((np.array(self.shape) - 1) / 2)
        return affine


@dataclass(frozen=True)
class BoldRun:
    """A run (x, y, z, frame) and its truth on the same grid.

    ``events`` has onset, duration (s) and trial_type. ``truth``: grey, white, csf, brain and veins (shares of
    a voxel), neural (share of the response that is the patch's own), downstream (share of venous blood of the
    vein that drains it), network (which of the networks at rest a voxel of grey matter belongs to, from 1).
    ``centre`` is that of the neural response (scanner, mm) and ``task`` its expected course.
    """

    data: np.ndarray
    affine: np.ndarray
    protocol: BoldProtocol
    events: pd.DataFrame
    truth: dict[str, np.ndarray]
    centre: np.ndarray
    task: np.ndarray


def simulate_bold(head: Head, protocol: BoldProtocol, seed: int = 0):
    """Acquire a BOLD run of a head.

    Parameters
    ----------
    head : Head
    protocol : BoldProtocol
    seed : int
        Of the place of the patch, of fluctuations and noise.

    Returns
    -------
    BoldRun
    """
    rng = np.random.default_rng([seed, 7])
    shape, affine = protocol.shape, protocol.affine
    fine_shape = tuple(FINE * n for n in shape)
    fine = affine @ np.diag([1 / FINE, 1 / FINE, 1 / FINE, 1.0])
    fine[:3, 3] = affine[:3, :3] @ np.full(3, 0.5 / FINE - 0.5) + affine[:3, 3]
    part = head.sample(fine_shape, fine, ('brain', 'csf', 'white', 'density', 'r2star', 'blood'))
    blood, brain = part.pop('blood'), part.pop('brain')
    white, csf = part.pop('white'), part.pop('csf')
    grey = np.clip(brain * (1 - blood) - white - csf, 0, 1)
    signal = part.pop('density') * np.exp(-protocol.echo_time * part.pop('r2star'))
    spacing = np.array(protocol.voxel_size) / FINE
    above = fine[2, 3] + fine[2, 2] * np.arange(fine_shape[2]) > ABOVE_MM
    centre, far, after = _patch(grey * above, blood, spacing, protocol, rng)
    patch = np.exp(-0.5 * (far / (0.5 * protocol.radius_mm)) ** 2) * (far <= protocol.radius_mm)
    downstream = np.where(np.isfinite(after), blood, 0)
    later = np.clip(np.where(np.isfinite(after), after, 0) / protocol.reach_mm, 0, 1)
    shift = _displacement(head, fine_shape, fine) * protocol.distortion_mm / spacing[1]
    place = _warp(shift)
    fields = {
        'signal': signal,
        'grey': grey * signal,
        'blood': blood * signal,
        'neural': grey * patch * signal,
        'down': downstream * (1 - later) * signal,
        'late': downstream * later * signal,
    }
    coarse = {name: _average(place(one), shape) for name, one in fields.items()}
    truth = {
        name: _average(one, shape)
        for name, one in {
            **{'grey': grey, 'white': white, 'csf': csf, 'brain': brain, 'veins': blood},
            **{'neural': grey * patch, 'downstream': downstream},
        }.items()
    }
    truth['network'] = _networks(truth['grey'], protocol, rng)
    events, courses = _courses(protocol, rng)
    base = coarse['signal']
    data = np.empty((*shape, protocol.frames), np.float32)
    noise = TISSUES['grey'].density * np.exp(-protocol.echo_time * TISSUES['grey'].r2star) / protocol.tsnr
    drift = [ndimage.gaussian_filter(rng.standard_normal(shape), 4).astype(np.float32) for _ in range(2)]
    for t in range(protocol.frames):
        resting = np.r_[0, courses['resting'][t]][truth['network']]
        frame = base + protocol.response * courses['task'][t] * coarse['neural']
        frame += protocol.response * protocol.gain * courses['early'][t] * coarse['down']
        frame += protocol.response * protocol.gain * courses['late'][t] * coarse['late']
        frame += protocol.resting * resting * coarse['grey']
        frame += protocol.venous * courses['venous'][t] * coarse['blood']
        frame += 0.3 * base * (drift[0] * courses['drift'][t, 0] + drift[1] * courses['drift'][t, 1])
        if t < protocol.unsteady:
            frame *= np.float32(1 + 0.3 / (1 + 3 * t))
        parts = rng.standard_normal((2, *shape), dtype=np.float32) * np.float32(noise)
        data[..., t] = np.hypot(frame + parts[0], parts[1])
    data *= np.float32(10_000 / data[..., -1].max())
    middle = fine[:3, :3] @ centre + fine[:3, 3]
    return BoldRun(data, affine, protocol, events, truth, middle, courses['task'])


def _average(fine: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    x, y, z = shape
    return fine.reshape(x, FINE, y, FINE, z, FINE).mean((1, 3, 5), dtype=np.float32)


def _patch(
    grey: np.ndarray,
    blood: np.ndarray,
    spacing: np.ndarray,
    protocol: BoldProtocol,
    rng: np.random.Generator,
):
    """Centre of an active patch (fine voxels), distance from it, and the course of the vein that drains it.

    The last is the distance (mm) along the vein from the patch towards its outlet; inf elsewhere.
    """
    vein = blood > 0.1
    index = np.full(vein.shape, -1)
    voxels = np.argwhere(vein)
    index[vein] = np.arange(len(voxels))
    graph = _vein_graph(voxels * spacing)
    # the outlets are the widest veins, which are the sinuses
    depth = ndimage.distance_transform_edt(blood > 0.5, spacing)
    outlets = index[depth >= min(2.0, 0.8 * depth.max())]
    to_outlet = csgraph.dijkstra(graph, indices=outlets, min_only=True)
    local = ndimage.uniform_filter(grey, np.maximum(np.rint(2 * protocol.radius_mm / spacing), 1).astype(int))
    around = local[tuple(voxels.T)]
    start = np.flatnonzero(np.isfinite(to_outlet) & (around > 0.1))
    if not len(start):
        raise ValueError('no vein of the cortex leads to a sinus; try another seed')
    # veins that run on for long, and of these the places where most of the surroundings is cortex
    length = to_outlet[start]
    start = start[length >= min(protocol.reach_mm, np.quantile(length, 0.8))]
    first = rng.choice(start[around[start] >= np.quantile(around[start], 0.75)])
    from_patch = csgraph.dijkstra(graph, indices=first)
    course = (from_patch + to_outlet < to_outlet[first] + 3.0) & (from_patch < protocol.reach_mm)
    after = np.full(vein.shape, np.inf, np.float32)
    after[tuple(voxels[course].T)] = from_patch[course]
    # all of the section of the vein, not its middle alone
    near, where = ndimage.distance_transform_edt(~np.isfinite(after), spacing, return_indices=True)
    after = np.where((near < 2.5) & (blood > 0), after[tuple(where)], np.inf)
    at = np.indices(grey.shape, np.float32)
    far = np.sqrt(sum((s * (a - c)) ** 2 for a, c, s in zip(at, voxels[first], spacing, strict=True)))
    weight = grey * np.exp(-0.5 * (far / (0.5 * protocol.radius_mm)) ** 2) * (far <= protocol.radius_mm)
    centre = np.array([(a * weight).sum() for a in at]) / weight.sum()
    return centre, far, after


def _vein_graph(points: np.ndarray):
    """Graph of points of veins (mm), each joined with those near it, to bridge the gaps of thin veins."""
    pairs = spatial.cKDTree(points).query_pairs(4.0, output_type='ndarray')
    lengths = np.linalg.norm(points[pairs[:, 0]] - points[pairs[:, 1]], axis=1)
    graph = sparse.csr_array((lengths, (pairs[:, 0], pairs[:, 1])), shape=(len(points), len(points)))
    return graph + graph.T


def _displacement(head: Head, shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """Displacement along the second axis, 1 at most: forward at the frontal sinus, back at the ears."""
    points = head.to_template(shape, affine)
    out = np.zeros(shape, np.float32)
    for place, size in ((FRONTAL, 1.0), (TEMPORAL, -0.6), ((-TEMPORAL[0], *TEMPORAL[1:]), -0.6)):
        far = np.square(points - np.array(place, np.float32)).sum(-1)
        out += np.float32(size) * np.exp(-far / (2 * 18.0**2))
    return out


def _warp(shift: np.ndarray):
    """A function that moves an image by ``shift`` (voxels) along the second axis, with its intensity."""
    stretch = 1 + np.gradient(shift, axis=1)
    at = np.arange(shift.shape[1], dtype=np.float32)[None, :, None] + shift
    low = np.clip(np.floor(at).astype(np.int32), 0, shift.shape[1] - 2)
    part = np.clip(at - low, 0, 1).astype(np.float32)

    def place(image: np.ndarray) -> np.ndarray:
        below = np.take_along_axis(image, low, 1)
        return (below + part * (np.take_along_axis(image, low + 1, 1) - below)) * stretch

    return place


def _networks(grey: np.ndarray, protocol: BoldProtocol, rng: np.random.Generator, count: int = 6):
    """Which of ``count`` networks each voxel of grey matter belongs to: nearest of two seeds each; else 0."""
    inside = np.argwhere(grey > 0.5)
    seeds = inside[rng.choice(len(inside), 2 * count, replace=False)] * protocol.voxel_size
    far = np.linalg.norm(inside[:, None] * np.array(protocol.voxel_size) - seeds, axis=-1)
    out = np.zeros(grey.shape, np.int32)
    out[tuple(inside.T)] = far.argmin(1) % count + 1
    return out


def _courses(protocol: BoldProtocol, rng: np.random.Generator):
    """Events, and time courses by name: task, early and late (of the vein), resting, venous, drift."""
    from nilearn.glm.first_level import compute_regressor

    n, step = protocol.frames, protocol.repetition_time
    times = step * np.arange(n)
    onsets, now = [], 10.0
    while now + 14 < times[-1]:
        onsets.append(round(now, 2))
        now += rng.uniform(26, 38)
    events = pd.DataFrame({'onset': onsets, 'duration': 12.0, 'trial_type': 'stimulus'})
    trials = np.vstack([events['onset'], events['duration'], np.ones(len(events))])
    found = {'task': compute_regressor(trials, 'glover', times)[0][:, 0]}
    for name, late in zip(('early', 'late'), protocol.delay, strict=True):
        found[name] = compute_regressor(trials + np.array([[late], [0], [0]]), 'glover', times)[0][:, 0]
    # networks that do not correlate by chance
    networks = np.linalg.qr(_fluctuation(rng, n, step, 6, (0.01, 0.08)))[0]
    found['resting'] = networks / networks.std(0)
    slow = _fluctuation(rng, n, step, 1, (0.08, 0.12))[:, 0]
    fast = np.arange(0, n * step + step, 0.05)
    rate = 1.1 + 0.04 * ndimage.gaussian_filter1d(rng.standard_normal(len(fast)), 60) * np.sqrt(120)
    pulse = np.sin(2 * np.pi * np.cumsum(rate) * 0.05)[np.rint(times / 0.05).astype(int)]
    found['venous'] = (slow + pulse * np.sqrt(2) * 0.7) / np.hypot(1, 0.7)
    found['drift'] = np.stack([times / times[-1] - 0.5, np.cos(np.pi * times / times[-1])], 1)
    return events, found


def _fluctuation(rng: np.random.Generator, n: int, step: float, count: int, band: tuple[float, float]):
    """Random courses (n, count) of unit variance with frequencies (Hz) in a band."""
    spectrum = np.fft.rfft(rng.standard_normal((n, count)), axis=0)
    frequency = np.fft.rfftfreq(n, step)
    spectrum[(frequency < band[0]) | (frequency > band[1])] = 0
    course = np.fft.irfft(spectrum, n, axis=0)
    return course / course.std(0)
