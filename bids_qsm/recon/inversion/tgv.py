"""Susceptibility from the total field in one step, regularised by total generalised variation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from bids_qsm.recon.arrays import Array, like, to_numpy
from bids_qsm.recon.blocks import block_means
from bids_qsm.recon.fourier import Box
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.inversion.noise_scale import typical_noise
from bids_qsm.recon.inversion.stencils import ascend, descend, wave_stencil
from bids_qsm.recon.registry import Need, method

COARSEST = 4.0
"""Voxel edge (mm) of the coarsest level, from which the iteration starts."""
DEAD = 30.0
"""Noise, in units of its median, above which the field of a voxel is not used."""
CHI_SCALE, ETA_SCALE = 20.0, 0.1
"""Expected size of susceptibility (in noise) and of the multiplier: they change the speed only."""


@method(memory=Need(padded=23), prose='TGV [@tgv]', slow=4)
def tgv(
    total: Array,
    mask: Array,
    noise: Array,
    grid: Grid,
    *,
    strength: float = 0.06,
    bending: float = 2.0,
    tolerance: float = 1e-3,
    max_iterations: int = 600,
):
    r"""Invert the total field in one step with total generalised variation [1]_.

    .. math:: \min_{\chi, w, \psi} \tfrac12 \|W \psi\|^2 + \lambda \sum |\nabla \chi - w|
              + \lambda h \, \mathrm{bending} \sum |E w| \quad \text{with} \quad
              \Delta \psi = \Delta f - \Delta D \chi, \quad \lambda = \mathrm{strength} \cdot \tilde\sigma h

    The background field is harmonic in the mask, and so its Laplacian is zero there; :math:`\psi` is the
    noise of the field. Weights W (median noise over noise, at most 1), :math:`\lambda` and units are those of
    `tv`. Where the noise is more than 30 times its median, the field is not used, so that the iteration stays
    bounded next to a sinus. All operators are stencils on the mask, without FFT. The outermost voxels of the
    mask have no Laplacian; their susceptibility is found by the regulariser.

    Departures from the paper: the field is unwrapped beforehand and weighted by its noise; the operator
    :math:`\Delta D` is a stencil of 27 neighbours fitted to the dipole in k-space, for any direction of B0
    and any voxel size; the primal-dual iteration starts from the solution on coarser voxels, and stops when
    the relative change of :math:`\chi` is below ``tolerance``.

    Data and result as :mod:`bids_qsm.recon.inversion` has them.

    References
    ----------
    .. [1] Langkammer et al. (2015), NeuroImage 111:622. doi:10.1016/j.neuroimage.2015.02.041
    """
    # a border of at least one voxel on every side
    box = Box.around(mask, grid, padding=2 * max(grid.voxel_size))
    typical = typical_noise(noise, total, mask)
    inside = to_numpy(box.crop(mask))
    field = to_numpy(box.crop(total)) / np.float32(typical)
    weight = inside * (typical / np.maximum(to_numpy(box.crop(noise)), np.float32(typical))) ** 2
    levels = [_Level(field, weight.astype(np.float32), inside, grid.voxel_size)]
    while min(levels[-1].voxel_size) < COARSEST / 2**0.5:
        levels.append(levels[-1].coarser())
    state = None
    size = levels[0].size
    del field, weight
    while levels:
        level = levels.pop()
        limits = (strength * size / level.size, bending * strength * (size / level.size) ** 2)
        # the state of the coarser level is freed before the iteration
        state = level.start(state, limits, total)
        level.solve(state, grid.b0_dir, tolerance=tolerance, max_iterations=max_iterations, reference=total)
    return box.uncrop(state.arrays[0] * typical * box.crop(mask))


@dataclass(frozen=True)
class _State:
    """chi, w, psi, p, q, eta on one level, and the limits and voxel size that scale them."""

    arrays: tuple[Any, ...]
    limits: tuple[float, float]
    voxel_size: tuple[float, float, float]


@dataclass(frozen=True)
class _Level:
    """Field (in noise), weights and mask at one voxel size (mm)."""

    field: np.ndarray
    weight: np.ndarray
    inside: np.ndarray
    voxel_size: tuple[float, float, float]

    @property
    def size(self):
        return float(np.prod(self.voxel_size)) ** (1 / 3)

    def coarser(self):
        """Means over blocks along the axes of small steps; a block is inside where half of it is."""
        factors = [2 if h < 2**0.5 * min(self.voxel_size) else 1 for h in self.voxel_size]
        trust = np.maximum(self.weight, 1e-6 * self.inside)
        share, sums, trusted = (
            _block_means(a, factors) for a in (self.inside.astype(np.float32), trust * self.field, trust)
        )
        inside = share >= 0.5
        field = np.where(inside, sums / np.where(trusted > 0, trusted, 1), 0)
        voxel_size = tuple(h * f for h, f in zip(self.voxel_size, factors, strict=True))
        return _Level(
            field.astype(np.float32), _block_means(self.weight, factors) * inside, inside, voxel_size
        )

    def solve(
        self,
        state: '_State',
        b0_dir: tuple[float, float, float],
        *,
        tolerance: float,
        max_iterations: int,
        reference: Array,
    ):
        """Primal-dual iteration [2]_ with the steps that `_steps` gives, in place; the field is overwritten.

        References
        ----------
        .. [2] Chambolle & Pock (2011), J Math Imaging Vis 40:120. doi:10.1007/s10851-010-0251-1
        """
        slopes = tuple(self.size / h for h in self.voxel_size)
        wave = wave_stencil(self.voxel_size, b0_dir)
        # the stencil of the dipole reaches 26 neighbours of chi, the Laplacian six of the field
        inner = ndimage.binary_erosion(self.inside, np.ones((3, 3, 3)))
        inner &= ndimage.binary_erosion(self.weight > DEAD**-2)
        self.field[...] = inner * sum(
            (np.roll(self.field, 1, a) + np.roll(self.field, -1, a) - 2 * self.field) * np.float32(r**2)
            for a, r in enumerate(slopes)
        )
        source, weight, inside, inner = (
            like(a, reference) for a in (self.field, self.weight, self.inside, inner)
        )
        chi, w, psi, p, q, eta = state.arrays
        limits = state.limits
        ahead = like(np.empty((5, *self.inside.shape), np.float32), reference)
        ahead[0], ahead[1:4], ahead[4] = chi, w, psi
        up, down = _steps(slopes, wave, limits)
        for _ in range(max_iterations):
            ascend(ahead[0], ahead[1:4], ahead[4], p, q, eta, source, inside, inner, wave, slopes, up, limits)
            moved, norm = descend(chi, w, psi, p, q, eta, ahead, weight, inside, wave, slopes, down)
            if moved <= tolerance**2 * norm:
                break

    def start(self, state: '_State | None', limits: tuple[float, float], reference: Array):
        """Zeros, or the interpolated state of a coarser level."""
        shape = self.inside.shape
        if state is None:
            counts = (None, 3, None, 3, 6, None)
            zeros = (np.zeros(shape if n is None else (n, *shape), np.float32) for n in counts)
            return _State(tuple(like(a, reference) for a in zeros), limits, self.voxel_size)
        factors = [round(a / b) for a, b in zip(state.voxel_size, self.voxel_size, strict=True)]
        ratio = self.size / float(np.prod(state.voxel_size)) ** (1 / 3)
        gains = (1, ratio, 1, limits[0] / state.limits[0], limits[1] / state.limits[1], ratio**-2)
        arrays = (
            _expand(to_numpy(a), factors, shape, self.inside * np.float32(g))
            for a, g in zip(state.arrays, gains, strict=True)
        )
        return _State(tuple(like(a, reference) for a in arrays), limits, self.voxel_size)


def _steps(slopes: Sequence[float], wave: Array, limits: tuple[float, float]):
    """Steps of the dual and the primal variables: as long as the sums over rows and columns of K allow [3]_.

    References
    ----------
    .. [3] Pock & Chambolle (2011), ICCV, 1762. doi:10.1109/ICCV.2011.6126441
    """
    steep = max(slopes)
    reach = 4 * sum(r**2 for r in slopes)
    waves = float(abs(wave[0]) + 2 * np.abs(wave[1:]).sum())
    tilt = steep * CHI_SCALE
    p, q = limits
    up = (p / (2 * steep * CHI_SCALE + tilt), q / (2 * steep * tilt), ETA_SCALE / (reach + waves * CHI_SCALE))
    down = (
        CHI_SCALE / (2 * sum(slopes) * p + waves * ETA_SCALE),
        tilt / (p + 6 * steep * q),
        1 / (reach * ETA_SCALE),
    )
    return up, down


def _block_means(x: Array, factors: Sequence[int]):
    """Means over blocks, surrounded by a border of zeros."""
    return np.pad(block_means(x, factors), 1)


def _expand(x: Array, factors: Sequence[int], shape: tuple[int, ...], gain: Array):
    """Linear interpolation from the blocks of `_block_means`, times ``gain``, of the last three axes."""
    if x.ndim > 3:
        # one by one, as the interpolation takes memory of several
        out = np.empty((len(x), *shape), np.float32)
        for part, component in zip(out, x, strict=True):
            part[:] = _expand(component, factors, shape, gain)
        return out
    for axis, (factor, n) in enumerate(zip(factors, shape, strict=True)):
        at = (np.arange(n) - (factor - 1) / 2) / factor + 1
        low = np.floor(at).astype(int)
        part = (at - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
        near, x = np.take(x, low, axis), np.take(x, low + 1, axis)
        near *= 1 - part
        x *= part
        x += near
    x *= gain
    return x
