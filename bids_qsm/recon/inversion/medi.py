"""Dipole inversion with the edges of the magnitude (MEDI), by splitting."""

import numpy as np

from bids_qsm.errors import UserError
from bids_qsm.recon.arrays import Array, like, namespace, to_numpy
from bids_qsm.recon.csf import ventricles
from bids_qsm.recon.fourier import convolve
from bids_qsm.recon.fused_kernels import change
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.inversion.fidelity import RELAX, sines
from bids_qsm.recon.inversion.morphology import pull_smooth, smooth_places, step_smooth
from bids_qsm.recon.inversion.splitting import DATA_PENALTY, Problem, Splitting
from bids_qsm.recon.registry import Need, method


@method(memory=Need(padded=18), prose='MEDI [@medi]', slow=1.5)
def medi(
    field: Array,
    mask: Array,
    noise: Array,
    magnitude: Array,
    radians_per_ppm: float,
    grid: Grid,
    *,
    strength: float = 0.08,
    edges: float = 0.25,
    outlier: float = 5.0,
    tolerance: float = 0.01,
    max_iterations: int = 150,
):
    r"""Invert the dipole with edges taken from the magnitude: morphology-enabled dipole inversion [1]_.

    .. math:: \min_\chi \tfrac{1}{2 s^2} \|W (e^{i s D \chi} - e^{i s f})\|^2
              + \lambda \sum |M \nabla \chi|, \quad \lambda = \mathrm{strength} \cdot \tilde\sigma h

    s is the phase (rad) of 1 ppm. W is the median noise over the noise of the voxel, at most 1, and 0
    outside the mask. M is 0 for the share ``edges`` of the differences where the magnitude changes most, and
    1 elsewhere. Near convergence, the weight W of voxels whose weighted misfit is more than ``outlier``
    robust standard deviations is divided by the square of the excess (MERIT [2]_), and iterations continue.

    Departures from [1]_: the penalty at a voxel is the length of the vector of its differences, not the sum
    of their sizes; the weight follows the noise :math:`\tilde\sigma` (ppm) and the voxel size h (mm). The
    splittings :math:`u = D \chi` (with a Newton step at each voxel [3]_) and :math:`v = \nabla \chi` replace
    Gauss-Newton steps with conjugate gradients: two pairs of FFTs an iteration, no inner solver.

    Data and result as :mod:`bids_qsm.recon.inversion` has them.

    References
    ----------
    .. [1] Liu et al. (2012), NeuroImage 59:2560. doi:10.1016/j.neuroimage.2011.08.082
    .. [2] Liu et al. (2013), MRM 69:467. doi:10.1002/mrm.24272
    .. [3] Milovic et al. (2018), MRM 80:814. doi:10.1002/mrm.27073
    """
    problem = Problem.of(field, mask, noise, grid)
    chi = _solve(problem, magnitude, radians_per_ppm, strength, edges, outlier, tolerance, max_iterations)
    return problem.give(chi)


@method(memory=Need(padded=20), prose='MEDI+0 [@medi0]', slow=1.5)
def medi0(
    field: Array,
    mask: Array,
    noise: Array,
    magnitude: Array,
    radians_per_ppm: float,
    r2star: Array,
    grid: Grid,
    *,
    strength: float = 0.08,
    edges: float = 0.25,
    outlier: float = 5.0,
    evenness: float = 0.1,
    r2star_ratio: float = 0.35,
    min_ml: float = 3.0,
    tolerance: float = 0.01,
    max_iterations: int = 150,
):
    r"""MEDI with uniform CSF in the ventricles, whose mean is the zero of the map: MEDI+0 [1]_.

    The cost of `medi` plus :math:`\tfrac{\mu}{2} \sum_{CSF} (\chi - \bar\chi_{CSF})^2`, where :math:`\mu` is
    ``evenness``. CSF is found where R2* is below ``r2star_ratio`` times its median, in the middle of the
    brain, at least ``min_ml`` of it (`ventricles`).

    Data and result as :mod:`bids_qsm.recon.inversion` has them.

    Raises
    ------
    UserError
        Without R2* (a single echo), or where no CSF is found.

    References
    ----------
    .. [1] Liu et al. (2018), MRM 79:2795. doi:10.1002/mrm.26946
    """
    if r2star is None:
        raise UserError('medi0 needs R2* to find the CSF, which takes more than one echo; choose medi.')
    problem = Problem.of(field, mask, noise, grid)
    csf, found = ventricles(to_numpy(mask), to_numpy(r2star), grid, ratio=r2star_ratio, min_ml=min_ml)
    if not csf.any():
        raise UserError(f'medi0 needs the CSF of the ventricles, but found {found} (low R2*); choose medi.')
    even = _Even(problem.box.crop(like(csf, field)), evenness)
    chi = _solve(
        problem, magnitude, radians_per_ppm, strength, edges, outlier, tolerance, max_iterations, even
    )
    return problem.give(chi - even.mean(chi))


def _solve(
    problem: Problem,
    magnitude: Array,
    radians_per_ppm: float,
    strength: float,
    edges: float,
    outlier: float,
    tolerance: float,
    max_iterations: int,
    even: '_Even | None' = None,
):
    """Susceptibility in the box (ppm), by ADMM."""
    grid, field, weight, penalty = problem.grid, problem.field, problem.weight, problem.gradient_penalty
    smooth = smooth_places(problem.box.crop(magnitude), problem.inside, grid.voxel_size, edges)
    smooth = like(smooth, field)
    threshold = strength * problem.typical * problem.size / penalty
    splitting = Splitting(problem, sines(DATA_PENALTY, float(radians_per_ppm)))
    if even is not None:
        even.enter(splitting)
    shape, steps = tuple(field.shape), tuple(1 / h for h in grid.voxel_size)
    vector = like(np.zeros((3, *shape), np.float32), field)
    pull = like(np.zeros(shape, np.float32), field)
    chi, doubted = splitting(pull), not outlier
    for n in range(max_iterations):
        step_smooth(chi, vector, smooth, steps, threshold, RELAX)
        pull_smooth(vector, smooth, pull, steps, threshold)
        if even is not None:
            even.draw(chi, pull)
        previous, chi = chi, splitting(pull)
        moved, size = change(chi, previous)
        del previous
        if not doubted and (n == DOUBT_BY or moved <= (DOUBT_FROM * tolerance) ** 2 * size):
            splitting.target = None
            misfit = convolve(chi, splitting.dipole)
            misfit -= field
            less = doubt(misfit, weight, float(radians_per_ppm), outlier)
            weight *= less
            # the dual is proportional to the weight
            splitting.dual *= less
            splitting.target = splitting.model - splitting.dual
            doubted = True
        elif doubted and moved <= tolerance**2 * size:
            break
    return chi


def doubt(misfit: Array, weight: Array, radians: float, outlier: float):
    """Factor on the squared weight of each voxel, below 1 where the misfit (ppm) is larger than noise."""
    xp = namespace(misfit)
    # modulo 2 pi; where the weight is low, noise explains a larger misfit
    off = xp.abs(xp.sin((radians / 2) * misfit))
    off *= 2 / radians
    off *= xp.sqrt(weight)
    known = to_numpy(off)[to_numpy(weight) > 0]
    spread = 1.4826 * float(np.median(known, overwrite_input=True)) if known.size else 0.0
    del known
    off /= max(outlier * spread, 1e-12)
    return xp.clip(off, 1.0, None) ** -4


DOUBT_FROM, DOUBT_BY = 3.0, 15
"""Outliers are sought once an iteration changes the map by less than this many tolerances, or at this
iteration, as large outliers prevent convergence."""


class _Even:
    """Penalty on the variance of CSF, by a further splitting, ``copy`` = chi, that needs no FFT."""

    def __init__(self, csf: Array, evenness: float):
        self.csf, self.share = csf, evenness / (evenness + CSF_PENALTY)
        self.count, self.dual = int(namespace(csf).sum(csf)), None

    def enter(self, splitting: Splitting):
        """Add the penalty of the copy to the least-squares step of a `Splitting`."""
        splitting.inverse /= 1 + CSF_PENALTY * splitting.inverse
        self.scale = CSF_PENALTY / splitting.penalty

    def mean(self, x: Array):
        return float(namespace(x).sum(x * self.csf)) / self.count

    def draw(self, chi: Array, pull: Array):
        """Update copy and dual; add their term of the least-squares step to ``pull``."""
        goal = chi if self.dual is None else chi + self.dual
        # the copy differs from its goal in the CSF alone
        self.dual = self.csf * (self.share * (goal - self.mean(goal)))
        pull += self.scale * (goal - 2 * self.dual)


CSF_PENALTY = 0.01
"""Penalty of the splitting in the CSF: it changes the speed, not the result."""
