"""Charts of group statistics: effects, correlations, changes, z-scores, residuals and lesions."""

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter
from matplotlib.transforms import Transform

from bids_qsm.plotting.region_charts import COLOURS, as_svg, crowd, group_colours

_INK, _FAINT, _LINE = '#222222', '#777777', '#dddddd'
_SIGNS = {
    'paramagnetic': (COLOURS[1], 'paramagnetic (iron, blood)'),
    'diamagnetic': (COLOURS[0], 'diamagnetic (calcium, myelin)'),
    'none': (COLOURS[6], 'not different from its surround'),
}
_PANELS_A_ROW = 4


def plot_forest(
    rows: pd.DataFrame,
    *,
    xlabel: str,
    by: str | None = None,
    groups: Iterable[str] = (),
    alpha: float = 0.05,
) -> str:
    """Draw estimates with their confidence intervals, one on each line, and write the numbers beside them.

    A filled mark is significant after correction over regions, a hollow mark is not.

    Parameters
    ----------
    rows : DataFrame
        Columns label, estimate, ci_low, ci_high, p_fdr, n, from top to bottom. A missing estimate is written
        as 'not estimated'.
    xlabel
        Name and unit of the estimates.
    by
        Column, such as the group, that tells the lines of one label apart, by colour.
    groups
        All values of that column in the cohort.
    alpha
        Level of significance.

    Returns
    -------
    SVG file.
    """
    rows = rows.reset_index(drop=True)
    height = 0.95 + 0.3 * max(len(rows), 1)
    figure = Figure(figsize=(11, height))
    left = 0.29 if by else 0.2
    ax = figure.add_axes((left, 0.62 / height, 0.6 - left, 1 - 0.95 / height))
    write = _writer(rows[['estimate', 'ci_low', 'ci_high']].to_numpy(float))
    colours = group_colours(rows[by].astype(str), groups) if by else {}
    previous = None
    for i, row in enumerate(rows.to_dict('records')):
        y, colour = len(rows) - 1 - i, colours.get(str(row[by]), _INK) if by else COLOURS[0]
        if row['label'] != previous:
            ax.text(
                -0.03 if not by else -0.5, y, row['label'], ha='right', va='center', transform=_beside(ax)
            )
            if previous is not None and by:
                ax.axhline(y + 0.5, color=_LINE, linewidth=0.6)
        previous = row['label']
        if by:
            ax.text(
                -0.03, y, row[by], ha='right', va='center', color=colour, fontsize=9, transform=_beside(ax)
            )
        if not np.isfinite(row['estimate']):
            ax.text(1.03, y, 'not estimated', va='center', color=_FAINT, fontsize=9, transform=_beside(ax))
            continue
        sure = row['p_fdr'] < alpha
        ax.plot([row['ci_low'], row['ci_high']], [y, y], color=colour, linewidth=1.6, solid_capstyle='butt')
        ax.plot(
            row['estimate'], y, 'o', color=colour, markersize=7, markerfacecolor=colour if sure else 'white'
        )
        ends = np.isfinite([row['ci_low'], row['ci_high']]).all()
        interval = f'[{write(row["ci_low"])}, {write(row["ci_high"])}]' if ends else 'no interval'
        style = {
            'va': 'center',
            'fontsize': 9,
            'weight': 'bold' if sure else 'normal',
            'transform': _beside(ax),
        }
        ax.text(1.03, y, f'{write(row["estimate"])}  {interval}', **style)
        ax.text(1.66 if not by else 1.83, y, p_text(row['p_fdr']), **style)
        ax.text(1.9 if not by else 2.12, y, f'{row["n"]:.0f}' if row['n'] >= 0 else '', **style)
    head = {'fontsize': 8.5, 'color': _FAINT, 'transform': _beside(ax), 'va': 'bottom'}
    top = len(rows) - 0.35
    ax.text(1.03, top, 'estimate  [95 % interval]', **head)
    ax.text(1.66 if not by else 1.83, top, 'p (FDR)', **head)
    ax.text(1.9 if not by else 2.12, top, 'n', **head)
    ax.axvline(0, color='#888888', linewidth=0.9)
    ax.set(ylim=(-0.6, len(rows) - 0.4), yticks=[], xlabel=xlabel)
    ax.grid(axis='x', color=_LINE, linewidth=0.7)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.spines[['top', 'right', 'left']].set_visible(False)
    return as_svg(figure)


def plot_scatter(
    points: pd.DataFrame,
    lines: pd.DataFrame,
    texts: dict[str, str],
    *,
    xlabel: str,
    ylabel: str,
    groups: Iterable[str] = (),
) -> str:
    """Draw regional values over a score or age of the participants, with a fitted line and its 95 % band.

    Parameters
    ----------
    points : DataFrame
        Columns region, x, y, group; one row for each participant and region.
    lines : DataFrame
        Columns region, x, fit, low, high.
    texts : dict of str to str
        Text under the name of a region, such as its correlation and n.
    groups
        All groups of the cohort, for the colours.

    Returns
    -------
    SVG file.
    """
    figure, axes, colours = panels(points, groups)
    for region, ax in axes.items():
        line = lines.loc[lines['region'] == region, ['x', 'fit', 'low', 'high']].astype(float)
        ax.fill_between(line['x'], line['low'], line['high'], color='#000000', alpha=0.12, linewidth=0)
        ax.plot(line['x'], line['fit'], color=_INK, linewidth=1.4)
        _dots(ax, points[points['region'] == region], colours)
        heading(ax, region, texts.get(region, ''))
        plain(ax)
    axis_names(figure, xlabel, ylabel)
    return as_svg(figure)


def plot_changes(
    visits: pd.DataFrame,
    texts: dict[str, str],
    *,
    xlabel: str,
    ylabel: str,
    detectable: dict[str, float] | None = None,
    groups: Iterable[str] = (),
) -> str:
    """Draw the course of each participant over the sessions, in one panel for each region.

    Parameters
    ----------
    visits : DataFrame
        Columns region, line (the participant), x, y, group; one row for each session.
    texts : dict of str to str
        Text under the name of a region.
    detectable : dict of str to float, optional
        Smallest change of one participant that exceeds the error of repeated measurement. A bar of this
        length is drawn at the right of the panel.
    groups
        All groups of the cohort, for the colours.

    Returns
    -------
    SVG file.
    """
    figure, axes, colours = panels(visits, groups)
    for region, ax in axes.items():
        here = visits[visits['region'] == region].sort_values('x', kind='stable')
        many = here['line'].nunique() > 60
        look = {'linewidth': 0.6 if many else 1.2, 'alpha': 0.35 if many else 0.85, 'rasterized': many}
        for name, colour in colours.items():
            courses = broken(here[here['group'] == name])
            ax.plot(*courses, 'o-', color=colour, markersize=2 if many else 4, **look)
        least = (detectable or {}).get(region, math.nan)
        if math.isfinite(least):
            low, high = here['y'].min(), here['y'].max()
            middle, place = (low + high) / 2, here['x'].max() + 0.12 * (np.ptp(here['x']) or 1)
            ax.errorbar(place, middle, yerr=least / 2, color=_INK, capsize=3, linewidth=1.4)
        heading(ax, region, texts.get(region, ''))
        plain(ax)
    axis_names(figure, xlabel, ylabel)
    return as_svg(figure)


def plot_normative(scores: pd.DataFrame, *, xlabel: str, ylabel: str, groups: Iterable[str] = ()) -> str:
    """Draw values over age with the mean and the 95 % range of controls, in one panel for each region.

    Parameters
    ----------
    scores : DataFrame
        Columns participant_id, region, age, value, expected, low, high (range of controls), group,
        is_control; one row for each session.
    groups
        All groups of the cohort, for the colours.

    Returns
    -------
    SVG file.
    """
    figure, axes, colours = panels(scores, groups)
    for region, ax in axes.items():
        here = scores[scores['region'] == region]
        # the expected value of a control comes from the other controls, so their curve is ragged
        others = here[~here['is_control'].astype(bool)]
        curve = (others if len(others) > 4 else here).sort_values('age')
        curve = curve.drop_duplicates('age')
        ax.fill_between(curve['age'], curve['low'], curve['high'], color='#000000', alpha=0.1, linewidth=0)
        ax.plot(curve['age'], curve['expected'], color=_INK, linewidth=1.3)
        _dots(ax, here.rename(columns={'age': 'x', 'value': 'y'}), colours)
        heading(ax, region, f'n = {here["participant_id"].nunique()}')
        plain(ax)
    axis_names(figure, xlabel, ylabel)
    return as_svg(figure)


def plot_zscores(scores: pd.DataFrame, *, groups: Iterable[str] = ()) -> str:
    """Draw z-scores by region and group, with the range from -2 to 2 shaded.

    Parameters
    ----------
    scores : DataFrame
        Columns region, z, group.
    groups
        All groups of the cohort, for the colours.

    Returns
    -------
    SVG file.
    """
    regions, colours = list(dict.fromkeys(scores['region'])), group_colours(scores['group'], groups)
    figure = Figure(figsize=(11, 3.8), layout='constrained')
    ax = figure.subplots()
    ax.axhspan(-2, 2, color='#000000', alpha=0.07, linewidth=0)
    ax.axhline(0, color='#888888', linewidth=0.8)
    width = 0.8 / len(colours)
    for g, (name, colour) in enumerate(colours.items()):
        of_group = scores[scores['group'] == name]
        ax.plot([], [], 'o', color=colour, label=name)
        for r, region in enumerate(regions):
            z = np.sort(of_group.loc[of_group['region'] == region, 'z'].dropna().to_numpy(float))
            jitter = (np.arange(z.size) * 0.618 % 1 - 0.5) * 0.55 * width
            ax.plot(r - 0.4 + width * (g + 0.5) + jitter, z, 'o', color=colour, **crowd(z.size))
    ax.set_xticks(range(len(regions)), regions)
    for edge in range(1, len(regions)):
        ax.axvline(edge - 0.5, color=_LINE, linewidth=0.8)
    ax.set(xlim=(-0.6, len(regions) - 0.4), ylabel='z-score (no unit)')
    ax.spines[['top', 'right']].set_visible(False)
    figure.legend(frameon=False, fontsize=9, loc='outside upper right', ncols=min(len(colours), 5))
    return as_svg(figure)


def plot_residuals(residuals: pd.DataFrame, *, unit: str) -> str:
    """Draw residuals over fitted values, and their quantiles over those of a normal distribution.

    Parameters
    ----------
    residuals : DataFrame
        Columns region, fitted, residual, normal (quantile of a normal distribution).

    Returns
    -------
    SVG file.
    """
    regions = list(dict.fromkeys(residuals['region']))
    columns = max(len(regions), _PANELS_A_ROW)
    figure = Figure(figsize=(11, 4.4), layout='constrained')
    axes = figure.subplots(2, columns, squeeze=False)
    for column in range(columns):
        for ax in axes[:, column]:
            ax.set_visible(column < len(regions))
    for column, region in enumerate(regions):
        here = residuals[residuals['region'] == region].sort_values('normal')
        top, bottom = axes[:, column]
        look = crowd(len(here))
        top.axhline(0, color='#888888', linewidth=0.8)
        top.plot(here['fitted'], here['residual'], 'o', color=COLOURS[0], **look)
        top.set_title(f'{region}  (n = {len(here)})', fontsize=9, loc='left')
        ends = np.array([here['normal'].min(), here['normal'].max()])
        bottom.plot(ends, ends, color='#888888', linewidth=0.8)
        bottom.plot(here['normal'], here['residual'], 'o', color=COLOURS[0], **look)
        for ax in (top, bottom):
            ax.tick_params(labelsize=7)
            ax.yaxis.set_major_locator(MaxNLocator(4))
            ax.xaxis.set_major_locator(MaxNLocator(2))
            ax.spines[['top', 'right']].set_visible(False)
        top.set_xlabel(f'fitted ({unit})', fontsize=7.5)
        bottom.set_xlabel(f'expected ({unit})', fontsize=7.5)
    for ax in axes[:, 0]:
        ax.set_ylabel(f'residual ({unit})', fontsize=8)
    return as_svg(figure)


def plot_lesions(lesions: pd.DataFrame) -> str:
    """Draw the susceptibility of each lesion over its volume, coloured by its sign.

    Parameters
    ----------
    lesions : DataFrame
        Columns volume_mm3, chi_mean (ppm), chi_surround (ppm), sign.

    Returns
    -------
    SVG file.
    """
    figure = Figure(figsize=(11, 3.8), layout='constrained')
    ax = figure.subplots()
    for sign, (colour, text) in _SIGNS.items():
        rows = lesions[lesions['sign'] == sign]
        contrast = rows['chi_mean'] - rows['chi_surround']
        ax.plot(rows['volume_mm3'], contrast, 'o', color=colour, **crowd(len(lesions)))
        ax.plot([], [], 'o', color=colour, label=f'{text}: {len(rows)}')
    ax.axhline(0, color='#888888', linewidth=0.8)
    if (lesions['volume_mm3'] > 0).any() and lesions['sign'].isin(_SIGNS).any():
        ax.set_xscale('log')
        ax.xaxis.set_major_formatter('{x:g}')
        ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set(xlabel='volume of the lesion (mm³)', ylabel='χ of the lesion less its surround (ppm)')
    ax.spines[['top', 'right']].set_visible(False)
    figure.legend(frameon=False, fontsize=9, loc='outside upper right', ncols=3)
    return as_svg(figure)


def p_text(p: float) -> str:
    """Format a p-value.

    >>> p_text(0.00004), p_text(0.0312), p_text(float('nan'))
    ('< .001', '.031', '–')
    """
    if not np.isfinite(p):
        return '–'
    return '< .001' if p < 0.001 else f'{p:.3f}'.removeprefix('0')


def _writer(values: np.ndarray) -> Callable[[float], str]:
    """A function that formats numbers, with three digits for the largest of the ``values``."""
    largest = np.nanmax(np.abs(values), initial=0.0)
    digits = 2 if largest == 0 else min(max(2 - math.floor(math.log10(largest)), 0), 7)
    return lambda value: f'{value:.{digits}f}'.replace('-', '−')


def broken(rows: pd.DataFrame) -> Iterator[np.ndarray]:
    """x and y of all lines in one, with NaN between two lines."""
    rows = rows.sort_values(['line', 'x'], kind='stable')
    last = np.flatnonzero(rows['line'].to_numpy()[1:] != rows['line'].to_numpy()[:-1]) + 1
    return (np.insert(rows[c].to_numpy(float), last, np.nan) for c in ('x', 'y'))


def panels(rows: pd.DataFrame, groups: Iterable[str]) -> tuple[Figure, dict[str, Axes], dict[str, str]]:
    """A figure with a panel for each region of ``rows`` and a legend of the groups above.

    Returns it, region -> axes, and group -> colour.
    """
    colours = group_colours(rows['group'], groups)
    regions = list(dict.fromkeys(rows['region']))
    height = max(math.ceil(len(regions) / _PANELS_A_ROW), 1)
    figure = Figure(figsize=(11, 0.6 + 2.9 * height), layout='constrained')
    axes = figure.subplots(height, _PANELS_A_ROW, squeeze=False).ravel()
    for ax in axes[len(regions) :]:
        ax.set_visible(False)
    if set(colours) - {'n/a', 'all'}:
        for name, colour in colours.items():
            axes[0].plot([], [], 'o', color=colour, label=name)
        figure.legend(frameon=False, fontsize=9, loc='outside upper right', ncols=min(len(colours), 5))
    return figure, dict(zip(regions, axes, strict=False)), colours


def _dots(ax: Axes, rows: pd.DataFrame, colours: dict[str, str]) -> None:
    for name, colour in colours.items():
        one = rows[rows['group'] == name]
        ax.plot(one['x'], one['y'], 'o', color=colour, **crowd(len(rows)))


def heading(ax: Axes, region: str, text: str) -> None:
    ax.set_title(region, fontsize=10, weight='bold', loc='left', pad=16 if text else None)
    ax.text(0, 1.02, text, transform=ax.transAxes, fontsize=8, color=_FAINT)


def plain(ax: Axes) -> None:
    ax.spines[['top', 'right']].set_visible(False)
    ax.tick_params(labelsize=8)
    ax.locator_params(nbins=5)


def axis_names(figure: Figure, xlabel: str, ylabel: str) -> None:
    figure.supxlabel(xlabel, fontsize=10)
    figure.supylabel(ylabel, fontsize=10)


def _beside(ax: Axes) -> Transform:
    """Coordinates beside the axes: x in widths of the axes, y in data."""
    return ax.get_yaxis_transform()
