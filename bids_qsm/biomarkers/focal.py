"""Detection of small sources of susceptibility: candidates for microbleeds and calcifications."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.spatial import KDTree

from bids_qsm.biomarkers.focal_brain import Brain
from bids_qsm.biomarkers.focal_columns import dictionary
from bids_qsm.biomarkers.focal_evidence import BESIDE_MM, CLASSES, Evidence, classify
from bids_qsm.biomarkers.focal_sources import Source, sources
from bids_qsm.biomarkers.localisation import Places
from bids_qsm.biomarkers.mars import mars_place, mars_table, size_class
from bids_qsm.biomarkers.moment import SIGNS
from bids_qsm.recon.grid import Grid

APART_MM = 5.0
"""Sources at the edge that lie closer together are parts of one."""


def find_candidates(
    chi: np.ndarray,
    localfield: np.ndarray | None,
    field: np.ndarray | None,
    magnitude: np.ndarray | None,
    r2star: np.ndarray | None,
    mask: np.ndarray,
    dseg: np.ndarray,
    labels: pd.DataFrame,
    grid: Grid,
    affine: np.ndarray,
    to_template: Sequence = (),
    reference: str = '',
    *,
    threshold: float = 6.0,
    confidence: float = 0.4,
    largest_mm: float = 25.0,
):
    r"""Find small round sources and tell bleeds from calcium by their dipole moment.

    Sources are peaks of susceptibility of either sign (contrast to the tissue within some 8 mm over
    ``threshold`` times the spread of that tissue) with all connected voxels of at least half their height;
    peaks of R2* beside them; and dark places that the mask leaves out [1]_. Five scores from 0 to 1 describe
    each; a score of one half means that a harmless structure is as likely. The confidence is the smallest:

    - strength, :math:`p / (p + h)`: p is the height of the peak, h that of harmless structures: 5 spreads or,
      for paramagnetic sources, the veins of this person if they are higher (90th percentile of contrast over
      the vein tree), and beside iron-rich nuclei these.
    - isolation, :math:`1 - q / p`: q is the largest contrast of either sign in a shell around the source,
      without veins and nuclei. It is low for side lobes of strong sources.
    - roundness: the shortest axis over the longest axis of its ellipsoid of inertia.
    - apart: 1 less the vesselness of the vein tree in the source, or less the height of its veins over p.
    - decay, :math:`r / (r + 3 s_r)`: r is how much R2* exceeds its median in the shell, :math:`s_r` its
      spread there. Both bleeds and calcifications dephase their surroundings. Without R2*, this score is
      left out.

    The class follows from the sign of the net moment (see `moment.MomentFit`), from veins that enter and
    leave, and from the size, see `focal_evidence.classify`.

    Parameters
    ----------
    chi : ndarray of float32, 3D
        Susceptibility (ppm).
    localfield, field : ndarray of float32 or None
        Local and total field (ppm). Without the first, moments are those that susceptibility gives; without
        the second, sources that the mask cuts have none, and are not told.
    magnitude : ndarray of float32 or None
        Combined over echoes.
    r2star : ndarray of float32 or None
        R2* (1/s); voxels without one (0 or less) do not count.
    mask : ndarray of bool
        Where susceptibility is given.
    dseg : ndarray of int
        Regions of an atlas on the same grid. In iron-rich regions (their median exceeds that of the brain by
        more than its spread) no paramagnetic peaks are looked for.
    labels : DataFrame
        Columns index, hemisphere and region of the atlas.
    grid : Grid
        That of the maps, with B0 of the scanner: the world of the affine may be turned against it.
    affine : ndarray (4, 4)
        Voxel to world coordinates (RAS, mm).
    to_template : sequence of ndarray (4, 4) or Displacement
        Transforms that take points of the scanner to the template, first to last; without any, lobes are not
        told.
    reference : str
        Reference of susceptibility, for the column of that name.
    threshold : float
    confidence : float
        Least confidence of a candidate in the table.
    largest_mm : float
        Largest length (mm) of a source.

    Returns
    -------
    labels : ndarray of int32
        1, 2, ... in the order of the table, on the voxels of at least half the height of the peak.
    table : DataFrame
        One row a candidate, by class and falling confidence, see `focal_columns.dictionary`.
    mars : DataFrame
        Counts of microbleeds, see `mars.mars_table`.

    References
    ----------
    .. [1] Deistung et al. (2013), PLoS One 8:e57924. doi:10.1371/journal.pone.0057924
    """
    found = np.zeros(chi.shape, np.int32)
    rows: list[tuple[dict, np.ndarray]] = []
    if mask.any():
        box = ndimage.find_objects(mask.astype(np.uint8))[0]
        box = tuple(slice(max(b.start - 4, 0), b.stop + 4) for b in box)

        def crop(one: np.ndarray | None):
            return None if one is None else one[box]

        part = replace(grid, shape=mask[box].shape)
        brain = Brain(chi[box], crop(r2star), crop(magnitude), mask[box], dseg[box], part)
        rows = _told(brain, crop(localfield), crop(field), threshold, confidence, largest_mm)
    rows.sort(key=lambda item: (CLASSES.index(item[0]['class']), -item[0]['confidence']))
    where = Places(dseg, labels, affine, to_template)
    for number, (row, voxels) in enumerate(rows, 1):
        voxels = voxels + [b.start for b in box]
        found[tuple(voxels.T)] = number
        points = np.c_[voxels, np.ones(len(voxels))] @ np.asarray(affine)[:3].T
        row |= {'candidate': number, **where.columns(points.mean(0), points)}
        row |= mars_place(row, known=bool(len(to_template)))
    table = pd.DataFrame([row for row, _ in rows], columns=list(dictionary()))
    table['reference'] = reference or 'n/a'
    return found, table, mars_table(table, assessable=bool(len(to_template)))


def _told(
    brain: Brain,
    localfield: np.ndarray | None,
    field: np.ndarray | None,
    threshold: float,
    confidence: float,
    largest_mm: float,
):
    """(columns, voxels) of every source that is told."""
    there = list(sources(brain, threshold=threshold, largest_mm=largest_mm))
    occupied = np.zeros(brain.mask.shape, bool)
    for source in there:
        occupied[tuple(source.voxels.T)] = True
    evidence = Evidence(brain, localfield, field, ndimage.binary_dilation(occupied))
    rows = []
    for source in there:
        row = evidence.row(source)
        told = None if row is None else classify(row, confidence=confidence)
        if told is not None:
            rows.append((row | dict(zip(('class', 'certainty', 'reason'), told, strict=True)), source))
    return [(_rounded(row), source.voxels) for row, source in _distinct(rows, brain)]


def _distinct(rows: list[tuple[dict, Source]], brain: Brain):
    """Leave out those of the total field that lie close to one of the local field, or to a clearer one."""
    kept: list[tuple[dict, Source]] = []
    trees: list[KDTree] = []

    def rank(one: tuple[dict, Source]):
        return one[0]['moment_from'] == 'total field', -abs(one[0]['moment'] / one[0]['moment_se'])

    for row, source in sorted(rows, key=rank):
        places = source.voxels * brain.size
        if row['moment_from'] == 'total field' and any(
            np.isfinite(tree.query(places, distance_upper_bound=APART_MM)[0]).any() for tree in trees
        ):
            continue
        kept.append((row, source))
        trees.append(KDTree(places))
    return kept


def _rounded(row: dict):
    """Columns of the table: four digits, words for signs."""
    row = {name: float(f'{v:.4g}') if isinstance(v, float | np.floating) else v for name, v in row.items()}
    return row | {
        'sign': SIGNS[row['sign']],
        'reason': row['reason'] or 'n/a',
        'size_class': size_class(row['diameter_mm']),
        'beside_nucleus': 'yes' if row['dist_nucleus_mm'] <= BESIDE_MM else 'no',
    }
