"""Kernels of ROMEO path-based unwrapping: edge weights and region growing.

Volumes are flat, C-contiguous float32, with axes in any order. An edge has the number
``4 * voxel + axis``, of the voxel it starts from and the axis along which it points. In the array of costs
the fourth byte of each voxel is the lowest cost at which it has been queued, 0 once it is unwrapped: it lies
next to the costs, and one comparison shows whether to queue an edge.
"""

import numpy as np
from numba import njit, prange

from bids_qsm.recon.arrays import Array

BINS = 256
FREE, USED = BINS, BINS + 1
QUEUED = 3
UNSEEN = 255
# typed constants keep the arithmetic in float32: numba converts float32 with a Python number to float64
ONE, TENTH, NINE_TENTHS, HALF = (np.float32(c) for c in (1, 0.1, 0.9, 0.5))
ZERO, TINY = np.float32(0), np.float32(1e-30)
TURN, PER_TURN, PER_PI = (np.float32(c) for c in (2 * np.pi, 0.5 / np.pi, 1 / np.pi))


@njit(inline='always')
def _wrapped(angle: float):
    return angle - TURN * np.floor(angle * PER_TURN + HALF)


@njit(cache=True, fastmath=True)
def _weigh_row(
    weights: Array,
    phase: Array,
    other: Array,
    ratio: float,
    magnitude: Array,
    mask: Array,
    start: int,
    step: int,
    inner: bool,
):
    """Fill ``weights`` with the reliability, 0 to 1, of the edges ``start + n`` to ``start + n + step``.

    The product of phase coherence, coherence of the phase gradient with that of another echo (``ratio`` is
    TE / TE of the other echo, 0 for none), linearity of the phase along the axis (only ``inner`` edges have
    neighbours on both sides; else .9), and squared ratio of magnitudes, each as .1 + .9 w.
    """
    for n in range(weights.size):
        i = start + n
        j = i + step
        slope = _wrapped(phase[j] - phase[i])
        weight = TENTH + NINE_TENTHS * (ONE - abs(slope) * PER_PI)
        if ratio > ZERO:
            disagreement = abs(slope - ratio * _wrapped(other[j] - other[i]))
            weight *= TENTH + NINE_TENTHS * max(ZERO, ONE - disagreement)
        linearity = NINE_TENTHS
        if inner:
            before = abs(_wrapped(phase[i] - phase[i - step] - slope))
            after = abs(_wrapped(phase[j + step] - phase[j] - slope))
            product = max(ZERO, ONE - HALF * before) * max(ZERO, ONE - HALF * after)
            linearity = product if mask[i - step] and mask[j + step] else NINE_TENTHS
        weight *= TENTH + NINE_TENTHS * linearity
        likeness = min(magnitude[i], magnitude[j]) / max(max(magnitude[i], magnitude[j]), TINY)
        weights[n] = weight * (TENTH + NINE_TENTHS * likeness * likeness)


@njit(cache=True)
def _weigh_line(
    weights: Array,
    phase: Array,
    other: Array,
    ratio: float,
    magnitude: Array,
    mask: Array,
    shape: tuple[int, ...],
    z: int,
    y: int,
    axis: int,
):
    """Fill ``weights`` with those of the edges along ``axis`` from the line (z, y); return how many exist."""
    nz, ny, nx = shape
    start = (z * ny + y) * nx
    if axis == 2:
        data = phase, other, ratio, magnitude, mask
        if nx > 3:
            _weigh_row(weights[1 : nx - 2], *data, start + 1, 1, True)
        if nx > 1:
            _weigh_row(weights[:1], *data, start, 1, False)
            _weigh_row(weights[nx - 2 : nx - 1], *data, start + nx - 2, 1, False)
        return nx - 1
    place, length, step = (z, nz, ny * nx) if axis == 0 else (y, ny, nx)
    if place + 1 == length:
        return 0
    inner = 0 < place < length - 2
    _weigh_row(weights, phase, other, ratio, magnitude, mask, start, step, inner)
    return nx


@njit(cache=True)
def _edge_costs(
    phase: Array, other: Array, ratio: float, magnitude: Array, mask: Array, shape: tuple[int, ...]
):
    """Cost 1 (reliable) .. 254 of every edge inside the mask, 0 where there is none; and voxels to visit."""
    nz, ny, nx = shape
    steps = (ny * nx, nx, 1)
    costs = np.zeros(4 * phase.size, np.uint8)
    weights = np.empty(nx, np.float32)
    for z in range(nz):
        for y in range(ny):
            start = (z * ny + y) * nx
            if not mask[start : start + nx].any():
                continue
            for n in range(nx):
                costs[4 * (start + n) + QUEUED] = UNSEEN if mask[start + n] else 0
            for axis in range(3):
                edges = _weigh_line(weights, phase, other, ratio, magnitude, mask, shape, z, y, axis)
                for n in range(edges):
                    i = start + n
                    if mask[i] and mask[i + steps[axis]]:
                        costs[4 * i + axis] = np.uint8(UNSEEN - 1) - np.uint8(
                            np.float32(UNSEEN - 2) * weights[n]
                        )
    return costs


@njit(cache=True)
def _best_voxel(costs: Array):
    best, lowest = -1, 3 * BINS + 1
    for i in range(costs.size // 4):
        if costs[4 * i + QUEUED]:
            total = 0
            for axis in range(3):
                cost = np.int64(costs[4 * i + axis])
                total += cost if cost > 0 else BINS
            if total < lowest:
                best, lowest = i, total
    return best


@njit(cache=True)
def _push(edge: int, cost: int, bins: Array, edges: Array, after: Array):
    """Push ``edge`` on the stack of its cost, into the node freed last, which is in the cache."""
    node = bins[FREE]
    if node >= 0:
        bins[FREE] = after[node]
    else:
        node = bins[USED]
        bins[USED] += 1
    edges[node] = edge
    after[node] = bins[cost]
    bins[cost] = node


@njit(cache=True)
def _push_edges(
    voxel: int,
    steps: tuple[int, int, int],
    costs: Array,
    bins: Array,
    edges: Array,
    after: Array,
    lowest: Array,
):
    """Queue the edges that reach a neighbour at a lower cost than before; return the lowest bin in use."""
    for axis in range(3):
        forward = 4 * voxel + axis
        cost = np.int64(costs[forward])
        if cost > 0 and cost < costs[forward - axis + 4 * steps[axis] + QUEUED]:
            costs[forward - axis + 4 * steps[axis] + QUEUED] = cost
            _push(forward, cost, bins, edges, after)
            lowest = min(lowest, cost)
        backward = forward - 4 * steps[axis]
        if backward >= 0:
            cost = np.int64(costs[backward])
            if cost > 0 and cost < costs[backward - axis + QUEUED]:
                costs[backward - axis + QUEUED] = cost
                _push(backward, cost, bins, edges, after)
                lowest = min(lowest, cost)
    return lowest


@njit(cache=True)
def _grow(phase: Array, costs: Array, shape: tuple[int, ...]):
    """Unwrap ``phase`` in place along the most reliable edges first; each piece of the mask has a seed."""
    steps = (shape[1] * shape[2], shape[2], 1)
    bins = np.full(BINS + 2, -1, np.int64)
    bins[USED] = 0
    # room for every edge; the system allocates only the pages that are used
    edges = np.empty(3 * phase.size, np.int32)
    after = np.empty(3 * phase.size, np.int32)
    seed = _best_voxel(costs)
    scanned = 0
    while seed >= 0:
        costs[4 * seed + QUEUED] = 0
        lowest = _push_edges(seed, steps, costs, bins, edges, after, BINS)
        while lowest < BINS:
            node = bins[lowest]
            if node < 0:
                lowest += 1
                continue
            bins[lowest] = after[node]
            after[node] = bins[FREE]
            bins[FREE] = node
            edge = np.int64(edges[node])
            old = edge >> 2
            new = old + steps[edge & 3]
            if costs[4 * old + QUEUED]:
                old, new = new, old
            elif not costs[4 * new + QUEUED]:
                continue
            phase[new] -= TURN * np.floor((phase[new] - phase[old]) * PER_TURN + HALF)
            costs[4 * new + QUEUED] = 0
            lowest = _push_edges(new, steps, costs, bins, edges, after, lowest)
        while scanned < phase.size and not costs[4 * scanned + QUEUED]:
            scanned += 1
        seed = scanned if scanned < phase.size else -1


@njit(cache=True, parallel=True)
def unwrap_echoes(
    phase: Array,
    magnitude: Array,
    mask: Array,
    partner: Array,
    ratio: Array,
    shape: tuple[int, ...],
    chosen: Array,
):
    """Unwrap the echoes ``chosen``, each on its own.

    ``phase`` and ``magnitude`` are (echo, voxel), ``mask`` (voxel,).
    ``partner[e]`` is the echo that lends its gradient to the weights of echo e, with TE_e / TE_partner in
    ``ratio[e]`` (0 for none).
    """
    unwrapped = phase.copy()
    for n in prange(chosen.size):
        e = chosen[n]
        costs = _edge_costs(phase[e], phase[partner[e]], ratio[e], magnitude[e], mask, shape)
        _grow(unwrapped[e], costs, shape)
    return unwrapped


@njit(cache=True)
def mean_edge_weight(phase: Array, other: Array, ratio: float, magnitude: Array, shape: tuple[int, ...]):
    """Mean weight of the six (fewer at the border) edges of each voxel of a flat volume."""
    nz, ny, nx = shape
    everywhere = np.ones(phase.size, np.bool_)
    quality = np.zeros(phase.size, np.float32)
    for z in range(nz):
        weights = np.empty(nx, np.float32)
        total = np.empty(nx, np.float32)
        edges = np.empty(nx, np.float32)
        for y in range(ny):
            for x in range(nx):
                total[x] = edges[x] = ZERO
            for axis in range(3):
                count = _weigh_line(weights, phase, other, ratio, magnitude, everywhere, shape, z, y, axis)
                for x in range(count):
                    total[x] += weights[x]
                    edges[x] += ONE
                shift = 0
                if axis == 2:
                    shift = 1
                elif (z if axis == 0 else y) > 0:
                    back = (z - 1, y) if axis == 0 else (z, y - 1)
                    count = _weigh_line(
                        weights, phase, other, ratio, magnitude, everywhere, shape, *back, axis
                    )
                else:
                    count = 0
                for x in range(count):
                    total[x + shift] += weights[x]
                    edges[x + shift] += ONE
            for x in range(nx):
                quality[(z * ny + y) * nx + x] = total[x] / max(edges[x], ONE)
    return quality
