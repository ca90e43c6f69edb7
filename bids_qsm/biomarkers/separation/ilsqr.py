"""Chi-separation by iterative least squares, with streaks estimated and subtracted."""

import numpy as np

from bids_qsm.biomarkers.separation.closed import closed
from bids_qsm.biomarkers.separation.joint import Equations, equations
from bids_qsm.biomarkers.separation.sources import consistent
from bids_qsm.recon.conjugate import conjugate_gradient
from bids_qsm.recon.fourier import gradient_energy, irfft, rfft
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.inversion.ilsqr import streaks
from bids_qsm.recon.registry import Need, method


@method(memory=Need(padded=32), prose='chi-separation by iterative least squares [@shin2021; @ilsqr]')
def ilsqr(
    field: np.ndarray,
    r2prime: np.ndarray,
    chi: np.ndarray,
    magnitude: np.ndarray,
    mask: np.ndarray,
    rate_noise: float,
    scale: float,
    grid: Grid,
    *,
    relaxivity: float = 137.0,
    ratio: float = 1.0,
    threshold: float = 0.1,
    strength: float = 0.01,
    low: float = 0.3,
    high: float = 0.97,
    passes: int = 2,
    tolerance: float = 0.01,
    max_iterations: int = 30,
):
    r"""Separate sources of the local field and R2' by least squares, and take streaks off their sum [1]_.

    .. math:: \min \tfrac{1}{2\sigma^2} \|W (D * (\chi_+ + \chi_-) - f)\|^2
        + \tfrac{1}{2\sigma_R^2} \|D_+ \chi_+ + D_- |\chi_-| - R_2'\|^2
        + \lambda (\|\nabla \chi_+\|^2 + \|\nabla \chi_-\|^2)

    is solved by conjugate gradients; a source that came out with the wrong sign is held at zero and the rest
    solved again, ``passes`` times. Then streaks of the sum, in the cone of k-space where :math:`|D|` is below
    ``threshold``, are found and subtracted as in `bids_qsm.recon.inversion.ilsqr` [2]_, and both sources
    follow from the sum and R2' (`closed`). ``relaxivity`` is :math:`D_+` at 3 T, proportional to the field
    strength, ``ratio`` :math:`D_-/D_+`.

    Departures from [1]_: :math:`\lambda` (``strength``) follows noise and voxel size; R2' counts less where
    susceptibility needs more of it than there is (`joint.equations`); conjugate gradients of the normal
    equations, preconditioned, take the place of LSQR.

    Data and result as :mod:`bids_qsm.biomarkers.separation.methods` has them.

    References
    ----------
    .. [1] Shin et al. (2021), NeuroImage 240:118371. doi:10.1016/j.neuroimage.2021.118371
    .. [2] Li et al. (2015), NeuroImage 108:111. doi:10.1016/j.neuroimage.2014.12.043
    """
    kernel = relaxivity * scale, relaxivity * scale * ratio
    one = equations(field, r2prime, chi, magnitude, mask, grid, relaxivity=kernel, rate_noise=rate_noise)
    inside, size = one.box.crop(mask), grid.voxel_volume ** (1 / 3)
    spread = float(field[mask].std())
    smoothness = strength * size * min(one.noise / spread, 1.0) if spread > 0 else strength * size
    found = np.stack(
        [
            one.box.crop(np.where(mask, sign * part, 0).astype(np.float32))
            for sign, part in zip((1, -1), closed(chi, r2prime, *kernel, rate_noise=rate_noise), strict=True)
        ]
    )
    # outside of the mask there is neither relaxation nor a bound
    free = np.ones(found.shape, bool)
    operator = NormalEquations(one, smoothness, free)
    for _ in range(passes):
        left = operator.right() - operator.normal(found)
        left *= free
        found += operator.solve(left, tolerance, max_iterations)
        held = (found < 0) & inside
        free &= ~held
        found[held] = 0
    total, both = found[0] - found[1], found[0] + one.second * found[1]
    cone = np.abs(one.dipole) < threshold
    total -= streaks(total, inside, cone, grid.voxel_size, low, high, tolerance, max_iterations)
    # the field settles the sum more closely than relaxation does where a bound holds
    para, dia = closed(
        one.box.uncrop(total),
        kernel[0] * one.box.uncrop(both),
        *kernel,
        chi_noise=one.noise,
        rate_noise=rate_noise,
    )
    return consistent(para, dia, r2prime, mask, kernel, rate_noise)


class NormalEquations:
    """Normal equations of `Equations` with a penalty on gradients, of both sources one after the other."""

    def __init__(self, one: Equations, smoothness: float, free: np.ndarray):
        self.one, self.free, self.shape = one, free, tuple(one.box.shape)
        self.flat = np.float32(smoothness) * gradient_energy(self.shape, one.grid.voxel_size)
        weight = np.float32(one.rate_weight.max())
        floor = self.flat + np.float32(1e-3) * weight
        self.total, self.both = 2 * one.dipole**2 + floor, 2 * weight + floor

    def right(self):
        one = self.one
        seen = irfft(one.dipole * rfft(one.weight * one.field), self.shape)
        pulled = one.rate_weight * one.rate
        return np.stack([seen + one.first * pulled, one.second * pulled - seen])

    def normal(self, sources: np.ndarray):
        one = self.one
        spectra = [rfft(part) for part in sources]
        seen = irfft(one.dipole * (spectra[0] - spectra[1]), self.shape)
        seen *= one.weight
        through = one.dipole * rfft(seen)
        relaxed = one.rate_weight * (one.first * sources[0] + one.second * sources[1])
        out = np.empty_like(sources)
        for c, (sign, kernel) in enumerate(((1, one.first), (-1, one.second))):
            out[c] = irfft(self.flat * spectra[c] + np.float32(sign) * through, self.shape)
            out[c] += kernel * relaxed
        return out

    def near_inverse(self, residual: np.ndarray):
        """Inverse of the operator for one weight everywhere."""
        both = irfft(rfft(residual[0] + residual[1]) / self.both, self.shape)
        total = irfft(rfft(residual[0] - residual[1]) / self.total, self.shape)
        return self.free * np.stack([(both + total) / 2, (both - total) / 2])

    def solve(self, right: np.ndarray, tolerance: float, max_iterations: int):
        """Step of the free values; the solver sees both sources as one volume."""
        long = (2 * self.shape[0], *self.shape[1:])
        found = conjugate_gradient(
            lambda x: (self.free * self.normal(x.reshape(right.shape))).reshape(long),
            right.reshape(long),
            tolerance=tolerance,
            max_iterations=max_iterations,
            precondition=lambda r: self.near_inverse(r.reshape(right.shape)).reshape(long),
        )
        return found.reshape(right.shape)
