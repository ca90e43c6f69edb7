"""Where the bodies of grey matter lie in a susceptibility map: a shift and a contrast fitted to each."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numba import njit
from scipy import ndimage

from bids_qsm.anatomy.contrast import body_of, share
from bids_qsm.recon.arrays import Array

_NODES = 12.0
"""Voxels between the nodes of the offset."""
_OFFSET_SD, _TISSUE_SD = 0.02, 0.5
"""Standard deviations of the offset (ppm, about its median) and of the factor on the background (about 1)."""
_STAGES = ((2.0, 2, 8), (1.0, 1, 6), (0.0, 1, 10))
"""From coarse to fine: blur (voxels), every which voxel counts, iterations at most."""


@dataclass(frozen=True, eq=False)
class Body:
    """A piece of grey matter that moves as one.

    ``share`` (0 to 1) and ``contrast`` (ppm above what surrounds it) are arrays on the grid of the box.
    ``shift`` (mm, along the axes of template space), its standard error along each axis ``error``, and the
    ``gain`` of the contrast over the template's are what a fit found.
    """

    name: str
    hemisphere: str
    share: np.ndarray
    contrast: np.ndarray
    shift: np.ndarray
    error: np.ndarray
    gain: float = 1.0

    @property
    def box(self):
        """Slices around the share."""
        (box,) = ndimage.find_objects((self.share > 0.02).astype(np.uint8))
        return box


def split(
    chi: Array,
    dseg: Array,
    dseg_affine: Array,
    labels: pd.DataFrame,
    shape: tuple[int, ...],
    affine: Array,
    *,
    least_ppm: float = 0.015,
    least_voxels: int = 30,
    margin: int = 8,
):
    """Split a template's susceptibility into bodies of grey matter and what lies around and behind them.

    Parts of one body (GPe and GPi, SNc and SNr) are taken together. Behind a body stands what surrounds it.
    A body whose mean contrast to that is below ``least_ppm``, which is smaller than ``least_voxels`` or comes
    within ``margin`` voxels of the faces of the box stays with what surrounds it: it goes where its
    neighbours go.

    Parameters
    ----------
    chi : ndarray, 3D
        Susceptibility of the template on the grid ``shape``, ``affine`` (ppm).
    dseg, dseg_affine, labels
        Atlas: labels, voxel to world, and a table with columns index, hemisphere and region. A label without
        a hemisphere that lies on both sides of x = 0 is two bodies.

    Returns
    -------
    bodies : list of Body
    background : ndarray of float32
        ``chi`` less the contrast of the bodies.
    """
    x = affine[0, 3] + affine[0, 0] * np.arange(shape[0], dtype=np.float32)[:, None, None]
    found = []
    named = labels.assign(body=labels['region'].map(body_of), side=labels['hemisphere'].map(str))
    for (name, side), rows in named.groupby(['body', 'side'], sort=False):
        amount = share(dseg, dseg_affine, rows['index'].tolist(), shape, affine)
        sides = {side: amount} if side in ('L', 'R') else {'L': amount * (x < 0), 'R': amount * (x >= 0)}
        found += [(name, side, part) for side, part in sides.items() if _fits(part, margin, least_voxels)]
    behind = _behind(chi, np.minimum(sum((amount for *_, amount in found), np.zeros(shape, np.float32)), 1))
    bodies = []
    for name, side, amount in found:
        contrast = (amount * (chi - behind)).astype(np.float32)
        if abs(contrast.sum()) >= least_ppm * amount.sum():
            bodies.append(Body(name, side, amount, contrast, np.zeros(3), np.full(3, np.inf)))
    return bodies, chi - sum((b.contrast for b in bodies), np.zeros(shape, np.float32))


def _fits(amount: Array, margin: int, least_voxels: int):
    """Whether a body is large enough and clear of the faces of the box."""
    inside = amount > 0.5
    core = inside[(slice(margin, -margin),) * 3]
    return core.sum() >= least_voxels and core.sum() == inside.sum()


def _behind(chi: Array, amount: Array, sigma: float = 2.0):
    """Susceptibility with the bodies painted over by what surrounds them, near first, then far."""
    # Voxels that a body holds in part say little of what surrounds it.
    clear = np.clip(1 - 2 * amount, 0, 1)

    def around(width: float):
        weight = ndimage.gaussian_filter(clear, width)
        return ndimage.gaussian_filter(chi * clear, width) / np.maximum(weight, 1e-6), weight

    near, weight = around(sigma)
    trust = np.clip(weight / 0.05, 0, 1)
    filled = trust * near + (1 - trust) * around(4 * sigma)[0]
    return clear * chi + (1 - clear) * filled


@njit(cache=True)
def _sample4(values: Array, box_start: Array, voxels: Array, shift: Array, out: Array):
    """Trilinear interpolation of (x, y, z, 4) ``values`` at ``voxels`` - ``shift``; 0 outside."""
    nx, ny, nz = values.shape[:3]
    for p in range(voxels.shape[0]):
        x = voxels[p, 0] - box_start[0] - shift[0]
        y = voxels[p, 1] - box_start[1] - shift[1]
        z = voxels[p, 2] - box_start[2] - shift[2]
        out[p] = 0
        if x < 0 or y < 0 or z < 0 or x >= nx - 1 or y >= ny - 1 or z >= nz - 1:
            continue
        i, j, k = int(x), int(y), int(z)
        u, v, w = x - i, y - j, z - k
        for a in range(2):
            wa = u if a else 1 - u
            for b in range(2):
                wb = wa * (v if b else 1 - v)
                for c in range(2):
                    weight = wb * (w if c else 1 - w)
                    for d in range(4):
                        out[p, d] += weight * values[i + a, j + b, k + c, d]


@njit(cache=True)
def _normal_equations(columns: Array, values: Array, weight: Array, residual: Array, size: int):
    """J' W J and J' W r of a design whose rows hold few entries; column -1 is none."""
    matrix = np.zeros((size, size))
    right = np.zeros(size)
    rows, width = columns.shape
    for r in range(rows):
        for a in range(width):
            i = columns[r, a]
            if i < 0:
                continue
            wv = weight[r] * values[r, a]
            right[i] += wv * residual[r]
            for b in range(a + 1):
                j = columns[r, b]
                if j >= 0:
                    matrix[i, j] += wv * values[r, b]
                    if a != b:
                        matrix[j, i] += wv * values[r, b]
    return matrix, right


def fit(
    chi: Array,
    seen: Array,
    bodies: list[Body],
    background: Array,
    *,
    psf: Sequence[float],
    misplaced: float,
    gain_sd: float,
    limit: float,
):
    r"""Find the shift of every body, together with its contrast, by which a template explains a map.

    .. math:: \chi(x) = o(x) + b\,B(x) + \sum_k g_k A_k(x - t_k) + \epsilon

    B is the template's background and A_k the contrast of body k, both blurred as the map is; o is an offset
    that bends over centimetres (the zero of the map, and what its background removal left). Unknown are the
    shifts t_k with the gains g_k, o and b; all are found at once by Gauss-Newton steps, from blurred maps to
    sharp ones. Residuals beyond some 2.5 sigma, as at vessels and lesions, lose their weight [1]_. Before the
    fit a body is thought to lie where the template has it, give or take ``misplaced``: this holds bodies of
    which the map shows too little. The variance of the noise counts as often as neighbours repeat it.

    Parameters
    ----------
    chi : ndarray, 3D
        Susceptibility (ppm) on the grid of the bodies.
    seen : ndarray of bool
        Where it holds.
    bodies, background
        Of `split`.
    psf : sequence of float
        Standard deviation of the blur of the map over that of the template, along each axis (voxels).
    misplaced : float
        Standard deviation of the bodies' places about the template's, along each axis (voxels).
    gain_sd : float
        Standard deviation of the gains about 1.
    limit : float
        Longest shift (voxels).

    Returns
    -------
    list of Body
        As found; shifts and errors in voxels.

    References
    ----------
    .. [1] Geman & McClure (1987), Bull Int Stat Inst 52:5.
    """
    shape = chi.shape
    count = len(bodies)
    near = ndimage.binary_dilation(np.max([b.share for b in bodies], axis=0) > 0.1, iterations=6)
    lattice = _Lattice(shape, _NODES)
    size = lattice.size + 1 + 4 * count
    state = np.zeros(size)
    state[lattice.size] = 1
    state[lattice.size + 1 :].reshape(count, 4)[:, 3] = 1
    state[: lattice.size] = np.median((chi - background)[near & seen])
    prior = state.copy()
    precision = np.concatenate(
        [
            np.full(lattice.size, _OFFSET_SD**-2),
            [_TISSUE_SD**-2],
            np.tile([misplaced**-2] * 3 + [gain_sd**-2], count),
        ]
    )
    for blur, stride, iterations in _STAGES:
        width = np.sqrt(blur**2 + np.square(psf))
        every = np.zeros(shape, bool)
        every[::stride, ::stride, ::stride] = True
        voxels = np.argwhere(near & seen & every)
        at = tuple(voxels.T)
        measured = _smooth_inside(chi, seen, blur)[at].astype(float)
        tissue = ndimage.gaussian_filter(background, width)[at].astype(float)
        pieces = [_piece(body, width) for body in bodies]
        for _ in range(iterations):
            columns, values, model = _design(lattice, voxels, tissue, pieces, state)
            residual = measured - model
            sigma = max(1.4826 * np.median(np.abs(residual - np.median(residual))), 1e-6)
            weight = 1 / (1 + (residual / (2.5 * sigma)) ** 2) ** 2
            inflation = _inflation(residual * np.sqrt(weight), voxels // stride, 2.0 / stride)
            matrix, right = _normal_equations(
                columns, values, weight / (sigma**2 * inflation), residual, size
            )
            matrix[np.diag_indices(size)] += precision
            change = np.linalg.solve(matrix, right - precision * (state - prior))
            moves = change[lattice.size + 1 :].reshape(count, 4)[:, :3]
            moves *= np.minimum(1, 1 / np.maximum(np.linalg.norm(moves, axis=1, keepdims=True), 1e-9))
            state += change
            shifts = state[lattice.size + 1 :].reshape(count, 4)[:, :3]
            shifts *= np.minimum(1, limit / np.maximum(np.linalg.norm(shifts, axis=1, keepdims=True), 1e-9))
            if np.abs(moves).max() < 0.03:
                break
    error = np.sqrt(np.diag(np.linalg.inv(matrix)))[lattice.size + 1 :].reshape(count, 4)
    found = state[lattice.size + 1 :].reshape(count, 4)
    return [
        replace(b, shift=f[:3].copy(), error=e[:3].copy(), gain=float(f[3]))
        for b, f, e in zip(bodies, found, error, strict=True)
    ]


class _Lattice:
    """Trilinear hats on nodes some voxels apart."""

    def __init__(self, shape: tuple[int, ...], spacing: float):
        self.nodes = tuple(int(np.ceil((n - 1) / spacing)) + 1 for n in shape)
        self.spacing = spacing
        self.size = int(np.prod(self.nodes))

    def weights(self, voxels: Array):
        """Nodes (n, 8) of each voxel and their weights."""
        at = voxels / self.spacing
        base = np.minimum(at.astype(int), np.array(self.nodes) - 2)
        part = at - base
        nodes, weights = [], []
        for corner in np.ndindex(2, 2, 2):
            nodes.append(np.ravel_multi_index(tuple((base + corner).T), self.nodes))
            weights.append(np.prod(np.where(corner, part, 1 - part), axis=1))
        return np.stack(nodes, 1), np.stack(weights, 1)


def _smooth_inside(data: Array, mask: Array, sigma: float):
    """Blur what lies in a mask only."""
    if sigma == 0:
        return data
    weight = ndimage.gaussian_filter(mask.astype(np.float32), sigma)
    return ndimage.gaussian_filter(data * mask, sigma) / np.maximum(weight, 1e-3)


def _piece(body: Body, width: Array):
    """First voxel of a box around a body, and its blurred contrast with the gradient (x, y, z, 4) therein."""
    pad = 2 + int(np.ceil(3 * max(width)))
    box = tuple(
        slice(max(b.start - pad, 0), min(b.stop + pad, n))
        for b, n in zip(body.box, body.share.shape, strict=True)
    )
    blurred = ndimage.gaussian_filter(body.contrast[box], width)
    values = np.stack([*np.gradient(blurred), blurred], -1).astype(np.float32)
    return np.array([b.start for b in box]), values


def _design(
    lattice: '_Lattice', voxels: Array, tissue: Array, pieces: list[tuple[Array, Array]], state: Array
):
    """Derivatives of the model by the unknowns, a few entries a voxel, and the model itself."""
    nodes, weights = lattice.weights(voxels)
    first = lattice.size + 1
    columns = [nodes, np.full((len(voxels), 1), lattice.size)]
    values = [weights, tissue[:, None]]
    model = (weights * state[nodes]).sum(1) + state[lattice.size] * tissue
    used = np.zeros(len(voxels), int)
    parts = []
    for k, (start, field) in enumerate(pieces):
        *shift, gain = state[first + 4 * k : first + 4 * k + 4]
        end = start + np.array(field.shape[:3])
        rows = np.flatnonzero(((voxels - shift >= start) & (voxels - shift < end - 1)).all(1))
        out = np.empty((len(rows), 4))
        _sample4(field, start, voxels[rows], np.array(shift), out)
        model[rows] += gain * out[:, 3]
        out[:, :3] *= -gain
        parts.append((rows, used[rows].copy(), k, out))
        used[rows] += 1
    slots = used.max(initial=0)
    more = np.full((len(voxels), slots, 4), -1)
    entries = np.zeros((len(voxels), slots, 4))
    for rows, slot, k, out in parts:
        more[rows, slot] = first + 4 * k + np.arange(4)
        entries[rows, slot] = out
    columns.append(more.reshape(len(voxels), -1))
    values.append(entries.reshape(len(voxels), -1))
    return np.concatenate(columns, 1), np.concatenate(values, 1), model


def _inflation(residual: Array, voxels: Array, sigma: float):
    """Variance of a local mean of the residual over what white noise would leave: repeats of one sample."""
    low = voxels.min(0)
    field = np.zeros(voxels.max(0) - low + 1, np.float32)
    field[tuple((voxels - low).T)] = residual
    smooth = ndimage.gaussian_filter(field, sigma)[tuple((voxels - low).T)]
    return max(1.0, float((smooth**2).mean() / (residual**2).mean()) * (2 * np.sqrt(np.pi) * sigma) ** 3)
