"""Dipole inversion with absolute instead of squared misfit, robust against outliers."""

import numpy as np

from bids_qsm.recon.arrays import Array, namespace, to_numpy
from bids_qsm.recon.fourier import convolve
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.inversion.fidelity import chords, lengths, squares
from bids_qsm.recon.inversion.splitting import DATA_PENALTY, Problem, Splitting
from bids_qsm.recon.registry import Need, method
from bids_qsm.recon.solvers import total_variation

FIRST_TOLERANCE = 0.1
"""Change per iteration at which the first stage ends."""
PACE = 0.2
"""Penalties with the absolute misfit over those with the squared: its steps are shorter."""
OUTLIER = 3.0
"""Misfit of the first stage, in standard deviations, above which weights fall."""
NORMAL_MEDIAN = 0.6745
"""Median absolute value of normal noise of unit variance."""


@method(memory=Need(padded=17), prose='L1-QSM [@l1qsm]')
def l1qsm(
    field: Array,
    mask: Array,
    noise: Array,
    grid: Grid,
    radians_per_ppm: float,
    *,
    strength: float = 0.06,
    nonlinear: bool = True,
    tolerance: float = 0.03,
    max_iterations: int = 200,
):
    r"""Invert the dipole with total variation and the absolute misfit of field or phase [1]_.

    .. math:: \min_\chi \tfrac{\tilde\sigma}{r} \|W (e^{i r D \chi} - e^{i r f})\|_1
              + \lambda \sum |\nabla \chi|, \quad \lambda = \mathrm{strength} \cdot \tilde\sigma h

    or :math:`\tilde\sigma \|W (D \chi - f)\|_1` where not ``nonlinear``. With the factor :math:`\tilde\sigma`,
    the median noise, a typical residual has the gradient it has in `tv`, whose weights, units and stopping
    are used.

    Departures from the paper: the regularisation follows the noise; both misfits are minimised exactly at
    each voxel (the nonlinear one takes a second splitting in the paper); the nonlinear one starts from the
    linear; gradients are isotropic, per mm.

    Data and result as :mod:`bids_qsm.recon.inversion` has them.

    Parameters
    ----------
    nonlinear : bool
        Compare phases modulo a turn.

    References
    ----------
    .. [1] Milovic et al. (2022), MRM 87:457. doi:10.1002/mrm.28957
    """
    problem = Problem.of(field, mask, noise, grid)
    step = Splitting(problem, lengths(PACE * DATA_PENALTY, problem.typical))
    regulariser = {
        'weight': strength * problem.typical * problem.size,
        'penalty': PACE * problem.gradient_penalty,
        'max_iterations': max_iterations,
    }
    if nonlinear:
        total_variation(step, problem.field, grid.voxel_size, tolerance=FIRST_TOLERANCE, **regulariser)
        step.match = chords(PACE * DATA_PENALTY, radians_per_ppm, problem.typical)
    chi = total_variation(step, problem.field, grid.voxel_size, tolerance=tolerance, **regulariser)
    return problem.give(chi)


@method(memory=Need(padded=18.5), prose='HD-QSM [@hdqsm]')
def hdqsm(
    field: Array,
    mask: Array,
    noise: Array,
    grid: Grid,
    *,
    strength: float = 0.06,
    tolerance: float = 0.03,
    max_iterations: int = 100,
):
    r"""Invert the dipole by absolute misfit, then by squared misfit without its outliers [1]_.

    .. math:: \chi_1 = \arg\min \tilde\sigma \|W (D \chi - f)\|_1 + \lambda \sum |\nabla \chi|, \quad
              \chi = \arg\min \tfrac12 \|W V (D \chi - f)\|^2 + \lambda \sum |\nabla \chi|

    V is 1 where the misfit of the first stage is below 3 standard deviations (of the noise or of all misfits,
    whichever is larger), and falls as the inverse of the misfit above: the first stage finds the outliers, the
    second is efficient for all other voxels. Weights W, :math:`\lambda` and stopping are those of `tv`.

    Departures from the paper: there V falls linearly to 0 at the largest misfit, and each stage has a given
    number of iterations and its own regularisation; here the first stage ends when an iteration changes
    little.

    Data and result as :mod:`bids_qsm.recon.inversion` has them.

    References
    ----------
    .. [1] Lambert et al. (2022), MRM 88:962. doi:10.1002/mrm.29218
    """
    problem = Problem.of(field, mask, noise, grid)
    step = Splitting(problem, lengths(PACE * DATA_PENALTY, problem.typical))
    regulariser = {
        'weight': strength * problem.typical * problem.size,
        'max_iterations': max_iterations,
    }
    pace = problem.gradient_penalty
    chi = total_variation(
        step, problem.field, grid.voxel_size, penalty=PACE * pace, tolerance=FIRST_TOLERANCE, **regulariser
    )
    step.weight = problem.weight * _belief(convolve(chi, step.dipole), problem)
    step.match = squares(DATA_PENALTY)
    chi = total_variation(
        step, problem.field, grid.voxel_size, penalty=pace, tolerance=tolerance, **regulariser
    )
    return problem.give(chi)


def _belief(image: Array, problem: Problem):
    """Squared V of `hdqsm`."""
    xp = namespace(image)
    # counted in standard deviations of the typical voxel
    misfit = xp.abs(image - problem.field) * xp.sqrt(problem.weight) / problem.typical
    usual = float(np.median(to_numpy(misfit)[to_numpy(problem.weight) > 0])) / NORMAL_MEDIAN
    limit = OUTLIER * max(usual, 1.0)
    return (limit / xp.clip(misfit, limit, None)) ** 2
