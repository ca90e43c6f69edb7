"""Fibres of white matter of a digital head, which bend and cross, and what diffusion shows of them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from bids_qsm.anatomy.fibres import DIAGONAL
from bids_qsm.phantom.sampling import Volume
from bids_qsm.recon.orientations.operators import COMPONENTS
from bids_qsm.recon.orientations.tensor import matrices

ALONG, ACROSS = 1.6e-3, 0.35e-3
"""Diffusivity along and across one bundle (mm^2/s)."""
WATER = 0.9e-3
"""Diffusivity of what is no white matter."""
SURFACE, STEEP = 2.5, 0.06
"""Blur (mm) of white matter whose slope is its surface, and slope (1/mm) from which on fibres follow it."""
LEAST = 0.05
"""Share of white matter from which on a point of the lattice has fibres."""


@dataclass(frozen=True)
class Bundles:
    """Bundles that share the white matter of a head, in axes of template space.

    Attributes
    ----------
    where : ndarray of bool, shape (x, y, z)
        Points of the lattice that have fibres; the other arrays hold one entry for each.
    directions : ndarray of float32, shape (bundles, n, 3)
        Unit vectors.
    weights : ndarray of float32, shape (bundles, n)
        Shares of the bundles, which add up to 1.
    white : ndarray of float32, shape (n,)
        Share of white matter.
    """

    where: np.ndarray
    directions: np.ndarray
    weights: np.ndarray
    white: np.ndarray

    def cosines(self, pose: np.ndarray):
        """Squared cosine of each bundle's angle to B0 (bundles, n), for a head that lies as ``pose`` says.

        ``pose`` (4, 4) takes scanner to template coordinates; that the warp bends fibres is left out.
        """
        turned = self.directions @ np.linalg.inv(np.asarray(pose)[:3, :3]).T.astype(np.float32)
        return turned[..., 2] ** 2 / (turned**2).sum(-1)

    def dyads(self, bundle: int):
        """Product v v' of a bundle times its share (6, n), in the order of COMPONENTS."""
        v, w = self.directions[bundle], self.weights[bundle]
        return np.stack([w * v[..., i] * v[..., j] for i, j in COMPONENTS])

    def volume(self, lattice: Volume, bundle: int):
        """Channels for `sampling.pull`: v v' of a bundle times its share of the tissue."""
        data = np.zeros((*self.where.shape, 6), np.float32)
        data[self.where] = (self.dyads(bundle) * self.white).T
        return Volume(data, lattice.origin, lattice.spacing)


def draw_bundles(lattice: Volume, white: np.ndarray, seed: int):
    """Draw three bundles that bend and cross: callosal, projection and association fibres.

    Each is smooth, and follows the surface of white matter near it. One of them prevails in most places;
    where they share a place, diffusion shows little anisotropy.

    Parameters
    ----------
    lattice : Volume
        Says where the points lie in template space (mm).
    white : ndarray of float, shape (x, y, z)
        Share of white matter.
    seed : int

    Returns
    -------
    Bundles
    """
    rng = np.random.default_rng([seed, 12])
    where = white > LEAST
    x, y, z = (lattice.points(k)[index] for k, index in enumerate(np.nonzero(where)))
    noise = _noise(np.argwhere(where), where.shape, lattice.spacing, rng)
    ways = (
        (np.full_like(x, 20.0), 0.5 * x * (y + 15) / 40, 0.8 * x),
        (0.6 * x, 0.6 * (y + 25), np.abs(z + 45) + 10),
        (0 * x, np.full_like(x, 30.0), -0.5 * (y + 15)),
    )
    # where each kind lies, as a logarithm of its share
    likely = (
        2.2 - (x / 18) ** 2 + np.minimum(z, 0) / 12,
        0.6 - ((np.abs(x) - 24) / 20) ** 2 + 0 * y,
        -0.8 + np.minimum((np.abs(x) / 34) ** 2, 2.5) + 0 * y,
    )
    blurred = ndimage.gaussian_filter(white, SURFACE / lattice.spacing)
    slope = np.stack([one[where] for one in np.gradient(blurred)], -1) / lattice.spacing
    steep = np.linalg.norm(slope, axis=-1, keepdims=True)
    slope /= np.maximum(steep, 1e-6)
    near = np.minimum(steep / STEEP, 1)
    directions = []
    for way in ways:
        vector = np.stack(way, -1).astype(np.float32)
        vector /= np.linalg.norm(vector, axis=-1, keepdims=True)
        vector += 0.3 * np.stack([noise(20.0) for _ in range(3)], -1)
        vector -= near * slope * (vector * slope).sum(-1, keepdims=True)
        directions.append(vector / np.maximum(np.linalg.norm(vector, axis=-1, keepdims=True), 1e-6))
    level = np.stack([1.7 * one + 1.2 * noise(14.0) for one in likely])
    weights = np.exp(level - level.max(0))
    shares = (weights / weights.sum(0)).astype(np.float32)
    return Bundles(where, np.stack(directions), shares, white[where])


def diffusion(dyads: np.ndarray, white: np.ndarray, *, noise: float = 0.0, seed: int = 0):
    """Fractional anisotropy and first eigenvector of the diffusion of bundles.

    Parameters
    ----------
    dyads : ndarray, shape (6, ...)
        Mean v v' in the order of COMPONENTS, times the share of white matter.
    white : ndarray
        That share.
    noise : float
        Standard deviation of each component of the tensor, relative to the diffusivity along a bundle.
    seed : int

    Returns
    -------
    fa : ndarray of float32
    first : ndarray of float32, shape (..., 3)
        Unit vectors, of any sign.
    tensor : ndarray of float32, shape (6, ...)
        (mm^2/s).
    """
    rng = np.random.default_rng([seed, 13])
    even = WATER + white * (ACROSS - WATER)
    tensor = (ALONG - ACROSS) * dyads
    tensor[DIAGONAL] += even
    tensor += noise * ALONG * rng.standard_normal(tensor.shape)
    values, vectors = np.linalg.eigh(matrices(tensor))
    spread = ((values - values.mean(-1, keepdims=True)) ** 2).sum(-1)
    fa = np.sqrt(1.5 * spread / np.maximum((values**2).sum(-1), 1e-12))
    first = vectors[..., 2] * rng.choice(np.array([-1, 1], np.float32), (*white.shape, 1))
    return fa.astype(np.float32), first.astype(np.float32), tensor.astype(np.float32)


def _noise(index: np.ndarray, shape: tuple[int, ...], spacing: float, rng: np.random.Generator) -> Callable:
    """Return a function that gives a random field of unit variance at points of the lattice."""

    def field(mm: float):
        step = mm / (2 * spacing)
        few = ndimage.gaussian_filter(rng.standard_normal([int(n / step) + 8 for n in shape]), 2.0)
        found = ndimage.map_coordinates(few / few.std(), index.T / step + 3, order=1)
        return found.astype(np.float32)

    return field
