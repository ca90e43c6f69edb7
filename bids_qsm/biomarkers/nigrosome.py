"""Nigrosome-1: a lens of low susceptibility in the dorsolateral posterior nigra, below the red nucleus."""

from dataclasses import dataclass
from itertools import combinations_with_replacement, product

import numpy as np
from scipy import signal
from scipy.spatial import cKDTree

from bids_qsm.biomarkers.nigra_frame import Nigra
from bids_qsm.errors import size_text
from bids_qsm.recon.grid import Grid

LENS_MM = (6.0, 1.0, 2.0)
"""Length along the plate, thickness across it, and height (mm) of the lens that is looked for."""
POSTERIOR = 0.5
"""The place is the posterior half of the lower nigra: the lens lies in the posterior third, and is long."""
DORSAL_MM = -0.5
"""It reaches so far (mm) to the side of the peduncle from the middle of the plate."""
LARGEST_MM = (0.75, 1.05)
"""Largest voxel in plane, and slice (mm), in which the lens can be told; see benchmarks/nbia.py."""
LEAST_COVERAGE = 0.95
LEAST_SE = 0.005
"""Least standard error (ppm) of the contrast: that of the fall of susceptibility towards the border."""
SEEN, UNSURE = 3.2, 2.5
"""Scores from which a nigrosome counts as seen, and as unclear: see benchmarks/nbia.py."""
_TILTS = (-12.0, 0.0, 12.0)
_REACH = 1.5
_APART = 2.5
_INNER_MM = 0.4
_FEWEST = 20
_BORDER_MM = 0.5
_PSF = 0.7
"""Half the width of the spread of a voxel, in voxels: its own side, and that of the map."""


@dataclass(frozen=True)
class Nigrosome:
    """What the place of nigrosome-1 looks like on one side.

    Attributes
    ----------
    contrast, contrast_se : float
        Susceptibility of the lens that fits best less that of the nigra around it (ppm): negative where
        there is a nigrosome.
    volume, volume_se : float
        Volume (mm^3) of the voxels below half the contrast.
    visible : float
        Minus the contrast over its standard error.
    place, low : ndarray of int, shape (n, 3)
        Voxels of the place and those below half the contrast.
    reason : str
        Why it was not assessed.
    """

    side: str
    contrast: float = np.nan
    contrast_se: float = np.nan
    volume: float = np.nan
    volume_se: float = np.nan
    visible: float = np.nan
    place: np.ndarray | None = None
    low: np.ndarray | None = None
    reason: str = ''

    @property
    def finding(self):
        """What the score says, in words."""
        if self.reason:
            return 'not assessable'
        return 'seen' if self.visible >= SEEN else 'unclear' if self.visible >= UNSURE else 'not seen'


def find_nigrosomes(chi: np.ndarray, found: dict[str, Nigra], grid: Grid, affine: np.ndarray):
    r"""Look for nigrosome-1 on both sides.

    What is smooth in a nigra (a polynomial of second order in its own axes, and the fall towards its border)
    is taken from susceptibility. To what is left, r, a lens of known size is fitted around each voxel x,

    .. math:: r(v) = c + g \, a(v - x) + b \, t(v - x)

    by least squares, where a is the place across the plate, t the share of the voxel in the lens, and voxels
    near the border count less: a lens is low between two bands, a border falls to one side. The
    contrast is the lowest b in the place. Its standard error is the spread of b (median absolute deviation)
    over the rest of both nigrae, so that noise and texture of this map count.

    Returns
    -------
    dict of str to Nigrosome
    """
    size = np.sort(grid.voxel_size)
    if size[1] > LARGEST_MM[0] or size[2] > LARGEST_MM[1]:
        why = f'voxels of {size_text(grid.voxel_size)} mm are too coarse for a lens of 1 mm '
        why += f'({LARGEST_MM[0]:g} mm in plane, slices of {LARGEST_MM[1]:g} mm at most)'
        return {side: Nigrosome(side, reason=why) for side in found}
    searched = {side: _search(chi, one, grid, affine) for side, one in found.items()}
    away = np.concatenate([b[np.isfinite(b) & ~near] for b, near, *_ in searched.values()])
    if len(away) < _FEWEST:
        why = 'too little of the nigra lies outside the place, so that its scatter is not known'
        return {side: Nigrosome(side, reason=why) for side in found}
    middle = float(np.median(away))
    spread = float(np.hypot(1.4826 * np.median(np.abs(away - middle)), LEAST_SE))
    return {
        side: _judge(found[side], b, level, place, rest, middle, spread, grid)
        for side, (b, _, level, place, rest) in searched.items()
    }


def place_of(nigra: Nigra) -> np.ndarray:
    """Voxels (bool) where nigrosome-1 is looked for."""
    low = nigra.lower
    behind = nigra.along > np.quantile(nigra.along[low], POSTERIOR)
    return low & behind & (nigra.across > DORSAL_MM)


def _search(chi: np.ndarray, nigra: Nigra, grid: Grid, affine: np.ndarray):
    """Amplitude of the lens around each inner voxel, whether that is near the place, and more."""
    at = nigra.coordinates
    values = chi[tuple(nigra.index.T)].astype(np.float64)
    weight = np.clip((nigra.depth - 0.1) / 0.5, 0, 1)
    rest = values - _smooth(at, nigra.depth, values, weight)
    place = place_of(nigra)
    near = cKDTree(at[place]).query(at)[0] < _APART if place.any() else np.zeros(len(at), bool)
    low = nigra.index.min(0)
    shape = nigra.index.max(0) - low + 1
    inside = tuple((nigra.index - low).T)
    amplitude, level = np.full(len(at), np.inf), np.full(len(at), np.nan)
    for tilt in _TILTS:
        b, c = _filter(rest, weight, inside, shape, *_kernels(grid, affine, nigra.axes, tilt))
        better = b < amplitude
        amplitude[better], level[better] = b[better], c[better]
    amplitude[nigra.depth < _INNER_MM] = np.inf
    return amplitude, near, level, place, rest


def _kernels(grid: Grid, affine: np.ndarray, axes: np.ndarray, tilt: float):
    """Neighbourhood, place of its voxels across the plate (mm), and their share in a lens at its middle."""
    reach = np.ceil((np.linalg.norm(LENS_MM) / 2 + _REACH) / np.asarray(grid.voxel_size)).astype(int)
    index = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing='ij'), -1)
    to_axes = affine[:3, :3].T @ axes.T
    c, s = np.cos(np.radians(tilt)), np.sin(np.radians(tilt))
    turn = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
    close = (np.abs(index @ to_axes) < np.asarray(LENS_MM) / 2 + _REACH).all(-1)
    one = (np.arange(4) + 0.5) / 2 - 1
    cells = np.array(list(product(one, one, one)))
    spread = np.prod(1 - np.abs(cells), 1)
    points = (index[close][:, None] + _PSF * cells) @ (to_axes @ turn.T / (np.asarray(LENS_MM) / 2))
    lens = np.zeros(close.shape)
    lens[close] = ((points**2).sum(-1) <= 1) @ (spread / spread.sum())
    return close.astype(float), close * (index @ to_axes)[..., 1], lens


def _filter(
    rest: np.ndarray,
    weight: np.ndarray,
    inside: tuple[np.ndarray, ...],
    shape: np.ndarray,
    close: np.ndarray,
    aside: np.ndarray,
    lens: np.ndarray,
):
    """Amplitude and level of the lens around every voxel, by weighted least squares."""

    def around(values: np.ndarray, kernel: np.ndarray):
        volume = np.zeros(shape)
        volume[inside] = values
        flipped = kernel[::-1, ::-1, ::-1]
        return signal.fftconvolve(volume, flipped, 'full')[
            tuple(slice(k // 2, k // 2 + n) for k, n in zip(kernel.shape, shape, strict=True))
        ][inside]

    columns = (close, aside, lens)
    gram = np.empty((len(rest), 3, 3))
    moment = np.stack([around(weight * rest, one) for one in columns], 1)
    for a, b in combinations_with_replacement(range(3), 2):
        gram[:, a, b] = gram[:, b, a] = around(weight, columns[a] * columns[b])
    held = gram[:, 0, 2]
    # half of the lens must be measured, and as much around it
    known = (held > 0.5 * lens.sum()) & (gram[:, 0, 0] - held > lens.sum())
    amplitude, level = np.full(len(rest), np.inf), np.full(len(rest), np.nan)
    solved = np.linalg.solve(gram[known] + 1e-6 * np.eye(3), moment[known][..., None])[..., 0]
    amplitude[known], level[known] = solved[:, 2], solved[:, 0]
    return amplitude, level


def _smooth(at: np.ndarray, depth: np.ndarray, values: np.ndarray, weight: np.ndarray):
    """Smooth part of susceptibility in a nigra, by robust least squares."""
    u = at / np.maximum(at.std(0), 1e-6)
    columns = [np.ones(len(u)), *u.T, *(u[:, i] * u[:, j] for i in range(3) for j in range(i, 3))]
    design = np.stack([*columns, np.exp(-depth / _BORDER_MM)], 1)
    trust = np.ones(len(u))
    for _ in range(8):
        root = np.sqrt((weight + 0.05) * trust)[:, None]
        fitted = design @ np.linalg.lstsq(design * root, values * root[:, 0], rcond=None)[0]
        rest = values - fitted
        scale = 1.4826 * np.median(np.abs(rest)) + 1e-9
        trust = 1 / np.maximum(np.abs(rest) / (1.345 * scale), 1)
    return fitted


def _judge(
    nigra: Nigra,
    amplitude: np.ndarray,
    level: np.ndarray,
    place: np.ndarray,
    rest: np.ndarray,
    middle: float,
    spread: float,
    grid: Grid,
):
    """Contrast, volume and score of one side."""
    if nigra.coverage < LEAST_COVERAGE:
        why = f'only {nigra.coverage:.0%} of the nigra lies inside the mask'
        return Nigrosome(nigra.side, reason=why)
    here = place & np.isfinite(amplitude)
    if not here.any():
        return Nigrosome(nigra.side, reason='the place of nigrosome-1 has no voxel inside the nigra')
    best = np.flatnonzero(here)[np.argmin(amplitude[here])]
    b = float(amplitude[best] - middle)
    apart = np.abs(nigra.coordinates - nigra.coordinates[best])
    around = (apart < np.asarray(LENS_MM) / 2 + 1.0).all(1) & (nigra.depth > 0.1)

    def low(contrast: float):
        return around & (rest < level[best] + min(contrast, -1e-6) / 2)

    volumes = [low(c).sum() * grid.voxel_volume for c in (b, b - spread, b + spread)]
    return Nigrosome(
        nigra.side,
        b,
        spread,
        float(volumes[0]),
        float(abs(volumes[1] - volumes[2]) / 2),
        -b / spread,
        nigra.index[place],
        nigra.index[low(b)],
    )
