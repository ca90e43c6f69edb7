"""Charts of the substantia nigra and of the pallidum, left beside right."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bids_qsm.plotting.region_charts import COLOURS, as_svg

_SIDES = {'L': COLOURS[0], 'R': COLOURS[1]}
_FINDING = {'seen': COLOURS[2], 'unclear': COLOURS[4], 'not seen': COLOURS[1]}


def plot_nigra(table: pd.DataFrame) -> str:
    """Draw percentiles and share below the threshold of the nigra, and nigrosome-1, of both sides.

    Parameters
    ----------
    table : DataFrame
        From `bids_qsm.biomarkers.nigra.nigra_table`.

    Returns
    -------
    SVG file.
    """
    figure = Figure(figsize=(11, 2.9), layout='constrained')
    if table['sn_mean'].isna().all():
        figure.text(0.5, 0.5, str(table['reason'].iloc[0]), ha='center', wrap=True)
        return as_svg(figure)
    spread, share, lens = figure.subplots(1, 3, width_ratios=(3, 2, 3))
    for place, row in enumerate(table.to_dict('records')):
        side = row['hemisphere']
        colour = _SIDES[side]
        for part, shift in (('sn', -0.15), ('lower', 0.15)):
            low, middle, high = (row[f'{part}_p{q}'] for q in (10, 50, 90))
            solid = part == 'lower'
            spread.plot([low, high], [place + shift] * 2, color=colour, lw=4, alpha=0.9 if solid else 0.35)
            spread.plot(middle, place + shift, '|', color='black', markersize=11)
            look = {'color': colour, 'alpha': 0.9 if solid else 0.35, 'height': 0.25}
            value, error = row[f'{part}_below'], row[f'{part}_below_se']
            share.barh(place + shift, value, xerr=[[min(value, error)], [error]], **look)
        if not np.isfinite(row['n1_contrast']):
            lens.text(0.5, place, 'not assessable', transform=lens.get_yaxis_transform(), ha='center')
            continue
        mark = _FINDING.get(row['n1_finding'], COLOURS[6])
        half = 1.96 * row['n1_contrast_se']
        lens.errorbar(row['n1_contrast'], place, xerr=half, fmt='o', color=mark, capsize=3, markersize=7)
        said = f'{row["n1_finding"]} (score {row["n1_visible"]:.1f})'
        lens.annotate(
            said, (row['n1_contrast'], place), (0, 9), textcoords='offset points', fontsize=8, ha='center'
        )
    spread.axvline(table['threshold'].iloc[0], color='#888888', lw=0.9, ls='--')
    lens.axvline(0, color='#888888', lw=0.9)
    names = [{'L': 'left', 'R': 'right'}[s] for s in table['hemisphere']]
    for ax, text in (
        (spread, 'χ (ppb): 10th, 50th, 90th percentile'),
        (share, f'below {table["threshold"].iloc[0]:g} ppb (%)'),
        (lens, 'nigrosome-1 less nigra (ppb), 95 % interval'),
    ):
        ax.set_yticks(range(len(names)), names)
        ax.set_ylim(len(names) - 0.5, -0.5)
        ax.set_xlabel(text, fontsize=9)
        ax.grid(axis='x', color='#dddddd', linewidth=0.7)
        ax.spines[['top', 'right']].set_visible(False)
    spread.set_title('pale: whole nigra; strong: below the red nucleus', fontsize=8, loc='left')
    return as_svg(figure)


def plot_profiles(table: pd.DataFrame) -> str:
    """Draw susceptibility along the line through the core of each pallidum.

    Parameters
    ----------
    table : DataFrame
        Columns hemisphere, distance_mm, chi (ppm).

    Returns
    -------
    SVG file.
    """
    figure = Figure(figsize=(9, 3.0), layout='constrained')
    if table.empty:
        figure.text(0.5, 0.5, 'No pallidum could be measured.', ha='center')
        return as_svg(figure)
    ax = figure.subplots()
    for side, rows in table.groupby('hemisphere'):
        name = {'L': 'left', 'R': 'right'}[str(side)]
        ax.plot(rows['distance_mm'], 1e3 * rows['chi'], color=_SIDES[str(side)], label=name, lw=1.8)
    ax.axvline(0, color='#888888', lw=0.9, ls='--')
    ax.set_xlabel('distance from the lowest point inside the pallidum (mm): to the midline ← → to the side')
    ax.set_ylabel('χ (ppb)')
    ax.grid(color='#dddddd', linewidth=0.7)
    ax.spines[['top', 'right']].set_visible(False)
    ax.legend(frameon=False, fontsize=9)
    return as_svg(figure)
