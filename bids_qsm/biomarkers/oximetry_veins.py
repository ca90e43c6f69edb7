"""Veins from the tables and images that a segmentation wrote."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from bids_qsm.biomarkers.veins import Segment, Veins


def veins_of_tables(
    share: np.ndarray, numbers: np.ndarray, lines: pd.DataFrame, names: Mapping[int, str], affine: np.ndarray
) -> Veins:
    """Put veins together again.

    Parameters
    ----------
    share : ndarray of float
        Share of each voxel that is vein.
    numbers : ndarray of int
        Number of the segment that each voxel belongs to, 0 elsewhere.
    lines : DataFrame
        One row a point of the centrelines, in order: segment, x, y, z and direction_x, direction_y,
        direction_z in scanner coordinates (mm), diameter_mm, tilt_deg.
    names : mapping of int to str
        Name of each segment.
    affine : ndarray (4, 4)
        Voxel to scanner coordinates (mm).

    Returns
    -------
    Veins
        Without labels, skeleton and junctions, which oximetry does not need.
    """
    inverse = np.linalg.inv(affine)
    segments = []
    for number, rows in lines.groupby('segment', sort=True):
        points = rows[['x', 'y', 'z']].to_numpy(float)
        direction = rows[['direction_x', 'direction_y', 'direction_z']].to_numpy(float)
        segments.append(
            Segment(
                int(number),
                names.get(int(number), 'other_vein'),
                points,
                points @ inverse[:3, :3].T + inverse[:3, 3],
                direction,
                rows['diameter_mm'].to_numpy(float),
                rows['tilt_deg'].to_numpy(float),
                (0, 0),
            )
        )
    empty = np.zeros(share.shape, np.int32)
    share = np.asarray(share, np.float32)
    return Veins(
        share,
        share >= 0.5,
        empty.astype(np.int16),
        empty,
        np.asarray(numbers, np.int32),
        tuple(segments),
        np.nan,
        'assumed',
    )
