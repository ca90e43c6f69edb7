"""What the susceptibility of a template should look like, where no susceptibility template is to be had."""

import re

import numpy as np
import pandas as pd
from scipy import ndimage

from bids_qsm.anatomy.transform import resample, spacing_of
from bids_qsm.recon.arrays import Array

TISSUE = {'CSF': 0.019, 'grey': 0.020, 'white': -0.030}
"""Susceptibility (ppm) of what lies between the nuclei."""

NUCLEI = {
    'Caudate': (0.044, 'caudate caudatenucleus ca caud cau'),
    'Putamen': (0.038, 'putamen pu put'),
    'Striatum': (0.041, 'striatum str'),
    'GP': (0.131, 'gp gpe gpi globuspallidus pallidum externalglobuspallidus internalglobuspallidus'),
    'RN': (0.100, 'rn rednucleus rubernucleus nucleusruber'),
    'SN': (0.111, 'sn snc snr substantianigra'),
    'STN': (0.111, 'stn sth subthalamicnucleus nucleussubthalamicus'),
    'Thalamus': (0.020, 'thalamus thalamusproper th tha thal'),
    'Dentate': (0.152, 'dentate dentatenucleus dn'),
}
"""Body of grey matter -> susceptibility (ppm), and the names by which atlases know it or its parts."""

_BODY = {alias: body for body, (_, aliases) in NUCLEI.items() for alias in aliases.split()}


def body_of(region: str):
    """Name of the body of grey matter that a region is, or is a part of; other regions keep their name.

    >>> body_of('GPi'), body_of('Substantia Nigra'), body_of('Hypothalamus')
    ('GP', 'SN', 'Hypothalamus')
    """
    return _BODY.get(re.sub('[^a-z]', '', str(region).lower()), str(region))


def share(dseg: Array, dseg_affine: Array, indices: list[int], shape: tuple[int, ...], affine: Array):
    """Share (0 to 1, float32) of every voxel of a grid that the labels ``indices`` hold.

    The label image may be finer or coarser than the grid, and lie obliquely to it.
    """
    part = np.isin(dseg, indices)
    if not part.any():
        return np.zeros(shape, np.float32)
    (box,) = ndimage.find_objects(part.astype(np.uint8))
    # A finer label image is averaged over the voxels of the grid.
    size = spacing_of(dseg_affine)
    spacing = spacing_of(affine).mean()
    sigma = np.sqrt(np.maximum((spacing / size) ** 2 - 1, 0)) / 2.355
    pad = np.ceil(3 * sigma).astype(int) + 1
    box = tuple(
        slice(max(b.start - p, 0), min(b.stop + p, n)) for b, p, n in zip(box, pad, part.shape, strict=True)
    )
    first = np.array(dseg_affine, float)
    first[:3, 3] += first[:3, :3] @ [b.start for b in box]
    part = np.pad(part[box].astype(np.float32), 1)
    first[:3, 3] -= first[:3, :3].sum(1)
    return resample(ndimage.gaussian_filter(part, sigma), first, shape, affine, [])


def prior_chi(
    template: Array,
    template_affine: Array,
    template_mask: Array,
    dseg: Array,
    dseg_affine: Array,
    labels: pd.DataFrame,
):
    """Susceptibility that a T1-weighted template and an atlas let one expect.

    Nuclei have values of the literature [1]_ by the region they are, or are a part of; all else, unknown
    regions included, has that of CSF, grey or white matter, or between these, by its T1-weighted brightness.

    Parameters
    ----------
    template : ndarray, 3D
        T1-weighted, free of bias.
    template_affine, dseg_affine : ndarray (4, 4)
        Voxel to world (mm), of one space.
    template_mask : ndarray of bool
        Brain of the template.
    dseg : ndarray of int
        Labels.
    labels : DataFrame
        Columns index and region.

    Returns
    -------
    ndarray of float32, shape of ``template``
        Susceptibility (ppm), 0 outside the brain.

    References
    ----------
    .. [1] Marques et al. (2021), MRM 86:526. doi:10.1002/mrm.28716
    """
    chi = np.interp(template, _classes(template[template_mask]), list(TISSUE.values())).astype(np.float32)
    chi *= template_mask
    bodies = labels['region'].map(body_of)
    for body, (value, _) in NUCLEI.items():
        indices = labels.loc[bodies == body, 'index'].tolist()
        if indices:
            amount = share(dseg, dseg_affine, indices, template.shape, template_affine) * template_mask
            chi += amount * (np.float32(value) - chi)
    return chi


def _classes(brightness: Array):
    """Mean brightness of CSF, grey and white matter: three means, from quantiles of a brain (1D)."""
    values = np.sort(brightness[:: max(1, brightness.size // 200_000)].astype(np.float64))
    means = np.quantile(values, (0.03, 0.4, 0.8))
    sums = np.concatenate([[0], np.cumsum(values)])
    for _ in range(100):
        cuts = np.searchsorted(values, (means[1:] + means[:-1]) / 2)
        edges = np.array([0, *cuts, values.size])
        count = np.diff(edges)
        new = np.where(count > 0, np.diff(sums[edges]) / np.maximum(count, 1), means)
        if np.allclose(new, means, rtol=1e-4):
            break
        means = new
    return means
