"""Susceptibility of a plug-in beside that of the classical methods."""

import numpy as np
import pandas as pd

from bids_qsm.plugins.flags import SHARE, residual
from bids_qsm.plugins.manifest import SOURCES
from bids_qsm.recon.grid import Grid

FEWEST = 3
"""Regions from which a slope is told."""
LEAST_VOXELS = 20
FAR = 1.5
"""How many times the residual of the classical map that of a plug-in may be without a warning."""
LEAST_RESIDUAL = 0.05
SLOPES = (0.8, 1.25)
"""Slopes of regional means without a warning."""
WRONG_SIGN = 0.005
"""How far (ppm) a source may lie on the wrong side of zero without counting."""
LARGEST_MISFIT = 40.0
"""Part of susceptibility (%) that the sum of both sources may miss without a warning: twice as much as the
worst of our own methods misses on blocks."""
WHOLE = 'whole mask'


Explained = tuple[np.ndarray, np.ndarray, np.ndarray]


def compare(chi: np.ndarray, classical: np.ndarray, mask: np.ndarray) -> dict:
    """How a map of a plug-in differs from the classical one, over the whole mask.

    Parameters
    ----------
    chi, classical : ndarray of float32, shape ``grid.shape``
        Susceptibility (ppm), both referenced.
    mask : ndarray of bool
        Where both are given.

    Returns
    -------
    dict
        MeanDifference (ppm), Slope (of the plug-in against the classical map) and NRMSE (%, relative to the
        classical map).
    """
    a, b = chi[mask].astype(float), classical[mask].astype(float)
    return {
        'MeanDifference': round(float((a - b).mean()), 5),
        'Slope': _rounded(_slope(b, a)),
        'NRMSE': _rounded(100 * _ratio(a - b, b)),
    }


def compare_residuals(plugin: Explained, classical: Explained, grid: Grid) -> dict:
    """How much of its local field each map does not explain.

    A constant within a mask has a field, and so has what a reference takes off, so that susceptibility must
    be as the inversion gave it.

    Parameters
    ----------
    plugin, classical : tuple of ndarray, each of shape ``grid.shape``
        Susceptibility without a reference (ppm), the local field that it was made of (ppm), and the mask.

    Returns
    -------
    dict
        Residual and ClassicalResidual: norm of D chi - f relative to f.
    """
    found = {'Residual': plugin, 'ClassicalResidual': classical}
    return {name: _rounded(residual(chi, field, mask, grid)) for name, (chi, field, mask) in found.items()}


def compare_regions(
    chi: np.ndarray, classical: np.ndarray, mask: np.ndarray, dseg: np.ndarray, labels: pd.DataFrame
) -> pd.DataFrame:
    """Mean susceptibility (ppm) of each region in both maps; of few voxels none.

    ``labels`` has index and name or region, with hemisphere; both sides are taken together.
    """
    name = 'region' if 'region' in labels else 'name'
    index = np.where(mask, dseg, 0).astype(int).ravel()
    size = max(int(index.max()), int(labels['index'].max())) + 1
    count = np.bincount(index, minlength=size)
    sums = [np.bincount(index, values.ravel(), size) for values in (chi, classical)]
    rows = []
    for region, part in labels.groupby(name, sort=False):
        own = part['index'].to_numpy(int)
        if count[own].sum() >= LEAST_VOXELS:
            means = (values[own].sum() / count[own].sum() for values in sums)
            rows.append((region, *means))
    return pd.DataFrame(rows, columns=['region', 'plugin', 'classical'])


def of_right_sign(sources: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Both sources without values of the wrong sign, and what is to say of those.

    ``sources`` (ppm) has the shape ``(2, *mask.shape)``: paramagnetic ones, 0 or more, and diamagnetic ones,
    0 or less.
    """
    flags = []
    for name, image, sign in zip(SOURCES, sources, (1, -1), strict=True):
        share = float(np.mean(sign * image[mask] < -WRONG_SIGN))
        if share > SHARE:
            what = 'negative' if sign > 0 else 'positive'
            flags.append(f'{share:.0%} of the voxels had {what} {name} sources, which were set to 0.')
    return np.stack([np.maximum(sources[0], 0), np.minimum(sources[1], 0)]), flags


def compare_sources(
    sources: np.ndarray,
    classical: np.ndarray | None,
    both: np.ndarray,
    chi: np.ndarray,
    mask: np.ndarray,
    dseg: np.ndarray,
    labels: pd.DataFrame,
) -> tuple[pd.DataFrame, list[str]]:
    """How the sources of a plug-in differ from classical ones, and their sum from susceptibility.

    Parameters
    ----------
    sources, classical : ndarray of float32, shape ``(2, *mask.shape)``
        Paramagnetic and diamagnetic susceptibility (ppm). Without classical ones the sum alone is compared.
    both : ndarray of bool
        Where both are given.
    chi : ndarray of float32
        Susceptibility (ppm) that was taken apart.
    mask, dseg, labels
        Where the plug-in gives sources, and regions as of `compare_regions`.

    Returns
    -------
    table : DataFrame
        source ('total': the sum, against chi), region, means (ppm) plugin, classical, difference; over the
        whole mask slope and nrmse (%) too.
    flags : list of str
        What speaks against the plug-in.
    """
    parts = [] if classical is None else zip(SOURCES, sources, classical, [both] * 2, strict=True)
    rows, flags = [], []
    for name, own, other, where in (*parts, ('total', sources.sum(0), chi, mask)):
        found = compare(own, other, where)
        row = {'source': name, 'region': WHOLE, 'plugin': own[where].mean(), 'classical': other[where].mean()}
        rows.append(pd.DataFrame([{**row, 'slope': found['Slope'], 'nrmse': found['NRMSE']}]))
        regions = compare_regions(own, other, where, dseg, labels)
        rows.append(regions.assign(source=name))
        if name == 'total':
            flags += _of_sum(found)
        else:
            said = findings_of_regions(regions)
            flags += [f'{name.capitalize()}: {one["found"]}' for one in said if one['level'] == 'warning']
    table = pd.concat(rows, ignore_index=True)
    return table.assign(difference=table['plugin'] - table['classical']).round(6), flags


def _of_sum(found: dict):
    slope, misfit = found['Slope'], found['NRMSE']
    is_near = slope is not None and SLOPES[0] <= slope <= SLOPES[1]
    if not is_near or misfit is None or misfit > LARGEST_MISFIT:
        yield (
            f'The sum of both sources is not the susceptibility that was taken apart: slope {_text(slope)}, '
            f'and it misses {_text(misfit, "%")}.'
        )


def findings_of_maps(found: dict) -> list[dict]:
    """Findings for the report on two maps, from what `compare` gives."""
    evidence = (
        f'Over the mask: mean difference {found["MeanDifference"]:+.4f} ppm, slope '
        f'{_text(found["Slope"])}, NRMSE {_text(found["NRMSE"], "%")}. Residual of the field: '
        f'{_text(found["Residual"])}, of the classical map '
        f'{_text(found["ClassicalResidual"])}.'
    )
    far = found['Residual'] is not None and found['Residual'] > max(
        FAR * (found['ClassicalResidual'] or 0), LEAST_RESIDUAL
    )
    return [
        _finding(
            'The map of the plug-in explains the local field much worse than the classical one.'
            if far
            else 'The map of the plug-in explains the local field about as well as the classical one.',
            evidence,
            far,
        )
    ]


def findings_of_regions(table: pd.DataFrame) -> list[dict]:
    """Findings for the report on the regional means of two maps."""
    if len(table) < FEWEST:
        return []
    x, y = table['classical'].to_numpy(float), table['plugin'].to_numpy(float)
    slope, difference = _slope(x, y), y - x
    half = 1.96 * float(difference.std(ddof=1))
    listed = ', '.join(f'{row.region} {row.plugin:.3f} / {row.classical:.3f}' for row in table.itertuples())
    odd = slope is None or not SLOPES[0] <= slope <= SLOPES[1]
    return [
        _finding(
            f'Regional means of the plug-in have a slope of {_text(slope)} against the classical map'
            + (', so that they must not be mixed with classical ones.' if odd else '.'),
            f'Mean difference {difference.mean():+.4f} ppm, limits of agreement '
            f'{difference.mean() - half:+.4f} to {difference.mean() + half:+.4f} ppm. '
            f'Plug-in / classical (ppm): {listed}.',
            odd,
        )
    ]


def _finding(found: str, evidence: str, is_warning: bool):
    return {
        'what': 'Plug-in and classical map',
        'found': found,
        'action': 'Look at both maps and their difference.',
        'evidence': evidence,
        'level': 'warning' if is_warning else 'info',
    }


def _slope(x: np.ndarray, y: np.ndarray) -> float | None:
    x = x - x.mean()
    square = float(x @ x)
    return float(x @ (y - y.mean())) / square if square > 0 else None


def _ratio(part: np.ndarray, whole: np.ndarray) -> float:
    scale = float(np.linalg.norm(whole - whole.mean()))
    return float(np.linalg.norm(part - part.mean())) / scale if scale > 0 else np.nan


def _rounded(value: float | None):
    return None if value is None or not np.isfinite(value) else round(float(value), 4)


def _text(value: float | None, unit: str = ''):
    return 'unknown' if value is None else f'{value:.2f}{unit and f" {unit}"}'
