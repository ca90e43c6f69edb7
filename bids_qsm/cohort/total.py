"""Total metal of a region beside its mean: susceptibility times volume.

Where tissue is lost and its iron is not, the mean rises though nothing was added.
"""

import numpy as np
import pandas as pd

from bids_qsm.cohort.observations import KEYS
from bids_qsm.cohort.tables import BORDER, ERRORS, SHIFTED, VALUES, ZEROS

TOTAL, VOLUME = 'chi_total', 'volume'
SYMBOLS = {TOTAL: 'total χ', VOLUME: 'volume'}
"""Names of the two maps in charts and pages."""
ABOUT = {
    TOTAL: 'chi_total: susceptibility (ppb) times volume (ml), of what lies in the region in all.',
    VOLUME: 'volume: of the region (ml).',
}
_NOT_OF_TISSUE = ('Brain', 'CSF', 'White matter', 'lesion')
_LEAST_COVERAGE = 0.9
_MM3 = 1e-3  # ml


def add_total(long: pd.DataFrame) -> pd.DataFrame:
    """Add rows of the maps chi_total (ppb ml) and volume (ml) for each row of susceptibility with a volume.

    Each statistic of chi_total is that of chi times the volume, so it depends on the zero of susceptibility
    too. A region of which less than 90 % was measured has no total. CSF, white matter, the whole brain and
    lesions have none either.

    Parameters
    ----------
    long : DataFrame
        From :func:`bids_qsm.cohort.tables.gather` and the joins.
    """
    if 'volume_mm3' not in long:
        return long
    volume = pd.to_numeric(long['volume_mm3'], errors='coerce').to_numpy(float) * _MM3
    kept = (long['map'] == 'chi').to_numpy() & (volume > 0) & ~long['region'].isin(_NOT_OF_TISSUE).to_numpy()
    if 'coverage' in long:
        kept &= ~(pd.to_numeric(long['coverage'], errors='coerce') < _LEAST_COVERAGE).to_numpy()
    if not kept.any():
        return long
    total, own = long[kept].copy(), volume[kept]
    # what an error of the border makes of a volume is larger, and not known
    summed = (*VALUES, 'mean_positive')
    unknown = [
        c for c in (*ERRORS, *ZEROS, *SHIFTED, BORDER, 'sd', 'core_sd') if c in long and c not in summed
    ]
    total[unknown] = np.nan
    size = total.copy()
    total['map'], total['units'] = TOTAL, 'ppb ml'
    size['map'], size['units'] = VOLUME, 'ml'
    for column in (c for c in summed if c in long):
        there = pd.to_numeric(total[column], errors='coerce')
        total[column] = 1e3 * there * own
        size[column] = np.where(there.notna(), own, np.nan)
    return pd.concat([long, total, size], ignore_index=True)


def disagreement(table: pd.DataFrame, by: str, estimate: str, low: str, high: str) -> pd.DataFrame:
    """Set the change of the mean of each region beside that of its total, and say whether they agree.

    Parameters
    ----------
    table : DataFrame
        Columns atlas, map, region, hemisphere, ``by`` (group or arm), and the estimate of a change with the
        ends of its interval, of the maps chi, chi_total and volume.

    Returns
    -------
    DataFrame
        One row a region and level of ``by`` that have both: estimates and intervals named
        ``mean``, ``mean_low``, ``mean_high``, ``total``, ...; ``volume`` likewise; and ``verdict``: both
        rise, both fall, neither changes, opposite, mean only, or total only.
    """
    keys = [*(k for k in KEYS if k != 'map'), by]
    parts = []
    for name, of in (('mean', 'chi'), ('total', TOTAL), ('volume', VOLUME)):
        rows = table.loc[table['map'] == of, [*keys, estimate, low, high]]
        rows = rows.rename(columns={estimate: name, low: f'{name}_low', high: f'{name}_high'})
        parts.append(rows.assign(**{k: rows[k].fillna('') for k in keys}))
    found = parts[0].merge(parts[1], on=keys).merge(parts[2], on=keys, how='left')
    found = found.dropna(subset=['mean_low', 'total_low'])
    signs = {}
    for name in ('mean', 'total'):
        rises, falls = found[f'{name}_low'] > 0, found[f'{name}_high'] < 0
        signs[name] = rises.to_numpy(int) - falls.to_numpy(int)
    mean, total = signs['mean'], signs['total']
    verdict = np.select(
        [mean * total < 0, (mean != 0) & (total == 0), (mean == 0) & (total != 0), mean > 0, mean < 0],
        ['opposite', 'mean only', 'total only', 'both rise', 'both fall'],
        'neither changes',
    )
    return found.assign(verdict=verdict)
