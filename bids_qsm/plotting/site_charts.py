"""Charts of site effects: regional values by site before and after ComBat, and shifts of sites."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bids_qsm.plotting.cohort_charts import axis_names, heading, panels, plain
from bids_qsm.plotting.region_charts import as_svg, crowd, group_colours

_INK, _FAINT = '#222222', '#999999'
_HALVES = ('as measured', 'harmonised')


def plot_site_values(rows: pd.DataFrame, *, ylabel: str) -> str:
    """Draw box and points of regional values by site, as measured and harmonised, one panel a region.

    Parameters
    ----------
    rows : DataFrame
        Columns region, site, raw, value; of one map and both sides together.

    Returns
    -------
    SVG file.
    """
    sites = sorted(rows['site'].unique())
    figure, axes, colours = panels(rows.assign(group=rows['site']), sites)
    gap = len(sites) + 0.6
    for region, ax in axes.items():
        here = rows[rows['region'] == region]
        for half, column in enumerate(('raw', 'value')):
            for k, site in enumerate(sites):
                values = np.sort(here.loc[here['site'] == site, column].dropna().to_numpy(float))
                if not values.size:
                    continue
                centre = half * gap + k
                jitter = (np.arange(values.size) * 0.618 % 1 - 0.5) * 0.6
                look = crowd(values.size)
                look['alpha'] *= 0.5 if half == 0 else 1
                ax.plot(centre + jitter, values, 'o', color=colours[site], **look, zorder=2)
                line = {'color': _INK, 'linewidth': 1.1}
                ax.boxplot(
                    values, positions=[centre], widths=0.7, showfliers=False, manage_ticks=False,
                    medianprops={**line, 'linewidth': 2}, boxprops=line, whiskerprops=line, capprops=line,
                    zorder=3,
                )  # fmt: skip
        ax.axvline((gap + len(sites) - 1) / 2, color=_FAINT, linewidth=0.8)
        middle = (len(sites) - 1) / 2
        heading(ax, region, '')
        plain(ax)
        ax.set_xticks([middle, gap + middle], _HALVES)
        ax.set_xlim(-0.7, gap + len(sites) - 0.3)
    axis_names(figure, '', ylabel)
    return as_svg(figure)


def plot_site_effects(effects: pd.DataFrame) -> str:
    """Draw the shift of each site, as measured and as left, one line a region and site.

    Parameters
    ----------
    effects : DataFrame
        Columns region, site, effect_raw, error (of effect_raw), effect_left, from top to bottom.

    Returns
    -------
    SVG file.
    """
    regions, sites = list(dict.fromkeys(effects['region'])), sorted(effects['site'].unique())
    colours = group_colours(sites, sites)
    height = 0.9 + max(0.2 * len(sites), 0.3) * len(regions)
    figure = Figure(figsize=(11, max(height, 2.2)), layout='constrained')
    ax = figure.subplots()
    place = {region: len(regions) - 1 - i for i, region in enumerate(regions)}
    for k, site in enumerate(sites):
        rows = effects[effects['site'] == site]
        y = rows['region'].map(place).to_numpy() + 0.35 - 0.7 * (k + 0.5) / len(sites)
        raw = rows['effect_raw'].to_numpy(float)
        ax.errorbar(
            raw, y, xerr=2 * rows['error'].to_numpy(float), fmt='o', color=colours[site],
            markerfacecolor='white', markersize=5, elinewidth=1.1,
        )  # fmt: skip
        ax.plot(rows['effect_left'], y, 'o', color=colours[site], markersize=5, label=site)
    ax.axvline(0, color=_FAINT, linewidth=0.9)
    for edge in range(1, len(regions)):
        ax.axhline(edge - 0.5, color='#e4e4e4', linewidth=0.8)
    ax.set_yticks([place[region] for region in regions], regions)
    ax.set(xlabel='shift of the site (standard deviations)', ylim=(-0.6, len(regions) - 0.4))
    ax.spines[['top', 'right']].set_visible(False)
    figure.legend(frameon=False, fontsize=9, loc='outside upper right', ncols=min(len(sites), 6))
    return as_svg(figure)
