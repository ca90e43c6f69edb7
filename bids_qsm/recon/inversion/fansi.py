"""Dipole inversion of complex data, regularised by total variation."""

from bids_qsm.recon.arrays import Array
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.inversion.fidelity import sines, squares
from bids_qsm.recon.inversion.splitting import DATA_PENALTY, Problem, Splitting
from bids_qsm.recon.registry import Need, method
from bids_qsm.recon.solvers import total_variation

LINEAR_TOLERANCE = 0.2
"""Change per iteration at which the complex misfit replaces the linear one."""


@method(memory=Need(padded=17), prose='nonlinear TV [@nltv]')
def nltv(
    field: Array,
    mask: Array,
    noise: Array,
    grid: Grid,
    radians_per_ppm: float,
    *,
    strength: float = 0.06,
    tolerance: float = 0.01,
    max_iterations: int = 200,
):
    r"""Invert the dipole with total variation and a nonlinear, complex misfit [1]_.

    .. math:: \min_\chi \tfrac1{2 r^2} \|W (e^{i r D \chi} - e^{i r f})\|^2 + \lambda \sum |\nabla \chi|,
              \quad \lambda = \mathrm{strength} \cdot \tilde\sigma h

    The misfit of a voxel is bounded, and multiples of 2 pi in its phase cost nothing. Weights, units and
    stopping are those of `tv`.

    Departures from the paper: the complex term is minimised at each voxel by Newton steps that stay between
    data and model; gradients are isotropic, per mm; the penalties do not depend on the data; and a few linear
    iterations come first, so that strong sources do not end at a wrong multiple of 2 pi.

    Data and result as :mod:`bids_qsm.recon.inversion` has them.

    References
    ----------
    .. [1] Milovic et al. (2018), MRM 80:814. doi:10.1002/mrm.27073
    """
    problem = Problem.of(field, mask, noise, grid)
    step = Splitting(problem, squares(DATA_PENALTY))
    regulariser = {
        'weight': strength * problem.typical * problem.size,
        'penalty': problem.gradient_penalty,
        'max_iterations': max_iterations,
    }
    total_variation(step, problem.field, grid.voxel_size, tolerance=LINEAR_TOLERANCE, **regulariser)
    step.match = sines(DATA_PENALTY, radians_per_ppm)
    chi = total_variation(step, problem.field, grid.voxel_size, tolerance=tolerance, **regulariser)
    return problem.give(chi)
