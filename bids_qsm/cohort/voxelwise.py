"""Group statistics in each voxel of template space: smoothing within tissue, linear model, thresholds."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy import ndimage, special, stats

from bids_qsm.anatomy.transform import spacing_of

METHODS = ('fdr', 'permutation')

COLUMNS = {
    'cluster': {'Description': 'Index of the cluster, the highest |z| first.'},
    'x': {'Description': 'Place of the peak, from left to right.', 'Units': 'mm'},
    'y': {'Description': 'Place of the peak, from back to front.', 'Units': 'mm'},
    'z': {'Description': 'Place of the peak, from bottom to top.', 'Units': 'mm'},
    'region': {'Description': 'Region of the atlas that is nearest to the peak.'},
    'region_distance_mm': {'Description': 'From the peak to that region; 0 inside it.', 'Units': 'mm'},
    'effect': {'Description': 'Effect at the peak, in the unit of the map.'},
    'effect_se': {'Description': 'Standard error of the effect at the peak, in the unit of the map.'},
    't': {'Description': "Student's t at the peak."},
    'dof': {'Description': 'Residual degrees of freedom at the peak.'},
    'z_score': {'Description': 'Normal deviate of the same two-sided p value as t.'},
    'p_corrected': {'Description': 'p at the peak, corrected for the number of voxels by the method named.'},
    'size_mm3': {'Description': 'Volume of the cluster.', 'Units': 'mm^3'},
}
"""Data dictionary of the table of clusters."""

_LEAST_DOF = 3
_CHUNK = 40  # edge of the small image that passes voxels to nilearn, 64000 at a time


@dataclass(frozen=True)
class SecondLevel:
    """Result of a test in each voxel.

    ``images`` holds arrays on the grid of the input, zero outside ``tested``: effect (unit of the map, per
    unit of the term), t, z, logp (-log10 of the corrected p) and thresholded (z where that p is below
    ``alpha``); none where the term could not be tested. ``n`` participants were used, ``notes`` says who was
    left out and why.
    """

    images: dict = field(default_factory=dict)
    tested: np.ndarray | None = None
    clusters: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(COLUMNS)))
    n: int = 0
    alpha: float = np.nan
    notes: tuple = ()


def smooth_within(
    chi: np.ndarray, mask: np.ndarray, grid_spacing: Sequence[float] | np.ndarray, fwhm_mm: float
):
    r"""Smooth a map by a Gaussian within the mask alone (normalised convolution) [1]_.

    .. math:: \frac{G * (m \chi)}{G * m}

    Parameters
    ----------
    chi : ndarray, 3D
    mask : ndarray of bool
        Tissue that was measured.
    grid_spacing : sequence of 3 float
        Size of a voxel (mm).
    fwhm_mm
        Full width at half maximum (mm); 0 only masks.

    Returns
    -------
    ndarray of float32, zero outside the mask.

    References
    ----------
    .. [1] Knutsson & Westin (1993), Proc CVPR, 515. doi:10.1109/CVPR.1993.341081
    """
    mask = np.asarray(mask, bool)
    inside = np.where(mask, chi, 0).astype(np.float32)
    if fwhm_mm == 0:
        return inside
    sigma = fwhm_mm / np.sqrt(8 * np.log(2)) / np.asarray(grid_spacing, float)
    weight = ndimage.gaussian_filter(mask.astype(np.float32), sigma)
    smooth = ndimage.gaussian_filter(inside, sigma)
    return np.divide(smooth, weight, out=np.zeros_like(smooth), where=mask)


def second_level(
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    affine: np.ndarray,
    design: pd.DataFrame,
    term: str,
    dseg: np.ndarray | None = None,
    labels: pd.DataFrame | None = None,
    *,
    method: str = 'fdr',
    alpha: float = 0.05,
    coverage: float = 0.8,
    least_coverage: float = 0.5,
    n_perm: int = 1000,
    seed: int = 0,
):
    """Test one column of a design in each voxel, one image a participant, two-sided.

    A voxel is tested where ``coverage`` of the participants were measured, by ordinary least squares over
    those who were, with their degrees of freedom. ``method`` 'fdr' controls the false discovery rate [1]_;
    'permutation' the chance of any false voxel, by the largest absolute t of permuted residuals [2]_, in the
    voxels that every participant has (permuted gaps would not be exchangeable).

    Parameters
    ----------
    images, masks : sequence of ndarray, 3D, all of one shape
        Smoothed map and where it was measured, of one participant each: sessions are averaged before. Read
        one by one, so that they may be loaded when asked for.
    affine : ndarray (4, 4)
        Voxel to template space (mm).
    design : DataFrame
        One row an image, numbers only, the intercept included; its index names the participants.
    term
        Column of ``design``.
    dseg : ndarray of int, optional
        Regions on the grid of the images, to name the peaks by.
    labels : DataFrame, optional
        Columns index, name.
    method, alpha
        'fdr' or 'permutation', and the corrected p that it is held to.
    coverage : float
        Share of the participants that must have a voxel.
    least_coverage : float
        Participants who have less than this share of these voxels, as of a thin slab, are left out.
    n_perm, seed : int
        Number of permutations, and their seed.

    Returns
    -------
    SecondLevel
        Without images where the term cannot be tested, and a note that says why.

    References
    ----------
    .. [1] Genovese et al. (2002), NeuroImage 15:870. doi:10.1006/nimg.2001.1037
    .. [2] Winkler et al. (2014), NeuroImage 92:381. doi:10.1016/j.neuroimage.2014.01.060
    """
    if method not in METHODS:
        raise ValueError(f'method is {method!r}; it must be one of {METHODS}')
    notes = []
    used, tested = _coverage(masks, list(design.index), coverage, least_coverage, notes)
    design = design.iloc[used]
    matrix, reason = _estimable(design, term, notes)
    if matrix is not None and not tested.any():
        reason = f'No voxel was measured in {100 * coverage:.0f} % of the participants.'
    if reason:
        return SecondLevel(n=len(used), notes=(*notes, reason))
    values = np.zeros((len(used), int(tested.sum())), np.float32)
    observed = np.zeros(values.shape, bool)
    for row, i in enumerate(used):
        found = np.asarray(images[i])[tested]
        observed[row] = np.asarray(masks[i], bool)[tested] & np.isfinite(found)
        values[row] = np.where(observed[row], found, 0)
    if method == 'permutation':
        whole = observed.all(0)
        if not whole.any():
            reason = 'No voxel was measured in every participant, as permutations need; use fdr.'
            return SecondLevel(n=len(used), notes=(*notes, reason))
        if not whole.all():
            notes.append(
                f'Permutations use the {whole.sum()} voxels that every participant has, of {whole.size} '
                f'that {100 * coverage:.0f} % have.'
            )
        tested[tested] = whole
        values, observed = values[:, whole], observed[:, whole]
    effect, error, dof = _fit(values, observed, matrix, 0)
    sound = np.isfinite(error) & (error > 0) & (dof >= _LEAST_DOF)
    tested[tested] = sound
    effect, error, dof = effect[sound], error[sound], dof[sound]
    if not sound.any():
        return SecondLevel(n=len(used), notes=(*notes, f'{term}: no voxel varies between participants.'))
    t = effect / error
    p = 2 * stats.t.sf(np.abs(t), dof)
    if method == 'fdr':
        logp = -np.log10(np.maximum(stats.false_discovery_control(p), 1e-300))
    else:
        logp = _permute(values[:, sound], matrix, n_perm, seed)
        _say_how_many(matrix, alpha, notes)
    z = np.sign(t) * stats.norm.isf(np.maximum(p, 1e-300) / 2)
    found = {'effect': effect, 't': t, 'z': z, 'logp': logp}
    found['thresholded'] = np.where(logp > -np.log10(alpha), z, 0)
    maps = {name: _unfold(v, tested) for name, v in found.items()}
    side = {'se': _unfold(error, tested), 'dof': _unfold(dof, tested)}
    clusters = _clusters(maps, side, affine, dseg, labels)
    return SecondLevel(maps, tested, clusters, len(used), alpha, tuple(notes))


def _coverage(masks: Sequence[np.ndarray], names: list, coverage: float, least: float, notes: list[str]):
    """Participants that are used, and the voxels that enough of them have."""
    used = list(range(len(names)))
    for _ in range(2):  # once more without those left out, whose coverage no longer counts
        count = sum(np.asarray(masks[i], np.int32) for i in used)
        tested = count >= max(np.ceil(coverage * len(used) - 1e-9), 1)
        shares = [np.asarray(masks[i], bool)[tested].mean() if tested.any() else 0.0 for i in used]
        slabs = [i for i, share in zip(used, shares, strict=True) if share < least]
        if not slabs or not tested.any():
            break
        notes.append(
            f'Left out, as they have less than {100 * least:.0f} % of the voxels that '
            f'{100 * coverage:.0f} % of the participants have: {", ".join(str(names[i]) for i in slabs)}.'
        )
        used = [i for i in used if i not in slabs]
    return used, tested


def _estimable(design: pd.DataFrame, term: str, notes: list[str]):
    """The design, ``term`` first and without redundant columns, or None and why it cannot be tested."""
    full = design.to_numpy(float)
    size = np.sqrt((full**2).sum(0))
    scaled = full / np.where(size > 0, size, 1)
    # by position: the columns of a curve share one name
    names, kept = list(design), []
    at = names.index(term)
    for j in range(len(names)):
        if j == at:
            continue
        if np.linalg.matrix_rank(scaled[:, [*kept, j]], tol=1e-7) > len(kept):
            kept.append(j)
        else:
            notes.append(f'{names[j]} follows from the other columns of the model and was left out.')
    columns = scaled[:, [at, *kept]]
    n, k = columns.shape
    if n - k < _LEAST_DOF:
        return None, f'{term} was not tested: {n} participants are too few for {k} columns.'
    if np.linalg.matrix_rank(columns, tol=1e-7) < k:
        why = 'is the same for all' if np.ptp(full[:, at]) == 0 else 'follows from the other columns'
        return None, f'{term} was not tested: it {why} of the {n} participants.'
    lean = np.linalg.qr(columns)[0]
    for i in np.flatnonzero((lean**2).sum(1) > 1 - 1e-7):
        # without a participant of full leverage some column becomes redundant: is it this one?
        rest = np.delete(columns, i, 0)
        if np.linalg.matrix_rank(rest, tol=1e-7) == np.linalg.matrix_rank(rest[:, 1:], tol=1e-7):
            return None, f'{term} was not tested: it depends on one participant, {design.index[i]}.'
    return full[:, [at, *kept]], ''


def _fit(values: np.ndarray, observed: np.ndarray, matrix: np.ndarray, column: int):
    """Effect, its standard error and degrees of freedom in each voxel, over the participants who have it."""
    n, k = matrix.shape
    effect = np.full(values.shape[1], np.nan)
    error, dof = effect.copy(), np.full(values.shape[1], n - k)
    for start in range(0, values.shape[1], _CHUNK**3):
        part = slice(start, start + _CHUNK**3)
        filled, wider, count = _complete(values[:, part], observed[:, part], matrix, column)
        effect[part], variance = _nilearn(filled, matrix, column)
        dof[part] = count - k
        # filled values lie on the fit and add nothing to the residuals
        spread = (n - k) / np.maximum(count - k, 1)
        error[part] = np.sqrt(variance * spread * wider)
    return effect, error, dof


def _complete(values: np.ndarray, observed: np.ndarray, matrix: np.ndarray, column: int):
    """Fill gaps with the fit to the others, which does not change the estimates.

    Returns the filled values, the factor by which missing participants increase the variance of the
    coefficient of ``column`` (NaN where it cannot be estimated), and the number of participants.
    """
    count = observed.sum(0)
    wider = np.ones(values.shape[1])
    gaps = np.flatnonzero(count < len(values))
    if not gaps.size:
        return values, wider, count
    scaled = matrix / np.sqrt((matrix**2).sum(0))
    weight = observed[:, gaps].astype(float)
    normal = np.einsum('nv,ni,nj->vij', weight, scaled, scaled, optimize=True)
    sound = np.linalg.eigvalsh(normal)[:, 0] > 1e-8
    inverse = np.full(normal.shape, np.nan)
    inverse[sound] = np.linalg.inv(normal[sound])
    wider[gaps] = inverse[:, column, column] / np.linalg.inv(scaled.T @ scaled)[column, column]
    moment = np.einsum('nv,ni->vi', weight * values[:, gaps], scaled)
    fitted = scaled @ np.einsum('vij,vj->iv', np.nan_to_num(inverse), moment)
    values = values.copy()
    values[:, gaps] = np.where(observed[:, gaps], values[:, gaps], fitted)
    return values, wider, count


def _nilearn(values: np.ndarray, matrix: np.ndarray, column: int):
    """Effect and its variance by nilearn's second-level model; voxels are passed as a small image."""
    from nibabel import Nifti1Image
    from nilearn.glm.second_level import SecondLevelModel

    n, n_voxels = values.shape
    shape = (_CHUNK, _CHUNK, -(-n_voxels // _CHUNK**2))
    volume = np.zeros((np.prod(shape), n), np.float32)
    volume[:n_voxels] = values.T
    inside = np.zeros(np.prod(shape), np.uint8)
    inside[:n_voxels] = 1
    model = SecondLevelModel(mask_img=Nifti1Image(inside.reshape(shape), np.eye(4)))
    names = [f'column{i}' for i in range(matrix.shape[1])]
    # scaled to 1: values in ppm are near the tolerances of nilearn and scipy
    scale = float(np.abs(values).max()) or 1.0
    model.fit(
        Nifti1Image((volume / scale).reshape(*shape, n), np.eye(4)),
        design_matrix=pd.DataFrame(matrix, columns=names),
    )
    out = model.compute_contrast(np.eye(matrix.shape[1])[column], output_type='all')
    effect, variance = (
        np.asarray(out[name].dataobj, float).reshape(-1)[:n_voxels]
        for name in ('effect_size', 'effect_variance')
    )
    return effect * scale, variance * scale**2


def _permute(values: np.ndarray, matrix: np.ndarray, n_perm: int, seed: int):
    """-log10 of p corrected by the largest |t| of permuted residuals."""
    from nilearn.mass_univariate import permuted_ols

    values = values / (float(np.abs(values).max()) or 1.0)
    constant = np.ptp(matrix, axis=0) == 0
    # given a constant column, nilearn flips signs in place of permuting rows
    others = matrix[:, 1:][:, ~constant[1:]]
    found = permuted_ols(
        np.ascontiguousarray(matrix[:, :1]),
        values,
        confounding_vars=np.ascontiguousarray(others) if others.shape[1] else None,
        model_intercept=bool(constant[1:].any()),
        n_perm=n_perm,
        two_sided_test=True,
        random_state=seed,
        n_jobs=1,
    )
    return np.ravel(found['logp_max_t']).astype(float)


def _say_how_many(matrix: np.ndarray, alpha: float, notes: list[str]):
    """Note where a small sample has too few arrangements for the threshold."""
    values, counts = np.unique(matrix[:, 0], return_counts=True)
    n = len(matrix)
    arrangements = special.comb(n, counts[0]) if len(values) == 2 else special.factorial(n)
    # swapping two groups of equal size changes only the sign of t
    least = (2 if len(values) == 2 and counts[0] == counts[1] else 1) / arrangements
    if least > alpha / 20:
        notes.append(
            f'{n} participants can be arranged in {arrangements:.0f} ways only: p has coarse steps, and '
            f'cannot be smaller than {least:.2g}.'
        )


def _unfold(values: np.ndarray, tested: np.ndarray):
    out = np.zeros(tested.shape, np.float32)
    out[tested] = values
    return out


def _clusters(
    maps: dict[str, np.ndarray],
    side: dict[str, np.ndarray],
    affine: np.ndarray,
    dseg: np.ndarray | None,
    labels: pd.DataFrame | None,
):
    """A row for each face-connected cluster of one sign in the thresholded map."""
    kept = maps['thresholded']
    rows = []
    for sign in (1, -1):
        pieces, n = ndimage.label(sign * kept > 0)
        sizes = np.bincount(pieces.ravel(), minlength=n + 1)
        peaks = ndimage.maximum_position(np.abs(kept), pieces, range(1, n + 1))
        rows += [(peak, sizes[i]) for i, peak in enumerate(peaks, start=1)]
    rows.sort(key=lambda row: -abs(kept[row[0]]))
    volume = abs(np.linalg.det(affine[:3, :3]))
    name = _namer(affine, dseg, labels)
    table = []
    for index, (peak, size) in enumerate(rows, start=1):
        x, y, z = (affine @ (*peak, 1))[:3]
        values = [float(image[peak]) for image in (maps['effect'], side['se'], maps['t'])]
        values += [int(side['dof'][peak]), float(maps['z'][peak]), 10 ** -float(maps['logp'][peak])]
        table.append((index, x, y, z, *name(peak), *values, size * volume))
    return pd.DataFrame(table, columns=list(COLUMNS))


def _namer(affine: np.ndarray, dseg: np.ndarray | None, labels: pd.DataFrame | None):
    """Return a function that gives the region nearest to a voxel and its distance (mm)."""
    if dseg is None or not np.any(dseg):
        return lambda peak: ('n/a', np.nan)  # noqa: ARG005
    names = {} if labels is None else dict(zip(labels['index'], labels['name'], strict=True))
    spacing = spacing_of(affine)
    away, nearest = ndimage.distance_transform_edt(np.asarray(dseg) == 0, spacing, return_indices=True)

    def name(peak: tuple[int, ...]):
        index = int(dseg[tuple(nearest[(slice(None), *peak)])])
        return names.get(index, f'label-{index}'), float(away[peak])

    return name
