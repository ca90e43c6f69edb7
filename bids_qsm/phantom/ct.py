"""Simulated computed tomography of a digital head, in Hounsfield units."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import ndimage

from bids_qsm.phantom import tissue as t
from bids_qsm.phantom.head import Head, rigid
from bids_qsm.phantom.lesions import Lesion

HOUNSFIELD = {
    'air': -1000.0,
    'bone': 1000.0,
    'marrow': 300.0,
    'fat': -90.0,
    'muscle': 50.0,
    'skin': 50.0,
    'vitreous': 8.0,
    'csf': 5.0,
}
"""Of the tissues around the brain; rounded usual values, those of bone and marrow vary much."""
BRAIN = {'csf': 5.0, 'white': 28.0, 'grey': 37.0, 'blood': 50.0}
_SEEN = ('chi', 'r2star', 'density', 'fat', 't1w')
"""Quantities that tell the tissues around the brain apart."""
_SHARES = ('brain', 'csf', 'white')
_SLAB = 4
"""Slices that are computed at once."""
_TABLE = -120.0
"""Of the couch under the head."""


@dataclass(frozen=True)
class Tomogram:
    """How a head is scanned: ``rotation`` (degrees) and ``shift`` (mm) turn and move the field of view.

    ``tilt`` (degrees) is that of the gantry: slices are sheared against the axis that stacks them.
    ``blur`` (mm) is the full width at half maximum in the slice, ``noise`` the standard deviation (HU) of a
    voxel. ``centre`` (mm) is the middle of the field of view before that, and ``origin`` (mm) is added to all
    coordinates of the file, as a CT scanner has another origin than the MRI.
    """

    voxel_size: tuple[float, float, float] = (0.9, 0.9, 1.0)
    fov: tuple[float, float, float] = (220.0, 240.0, 190.0)
    centre: tuple[float, float, float] = (0.0, -8.0, -12.0)
    rotation: tuple[float, float, float] = (0.0, 0.0, 0.0)
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    tilt: float = 0.0
    blur: float = 1.0
    noise: float = 6.0
    has_table: bool = True

    @property
    def shape(self):
        """Voxels along each axis."""
        return tuple(max(round(f / v), 2) for f, v in zip(self.fov, self.voxel_size, strict=True))

    @property
    def pose(self):
        """Matrix (4, 4) that takes scanner coordinates (mm) of the MRI to those of the file."""
        return rigid((0, 0, 0), self.origin) @ np.linalg.inv(rigid(self.rotation, self.shift))

    @property
    def affine(self):
        """Voxel to coordinates of the file (RAS, mm)."""
        axes = np.diag(self.voxel_size).astype(float)
        angle = np.radians(self.tilt)
        axes[1:, 1] = axes[1, 1] * np.array([np.cos(angle), np.sin(angle)])
        affine = np.eye(4)
        affine[:3, :3] = axes
        affine[:3, 3] = np.array(self.centre) - axes @ ((np.array(self.shape) - 1) / 2)
        return rigid((0, 0, 0), self.origin) @ affine


def simulate_ct(head: Head, seed: int = 0, scan: Tomogram | None = None, *, alone: Sequence[Lesion] = ()):
    """Scan a head by CT.

    Bleeds and calcifications of the head are drawn with 40 to 80 and 100 to 400 HU more than the brain around
    them, at random by their number.

    Parameters
    ----------
    head : Head
    seed : int
        Of noise and of the density of foci.
    scan : Tomogram
    alone : sequence of Lesion
        Calcifications that only the CT shows, in template space.

    Returns
    -------
    image : ndarray of int16, shape ``scan.shape``
        Hounsfield units.
    affine : ndarray (4, 4)
        Voxel to coordinates of the file (RAS, mm).
    to_ct : ndarray (4, 4)
        Maps scanner coordinates of the MRI to coordinates of the file: the alignment that is to be found.
    added : tuple of float
        HU that each lesion of the head adds, then each of ``alone``; 0 for those that CT does not show.
    """
    scan = scan or Tomogram()
    rng = np.random.default_rng([seed, 21])
    lesions = [*head.lesions, *alone]
    added = tuple(_density(lesion, rng) for lesion in lesions)
    shape, affine = scan.shape, scan.affine
    moved = np.linalg.inv(scan.pose) @ affine
    # voxels are means over their thickness
    parts = max(int(np.ceil(scan.voxel_size[2])), 1)
    image = np.empty(shape, np.float32)
    for start in range(0, shape[2], _SLAB):
        count = min(_SLAB, shape[2] - start)
        finer = moved.copy()
        finer[:3, 2] /= parts
        finer[:3, 3] += moved[:3, 2] * (start + (0.5 / parts - 0.5))
        slab = _densities(head, (*shape[:2], count * parts), finer, lesions, added)
        image[..., start : start + count] = slab.reshape(*shape[:2], count, parts).mean(-1)
    if scan.has_table:
        _add_table(image, scan)
    sigma = scan.blur / 2.355 / np.array(scan.voxel_size[:2])
    image = ndimage.gaussian_filter(image, (*sigma, 0))
    image += np.float32(scan.noise) * rng.standard_normal(shape, dtype=np.float32)
    return np.clip(np.rint(image), -1024, 3071).astype(np.int16), affine, scan.pose, added


def _density(lesion: Lesion, rng: np.random.Generator):
    """HU that a lesion adds to the tissue that it lies in."""
    calcium, bleed = rng.uniform(100, 400), rng.uniform(10, 45)
    return {'calcification': calcium, 'microbleed': bleed}.get(lesion.kind, 0.0)


@cache
def _weights():
    """Weights of the quantities `_SEEN`, and a constant, that give the tissues of HOUNSFIELD to 3 HU.

    The quantities of a voxel are means over its tissues by their share, and so is its density: what holds for
    each tissue holds for their mixtures.
    """
    tissues = [t.TISSUES[name] for name in HOUNSFIELD]
    known = np.array([[*(getattr(one, name) for name in _SEEN), 1.0] for one in tissues])
    return np.linalg.lstsq(known, np.array([*HOUNSFIELD.values()]), rcond=None)[0].astype(np.float32)


def _densities(
    head: Head, shape: tuple[int, ...], affine: np.ndarray, lesions: Sequence[Lesion], added: Sequence[float]
):
    """Density (HU) of the head on a grid in scanner space."""
    part = head.sample(shape, affine, (*_SEEN, *_SHARES, 'blood'))
    brain, blood = part['brain'], part['blood']
    *weights, constant = _weights()
    # the subarachnoid space lies around the brain
    around = sum((w * part[name] for w, name in zip(weights, _SEEN, strict=True)), constant)
    around = np.where(brain > 0.02, np.float32(BRAIN['csf']), around)
    grey = brain * (1 - blood) - part['csf'] - part['white']
    inner = {'csf': part['csf'], 'white': part['white'], 'grey': grey, 'blood': brain * blood}
    found = sum(np.float32(BRAIN[name]) * share for name, share in inner.items()) + (1 - brain) * around
    for lesion, more in zip(lesions, added, strict=True):
        if more:
            _add_sphere(found, head, lesion, more, affine)
    return found


def _add_sphere(
    found: np.ndarray, head: Head, lesion: Lesion, more: float, affine: np.ndarray, fine: int = 3
):
    """Add to each voxel, in place, by its share in a lesion, from ``fine``^3 points a voxel."""
    reach = lesion.radius + 4
    centre = head.to_scanner(np.array([lesion.centre]))[0]
    inverse = np.linalg.inv(affine)
    middle = inverse[:3, :3] @ centre + inverse[:3, 3]
    span = reach * np.linalg.norm(inverse[:3, :3], axis=1)
    low = np.clip(np.floor(middle - span), 0, found.shape).astype(int)
    high = np.clip(np.ceil(middle + span) + 1, 0, found.shape).astype(int)
    size = high - low
    if (size <= 0).any():
        return
    finer = affine @ np.diag([1 / fine] * 3 + [1])
    finer[:3, 3] = affine[:3, :3] @ (low + 0.5 / fine - 0.5) + affine[:3, 3]
    points = head.to_template(tuple(fine * size), finer)
    inside = np.linalg.norm(points - np.array(lesion.centre, np.float32), axis=-1) <= lesion.radius
    share = inside.reshape(size[0], fine, size[1], fine, size[2], fine).mean((1, 3, 5))
    found[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] += np.float32(more) * share


def _add_table(image: np.ndarray, scan: Tomogram):
    """Draw the couch, a plate of 8 mm under the head, in place."""
    thick = max(int(8 / scan.voxel_size[1]), 1)
    rows = np.s_[:, 2 : 2 + thick]
    image[rows] = np.maximum(image[rows], np.float32(_TABLE))
