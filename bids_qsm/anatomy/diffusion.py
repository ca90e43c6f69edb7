"""The diffusion tensor of images that were not fitted yet."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from dipy.core.gradients import gradient_table
from dipy.reconst.dti import TensorModel
from dipy.segment.mask import median_otsu

from bids_qsm.anatomy.fibres import ORDERS

UNWEIGHTED = 50.0
"""Largest b-value (s/mm^2) of an image that counts as one without diffusion weighting."""
HIGHEST = 1500.0
"""B-value (s/mm^2) of the highest shell: beyond it signals do not decay as those of a tensor. Those of its
images may exceed it by `WIDTH`."""
BEST = 1000.0
"""B-value (s/mm^2) of the shell that is taken, where several have enough directions."""
WIDTH = 100.0
"""Difference (s/mm^2) above which neighbouring b-values are of two shells."""
FEWEST = 6
"""Directions that determine a tensor."""
UNIT = 0.05
"""Largest deviation of the length of a direction from 1."""


def vectors_of(table: np.ndarray) -> np.ndarray | None:
    """Vectors (n, 3) of a table of three rows, or of three columns; None where it has neither.

    >>> vectors_of(np.zeros((3, 8))).shape, vectors_of(np.zeros((8, 3))).shape
    ((8, 3), (8, 3))
    """
    if table.ndim == 2 and 3 in table.shape:
        return table.T if table.shape[0] == 3 else table
    return None


@dataclass(frozen=True)
class Gradients:
    """b-values (n; s/mm^2) and directions (n, 3) of the volumes of diffusion images."""

    bvals: np.ndarray
    bvecs: np.ndarray

    @classmethod
    def of(cls, bvals: np.ndarray, bvecs: np.ndarray) -> 'Gradients':
        """Those of two tables as files have them: some write NaN where there is no weighting."""
        vectors = vectors_of(bvecs)
        if vectors is None:
            raise ValueError('directions are a table of three rows or columns')
        return cls(bvals.ravel(), np.nan_to_num(vectors))

    @cached_property
    def unweighted(self) -> np.ndarray:
        """Volumes without diffusion weighting (bool)."""
        return self.bvals <= UNWEIGHTED

    @cached_property
    def undirected(self) -> np.ndarray:
        """Volumes with diffusion weighting and no direction (bool), such as means that a scanner adds."""
        return ~self.unweighted & ~self.bvecs.any(1)

    @cached_property
    def shells(self) -> list[np.ndarray]:
        """Volumes of each shell that is low enough for a tensor (bool), lowest first.

        >>> high = Gradients(np.array([0, *[1490, 1510] * 3, *[2990, 3010] * 3]), np.eye(3)[[0] * 13])
        >>> [np.flatnonzero(one).tolist() for one in high.shells]
        [[1, 2, 3, 4, 5, 6]]
        """
        weighted = ~self.unweighted & ~self.undirected
        rising = np.sort(self.bvals[weighted])
        return [
            weighted & (self.bvals >= part[0]) & (self.bvals <= part[-1])
            for part in np.split(rising, np.flatnonzero(np.diff(rising) > WIDTH) + 1)
            if part.size and part[-1] <= HIGHEST + WIDTH
        ]

    @cached_property
    def shell(self) -> np.ndarray:
        """Volumes of the shell that a tensor is fitted to (bool): the nearest to `BEST` that determines one;
        none do where there is none.

        >>> one = Gradients(np.array([0, *[700] * 6, *[1005, 995] * 3, *[3000] * 9]), np.eye(3)[[0] * 22])
        >>> np.flatnonzero(one.shell).tolist()
        [7, 8, 9, 10, 11, 12]
        """

        def rank(shell: np.ndarray):
            return -min(self._directions(shell), FEWEST), abs(self.bvals[shell].mean() - BEST)

        return min(self.shells, key=rank, default=np.zeros(self.bvals.shape, bool))

    @property
    def used(self) -> np.ndarray:
        """Volumes that a tensor is fitted to (bool)."""
        return self.unweighted | self.shell

    @property
    def directions(self) -> int:
        """Directions of the shell that differ; less than `FEWEST` where they determine no tensor."""
        return self._directions(self.shell)

    def _directions(self, shell: np.ndarray) -> int:
        x, y, z = self.bvecs[shell].T
        products = np.stack([x * x, y * y, z * z, x * y, x * z, y * z], 1)
        different = len(np.unique(products.round(3), axis=0))
        rank = int(np.linalg.matrix_rank(products, tol=0.05)) if different else 0
        return different if rank == FEWEST else rank


def brain_of(unweighted: np.ndarray) -> np.ndarray:
    """Brain (bool) of a mean image without diffusion weighting, by median filter and Otsu's threshold."""
    return median_otsu(unweighted, median_radius=2, numpass=2)[1]


def fit_tensor(signal: np.ndarray, gradients: Gradients) -> tuple[np.ndarray, np.ndarray]:
    """Diffusion tensor by weighted least squares [1]_.

    Parameters
    ----------
    signal : ndarray, shape (voxels, n)
        Of the volumes that are `Gradients.used`.
    gradients : Gradients
        Of all volumes.

    Returns
    -------
    fa : ndarray of float32, shape (voxels,)
    tensor : ndarray of float32, shape (voxels, 6)
        (mm^2/s), in the order of COMPONENTS, in the axes of the directions.

    References
    ----------
    .. [1] Chung, Lu & Henry (2006), NeuroImage 33:531. doi:10.1016/j.neuroimage.2006.07.001
    """
    shell = gradients.shell[gradients.used]
    bvals = np.where(shell, gradients.bvals[gradients.used], 0)
    bvecs = np.where(shell[:, None], gradients.bvecs[gradients.used], 0)
    bvecs /= np.maximum(np.linalg.norm(bvecs, axis=1, keepdims=True), 1e-6)
    table = gradient_table(bvals, bvecs=bvecs, b0_threshold=0)
    fit = TensorModel(table, fit_method='WLS').fit(signal)
    tensor = fit.lower_triangular()[:, ORDERS['DIPY']]
    return np.nan_to_num(fit.fa).astype(np.float32), tensor.astype(np.float32)
