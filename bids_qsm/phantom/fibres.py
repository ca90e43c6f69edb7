"""Directions of fibres in white matter, and how anisotropic they are: a smooth field of template space."""

from dataclasses import dataclass

import numpy as np

MIDDLE = 0.6
"""Fractional anisotropy of white matter, on average."""
_MODES = 12


@dataclass(frozen=True)
class Fibres:
    """What fibres add to white matter.

    Attributes
    ----------
    seed : int
        Of the directions of a person.
    anisotropy : float
        Susceptibility along less across fibres of a fractional anisotropy of `MIDDLE` (ppm); it is
        proportional to that. The mean of the tensor is the susceptibility that is painted.
    microstructure : float
        Shift of the frequency (ppm) in such fibres across B0, of the water around and in myelin; it goes with
        the squared sine of their angle. Hollow cylinders have .75 times the anisotropy of myelin times
        ln(1/g), some -0.02: Wharton & Bowtell (2012), PNAS 109:18559, doi:10.1073/pnas.1211075109.
    """

    seed: int = 0
    anisotropy: float = 0.02
    microstructure: float = 0.0


def fibre_field(points: np.ndarray, seed: int):
    """Directions and fractional anisotropy of fibres, whatever the tissue.

    Fibres cross the midline from side to side, turn up beside it, run forward further out, and up in the
    brainstem; smooth random turns of a person come on top.

    Parameters
    ----------
    points : ndarray, (..., 3)
        In template space (mm).
    seed : int
        Of the person.

    Returns
    -------
    directions : ndarray of float32, (..., 3)
        Unit vectors in template space; their sign means nothing.
    anisotropy : ndarray of float32, (...)
        .35 to .85.
    """
    rng = np.random.default_rng([seed, 20])
    points = np.asarray(points, np.float32)
    x, z = points[..., 0], points[..., 2]
    up = np.radians(75) * np.tanh(x / 25)
    ahead = np.radians(50) * np.exp(-(((np.abs(x) - 38) / 12) ** 2))
    vectors = np.stack([np.cos(up) * np.cos(ahead), np.sin(ahead), np.sin(up) * np.cos(ahead)], -1)
    stem = 1 / (1 + np.exp(np.clip((z + 20) / 6, -30, 30)))[..., None]
    vectors = (1 - stem) * vectors + stem * np.array([0, 0, 1], np.float32)
    waves = [_wave(points, rng) for _ in range(4)]
    vectors += 0.2 * np.stack(waves[:3], -1)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors.astype(np.float32), np.clip(MIDDLE + 0.12 * waves[3], 0.35, 0.85).astype(np.float32)


def _wave(points: np.ndarray, rng: np.random.Generator):
    """Random field of unit variance that varies over some 60 mm."""
    total = np.zeros(points.shape[:-1], np.float32)
    for _ in range(_MODES):
        k = (rng.standard_normal(3) / 25).astype(np.float32)
        total += np.cos(points @ k + np.float32(rng.uniform(0, 2 * np.pi)))
    return total * np.float32(np.sqrt(2 / _MODES))
