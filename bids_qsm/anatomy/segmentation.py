"""What the labels of a segmentation mean, and the deep white matter of a template."""

import re
from collections.abc import Iterable
from importlib import resources

import numpy as np
import pandas as pd
from scipy import ndimage

from bids_qsm.anatomy.register import DEEP_GREY
from bids_qsm.anatomy.transform import spacing_of
from bids_qsm.recon.arrays import Array

COLUMNS = ['index', 'name', 'hemisphere', 'region']
"""Columns of a label table."""
SIDES = {'l': 'L', 'left': 'L', 'lh': 'L', 'r': 'R', 'right': 'R', 'rh': 'R'}

BIDS_TISSUES = {
    1: ('GM', 'Grey matter'),
    2: ('WM', 'White matter'),
    3: ('CSF', 'CSF'),
    4: ('B', 'Bone'),
    5: ('ST', 'Soft tissue'),
    6: ('NB', 'Non-brain'),
    7: ('L', 'Lesion'),
    8: ('CGM', 'Cortical grey matter'),
    9: ('SGM', 'Subcortical grey matter'),
    10: ('BS', 'Brainstem'),
    11: ('CBM', 'Cerebellum'),
}
"""What BIDS takes labels for that no table names: label -> abbreviation, region."""


def freesurfer():
    """Label table of FreeSurfer's aseg and aparc+aseg: index, name, hemisphere, region."""
    with resources.files('bids_qsm.data').joinpath('freesurfer.tsv').open() as file:
        return pd.read_csv(file, sep='\t', comment='#', keep_default_na=False)


def label_table(present: Iterable[int], table: pd.DataFrame | None = None, *, names: str = 'bids'):
    """Label table of a segmentation: one row a label that it holds.

    Parameters
    ----------
    present : sequence of int
        Labels of the image; 0 is no region.
    table : DataFrame, optional
        With columns index and name, as BIDS has it, and hemisphere ('L', 'R') and region where given. Those
        are else taken from FreeSurfer's names, or read from the name ('Left-Putamen').
    names : str
        What labels mean without a table: 'freesurfer', or 'bids' for its tissue classes.

    Returns
    -------
    DataFrame
        Columns index, name, hemisphere ('L', 'R' or empty) and region. A label that nothing names is called
        label-<n>.
    """
    if names not in ('bids', 'freesurfer'):
        raise ValueError(f'names of labels are those of bids or freesurfer, not {names!r}')
    if table is not None:
        known = _read(table)
    elif names == 'freesurfer':
        known = {row[0]: tuple(row[1:]) for row in freesurfer()[COLUMNS].itertuples(index=False)}
    else:
        known = {i: (short, '', region) for i, (short, region) in BIDS_TISSUES.items()}
    rows = [
        (i, *known.get(i, (f'label-{i}', '', f'label-{i}'))) for i in sorted({int(p) for p in present} - {0})
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _read(table: pd.DataFrame):
    """Name, hemisphere and region of each label of a BIDS table, by index."""
    standard = {row.name: (row.hemisphere, row.region) for row in freesurfer().itertuples(index=False)}
    found = {}
    for row in table.to_dict('records'):
        name = str(row['name']).strip()
        # older versions of FreeSurfer have a longer name
        side, region = standard.get(name.removesuffix('-Proper').removesuffix('*')) or side_and_region(name)
        given = str(row.get('hemisphere', '')).strip().lower()
        if 'hemisphere' in row:
            side = SIDES.get(given, '')
        found.setdefault(int(row['index']), (name, side, str(row.get('region') or region).strip()))
    return found


def side_and_region(name: str):
    """Hemisphere (L, R or empty) and region of a label's name.

    >>> side_and_region('Left-Putamen'), side_and_region('RN'), side_and_region('GPe_R')
    (('L', 'Putamen'), ('', 'RN'), ('R', 'GPe'))
    """
    words = re.split(r'[-_. ]+', name.strip())
    for at in (0, -1):
        side = SIDES.get(words[at].lower())
        if side and len(words) > 1:
            del words[at]
            return side, '-'.join(words)
    return '', '-'.join(words)


def white_matter(t1w: Array, mask: Array, affine: Array, *, depth_mm: float = 3.0):
    """Deep cerebral white matter of a template, to refer susceptibility to.

    White matter well inside its border, above the plane of the commissures (neither cerebellum nor brainstem)
    and outside the box of the deep grey matter, where the internal capsule lies between nuclei. White is the
    brightest of three classes of the T1w image [1]_.

    Parameters
    ----------
    t1w : ndarray, 3D
        The template.
    mask : ndarray of bool
        Its brain.
    affine : ndarray, shape (4, 4)
        Voxel to template coordinates (mm, RAS, MNI).
    depth_mm : float
        Least distance from what is not white matter.

    Returns
    -------
    ndarray of bool

    References
    ----------
    .. [1] Otsu (1979), IEEE Trans Syst Man Cybern 9:62. doi:10.1109/TSMC.1979.4310076
    """
    mask = np.asarray(mask, bool)
    white = mask & (np.asarray(t1w) > _brightest(t1w[mask]))
    # single dark voxels (noise, small vessels) are no border
    white = ndimage.binary_closing(white) & mask
    size = spacing_of(affine)
    deep = ndimage.distance_transform_edt(white, size) > depth_mm
    places = np.indices(mask.shape, np.float32, sparse=True)
    x, y, z = (sum(affine[k, a] * places[a] for a in range(3)) + affine[k, 3] for k in range(3))
    (x0, y0, z0), (x1, y1, z1) = DEEP_GREY
    near = (x > x0) & (x < x1) & (y > y0) & (y < y1) & (z > z0) & (z < z1)
    return deep & (z > 0) & ~near


def _brightest(values: Array, bins: int = 128):
    """Upper one of the two thresholds that part values into three classes of least variance (Otsu)."""
    low, high = np.percentile(values, (0.5, 99.5))
    counts, edges = np.histogram(values, bins, (low, high))
    weight = np.concatenate([[0], np.cumsum(counts)]).astype(float)
    total = np.concatenate([[0], np.cumsum(counts * (edges[1:] + edges[:-1]) / 2)])
    first, second = np.meshgrid(np.arange(1, bins), np.arange(1, bins), indexing='ij')

    def between(a: Array, b: Array):
        share = weight[b] - weight[a]
        return (total[b] - total[a]) ** 2 / np.maximum(share, 1)

    start, end = np.zeros_like(first), np.full_like(first, bins)
    score = between(start, first) + between(first, second) + between(second, end)
    score[second <= first] = -np.inf
    return edges[np.unravel_index(score.argmax(), score.shape)[1] + 1]
