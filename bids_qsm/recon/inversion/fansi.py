"""Dipole inversion of complex data, regularised by total variation."""

from bids_qsm.recon.arrays import Array
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.inversion.fidelity import sines, squares
from bids_qsm.recon.inversion.splitting import DATA_PENALTY, Problem, Splitting
from bids_qsm.recon.registry import Need, method
from bids_qsm.recon.solvers import total_variation

LINEAR_TOLERANCE = 0.2
"""Change per iteration at which the linear start gives way to the complex misfit."""


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

    The misfit of a voxel never exceeds that of half a turn, and a field wrong by whole turns costs nothing:
    where phase is mostly noise this is its true likelihood. Weights, units and stopping are those of `tv`.

    Where we depart from the paper: the complex term is minimised at each voxel by a Newton step that stays
    between data and model instead of a few free Newton steps; the gradients are isotropic, per mm; the
    penalties do not depend on the data; and a few linear iterations come first, so that strong sources are
    not caught a turn away from their field.

    Parameters
    ----------
    field : ndarray of float32, shape ``grid.shape``
        Local field (ppm).
    mask : ndarray of bool
    noise : ndarray of float32
        Standard deviation of the field (ppm).
    radians_per_ppm : float
        Phase (rad) that 1 ppm gives at the effective echo time.

    Returns
    -------
    ndarray of float32
        Susceptibility (ppm), 0 outside the mask.

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
