"""Charts of repeated scans and of the arms of a trial."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from bids_qsm.plotting.cohort_charts import axis_names, broken, heading, panels, plain
from bids_qsm.plotting.region_charts import COLOURS, as_svg, crowd

_INK, _FAINT = '#222222', '#888888'


def plot_agreement(pairs: pd.DataFrame, table: pd.DataFrame, *, unit: str) -> str:
    """Draw the difference of two scans over their mean (Bland and Altman), in one panel for each region.

    Parameters
    ----------
    pairs : DataFrame
        Columns region, first, second.
    table : DataFrame
        Columns region, bias, limit_low, limit_high, sdw, n_pairs.
    unit
        Of the values.

    Returns
    -------
    SVG file.
    """
    figure, axes, _ = panels(pairs.assign(group='all'), ['all'])
    known = table.set_index('region')
    for region, ax in axes.items():
        here, row = pairs[pairs['region'] == region], known.loc[region]
        difference = here['second'] - here['first']
        ax.axhline(0, color=_FAINT, linewidth=0.8)
        ax.axhspan(row['limit_low'], row['limit_high'], color='#000000', alpha=0.08, linewidth=0)
        ax.axhline(row['bias'], color=_INK, linewidth=1.2)
        ax.plot((here['first'] + here['second']) / 2, difference, 'o', color=COLOURS[0], **crowd(len(here)))
        most = 1.15 * max(abs(row['limit_low']), abs(row['limit_high']), difference.abs().max())
        ax.set_ylim(-most, most)
        heading(ax, region, f'SDw {row["sdw"]:.3g} {unit}, n = {row["n_pairs"]:.0f}')
        plain(ax)
    axis_names(figure, f'mean of two scans ({unit})', f'second less first ({unit})')
    return as_svg(figure)


def plot_slopes(visits: pd.DataFrame, lines: pd.DataFrame, *, ylabel: str, groups: Iterable[str] = ()) -> str:
    """Draw the course of each participant, faintly, and the line of each arm, in one panel for each region.

    Parameters
    ----------
    visits : DataFrame
        Columns region, line (the participant), x (years), y, group (the arm).
    lines : DataFrame
        Columns region, group, baseline, slope, years; and text, written under the name of the region.
    groups
        All arms, for the colours.

    Returns
    -------
    SVG file.
    """
    figure, axes, colours = panels(visits, groups)
    for region, ax in axes.items():
        here, of_arms = visits[visits['region'] == region], lines[lines['region'] == region]
        for name, colour in colours.items():
            ax.plot(
                *broken(here[here['group'] == name]), '-', color=colour, linewidth=0.7, alpha=0.35,
                rasterized=len(here) > 300,
            )  # fmt: skip
        for row in of_arms.to_dict('records'):
            ends = np.array([0.0, row['years']])
            y, colour = row['baseline'] + row['slope'] * ends, colours.get(row['group'], _INK)
            ax.plot(ends, y, '-', color='white', linewidth=4.5)
            ax.plot(ends, y, '-', color=colour, linewidth=2.6)
        heading(ax, region, '; '.join(filter(None, of_arms['text'])))
        plain(ax)
    axis_names(figure, 'years since the first visit', ylabel)
    return as_svg(figure)
