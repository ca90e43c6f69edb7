"""Diffusion images of a digital head: signals of bundles, grey matter and fluid, and noise."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bids_qsm.anatomy.fibres import anisotropy_of, axes_of_frame
from bids_qsm.phantom.bundles import WATER
from bids_qsm.phantom.gre import Protocol
from bids_qsm.phantom.head import Head
from bids_qsm.recon.orientations.operators import COMPONENTS

MEAN = 0.75e-3
"""Mean diffusivity of white matter (mm^2/s)."""
FLUID = 3.0e-3
"""Diffusivity of fluid (mm^2/s)."""
BRIGHTNESS = {'white': 1.0, 'grey': 1.15, 'fluid': 2.5, 'other': 0.3}
"""Signal without diffusion weighting, over that of white matter; skin and muscle after suppression of fat."""


@dataclass(frozen=True)
class DiffusionProtocol:
    """Diffusion images on a grid and in a pose of their own.

    ``bval`` (s/mm^2) is that of the one shell, ``snr`` the signal of white matter without diffusion weighting
    over the noise of one channel. With ``radiological`` the first axis goes from right to left.
    """

    voxel_size: tuple[float, float, float] = (2.0, 2.0, 2.0)
    fov: tuple[float, float, float] = (192.0, 224.0, 176.0)
    rotation: tuple[float, float, float] = (-6.0, 3.0, 8.0)
    radiological: bool = True
    directions: int = 24
    unweighted: int = 2
    bval: float = 1000.0
    snr: float = 20.0

    @property
    def grid(self) -> Protocol:
        """The same grid as one of a GRE scan."""
        return Protocol(self.voxel_size, self.fov, rotation=self.rotation, radiological=self.radiological)


@dataclass(frozen=True)
class DiffusionImages:
    """Images (x, y, z, n), ``bvals`` (n; s/mm^2), and ``bvecs`` (n, 3) in the axes that FSL takes."""

    images: np.ndarray
    bvals: np.ndarray
    bvecs: np.ndarray
    affine: np.ndarray


def spread(count: int):
    """Unit vectors (count, 3), spread over half a sphere.

    >>> spread(12).shape, bool((spread(12)[:, 2] > 0).all())
    ((12, 3), True)
    """
    k = np.arange(count) + 0.5
    z, angle = 1 - k / count, np.pi * (1 + np.sqrt(5)) * k
    radius = np.sqrt(1 - z**2)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), z], -1)


def diffusion_images(
    bundles: Sequence[tuple[np.ndarray, np.ndarray]],
    shares: dict[str, np.ndarray],
    protocol: DiffusionProtocol,
    seed: int,
):
    """Images with noise of a Rician distribution; signals of compartments add up, not their tensors.

    Parameters
    ----------
    bundles : sequence of (share, tensor)
        Share of each in a voxel, shape (x, y, z), and its diffusion tensor (6, x, y, z; mm^2/s) in the order
        of COMPONENTS, along the axes of the scanner.
    shares : dict
        'grey', 'fluid' and 'other': shares of these, shape (x, y, z).
    protocol : DiffusionProtocol
    seed : int
    """
    rng = np.random.default_rng([seed, 14])
    ways = np.concatenate([np.zeros((protocol.unweighted, 3)), spread(protocol.directions)])
    bvals = np.repeat([0.0, protocol.bval], [protocol.unweighted, protocol.directions])
    water = {'grey': WATER, 'fluid': FLUID, 'other': WATER}
    images = []
    for b, way in zip(bvals, ways, strict=True):
        signal = np.zeros(protocol.grid.shape, np.float32)
        for name, share in shares.items():
            signal += np.float32(BRIGHTNESS[name] * np.exp(-b * water[name])) * share
        products = [way[i] * way[j] * (1 if i == j else 2) for i, j in COMPONENTS]
        for share, tensor in bundles:
            signal = signal + share * np.exp(-b * np.tensordot(products, tensor, 1))
        noise = rng.standard_normal((2, *signal.shape)).astype(np.float32) / np.float32(protocol.snr)
        images.append(np.hypot(signal + noise[0], noise[1]).astype(np.float32))
    affine = protocol.grid.affine
    return DiffusionImages(np.stack(images, -1), bvals, ways @ axes_of_frame(affine, 'fsl'), affine)


def shares_of(head: Head, white: np.ndarray, protocol: DiffusionProtocol):
    """Shares of what is no white matter, for `diffusion_images`, from the share of that."""
    tissue = head.sample(protocol.grid.shape, protocol.grid.affine, ('brain', 'csf', 'density'))
    fluid = tissue['csf'] * tissue['brain']
    return {
        'grey': np.clip(tissue['brain'] - fluid - white, 0, 1),
        'fluid': fluid,
        'other': np.clip(tissue['density'] - tissue['brain'], 0, 1),
    }


def simulate_diffusion(head: Head, protocol: DiffusionProtocol, seed: int):
    """Diffusion images of a head whose `Fibres` have one direction a voxel."""
    shape, affine = protocol.grid.shape, protocol.grid.affine
    fractions, vectors = head.fibre_maps(shape, affine)
    white = head.sample(shape, affine, ('white',))['white']
    a = anisotropy_of(np.clip(fractions / np.maximum(white, 1e-3), 0, 1))
    tensor = np.stack([3 * MEAN * a * vectors[..., i] * vectors[..., j] for i, j in COMPONENTS])
    for n, (i, j) in enumerate(COMPONENTS):
        tensor[n] += (i == j) * MEAN * (1 - a)
    return diffusion_images([(white, tensor)], shares_of(head, white, protocol), protocol, seed)
