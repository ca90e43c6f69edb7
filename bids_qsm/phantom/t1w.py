"""Simulated T1-weighted image of a digital head."""

from collections.abc import Sequence

import numpy as np

from bids_qsm.phantom.head import Head, rigid


def simulate_t1w(
    head: Head,
    seed: int = 0,
    *,
    voxel_size: Sequence[float] = (1.0, 1.0, 1.0),
    fov: Sequence[float] = (192.0, 240.0, 208.0),
    rotation: Sequence[float] = (0.0, 0.0, 0.0),
    snr: float = 60.0,
):
    """Acquire an MPRAGE-like image: contrast of the template, coil shading, Rician noise.

    Parameters
    ----------
    head : Head
    seed : int
        Of contrast, coil and noise.
    voxel_size, fov : sequence of float
        Millimetres.
    rotation : sequence of float
        Of the slab (degrees about x, y, z).
    snr : float
        Brightness of white matter over the noise of one channel.

    Returns
    -------
    image : ndarray of float32, shape (x, y, z)
    affine : ndarray, shape (4, 4)
        Voxel to scanner coordinates (RAS, mm).
    """
    rng = np.random.default_rng([seed, 1])
    shape = tuple(int(2 * round(f / v / 2)) for f, v in zip(fov, voxel_size, strict=True))
    affine = np.eye(4)
    affine[:3, :3] = rigid(rotation)[:3, :3] * voxel_size
    # the field of view is shifted towards the neck
    affine[:3, 3] = (0, 0, -16) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    image = head.sample(shape, affine, ('t1w',))['t1w']
    image = np.maximum(image, 0) ** np.float32(rng.uniform(0.85, 1.15))
    u, v, w = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape)
    u, v = u[:, None, None], v[:, None]
    a = rng.normal(0, 0.15, 6).astype(np.float32)
    image *= np.exp(a[0] * u + a[1] * v + a[2] * w + (0.15 + a[3] / 3) * (u**2 + v**2) + a[4] / 2 * w**2)
    noise = rng.standard_normal((2, *shape), dtype=np.float32) * np.float32(0.9 / snr)
    return np.float32(600) * np.hypot(image + noise[0], noise[1]), affine
