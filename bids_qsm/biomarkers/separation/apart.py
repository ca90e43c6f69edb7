"""Sources with a relaxivity of each voxel, found in turn."""

from dataclasses import replace

import numpy as np

from bids_qsm.biomarkers.separation.closed import closed
from bids_qsm.biomarkers.separation.joint import Equations, solve
from bids_qsm.biomarkers.separation.sources import Sources, consistent
from bids_qsm.recon.fourier import Box
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.inversion.noise_scale import PADDING
from bids_qsm.recon.registry import Need, method


@method(
    memory=Need(padded=42),
    prose='APART-QSM [@li2023], which fits the relaxivity of each voxel about a common one',
)
def apart(
    chi: np.ndarray,
    r2prime: np.ndarray,
    mask: np.ndarray,
    chi_noise: float,
    rate_noise: float,
    scale: float,
    grid: Grid,
    *,
    relaxivity: float = 323.5,
    strength: float = 0.5,
    spread: float = 0.65,
    tolerance: float = 0.03,
    rounds: int = 10,
    max_iterations: int = 30,
) -> Sources:
    r"""Separate sources of susceptibility and R2' with a relaxivity of each voxel, in turn [1]_.

    .. math:: \min_{\chi_+ \ge 0 \ge \chi_-, a} \tfrac{1}{2\sigma_\chi^2} \|\chi_+ + \chi_- - \chi\|^2
        + \tfrac{1}{2\sigma_R^2} \|a (\chi_+ + |\chi_-|) - R_2'\|^2
        + \lambda (|\nabla \chi_+| + |\nabla \chi_-|) + \tfrac{1}{2 s^2} \|a/a_0 - 1\|^2

    The sources are found with the relaxivity a of each voxel held, then a with the sources held, until a
    round changes the sources by less than ``tolerance``. a starts at ``relaxivity`` (static dephasing, at
    3 T, proportional to the field strength), and s is ``spread``: empirical relaxivities are down to a third
    of the theoretical one.

    Departures from [1]_: the objective is that of the paper as far as it is told, as its solver is not
    public; R2' stands for the decay of the echoes; weights follow the noise of the maps; rounds go on until
    they converge, as a tolerance of .3 ends them after the first.

    Data and result as :mod:`bids_qsm.biomarkers.separation.methods` has them.

    References
    ----------
    .. [1] Li et al. (2023), NeuroImage 274:120148. doi:10.1016/j.neuroimage.2023.120148
    """
    kernel = (relaxivity * scale,) * 2
    start = closed(chi, r2prime, *kernel, chi_noise=chi_noise, rate_noise=rate_noise)
    para, dia = start[0] * mask, -start[1] * mask
    even = mask.astype(np.float32)
    box = Box.around(mask, grid, padding=PADDING)
    inside, unit = box.crop(even), np.ones((1, 1, 1), np.float32)
    one = Equations(
        box,
        grid,
        unit,
        box.crop(np.where(mask, chi, 0).astype(np.float32)),
        inside,
        box.crop(np.where(mask, r2prime / kernel[0], 0).astype(np.float32)),
        inside * np.float32((chi_noise * kernel[0] / rate_noise) ** 2),
        unit,
        unit,
        chi_noise,
    )
    own = np.ones(mask.shape, np.float32)
    for _ in range(rounds):
        before = para, dia
        para, dia = solve(
            _with(one, own),
            para,
            dia,
            even,
            mask,
            strength=strength,
            edges=0.0,
            tolerance=0.01,
            max_iterations=max_iterations,
        )
        size = para + dia
        # least squares of the relaxivity of a voxel over the common one
        sure = (spread * kernel[0] * size / rate_noise) ** 2
        ratio = r2prime / np.maximum(kernel[0] * size, 1e-6)
        own = np.where(mask, np.maximum((1 + sure * ratio) / (1 + sure), 0.05), 1).astype(np.float32)
        moved = np.hypot(np.linalg.norm(para - before[0]), np.linalg.norm(dia - before[1]))
        if moved < tolerance * np.hypot(np.linalg.norm(para), np.linalg.norm(dia)):
            break
    return consistent(para, -dia, r2prime, mask, kernel, rate_noise, own)


def _with(one: Equations, own: np.ndarray):
    laid = one.box.crop(own)
    return replace(one, first=laid, second=laid)
