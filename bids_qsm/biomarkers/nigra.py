"""Distribution of susceptibility in the substantia nigra, and its nigrosome-1, one row a side."""

import numpy as np
import pandas as pd
from scipy import ndimage

from bids_qsm.biomarkers.border import border_slope
from bids_qsm.biomarkers.nigra_frame import Nigra, nigrae
from bids_qsm.biomarkers.nigrosome import Nigrosome, find_nigrosomes
from bids_qsm.biomarkers.precision import Correlation, fit_correlation, shared_variance
from bids_qsm.biomarkers.region_columns import BORDER_MM
from bids_qsm.recon.grid import Grid

PERCENTILES = (10, 50, 90)
LABEL_MM = 0.4
"""Standard deviation (mm) of the border of labels of unknown source."""
STEP_PPB = 10.0
"""Shift of the zero whose effect on the share is tabulated."""
LOOKUP = ((1, 'substantia nigra'), (2, 'place of nigrosome-1'), (3, 'low in it'))
"""Index and name of the labels of the image."""
_MARGIN = 2
_PARTS = {'sn': 'the nigra', 'lower': 'the nigra below the red nucleus'}


def columns(threshold: float = 70.0) -> dict[str, tuple[str, str]]:
    """Description and units of each column of `nigra_table`."""
    found = {
        'hemisphere': ('L or R.', ''),
        'reference': ('Region whose susceptibility is zero.', ''),
        'threshold': (f'Threshold of the shares; {threshold:g} unless the user gave another.', 'ppb'),
    }
    for part, name in _PARTS.items():
        found |= {
            f'{part}_voxels': (f'Voxels of {name} inside the mask.', 'voxels'),
            f'{part}_mean': (f'Mean susceptibility of {name}.', 'ppb'),
            **{f'{part}_p{q}': (f'{q}th percentile of {name}.', 'ppb') for q in PERCENTILES},
            f'{part}_below': (f'Share of {name} below the threshold.', '%'),
            f'{part}_below_se': ('Its standard error: correlated noise, and place of the border.', '%'),
            f'{part}_below_per_{STEP_PPB:.0f}ppb': (
                f'By how much that share rises if the zero of the map lies {STEP_PPB:.0f} ppb higher.',
                '%',
            ),
        }
    return found | {
        'n1_contrast': (
            'Susceptibility of the lens that fits best in the place of nigrosome-1 less that of the nigra '
            'around it: negative where there is a nigrosome.',
            'ppb',
        ),
        'n1_contrast_se': ('Its standard error, from the same fit in the rest of both nigrae.', 'ppb'),
        'n1_volume': (
            'Volume of the voxels below half the contrast; of no meaning where it is not seen.',
            'mm^3',
        ),
        'n1_volume_se': ('Half its change by two standard errors of the contrast.', 'mm^3'),
        'n1_visible': ('Minus the contrast over its standard error.', ''),
        'n1_finding': ('seen, unclear, not seen (by n1_visible), or not assessable.', ''),
        'n1_weaker_side': (
            'Side with the weaker nigrosome: L or R where one is seen and the other not, or one is seen and '
            'contrasts differ by two standard errors; else n/a.',
            '',
        ),
        'reason': ('Why something was not measured.', ''),
    }


def nigra_table(
    chi: np.ndarray,
    mask: np.ndarray,
    dseg: np.ndarray,
    labels: pd.DataFrame,
    grid: Grid,
    affine: np.ndarray,
    reference: str,
    *,
    threshold: float = 70.0,
) -> tuple[np.ndarray, pd.DataFrame]:
    """Measure both nigrae and their nigrosome-1.

    Parameters
    ----------
    chi : ndarray
        Susceptibility (ppm).
    mask : ndarray of bool
    dseg : ndarray of int
        Labels of the nuclei, with substantia nigra and red nucleus.
    labels : DataFrame
        Columns index, hemisphere, region; optionally source.
    affine : ndarray, shape (4, 4)
        Voxel to scanner coordinates (mm).
    reference : str
        Region whose susceptibility is zero.
    threshold : float
        ppb.

    Returns
    -------
    image : ndarray of int32
        Labels of `LOOKUP`.
    table : DataFrame
        Two rows, see `columns`.
    """
    mask = mask & np.isfinite(chi)
    found, why = nigrae(dseg, labels, mask, affine)
    image = np.zeros(dseg.shape, np.int32)
    base = {'reference': reference or 'n/a', 'threshold': threshold}
    names = list(columns())
    if why:
        rows = [{'hemisphere': side, **base, 'n1_finding': 'not assessable', 'reason': why} for side in 'LR']
        return image, pd.DataFrame(rows).reindex(columns=names)
    nigrosomes = find_nigrosomes(chi, found, grid, affine)
    weaker = _weaker(nigrosomes)
    border = _border_mm(labels)
    regions = {side: _regions(one, dseg.shape) for side, one in found.items()}
    boxes = [ndimage.find_objects(parts['sn'].astype(np.uint8))[0] for parts in regions.values()]
    pooled = [(box, parts['sn'][box]) for box, parts in zip(boxes, regions.values(), strict=True)]
    correlation = fit_correlation(chi, pooled, grid)
    rows = []
    for side, seen in nigrosomes.items():
        image[regions[side]['sn']] = 1
        for index, voxels in ((2, seen.place), (3, seen.low if seen.finding != 'not seen' else None)):
            if voxels is not None:
                image[tuple(voxels.T)] = index
        rows.append(
            {
                'hemisphere': side,
                **base,
                **{
                    key: value
                    for part, region in regions[side].items()
                    for key, value in _share(chi, region, mask, grid, correlation, threshold, border, part)
                },
                'n1_contrast': 1e3 * seen.contrast,
                'n1_contrast_se': 1e3 * seen.contrast_se,
                'n1_volume': seen.volume,
                'n1_volume_se': seen.volume_se,
                'n1_visible': seen.visible,
                'n1_finding': seen.finding,
                'n1_weaker_side': weaker,
                'reason': seen.reason or 'n/a',
            }
        )
    table = pd.DataFrame(rows)[names]
    numbers = table.select_dtypes('float').columns
    table[numbers] = table[numbers].map(lambda value: float(f'{value:.5g}'))
    return image, table


def _weaker(found: dict[str, Nigrosome]) -> str:
    """Side whose nigrosome is weaker, where one is seen and the other not seen, or they differ by two SE."""
    left, right = found['L'], found['R']
    if left.reason or right.reason or 'seen' not in (left.finding, right.finding):
        return 'n/a'
    apart = (left.contrast - right.contrast) / np.hypot(left.contrast_se, right.contrast_se)
    if 'not seen' not in (left.finding, right.finding) and abs(apart) < 2:
        return 'n/a'
    return 'L' if apart > 0 else 'R'


def _border_mm(labels: pd.DataFrame) -> float:
    nigra = labels[labels['region'].isin(('SN', 'SNc', 'SNr'))]
    if 'source' not in labels or nigra.empty:
        return LABEL_MM
    return max(BORDER_MM.get(source, LABEL_MM) for source in nigra['source'])


def _regions(nigra: Nigra, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    whole, lower = np.zeros(shape, bool), np.zeros(shape, bool)
    whole[tuple(nigra.index.T)] = True
    lower[tuple(nigra.index[nigra.lower].T)] = True
    return {'sn': whole, 'lower': lower}


def _share(
    chi: np.ndarray,
    region: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    correlation: Correlation,
    threshold: float,
    border_mm: float,
    part: str,
):
    """Names and values of the columns of a part of the nigra."""
    box = tuple(
        slice(max(b.start - _MARGIN, 0), b.stop + _MARGIN)
        for b in ndimage.find_objects(region.astype(np.uint8))[0]
    )
    chi, region, mask = chi[box], region[box], mask[box]
    values = 1e3 * chi[region].astype(np.float64)
    below = (1e3 * chi < threshold).astype(np.float32)
    share = float((values < threshold).mean())
    shared = shared_variance(region, correlation, grid)
    noise = np.sqrt(share * (1 - share) * shared / (1 - shared)) if shared < 1 else np.nan
    error = np.hypot(noise, border_slope(below, (region,), mask, grid).error(border_mm))
    up, down = ((values + d < threshold).mean() for d in (-STEP_PPB, STEP_PPB))
    yield f'{part}_voxels', int(region.sum())
    yield f'{part}_mean', float(values.mean())
    for q, value in zip(PERCENTILES, np.percentile(values, PERCENTILES), strict=True):
        yield f'{part}_p{q}', float(value)
    yield f'{part}_below', 100 * share
    yield f'{part}_below_se', 100 * float(error)
    yield f'{part}_below_per_{STEP_PPB:.0f}ppb', 50 * float(up - down)
