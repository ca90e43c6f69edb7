"""Axes of the substantia nigra of a person, from the labels of nigra and red nucleus of both sides.

The registration is not asked: the two nigrae and red nuclei give the midline and the level.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import ndimage

from bids_qsm.anatomy.nucleus_names import body_of
from bids_qsm.anatomy.transform import apply_affine, spacing_of

RED_FROM_NIGRA = (-2.25, 4.15)
"""From the middle of both nigrae to that of both red nuclei in CIT168 (mm to the front, mm up), which gives
the pitch of the head. Pauli, Nili & Tyszka (2018), doi:10.1038/sdata.2018.63."""
OVERLAP_MM = 0.5
"""The lower nigra reaches so far above the end of the red nucleus, as labels are off by about that."""
FEWEST = 30
"""Voxels of a nigra below which it has no axes."""
CLEFT_MM = 1.0
"""Radius of the closing that joins the parts of a nucleus: their labels leave a cleft."""
_LOWEST = 2.0
"""Percentile of the voxels of the red nucleus at its lower end: single voxels of a label are uncertain."""


@dataclass(frozen=True)
class Nigra:
    """Voxels of the nigra of one side, in its own axes.

    Attributes
    ----------
    side : str
        L or R.
    index : ndarray of int, shape (n, 3)
        Voxels inside the mask.
    along, across, level : ndarray, shape (n,)
        mm: to the back along the plate in the plane of the red nuclei; from the peduncle to the tegmentum;
        and above the lower end of the red nucleus.
    depth : ndarray, shape (n,)
        Distance (mm) of the middle of a voxel to the border of the label.
    axes : ndarray, shape (3, 3)
        Unit vectors of along, across and level in scanner space (rows).
    coverage : float
        Share of the label inside the mask.
    """

    side: str
    index: np.ndarray
    along: np.ndarray
    across: np.ndarray
    level: np.ndarray
    depth: np.ndarray
    axes: np.ndarray
    coverage: float

    @property
    def lower(self):
        """Voxels below the red nucleus (bool)."""
        return self.level < OVERLAP_MM

    @property
    def coordinates(self):
        """along, across and level (mm), shape (n, 3)."""
        return np.stack([self.along, self.across, self.level], 1)


def nucleus_voxels(dseg: np.ndarray, labels: pd.DataFrame, body: str, side: str, size: np.ndarray):
    """Voxels (bool) of all labels of a nucleus on one side, with the clefts between its parts filled."""
    bodies = labels['region'].map(body_of)
    wanted = labels.loc[(bodies == body) & (labels['hemisphere'] == side), 'index']
    found = np.isin(dseg, wanted)
    if not found.any():
        return found
    reach = np.ceil(CLEFT_MM / size).astype(int)
    box = tuple(
        slice(max(b.start - r, 0), b.stop + r)
        for b, r in zip(ndimage.find_objects(found.astype(np.uint8))[0], reach, strict=True)
    )
    index = np.meshgrid(*(np.arange(-r, r + 1) * s for r, s in zip(reach, size, strict=True)), indexing='ij')
    ball = sum(np.square(i) for i in index) <= CLEFT_MM**2 + 1e-6
    padded = np.pad(found[box], [(r, r) for r in reach])
    closed = ndimage.binary_closing(padded, ball)
    closed = closed[tuple(slice(r, n - r) for r, n in zip(reach, padded.shape, strict=True))]
    # other nuclei keep their voxels
    found[box] |= closed & (dseg[box] == 0)
    return found


def nigrae(
    dseg: np.ndarray, labels: pd.DataFrame, mask: np.ndarray, affine: np.ndarray
) -> tuple[dict[str, Nigra], str]:
    """Find the nigra of each side and its axes.

    The line between the sides is that of both nuclei; the pitch is that of the line from the nigrae to the
    red nuclei, whose direction in the atlas is known; the plate is the first principal axis of the lower
    nigra in the plane across these.

    Parameters
    ----------
    dseg : ndarray of int
    labels : DataFrame
        Columns index, hemisphere, region.
    mask : ndarray of bool
    affine : ndarray, shape (4, 4)
        Voxel to scanner coordinates (mm).

    Returns
    -------
    found : dict of str to Nigra
        By side; empty where there are no axes.
    reason : str
        Why it is empty.
    """
    size = spacing_of(affine)
    bodies = {(b, s): nucleus_voxels(dseg, labels, b, s, size) for b in ('SN', 'RN') for s in 'LR'}
    for (body, side), voxels in bodies.items():
        if voxels.sum() < FEWEST:
            name = {'SN': 'substantia nigra', 'RN': 'red nucleus'}[body]
            return {}, f'the labels have no {name} on the side {side}, or hardly any of it'
    points = {key: apply_affine(affine, np.argwhere(voxels)) for key, voxels in bodies.items()}
    middle = {key: p.mean(0) for key, p in points.items()}
    right = sum(middle[body, 'R'] - middle[body, 'L'] for body in ('SN', 'RN'))
    right /= np.linalg.norm(right)
    up = sum(middle['RN', side] - middle['SN', side] for side in 'LR') / 2
    up -= (up @ right) * right
    up /= np.linalg.norm(up)
    front, high = np.asarray(RED_FROM_NIGRA) / np.hypot(*RED_FROM_NIGRA)
    turned = np.cross(right, up)
    ahead, above = front * up - high * turned, high * up + front * turned
    found = {}
    for side in 'LR':
        floor = np.percentile(points['RN', side] @ above, _LOWEST)
        whole, inside = bodies['SN', side], mask[bodies['SN', side]]
        level = points['SN', side] @ above - floor
        flat = points['SN', side] @ np.stack([right, ahead], 1)
        low = level < OVERLAP_MM
        if (low & inside).sum() < FEWEST:
            return {}, f'the nigra of the side {side} has too few voxels below the red nucleus'
        plate = np.linalg.eigh(np.cov((flat[low] - flat[low].mean(0)).T))[1][:, 1]
        plate = plate if plate[1] < 0 else -plate
        aside = np.array([-plate[1], plate[0]])
        # to the midline, where the tegmentum is
        aside = aside if (aside[0] < 0) == (side == 'R') else -aside
        flat -= flat[low].mean(0)
        axes = np.stack([plate[0] * right + plate[1] * ahead, aside[0] * right + aside[1] * ahead, above])
        depth = _depth(whole, size)
        kept = inside
        found[side] = Nigra(
            side,
            np.argwhere(whole)[kept],
            (flat @ plate)[kept],
            (flat @ aside)[kept],
            level[kept],
            depth[whole][kept],
            axes,
            float(inside.mean()),
        )
    return found, ''


def _depth(region: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Distance (mm) of the voxels of a region to its border, which lies between voxels."""
    box = ndimage.find_objects(region.astype(np.uint8))[0]
    box = tuple(slice(max(b.start - 1, 0), b.stop + 1) for b in box)
    found = np.zeros(region.shape, np.float32)
    away = ndimage.distance_transform_edt(np.pad(region[box], 1), sampling=size)[1:-1, 1:-1, 1:-1]
    found[box] = np.maximum(away - size.min() / 2, 0)
    return found
