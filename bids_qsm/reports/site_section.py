"""Section of the cohort page on the effects of sites."""

import numpy as np
import pandas as pd

from bids_qsm.cohort.observations import as_text
from bids_qsm.plotting.site_charts import plot_site_effects, plot_site_values
from bids_qsm.reports.blocks import (
    FOLD,
    PANELS,
    by_region,
    charted,
    figure,
    grid,
    in_order,
    parts,
    section,
    words,
)

_TABLE = {'region': 'region', 'site': 'site', 'n_participants': 'n', 'shift': 'shift', 'shift_se': 'SE'}
_TABLE |= {'effect': 'shift (SD)', 'effect_left': 'left (SD)', 'scale': 'scale', 'scale_se': 'SE of scale'}
_TABLE |= {'scale_left': 'scale left'}
_CLEAR = 2.0
"""Standard errors from which a shift is called one."""


def sites_section(
    effects: pd.DataFrame,
    values: pd.DataFrame,
    *,
    site: str,
    statistic: str,
    notes: list[str],
    files: list[str],
) -> dict:
    """Shift and scale of each site, before and after ComBat."""
    said, blocks, answers = words('sites'), [], []
    effects = effects.assign(
        effect_raw=effects['shift_raw'] / effects['spread'], error=effects['shift_raw_se'] / effects['spread']
    )
    values = values.assign(site=as_text(values[site]), value=values[statistic])
    whole = values[values['hemisphere'].fillna('both').isin(['both', '']) & values['value'].notna()]
    for key, title, unit, rows in parts(effects):
        answers.append(_answer(title, unit, rows))
        own = whole[whole['map'] == rows['map'].iloc[0]]
        if 'atlas' in own and pd.notna(rows['atlas'].iloc[0]):
            own = own[own['atlas'] == rows['atlas'].iloc[0]]
        own = by_region(own, in_order(own['region']))
        drawn, cut = charted(own, (), PANELS)
        svg = plot_site_values(drawn, ylabel=f'{title} ({unit})')
        blocks.append(figure(f'sites-values-{key}', f'{title} by site', svg, said['values'] + cut))
        drawn, cut = charted(rows)
        svg = plot_site_effects(drawn)
        blocks.append(figure(f'sites-effects-{key}', f'{title}: shifts of sites', svg, said['effects'] + cut))
        heading = f'{title}: shift ({unit}) and scale'
        blocks.append(grid(heading, rows, columns=_TABLE, caption=said['table'], folded=len(rows) > FOLD))
    return section(
        'sites', question=said['question'], answers=answers, blocks=blocks, notes=notes, files=files
    )


def _answer(title: str, unit: str, rows: pd.DataFrame) -> str:
    clear = rows[rows['shift_raw'].abs() > _CLEAR * rows['shift_raw_se']]
    before, after = (float(np.sqrt((rows[c] ** 2).mean())) for c in ('effect_raw', 'effect_left'))
    low, high = rows['scale_raw'].min(), rows['scale_raw'].max()
    return (
        f'{title}: sites are shifted by {rows["shift_raw"].abs().max():.2g} {unit} at most, {len(clear)} of '
        f'{len(rows)} shifts are more than twice their error, and scales are {low:.2f} to {high:.2f}; ComBat '
        f'brings shifts from {before:.2g} to {after:.2g} standard deviations (root mean square).'
    )
