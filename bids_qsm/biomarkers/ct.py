"""CT of a head: whether its values are Hounsfield units, and whether it lies where the head is."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage

from bids_qsm.anatomy.align import Similarity, coarsen, refine
from bids_qsm.anatomy.bias import correct_bias
from bids_qsm.anatomy.transform import apply_affine, resample, spacing_of
from bids_qsm.entities import entities_of

CALCIFIED, BLOOD = 100.0, 40.0
"""Density (HU) from which a focus is calcified, and below which it is neither calcium nor fresh blood."""
WINDOW = (-20.0, 100.0)
"""Densities (HU) by which CT is aligned: CSF, brain and bone differ most in it."""
AIR, SOFT, BONE = (-1100.0, -900.0), (20.0, 50.0), 300.0
"""Densities (HU) of air, the mode of brain, and least of bone."""
FEWEST_AIR, FEWEST_BONE = 0.01, 0.003
"""Least share of air and bone among the voxels of a CT of a head."""
FARTHEST_MM = 2.0
"""Largest distance (mm) between two alignments of a CT that is taken for right: the margin around foci."""
MOST_BONE = 0.02
"""Largest share of the brain mask that may be bone in the CT: the mask is not exact."""
FEWEST_SEEN = 0.1
"""Least share of the brain that a CT must hold."""


def filled(data: np.ndarray, name: str) -> np.ndarray:
    """Hounsfield units (float32) with -1024 where there are none, as scanners store it."""
    del name
    return np.where(np.isfinite(data), data, -1024).astype(np.float32)


def hounsfield_problem(data: np.ndarray, name: str) -> str | None:
    """Why an image is no CT in Hounsfield units: one sentence with its file ``name`` and what to do, or None.

    In a CT of a head air is at -1000 HU, the mode of soft tissue at 20 to 50, and bone above 300.
    """
    if 'ce' in entities_of(name):
        return (
            f'{name} was made with contrast agent (ce-), which is as dense as calcium; give a CT without, '
            'or remove ce- if there was none.'
        )
    values = data[np.isfinite(data)].ravel()
    if not values.size:
        return f'{name} has no finite value; convert the CT again.'
    values = values[:: max(values.size // 2_000_000, 1)].astype(np.float32)
    reason = _unlike_hounsfield(values)
    if reason is None:
        return None
    again = 'convert its DICOM files again without rescaling, as dcm2niix does'
    for shift in (1024.0, 1000.0):
        if _unlike_hounsfield(values - shift) is None:
            return (
                f'{name} has air at {-1000 + shift:.0f} and not at -1000 HU, as its rescale intercept '
                f'(-{shift:.0f}) was not applied; {again}.'
            )
    return f'{name} is not in Hounsfield units: {reason}; {again}, or give the CT by --ct.'


def _unlike_hounsfield(values: np.ndarray) -> str | None:
    """What values lack of those of a head in CT."""
    # outside of the reconstructed circle scanners store -1024 and less
    air = np.mean(values < AIR[1])
    if air < FEWEST_AIR:
        return f'{100 * air:.1f} % of its voxels are air (-1000), and the least value is {values.min():.0f}'
    if np.mean((values > AIR[0]) & (values < AIR[1])) < FEWEST_AIR / 10:
        return f'no voxels are air (-1000), though values reach {values.min():.0f}'
    bone = np.mean(values > BONE)
    if bone < FEWEST_BONE:
        return f'{100 * bone:.2f} % of its voxels are bone (above {BONE:.0f})'
    soft = mode_of_soft(values)
    if not SOFT[0] <= soft <= SOFT[1]:
        return f'soft tissue has its mode at {soft:.0f}, and brain has {SOFT[0]:.0f} to {SOFT[1]:.0f}'
    return None


def mode_of_soft(values: np.ndarray) -> float:
    """The most frequent density (HU) from -60 to 120, smoothed by 4 HU; NaN where there is none."""
    edges = np.arange(-60.5, 121)
    counts = np.histogram(values, edges)[0].astype(float)
    if not counts.any():
        return np.nan
    return float(edges[np.argmax(ndimage.gaussian_filter1d(counts, 4, mode='constant'))] + 0.5)


@dataclass(frozen=True, eq=False)
class Tomogram:
    """A CT of a head that was aligned with the maps of a series.

    ``hu`` (float32, 3D) are Hounsfield units, ``affine`` (4, 4) takes its voxels to its coordinates (RAS,
    mm), and ``to_ct`` (4, 4) takes coordinates of the maps to coordinates of the CT.
    """

    hu: np.ndarray
    affine: np.ndarray
    to_ct: np.ndarray

    @property
    def voxel_size(self) -> np.ndarray:
        return spacing_of(self.affine)

    @cached_property
    def known(self) -> np.ndarray:
        """Where the CT shows the head (bool): not air, and not what fills an image around a smaller scan.

        That is -1024 and less, no number, or 0 in a block of 3 x 3 x 3 voxels.
        """
        block = ndimage.binary_opening(self.hu == 0, np.ones((3, 3, 3), bool))
        with np.errstate(invalid='ignore'):
            return (self.hu >= AIR[1]) & ~block

    def around(self, mask: np.ndarray, affine: np.ndarray, *, margin_mm: float = 15.0) -> 'Tomogram':
        """The part that holds a mask on the grid of the maps, with a margin."""
        corners = np.argwhere(mask)
        to_voxel = np.linalg.inv(self.affine) @ self.to_ct @ affine
        at = apply_affine(to_voxel, corners[:: max(len(corners) // 20000, 1)])
        # planes of voxels of a tilted scan lie nearer than their middles
        margin = margin_mm * np.linalg.norm(np.linalg.inv(self.affine[:3, :3]), axis=1)
        low = np.clip(np.floor(at.min(0) - margin), 0, np.array(self.hu.shape) - 1).astype(int)
        high = np.clip(np.ceil(at.max(0) + margin) + 1, low + 1, self.hu.shape).astype(int)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        moved = self.affine.copy()
        moved[:3, 3] = apply_affine(self.affine, [low])[0]
        return Tomogram(np.asarray(self.hu[box], np.float32), moved, self.to_ct)

    def holds(self, mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
        """Where a mask on the grid of the maps lies in the CT (bool, of its shape)."""
        share = resample(
            mask.astype(np.float32), affine, self.hu.shape, self.affine, [np.linalg.inv(self.to_ct)]
        )
        return share > 0.5


def seen_share(ct: Tomogram, mask: np.ndarray, affine: np.ndarray) -> float:
    """Share of a mask that a CT shows."""
    at = np.rint(apply_affine(np.linalg.inv(ct.affine) @ ct.to_ct @ affine, np.argwhere(mask))).astype(int)
    inside = at[((at >= 0) & (at < ct.hu.shape)).all(1)]
    return float(ct.known[tuple(inside.T)].sum() / max(len(at), 1))


def second_alignment(ct: Tomogram, magnitude: np.ndarray, mask: np.ndarray, affine: np.ndarray) -> float:
    """Distance (mm, mean over the brain) to the place that the magnitude of the series gives the CT.

    The CT was aligned with another image, the T1w, which was aligned with the series: both alignments must be
    right for this distance to be small. It is found by mutual information, from the place to be checked.

    Parameters
    ----------
    ct : Tomogram
    magnitude : ndarray of float32
    mask : ndarray of bool
        Brain.
    affine : ndarray (4, 4)
        Voxel to scanner coordinates of both.
    """
    still, still_affine = coarsen(correct_bias(magnitude, affine)[0], affine, 1.5)
    inside = coarsen(mask, affine, 1.5)[0] > 0.5
    window = np.clip(ct.hu, *WINDOW) - np.float32(WINDOW[0])
    other, other_affine = coarsen(window, ct.affine, 1.5)
    center = apply_affine(still_affine, [ndimage.center_of_mass(inside)])[0]
    where = ndimage.binary_dilation(inside, iterations=3)
    found = ct.to_ct
    for sigma, step in ((4.0, 4.0), (1.0, 1.0)):
        similarity = Similarity(still, still_affine, where, other, other_affine, n_points=20000, sigma=sigma)
        found = refine(
            similarity, found, center, n_parameters=6, step=step, tolerance=0.1, overlap=FEWEST_SEEN / 2
        )[0]
    points = apply_affine(still_affine, np.argwhere(inside)[::20])
    return float(np.linalg.norm(apply_affine(found, points) - apply_affine(ct.to_ct, points), axis=1).mean())


def bone_share(ct: Tomogram, mask: np.ndarray, affine: np.ndarray) -> float:
    """Share of a brain mask, as far as the CT holds it, that is bone there."""
    inside = ct.holds(mask, affine) & ct.known
    return float((ct.hu[inside] > BONE).mean()) if inside.any() else np.nan


def alignment_problem(seen: float, distance: float, bone: float) -> str | None:
    """Why a CT cannot be read, as it does not lie where the head is; None where it does.

    Arguments are those of `seen_share`, `second_alignment` and `bone_share`.
    """
    if seen < FEWEST_SEEN:
        return f'the CT holds {100 * seen:.0f} % of the brain'
    if not distance <= FARTHEST_MM:
        return (
            f'the CT is not aligned: the magnitude places it {distance:.1f} mm from where the anatomical '
            'image does'
        )
    if bone > MOST_BONE:
        return f'the CT is not aligned: {100 * bone:.1f} % of the brain mask are bone in it'
    return None
