"""Dipole inversion regularised by total variation."""

from bids_qsm.recon.arrays import Array
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.inversion.fidelity import squares
from bids_qsm.recon.inversion.splitting import DATA_PENALTY, Problem, Splitting
from bids_qsm.recon.registry import Need, method
from bids_qsm.recon.solvers import total_variation


@method(memory=Need(padded=17), prose='TV [@tv]')
def tv(
    field: Array,
    mask: Array,
    noise: Array,
    grid: Grid,
    *,
    strength: float = 0.06,
    tolerance: float = 0.01,
    max_iterations: int = 100,
):
    r"""Invert the dipole with total variation, by the alternating direction method [1]_ [2]_.

    .. math:: \min_\chi \tfrac12 \|W (D \chi - f)\|^2 + \lambda \sum |\nabla \chi|,
              \quad \lambda = \mathrm{strength} \cdot \tilde\sigma h

    W is the median noise over the noise of the voxel, at most 1, and 0 outside the mask: there :math:`\chi`
    is free, so that neither the cut of the field at the mask nor a remaining background field has to be
    explained from inside. It is split from the dipole as in [2]_, so each iteration takes two pairs of FFTs
    and no inner solver. The weight follows the noise :math:`\tilde\sigma` (its median, ppm) and the voxel
    size h (geometric mean, mm), so that it does not depend on the scan; gradients are isotropic, per mm. The
    iteration stops when it changes :math:`\chi` by less than ``tolerance``, relative.

    Data and result as :mod:`bids_qsm.recon.inversion` has them.

    References
    ----------
    .. [1] Bilgic et al. (2014), MRM 72:1444. doi:10.1002/mrm.25029
    .. [2] Milovic et al. (2018), MRM 80:814. doi:10.1002/mrm.27073
    """
    problem = Problem.of(field, mask, noise, grid)
    chi = total_variation(
        Splitting(problem, squares(DATA_PENALTY)),
        problem.field,
        grid.voxel_size,
        weight=strength * problem.typical * problem.size,
        penalty=problem.gradient_penalty,
        tolerance=tolerance,
        max_iterations=max_iterations,
    )
    return problem.give(chi)
