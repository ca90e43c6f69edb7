"""Surroundings of the brain: CSF, skull, scalp, face and neck, and air-filled cavities."""

from collections.abc import Callable, Sequence

import numba
import numpy as np
from scipy import ndimage

from bids_qsm.phantom.sampling import Volume, expand
from bids_qsm.phantom.tissue import PAINTED, TISSUES
from bids_qsm.recon.blocks import linear_basis

# Centre and half axes (mm of MNI152, right side; mirrored where x is not 0).
FACE = ((0, 48, -62), (62, 46, 62))
NOSE = ((0, 94, -52), (12, 18, 20))
JAW = ((0, 50, -100), (48, 42, 34))
PETROUS = ((38, -30, -46), (22, 14, 11))
ORBIT = ((31, 62, -42), (17, 18, 15))
EYE = ((31, 66, -42), (12, 12, 12))
BROW = ((0, 74, -18), (34, 15, 19))
CAVITIES = {
    'sphenoid': ((7, 13, -42), (8, 11, 9)),
    'ethmoid': ((7, 40, -45), (7.5, 18, 10)),
    'frontal': ((12, 81, -16), (10, 4.5, 11)),
    'nasal': ((6, 58, -68), (4.5, 34, 12)),
    'maxillary': ((29, 46, -72), (12, 14, 13)),
    'mastoid': ((55, -32, -50), (9, 11, 13)),
    'middle ear': ((43, -20, -44), (3, 4, 6)),
}
CELLS = {'mastoid': (0.55, 0.6), 'ethmoid': (0.9, 0.5)}
"""Cavities that consist of cells: mean share of air and its variation."""


@numba.vectorize(['float32(float32, float32)'], cache=True)
def soft(signed: np.float32, spacing: np.float32):
    """Share (0 .. 1) of a voxel inside a surface at ``signed`` distance (mm), negative inside."""
    return min(max(np.float32(0.5) - signed / spacing, np.float32(0)), np.float32(1))


@numba.njit(cache=True, parallel=True)
def paint_over(data: np.ndarray, amount: np.ndarray, values: np.ndarray):
    """Replace the share ``amount`` (x, y, z) of the first channels of ``data`` by ``values``."""
    for i in numba.prange(amount.shape[0]):
        for j in range(amount.shape[1]):
            for k in range(amount.shape[2]):
                a = amount[i, j, k]
                if a > 0:
                    for c in range(len(values)):
                        data[i, j, k, c] += a * (values[c] - data[i, j, k, c])


class _Canvas:
    """A lattice of template space to paint tissue on."""

    def __init__(self, volume: Volume):
        self.data, self.spacing = volume.data, np.float32(volume.spacing)
        self.axes = [volume.points(k).astype(np.float32) for k in range(3)]
        x, y, z = self.axes
        self.x, self.y, self.z = x[:, None, None], y[None, :, None], z[None, None, :]

    def paint(self, tissue: str, amount: np.ndarray, box: tuple[slice, ...] = (slice(None),) * 3):
        values = [getattr(TISSUES[tissue], name) for name in PAINTED]
        amount = np.ascontiguousarray(np.broadcast_to(amount, self.data[box].shape[:3]), np.float32)
        paint_over(self.data[box], amount, np.array(values, np.float32))

    def fill(self, tissue: str, signed: np.ndarray, box: tuple[slice, ...] = (slice(None),) * 3):
        """Paint the inside of a surface given by its signed distance (mm)."""
        self.paint(tissue, soft(signed, self.spacing), box)

    def ellipsoids(self, centre: Sequence[float] | np.ndarray, axes: Sequence[float] | np.ndarray):
        """Signed distance (mm, about) to an ellipsoid and the box it holds in, right side, then left."""
        for side in (1, -1) if centre[0] else (1,):
            place = np.multiply(centre, (side, 1, 1))
            box, parts = [], []
            for points, c, r in zip(self.axes, place, axes, strict=True):
                near = np.flatnonzero(np.abs(points - c) <= r + 2 * self.spacing)
                if len(near) == 0:
                    break
                box.append(slice(near[0], near[-1] + 1))
                parts.append((points[box[-1]] - np.float32(c)) / np.float32(r))
            else:
                u, v, w = parts[0][:, None, None], parts[1][:, None], parts[2]
                yield (np.sqrt(u**2 + v**2 + w**2) - 1) * np.float32(min(axes)), tuple(box)


def _distances(brain: np.ndarray, spacing: float, coarse: float = 2.0):
    """Distance (mm) to the brain and to its hull (gaps up to 44 mm closed), from a coarser lattice."""
    skip = max(round(coarse / spacing), 1)
    small = brain[::skip, ::skip, ::skip] > 0.5
    step = skip * spacing
    to_brain = ndimage.distance_transform_edt(~small) * step
    reach = 22.0
    to_hull = reach - ndimage.distance_transform_edt(to_brain <= reach) * step
    far = to_brain > reach
    to_hull[far] = to_brain[far]
    bases = [linear_basis(np.arange(n) / skip, m) for n, m in zip(brain.shape, small.shape, strict=True)]
    return [expand((d - step / 2).astype(np.float32), bases) for d in (to_brain, to_hull)]


def draw_surroundings(volume: Volume, brain: np.ndarray, texture: Callable, rng: np.random.Generator):
    """Paint everything outside the brain into ``volume``.

    Parameters
    ----------
    volume : Volume
        Its first channels, those of tissue.PAINTED, are written.
    brain : ndarray of float32, shape (x, y, z)
        Brain mask.
    texture : callable
        ``texture(sigma_mm)`` gives a random field of unit variance on the lattice, and
        ``texture(sigma_mm, shape)`` on a part of it.
    rng : numpy.random.Generator
    """
    canvas = _Canvas(volume)
    z = canvas.z
    to_brain, to_hull = _distances(brain, volume.spacing)
    smooth = texture(25.0)
    bone_edge = 7.7 + 0.9 * smooth
    pads = np.clip(1.5 * (texture(6.0) - 0.9), 0, 1)

    # solid head: the hull of the brain with skull and scalp, face and neck
    head = to_hull - bone_edge - (5.5 + np.roll(smooth, 20, 0))
    neck = np.sqrt((canvas.x / 60) ** 2 + ((canvas.y + 42) / 62) ** 2)
    np.minimum(head, np.where(z < -45, (neck - 1) * 60, 99).astype(np.float32), out=head)
    for shape in (FACE, NOSE, JAW):
        for signed, box in canvas.ellipsoids(*shape):
            np.minimum(head[box], signed, out=head[box])
    values = [getattr(TISSUES['air'], name) for name in PAINTED]
    volume.data[..., : len(PAINTED)] = np.array(values, np.float32)
    canvas.fill('skin', head)
    # a layer of fat under the skin, then muscle with pads of fat
    canvas.fill('fat', head + 1.8)
    deep = soft(head + (5.0 + 1.5 * smooth), canvas.spacing)
    canvas.paint('muscle', deep)
    canvas.paint('fat', pads * deep)
    # the skull: tables of bone with marrow between; the base, in the gaps of the hull, is spongy
    skull = np.maximum(np.maximum(to_hull - bone_edge, 1.2 - to_hull), -70 - z)
    base = np.maximum(np.maximum(to_hull - 1.2, to_brain - 15), -66 - z)
    canvas.fill('bone', np.minimum(skull, base))
    canvas.paint('marrow', soft(base, canvas.spacing) * pads)
    diploe = np.abs(to_hull - (2.2 + bone_edge) / 2) - 1.1 - 0.3 * smooth
    canvas.fill('marrow', np.maximum(diploe, -15 - z))
    solid = soft(head, canvas.spacing)
    for shape in (PETROUS, BROW):
        for signed, box in canvas.ellipsoids(*shape):
            canvas.paint('bone', soft(signed, canvas.spacing) * solid[box], box)
    _paint_spine(canvas)
    for tissue, shape in (('fat', ORBIT), ('vitreous', EYE)):
        for signed, box in canvas.ellipsoids(*shape):
            canvas.fill(tissue, signed, box)
    _paint_cavities(canvas, texture, rng)
    canvas.fill('csf', to_brain - 2.3 - 0.5 * smooth)


def _paint_spine(canvas: _Canvas):
    """Cervical cord in its canal, with vertebrae around."""
    below = slice(0, int(np.searchsorted(canvas.axes[2], -70.0)))
    box = (slice(None), slice(None), below)
    z = canvas.z[..., below]
    u, v = canvas.x, canvas.y + 46 - 0.25 * (z + 72)
    cord = np.sqrt((u / 1.2) ** 2 + v**2)
    canvas.fill('bone', np.sqrt((u / 1.1) ** 2 + (v - 8) ** 2) - 19.0, box)
    canvas.fill('marrow', np.sqrt(u**2 + (v - 19) ** 2) - 6.5, box)
    canvas.fill('csf', cord - 9.0, box)
    canvas.fill('white', cord - 5.0, box)


def _paint_cavities(canvas: _Canvas, texture: Callable, rng: np.random.Generator):
    """Paranasal sinuses, nose, ears and pharynx, of random size on each side."""
    for name, (centre, axes) in CAVITIES.items():
        for side in (1, -1):
            size = rng.uniform(0.85, 1.12, 3) * np.array(axes)
            # shifted off the midline, so that each side is drawn separately
            place = np.multiply(centre, (side, 1, 1)) + rng.normal(0, 0.7, 3)
            for wall, box in _one_side(canvas, place, size + 2.0):
                canvas.paint('bone', 0.8 * soft(wall, canvas.spacing), box)
            for signed, box in _one_side(canvas, place, size):
                mean, spread = CELLS.get(name, (1.0, 0.0))
                filled = np.clip(mean + spread * texture(1.6, signed.shape), 0, 1)
                canvas.paint('air', soft(signed, canvas.spacing) * filled, box)
    x, y, z = canvas.x, canvas.y, canvas.z
    # ear canals, outwards from the middle ear; pharynx and windpipe
    canvas.fill('air', np.maximum(np.sqrt((y + 21) ** 2 + (z + 45) ** 2) - 3.2, 44 - np.abs(x)))
    v = y - (6 + 0.12 * (z + 60))
    canvas.fill('air', np.maximum(np.sqrt((x / 1.3) ** 2 + v**2) - 7.0, z + 62))


def _one_side(canvas: _Canvas, place: np.ndarray, size: np.ndarray):
    return list(canvas.ellipsoids(place, size))[:1]
