"""What fibres add to the field of one head position, by their directions from diffusion."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from bids_qsm.recon.conjugate import conjugate_gradient
from bids_qsm.recon.fourier import Box, convolve, dipole_kernel, gradient_energy
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.orientations.cosmos import PADDING
from bids_qsm.recon.orientations.operators import COMPONENTS, Tensor
from bids_qsm.recon.orientations.tensor import turned

TERMS = ('anisotropy', 'microstructure', 'offset')
FIT_MM = 4.0
"""Voxel size (mm) that the terms are fitted at, about: they are of whole tracts."""
WHITE = 0.2, 0.4
"""Shares from which on a voxel is white matter in part and whole, for what is the same in all of it: noise
leaves less."""
ROUGHNESS = 0.01
"""Susceptibility gradient (ppm/mm) of tissue; beyond it an edge costs its height and not its square."""
MODEL_ERROR = 0.002
"""Standard deviation (ppm) of the field that neither noise nor the dipole model explains."""
TURN = 15.0
"""Degrees by which axes are turned to find vectors that a rotation of the images left behind."""
_EXPECTED = np.array([0.03, 0.03, 0.03, 0.1, 0.1])
"""Standard deviation (ppm) of the terms and of what goes with them, before anything was measured."""
_BLOCKS = 3
"""Pieces along each axis that are left out in turn to find the errors."""
BETTER = 0.1
"""Share of the evidence that other axes must have more than those of the vectors to prove these wrong."""


def turns() -> Iterator[np.ndarray]:
    """Matrices (3, 3) that turn vectors as errors do.

    First they swap and reverse axes in each of the 23 ways that change a vector that has no sign, then they
    turn by `TURN` degrees about each axis.

    >>> len(list(turns()))
    29
    """
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=2):
            matrix = np.zeros((3, 3), np.float32)
            matrix[range(3), order] = (1, *signs)
            if not np.array_equal(matrix, np.eye(3)):
                yield matrix
    c, s = np.cos(np.radians(TURN)), np.sin(np.radians(TURN))
    for axis in range(3):
        for sign in (1, -1):
            matrix = np.eye(3, dtype=np.float32)
            a, b = [k for k in range(3) if k != axis]
            matrix[a, a], matrix[b, b], matrix[a, b], matrix[b, a] = c, c, -sign * s, sign * s
            yield matrix


def fibre_fields(tensor: np.ndarray, share: np.ndarray, grid: Grid):
    r"""Field of each of TERMS per ppm (3, x, y, z), of the first two at an anisotropy of 1.

    The first is that of the susceptibility tensor [1]_. The others are the shift of the water in and around
    the myelin of hollow cylinders, which is no field of a dipole [2]_: :math:`a (\sin^2\theta - 2/3)`, with
    the angle to B0, whose mean over all directions is 0, and a shift of all myelin whatever the angle.

    Parameters
    ----------
    tensor : ndarray, (6, x, y, z)
        Diffusion tensor over its trace, less 1/3 I: :math:`a (v v^T - I / 3)` of diffusion with anisotropy
        a along v. Components in the order of COMPONENTS, along the voxel axes.
    share : ndarray, (x, y, z)
        Share of white matter.
    grid : Grid

    References
    ----------
    .. [1] Liu (2010), MRM 63:1471. doi:10.1002/mrm.22482
    .. [2] Wharton & Bowtell (2012), PNAS 109:18559. doi:10.1073/pnas.1211075109
    """
    h = np.asarray(grid.b0_dir, np.float32)
    box = Box.around((tensor != 0).any(0), grid, padding=PADDING)
    operator = Tensor.of(box, grid, h[None])
    bulk = next(operator.forward(np.stack([box.crop(one) for one in tensor])))
    twice = [1 if a == b else 2 for a, b in COMPONENTS]
    along = sum(
        np.float32(n) * h[a] * h[b] * one for n, (a, b), one in zip(twice, COMPONENTS, tensor, strict=True)
    )
    return np.stack([box.uncrop(bulk), -along, share.astype(np.float32)])


@dataclass(frozen=True)
class FibreFit:
    """What the field says of fibres.

    Attributes
    ----------
    values, sd : ndarray, (3,)
        Of TERMS (ppm; of the first two at an anisotropy of 1), and standard errors that count what differs
        from place to place, and what the data do not tell.
    evidence : float
        Logarithm of the Bayes factor of the two terms that depend on directions against none.
    """

    values: np.ndarray
    sd: np.ndarray
    evidence: float


class FibreModel:
    r"""The field of a head without what isotropic susceptibility explains.

    Isotropic susceptibility has a prior like total variation, see ROUGHNESS; with it the field that it leaves
    unexplained has the covariance :math:`C = \sigma^2 + D (G^T V G)^{-1} D`, and the terms of fibres are
    fitted by generalised least squares, :math:`R^T C^{-1} R\, a = R^T C^{-1} f`. Two fields go with them
    that white matter of any direction has: those of an isotropic susceptibility that is proportional to its
    share, and of one that is constant. Sources may lie around the mask too, so that the rest
    of a background field does not count.

    Parameters
    ----------
    field, noise : ndarray of float
        Local field and its standard deviation (ppm), independent between voxels.
    mask : ndarray of bool
    share : ndarray
        Share of white matter.
    grid : Grid

    Attributes
    ----------
    scale : float
        What is left of the field over what noise and model leave, as variances.
    """

    def __init__(
        self,
        field: np.ndarray,
        noise: np.ndarray,
        mask: np.ndarray,
        share: np.ndarray,
        grid: Grid,
        *,
        tolerance: float = 3e-3,
        max_iterations: int = 60,
    ):
        self._factors = [max(round(FIT_MM / step), 1) for step in grid.voxel_size]
        covered = self._coarse(mask)
        inside = covered > 0.5
        sizes = tuple(step * n for step, n in zip(grid.voxel_size, self._factors, strict=True))
        self.grid = Grid(inside.shape, sizes, grid.b0_dir)
        self._box = box = Box.around(inside, self.grid, padding=PADDING)
        self._mask, self._covered = mask, np.maximum(covered, np.float32(0.5))
        # variance of the mean of a block, whose voxels have independent noise
        variance = self._averaged(noise**2) / (self._covered * np.float32(np.prod(self._factors)))
        known = 1 / (variance + MODEL_ERROR**2)
        self._level = float(np.median(known[inside]))
        self._weight = box.crop(np.where(inside, known / self._level, 0).astype(np.float32))
        self._extent = ndimage.find_objects((self._weight > 0).astype(np.int8))[0]
        self._kernel = dipole_kernel(box.shape, sizes, grid.b0_dir)
        self._strength = np.float32(1 / (ROUGHNESS**2 * self._level))
        penalty = gradient_energy(box.shape, sizes) * self._strength
        self._inverse = 1 / (self._kernel**2 + penalty + np.float32(1e-6))
        self._stop = {'tolerance': tolerance, 'max_iterations': max_iterations}
        self._loose = [np.ones(box.shape, np.float32)] * 3
        self._field = box.crop(self._averaged(field))
        self._loose = [*self._edges(self._isotropic(self._field))]
        self._left = self._unexplained(self._field)
        self.scale = float(np.vdot(self._field, self._left)) * self._level / int(inside.sum())
        self._share = self._averaged(share)
        myelin = box.crop(self._share)
        white = np.clip((myelin - WHITE[0]) / (WHITE[1] - WHITE[0]), 0, 1)
        # what does not depend on directions: the offset, and what goes with white matter
        self._others = [myelin, convolve(myelin, self._kernel), convolve(white, self._kernel)]
        self._others_left = [self._unexplained(one) for one in self._others]

    def fit(self, tensor: np.ndarray):
        """Fit the terms of fibres, of a ``tensor`` on the grid of the field, see `fibre_fields`."""
        return self._fit(self._tensor(tensor))

    def frames(self, tensor: np.ndarray, axes: np.ndarray) -> Iterator[tuple[np.ndarray, FibreFit]]:
        """The fit with the vectors turned as errors turn them, see `turns`: matrix (3, 3), `FibreFit`.

        ``axes`` (3, 3) takes vectors in the axes of their file, in which errors turn them, to voxel axes.
        """
        coarse = self._tensor(tensor)
        for matrix in turns():
            yield matrix, self._fit(turned(coarse, axes @ matrix @ axes.T))

    def _tensor(self, tensor: np.ndarray):
        return np.stack([self._averaged(one) for one in tensor])

    def _fit(self, tensor: np.ndarray):
        fields = fibre_fields(tensor, self._share, self.grid)
        terms = [self._box.crop(one) for one in fields[:2]]
        left = [*(self._unexplained(one) for one in terms), *self._others_left]
        terms = [*terms, *self._others]
        scale = self._level / self.scale
        normal = np.stack([[self._by_block(a, b) for b in left] for a in terms]) * scale
        right = np.stack([self._by_block(a, self._left) for a in terms]) * scale
        prior = np.diag(1 / _EXPECTED**2)

        def solve(normal: np.ndarray, right: np.ndarray):
            return np.linalg.solve((normal + normal.T) / 2 + prior, right)

        whole, sums = normal.sum(-1), right.sum(-1)
        values = solve(whole, sums)
        used = np.flatnonzero(np.abs(right).sum(0))
        without = [solve(whole - normal[..., n], sums - right[:, n]) for n in used]
        spread = np.linalg.inv((whole + whole.T) / 2 + prior).diagonal()
        if len(used) > 1:
            spread = np.maximum(spread, np.var(without, axis=0) * (len(used) - 1))
        n = len(TERMS)
        evidence = _evidence(whole, sums, _EXPECTED) - _evidence(whole[2:, 2:], sums[2:], _EXPECTED[2:])
        return FibreFit(values[:n], np.sqrt(spread[:n]), evidence)

    def _by_block(self, a: np.ndarray, b: np.ndarray):
        """Inner product, in pieces of the head."""
        parts = (a * b)[self._extent]
        for axis, size in enumerate(parts.shape):
            starts = np.linspace(0, size, _BLOCKS + 1).astype(int)[:-1]
            parts = np.add.reduceat(parts, starts, axis=axis, dtype=np.float64)
        return parts.ravel()

    def _coarse(self, volume: np.ndarray):
        """Means of blocks of voxels."""
        padded = np.pad(volume, [(0, -n % f) for n, f in zip(volume.shape, self._factors, strict=True)])
        shape = [m for n, f in zip(padded.shape, self._factors, strict=True) for m in (n // f, f)]
        return padded.reshape(shape).mean((1, 3, 5), dtype=np.float32)

    def _averaged(self, volume: np.ndarray):
        """Means of blocks of voxels, over those inside the mask."""
        return self._coarse(np.where(self._mask, volume, 0).astype(np.float32)) / self._covered

    def _smooth(self, x: np.ndarray):
        out = np.float32(1e-6) * x
        for axis, step in enumerate(self.grid.voxel_size):
            slope = (np.roll(x, -1, axis) - x) * self._loose[axis]
            out += (np.roll(slope, 1, axis) - slope) * (self._strength / np.float32(step**2))
        return out

    def _edges(self, chi: np.ndarray):
        """Weights of the gradient along each axis: where it is steep, its square costs as its size."""
        for axis, step in enumerate(self.grid.voxel_size):
            slope = (np.roll(chi, -1, axis) - chi) / np.float32(step * ROUGHNESS)
            yield 1 / np.sqrt(1 + slope**2)

    def _isotropic(self, field: np.ndarray):
        """Most probable isotropic susceptibility of a field."""

        def apply(x: np.ndarray):
            return convolve(self._weight * convolve(x, self._kernel), self._kernel) + self._smooth(x)

        def precondition(r: np.ndarray):
            return convolve(r, self._inverse)

        right = convolve(self._weight * field, self._kernel)
        return conjugate_gradient(apply, right, precondition=precondition, **self._stop)

    def _unexplained(self, field: np.ndarray):
        """The inverse of the covariance times a field, in units of the noise."""
        return self._weight * (field - convolve(self._isotropic(field), self._kernel))


def _evidence(normal: np.ndarray, right: np.ndarray, expected: np.ndarray):
    """Logarithm of the Bayes factor of a linear model against none, with a prior around 0."""
    normal = (normal + normal.T) / 2
    _, volume = np.linalg.slogdet(np.eye(len(right)) + normal * expected**2)
    return float(right @ np.linalg.solve(normal + np.diag(1 / expected**2), right) - volume) / 2
