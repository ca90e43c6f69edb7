"""Join sinuses at the rim of the mask with the veins that were found inside it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

from bids_qsm.anatomy.transform import apply_affine
from bids_qsm.biomarkers.veins import Segment, Veins, labels_of, turn_of
from bids_qsm.biomarkers.veins_sinuses import Sinus, find_sinuses
from bids_qsm.recon.grid import Grid

SHORTEST_MM = 8.0
"""Least length of a stretch of a sinus that lies between stretches found inside the mask."""
ALONG = 0.7
"""Least cosine between a vein and a sinus that are the same."""
AS_WIDE = 0.5
"""Least diameter of such a vein over that of the sinus: a thinner one is a sliver of it, or beside it."""


def with_sinuses(
    veins: Veins,
    echoes: np.ndarray,
    echo_times: Sequence[float],
    mask: np.ndarray,
    affine: np.ndarray,
    grid: Grid,
    to_template: Sequence,
):
    """Add the sinuses of `veins_sinuses.find_sinuses` to the veins of a head.

    A vein inside the mask that runs in a sinus for at least half of its length, and is not much thinner, is
    the sinus: it keeps its centreline and diameter, which are from susceptibility, and gets the name and the
    voxels around. The rest of the sinus becomes segments of its own.

    Parameters
    ----------
    veins : Veins
    echoes : ndarray of float32, shape (x, y, z, echo)
        Magnitude of two echoes or more.
    echo_times, mask, affine, grid, to_template
        See `veins_sinuses.find_sinuses`.

    Returns
    -------
    Veins
    """
    if not mask.any():
        return veins
    # the same axes whichever way the file is stored
    turn = turn_of(affine, mask.shape)
    to_file = turn.to_file
    turned = affine @ to_file
    frame = turn.frame(grid)
    sides, b0_dir = np.array(frame.voxel_size), np.array(frame.b0_dir)
    echoes = np.stack([turn.apply(echoes[..., n]) for n in range(echoes.shape[-1])], -1)
    for one in find_sinuses(echoes, echo_times, turn.apply(mask), turned, frame, to_template):
        voxels = apply_affine(to_file, one.points / sides)
        direction = turn.directions(one.direction / sides, affine)
        tilt = np.degrees(np.arccos(np.clip(np.abs(one.direction @ b0_dir), 0, 1)))
        ends = (0, 0)
        whole = Segment(
            0, one.name, apply_affine(affine, voxels), voxels, direction, one.diameter_mm, tilt, ends
        )
        veins = _joined(veins, whole, np.rint(apply_affine(to_file, one.voxels)).astype(int), one, affine)
    return veins


def _joined(veins: Veins, sinus: Segment, voxels: np.ndarray, found: Sinus, affine: np.ndarray):
    """Veins with one more stretch of a sinus."""
    owner = np.zeros(len(sinus.points), int)
    renamed = []
    for old in veins.segments:
        away, at = KDTree(sinus.points).query(old.points)
        wide = np.median(old.diameter_mm) >= AS_WIDE * sinus.diameter_mm[at]
        same = (
            wide
            & (away <= sinus.diameter_mm[at] / 2 + old.diameter_mm / 2)
            & (np.abs((old.direction * sinus.direction[at]).sum(1)) >= ALONG)
        )
        if same.mean() < 0.5:
            continue
        renamed.append(old.number)
        low, high = np.quantile(at[same], (0, 1)).astype(int)
        owner[low : high + 1] = old.number
    segments = [replace(s, name=sinus.name) if s.number in renamed else s for s in veins.segments]
    gaps, count = ndimage.label(owner == 0)
    for n in range(1, count + 1):
        mine = np.flatnonzero(gaps == n)
        part = Segment(
            len(segments) + 1,
            sinus.name,
            sinus.points[mine],
            sinus.voxels[mine],
            sinus.direction[mine],
            sinus.diameter_mm[mine],
            sinus.tilt_deg[mine],
            (0, 0),
        )
        if part.length_mm >= SHORTEST_MM:
            owner[mine] = part.number
            segments.append(part)
    if not owner.any():
        return veins
    # a gap that is too short for a segment belongs to the next one
    owner = owner[ndimage.distance_transform_edt(owner == 0, return_distances=False, return_indices=True)[0]]
    numbers, share, skeleton = veins.numbers.copy(), veins.share.copy(), veins.skeleton.copy()
    _, at = KDTree(sinus.points).query(apply_affine(affine, voxels))
    place = tuple(voxels.T)
    # a vein that runs into the sinus keeps only what it fills more of
    mine = (found.share > share[place]) | (numbers[place] == 0)
    numbers[place] = np.where(mine, owner[at], numbers[place])
    share[place] = np.maximum(share[place], found.share)
    for one in segments[len(veins.segments) :]:
        centre = one.passes(share.shape)
        skeleton[centre] = numbers[centre] = one.number
    added = (share >= 0.5) & (veins.share < 0.5)
    mask = veins.mask | added | ((skeleton > 0) & (veins.skeleton == 0))
    return replace(
        veins,
        share=share,
        mask=mask,
        labels=labels_of(segments, numbers, mask),
        skeleton=skeleton,
        numbers=numbers,
        segments=tuple(segments),
    )
