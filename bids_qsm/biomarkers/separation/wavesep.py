"""Sources of susceptibility and R2' that are sparse in wavelets."""

import numpy as np

from bids_qsm.biomarkers.separation.sources import consistent
from bids_qsm.biomarkers.separation.wavelets import analyse, synthesise
from bids_qsm.recon.fourier import Box
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.registry import Need, method

LEVELS = 3
"""Levels of the transform."""


@method(memory=Need(padded=16), prose='WaveSep [@fang2023]')
def wavesep(
    chi: np.ndarray,
    r2prime: np.ndarray,
    mask: np.ndarray,
    rate_noise: float,
    scale: float,
    grid: Grid,
    *,
    relaxivity: float = 137.0,
    ratio: float = 1.0,
    strength: float = 0.02,
    step: float = 0.2,
    tolerance: float = 1e-3,
    max_iterations: int = 100,
):
    r"""Separate sources of susceptibility and R2' that are sparse in wavelets [1]_.

    .. math:: \min_{\chi_+ \ge 0 \ge \chi_-} \tfrac12 \|\chi_+ + \chi_- - \chi\|^2
        + \tfrac12 \|\chi_+ - (D_-/D_+) \chi_- - R_2'/D_+\|^2
        + \lambda (\|\Psi \chi_+\|_1 + \|\Psi \chi_-\|_1)

    by proximal gradient steps; :math:`\Psi` are Daubechies wavelets of four vanishing moments, and the signs
    hold after each step. ``strength`` is :math:`\lambda`, in ppm. ``relaxivity`` is :math:`D_+` at 3 T,
    proportional to the field strength, ``ratio`` :math:`D_-/D_+`.

    Departures from [1]_: :math:`\chi` is any map, not that of learned proximal operators.

    Data and result as :mod:`bids_qsm.biomarkers.separation.methods` has them.

    References
    ----------
    .. [1] Fang et al. (2023), LNCS 14312:59. doi:10.1007/978-3-031-44858-4_6
    """
    kernel = relaxivity * scale, relaxivity * scale * ratio
    box = Box.around(mask, grid, padding=0.0)
    sizes = [-(-n // 2**LEVELS) * 2**LEVELS for n in box.shape]
    inside = _grown(box.crop(mask), sizes)
    total = _grown(box.crop(np.where(mask, chi, 0).astype(np.float32)), sizes)
    rate = _grown(box.crop(np.where(mask, r2prime / kernel[0], 0).astype(np.float32)), sizes)
    para, dia = np.zeros_like(total), np.zeros_like(total)
    for _ in range(max_iterations):
        first = (para - dia - total) * inside
        second = (para + np.float32(ratio) * dia - rate) * inside
        # where the gradients of both sources end, as positive numbers
        ends = para - step * (first + second), dia - step * (np.float32(ratio) * second - first)
        moved = size = 0.0
        for old, end in zip((para, dia), ends, strict=True):
            new = np.maximum(_shrink(end.astype(np.float32), step * strength), 0)
            moved += float(((new - old) ** 2).sum(dtype=float))
            size += float((new**2).sum(dtype=float))
            old[...] = new
        if moved <= tolerance**2 * size:
            break
    shape = tuple(slice(0, n) for n in box.shape)
    return consistent(box.uncrop(para[shape]), -box.uncrop(dia[shape]), r2prime, mask, kernel, rate_noise)


def _grown(volume: np.ndarray, sizes: list[int]):
    return np.pad(volume, [(0, n - m) for n, m in zip(sizes, volume.shape, strict=True)])


def _shrink(volume: np.ndarray, threshold: float):
    """Soft threshold of the details; the coarsest volume is kept."""
    coarse = tuple(slice(0, n >> LEVELS) for n in volume.shape)
    found = analyse(volume, LEVELS)
    kept = found[coarse].copy()
    found = np.sign(found) * np.maximum(np.abs(found) - np.float32(threshold), 0)
    found[coarse] = kept
    return synthesise(found, LEVELS)
