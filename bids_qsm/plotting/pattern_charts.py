"""Charts of patterns: mean z-scores of groups by region, and how each participant compares with them."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from bids_qsm.plotting.region_charts import as_svg

MOST = 60
"""Most participants in a chart."""


def plot_patterns(means: pd.DataFrame) -> str:
    """Draw a heat map of the mean z-score of each region (columns) in each pattern (rows).

    Parameters
    ----------
    means : DataFrame
        Columns pattern, region, z.

    Returns
    -------
    SVG file.
    """
    wide = means.pivot(index='pattern', columns='region', values='z')
    wide = wide[list(dict.fromkeys(means['region']))]
    return _heat(wide, 'mean z', 'RdBu_r', symmetric=True, digits=1)


def plot_similarity(table: pd.DataFrame) -> str:
    """Draw a heat map of the support of each pattern (columns) by participant (rows), with the label of each.

    Participants without a label come first, then those of each label; a frame marks the choice.

    Parameters
    ----------
    table : DataFrame
        From `bids_qsm.cohort.patterns`.

    Returns
    -------
    SVG file.
    """
    first = table[table['rank'] == 1].set_index('participant_id')
    order = (
        first.assign(label=first['label'].fillna('')).sort_values(['label', 'pattern'], kind='stable').index
    )
    wide = table.pivot(index='participant_id', columns='pattern', values='support').loc[order[:MOST]]
    labels = first['label'].reindex(wide.index).fillna('no label')
    choice = first['choice'].reindex(wide.index)
    names = [f'{name} ({label})' for name, label in zip(wide.index, labels, strict=True)]
    marks = [(row, list(wide).index(one)) for row, one in enumerate(choice) if one in list(wide)]
    return _heat(wide.set_axis(names), 'share of resamples', 'Blues', symmetric=False, digits=2, marks=marks)


def _heat(
    wide: pd.DataFrame, title: str, cmap: str, *, symmetric: bool, digits: int, marks: list | None = None
) -> str:
    rows, columns = wide.shape
    figure = Figure(figsize=(min(11, 3.6 + 0.9 * columns), 1.3 + 0.27 * rows), layout='constrained')
    ax = figure.subplots()
    values = wide.to_numpy(float)
    high = float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 1.0
    shown = ax.imshow(
        values, cmap=cmap, vmin=-high if symmetric else 0, vmax=high if symmetric else 1, aspect='auto'
    )
    for (i, j), value in np.ndenumerate(values):
        dark = abs(value) > 0.6 * (high if symmetric else 1)
        text = f'{round(value, digits) + 0:.{digits}f}'.replace('-', '−')
        bold = 'bold' if marks and (i, j) in marks else 'normal'
        ax.text(
            j,
            i,
            text,
            ha='center',
            va='center',
            fontsize=8,
            color='white' if dark else '#222222',
            weight=bold,
        )
    for i, j in marks or []:
        ax.add_patch(_frame(i, j))
    ax.set_xticks(range(columns), list(wide), fontsize=9)
    ax.set_yticks(range(rows), list(wide.index), fontsize=8)
    ax.tick_params(length=0)
    figure.colorbar(shown, ax=ax, label=title, shrink=min(1.0, 6 / max(rows, 1) + 0.3))
    return as_svg(figure)


def _frame(i: int, j: int):
    return Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor='#222222', linewidth=1.6)
