"""Localisation of findings: coordinates in scanner and template space, and the nearest region of an atlas."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.spatial import KDTree

from bids_qsm.anatomy.transform import apply_affine, transform_points

PLACE = ('x', 'y', 'z', 'nearest_region', 'hemisphere')
"""Columns of `Places.columns` for readers of the images."""


class Places:
    """Describes positions in a series by coordinates and regions.

    Parameters
    ----------
    dseg : ndarray of int
        Labels on the grid of the series.
    labels : DataFrame
        Columns index, hemisphere ('L', 'R' or else) and region.
    affine : ndarray (4, 4)
        Voxel to scanner coordinates (RAS, mm) of that grid.
    to_template : sequence of ndarray (4, 4) or Displacement
        Transforms of points from the scanner to the template, in order of application.
    """

    def __init__(
        self, dseg: np.ndarray, labels: pd.DataFrame, affine: np.ndarray, to_template: Sequence = ()
    ):
        self.affine, self.to_template = affine, list(to_template)
        voxels = np.argwhere(dseg > 0)
        known = {
            int(row['index']): (row['region'], row['hemisphere'] if row['hemisphere'] in ('L', 'R') else '')
            for row in labels.to_dict('records')
        }
        index = dseg[tuple(voxels.T)]
        # a subject's own segmentation may have labels that its table lacks
        keep = np.isin(index, list(known))
        self._index, self._known = index[keep], known
        self._tree = KDTree(apply_affine(affine, voxels[keep])) if keep.any() else None

    def columns(self, centre: np.ndarray, points: np.ndarray | None = None):
        """Columns of the position of a finding.

        Parameters
        ----------
        centre : ndarray, shape (3,)
            Scanner coordinates (mm).
        points : ndarray, shape (n, 3)
            Scanner coordinates (mm) of all its voxels; the nearest region to any of them counts. The centre
            alone unless given.

        Returns
        -------
        dict
            x, y, z, template_x, template_y, template_z, nearest_region, hemisphere, region_distance_mm.
        """
        centre = np.asarray(centre, float)
        template = transform_points(centre[None], self.to_template)[0]
        named = zip(
            ('x', 'y', 'z', 'template_x', 'template_y', 'template_z'), (*centre, *template), strict=True
        )
        return {name: round(float(value), 2) for name, value in named} | self._nearest(
            centre[None] if points is None or not len(points) else points
        )

    def _nearest(self, points: np.ndarray):
        if self._tree is None:
            return {'nearest_region': 'n/a', 'hemisphere': 'n/a', 'region_distance_mm': np.nan}
        distance, at = self._tree.query(points)
        best = int(np.argmin(distance))
        region, hemisphere = self._known[int(self._index[at[best]])]
        return {
            'nearest_region': region,
            'hemisphere': hemisphere or 'n/a',
            'region_distance_mm': round(float(distance[best]), 2),
        }


def described(what: str):
    """Data dictionary of the columns of `Places.columns` for ``what`` ('lesion')."""
    scanner = f'coordinate of the centre of the {what} in the space of the series (scanner, RAS).'
    template = f'coordinate of the centre of the {what} in template space (RAS).'
    return {
        **{axis: (f'{axis} {scanner}', 'mm') for axis in 'xyz'},
        **{f'template_{axis}': (f'{axis} {template}', 'mm') for axis in 'xyz'},
        'nearest_region': (f'Region of the atlas that is nearest to the {what}, or that holds it.', None),
        'hemisphere': ('Hemisphere (L or R) of that region; n/a where it has none.', None),
        'region_distance_mm': (
            f'Distance from the nearest voxel of the {what} to the nearest voxel of that region; '
            '0 where they overlap.',
            'mm',
        ),
    }
