"""Dipole inversion with a remaining background field, harmonic in the mask, as a second unknown."""

from collections.abc import Callable, Sequence

import numba
import numpy as np

from bids_qsm.recon.arrays import Array, either, like, namespace, to_numpy
from bids_qsm.recon.fourier import dipole_kernel, gradient_energy, irfft, rfft
from bids_qsm.recon.fused_kernels import gradient
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.inversion.fidelity import RELAX, sines, squares
from bids_qsm.recon.inversion.splitting import DATA_PENALTY, Problem
from bids_qsm.recon.registry import Need, method
from bids_qsm.recon.solvers import total_variation

STRENGTH, HARMONIC, TOLERANCE, MAX_ITERATIONS = 0.06, 3000.0, 0.005, 200
HARMONIC_PENALTY = 1.0
"""Penalty of the splitting of the Laplacian (times the fourth power of voxel size): sets the speed only."""


@method(memory=Need(padded=22), prose='weak-harmonic nonlinear TV [@whnltv], lighter at edges [@reweighted]')
def whnltv(
    field: Array,
    mask: Array,
    noise: Array,
    grid: Grid,
    radians_per_ppm: float,
    *,
    strength: float = STRENGTH,
    harmonic: float = HARMONIC,
    tolerance: float = TOLERANCE,
    max_iterations: int = MAX_ITERATIONS,
):
    r"""Invert the dipole as `nltv`, together with a remaining, harmonic background field [1]_.

    .. math:: \min_{\chi, \phi} \tfrac1{2 r^2} \|W (e^{i r (D \chi + \phi)} - e^{i r f})\|^2
              + 3 \lambda \sum \epsilon \ln(1 + |\nabla \chi| / \epsilon)
              + \tfrac{\beta h^4}2 \|M \Delta \phi\|^2

    M is the mask: outside it :math:`\phi` is free, so that it can be the field of any sources there.
    ``harmonic`` is :math:`\beta`: with the default, :math:`\phi` is free to bend over 45 voxels and more;
    with 30, over 15, where it takes part of the field of nuclei. Both unknowns are solved for together, by a
    system of two equations at each frequency, which takes three pairs of FFTs.

    Total variation takes contrast from every edge alike. The logarithm costs less where the gradient is
    large, so that noise can be suppressed more while more of the contrast is kept. It is minimised in two
    passes [2]_: the first, with plain total variation of weight :math:`\lambda` and a linear data term, gives
    :math:`\chi_1`; in the second the weight of each voxel is :math:`3 \lambda / (1 + |\nabla \chi_1| /
    \epsilon)`. :math:`\epsilon` is the median of :math:`|\nabla \chi_1|` in the mask, so that half of the
    voxels keep at least 1.5 :math:`\lambda` also where errors of the field are far above its noise; it is at
    least the typical noise over the voxel size. :math:`\lambda` is as in `tv`. As far as a voxel of the mask
    has no data (its squared weight is below 1), it keeps :math:`\lambda`: edges there are not known.

    Other departures from the paper are those of `nltv`; and the weight of the harmonic term is in units of
    voxels instead of set by hand for each scan.

    Data and result as :mod:`bids_qsm.recon.inversion` has them.

    References
    ----------
    .. [1] Milovic et al. (2019), MRM 81:1399. doi:10.1002/mrm.27483
    .. [2] Candes, Wakin & Boyd (2008), J Fourier Anal Appl 14:877. doi:10.1007/s00041-008-9045-x
    """
    problem, step, regulariser = beside(field, mask, noise, grid, strength, harmonic, max_iterations)
    return in_two_passes(
        problem,
        step,
        lambda first: lighter_at_edges(first, problem),
        sines(DATA_PENALTY, radians_per_ppm),
        tolerance,
        regulariser,
    )


FIRST = 0.05
"""Relative change at which the first of two passes stops."""


def in_two_passes(
    problem: Problem,
    step: Callable,
    factor: Callable,
    match: Callable,
    tolerance: float,
    regulariser: dict,
):
    """Susceptibility with a weight of total variation at each voxel that depends on a first map.

    ``step`` and ``regulariser`` are those of `beside`; ``factor`` takes the map of the first pass and returns
    what the second multiplies the weight by, and ``match`` is the data term of the second (see `fidelity`).
    """
    size = problem.grid.voxel_size
    first = total_variation(step, problem.field, size, tolerance=FIRST, **regulariser)
    weight = regulariser['weight'] * factor(first)
    del first
    step.match = match
    again = regulariser | {'weight': weight}
    return problem.give(total_variation(step, problem.field, size, tolerance=tolerance, **again))


STRONGER = 3.0
"""Factor on the weight of total variation where the first map is flat."""


def lighter_at_edges(chi: Array, problem: Problem):
    """Factor on the weight of total variation at each voxel, by the gradient of a first map."""
    xp = namespace(chi)
    size = steepness(chi, problem.grid.voxel_size)
    steep = usual_steepness(size, problem)
    factor = STRONGER * steep / (steep + size)
    # edges at the rim, where there are no data, are not known
    weight = xp.where(problem.inside, problem.weight, xp.ones_like(problem.weight))
    return 1 + weight * (factor - 1)


def steepness(chi: Array, voxel_size: Sequence[float]):
    """Size of the gradient at each voxel (per mm), by periodic forward differences."""
    xp = namespace(chi)
    slopes = like(np.zeros((3, *chi.shape), np.float32), chi)
    gradient(chi, slopes, tuple(1 / h for h in voxel_size))
    slopes *= slopes
    return xp.sqrt(xp.sum(slopes, axis=0))


def usual_steepness(size: Array, problem: Problem):
    """Median of the gradient in the mask, or the typical noise over the voxel size where this is more."""
    median = float(np.median(to_numpy(size)[to_numpy(problem.inside)]))
    return max(median, problem.typical / float(problem.size))


def whtv(field: Array, mask: Array, noise: Array, grid: Grid):
    """The first pass of `whnltv`, as a rough step of background removal."""
    problem, step, regulariser = beside(field, mask, noise, grid, STRENGTH, HARMONIC, MAX_ITERATIONS)
    return problem.give(total_variation(step, problem.field, grid.voxel_size, tolerance=ROUGH, **regulariser))


ROUGH = 0.01
"""Relative change at which `whtv` stops."""


def beside(
    field: Array,
    mask: Array,
    noise: Array,
    grid: Grid,
    strength: float,
    harmonic: float,
    max_iterations: int,
):
    """The problem, its least-squares step with a harmonic partner, and what `total_variation` takes of it."""
    problem = Problem.of(field, mask, noise, grid)
    regulariser = {
        'weight': float(strength * problem.typical * problem.size),
        'penalty': problem.gradient_penalty,
        'max_iterations': max_iterations,
    }
    return problem, _Beside(problem, squares(DATA_PENALTY), harmonic), regulariser


class _Beside:
    """Least-squares step for susceptibility and a harmonic field; see `splitting.Splitting`."""

    def __init__(self, problem: Problem, match: Callable, harmonic: float):
        self.field, self.weight, self.match = problem.field, problem.weight, match
        shape, voxel_size = problem.box.shape, problem.grid.voxel_size
        self.dipole = dipole_kernel(shape, voxel_size, problem.grid.b0_dir, self.field)
        self.energy = gradient_energy(shape, voxel_size, self.field)
        # in units of voxels the penalties do not depend on voxel size
        self.unit = problem.size**2
        self.penalties = (DATA_PENALTY, problem.gradient_penalty, HARMONIC_PENALTY * self.unit**2)
        copies = (namespace(self.field).asarray(self.field, copy=True) for _ in range(2))
        (self.model, self.target), self.dual = copies, 0 * self.field
        self.inside, self.straight = problem.inside, HARMONIC_PENALTY / (HARMONIC_PENALTY + harmonic)
        self.bend, self.bend_target = (0 * self.field for _ in range(2))

    def __call__(self, pull: Array):
        shape = tuple(self.field.shape)
        # each target is freed once it is transformed, and each spectrum before the next is
        image, self.target = rfft(self.target), None
        bend, self.bend_target = rfft(self.bend_target), None
        chi = rfft(pull)
        split(image, chi, bend, self.dipole, self.energy, self.penalties, self.unit)
        self.target = irfft(image, shape)
        del image
        self.match(self.target, self.field, self.weight, self.model, self.dual)
        self.bend_target = irfft(bend, shape)
        del bend
        keep_harmonic(self.bend_target, self.bend, self.inside, self.straight)
        return irfft(chi, shape)


@numba.njit(cache=True, parallel=True, fastmath=True)
def _keep_harmonic(image: Array, bend: Array, inside: Array, share: float):
    """One step of ADMM for the Laplacian of the harmonic field, in place.

    ``bend`` is the sum of Laplacian and dual, of which the Laplacian is the ``share`` inside the mask and all
    outside. ``image``, of the field that was solved for, becomes the target of the next one: Laplacian less
    dual.
    """
    nx, ny, nz = image.shape
    one, relax, share = np.float32(1), np.float32(RELAX), np.float32(share)
    for i in numba.prange(nx):
        for j in range(ny):
            for k in range(nz):
                part = share if inside[i, j, k] else one
                # dual + (1 - relax) * Laplacian
                keep = (one - part) + (one - relax) * part
                bend[i, j, k] = keep * bend[i, j, k] + relax * image[i, j, k]
                image[i, j, k] = (part + part - one) * bend[i, j, k]


def _keep_harmonic_any(image: Array, bend: Array, inside: Array, share: float):
    part = 1 - (1 - share) * inside
    bend *= 1 - RELAX * part
    bend += RELAX * image
    image[...] = (2 * part - 1) * bend


keep_harmonic = either(_keep_harmonic, _keep_harmonic_any)


@numba.njit(cache=True, parallel=True, fastmath=True)
def _split(
    model: Array,
    pull: Array,
    bend: Array,
    dipole: Array,
    energy: Array,
    penalties: Sequence[float],
    unit: float,
):
    """Solve for chi and the harmonic field at each frequency.

    On entry the spectra of model, pull and Laplacian; on return of the whole field, chi and the Laplacian.
    The Laplacian is times ``unit``.
    """
    nx, ny, nz = dipole.shape
    unit, per_unit = np.float32(unit), np.float32(1 / unit)
    rho, mu, tau = np.float32(penalties[0]), np.float32(penalties[1]), np.float32(penalties[2])
    for i in numba.prange(nx):
        for j in range(ny):
            for k in range(nz):
                d, e = dipole[i, j, k], energy[i, j, k]
                if e == 0:
                    # the mean of chi is undetermined, and set to zero
                    pull[i, j, k] = 0
                    bend[i, j, k] = 0
                    continue
                first = rho * d * model[i, j, k] + mu * pull[i, j, k]
                second = rho * model[i, j, k] - tau * e * per_unit * bend[i, j, k]
                stiff = rho + tau * e * e
                det = e * (rho * tau * d * d * e + mu * stiff)
                chi = (stiff * first - rho * d * second) / det
                rest = ((rho * d * d + mu * e) * second - rho * d * first) / det
                model[i, j, k] = d * chi + rest
                pull[i, j, k] = chi
                bend[i, j, k] = -unit * e * rest


def _split_any(
    model: Array,
    pull: Array,
    bend: Array,
    dipole: Array,
    energy: Array,
    penalties: Sequence[float],
    unit: float,
):
    xp = namespace(model)
    rho, mu, tau = penalties
    e = xp.where(energy == 0, xp.ones_like(energy), energy)
    first, second = rho * dipole * model + mu * pull, rho * model - tau * e * bend / unit
    stiff = rho + tau * e * e
    det = e * (rho * tau * dipole**2 * e + mu * stiff)
    pull[...] = (stiff * first - rho * dipole * second) / det
    rest = ((rho * dipole**2 + mu * e) * second - rho * dipole * first) / det
    mean = model[0, 0, 0] * 1
    model[...] = dipole * pull + rest
    bend[...] = -unit * e * rest
    model[0, 0, 0], pull[0, 0, 0], bend[0, 0, 0] = mean, 0, 0


split = either(_split, _split_any)
