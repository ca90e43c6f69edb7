"""Charts of regional tables: one series by region, and a cohort by region and group."""

import io
from collections.abc import Iterable, Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.text import Text

mpl.rcdefaults()  # a matplotlibrc of the user would change the figures

COHORT_REGIONS = ('SN', 'GP', 'RN', 'Putamen', 'Caudate', 'Thalamus', 'Dentate')

# Okabe and Ito: distinct with any colour vision
COLOURS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#666666')
_SIDES = {'L': (COLOURS[0], 'o', 0.16, 'left'), 'R': (COLOURS[1], 's', -0.16, 'right')}
_WHOLE = ('#222222', 'D', 0.0, 'whole')


def plot_regions(table: pd.DataFrame, symbols: Mapping[str, str] | None = None) -> str:
    """Draw the mean of each region, left and right, with one standard deviation as error bar.

    Each map has a panel. The regions are in order of their mean susceptibility. A hollow mark means that less
    than 90 % of the region lies inside the mask and the field of view, a pale one that a nucleus has the
    outline of the atlas, where others were segmented.

    Parameters
    ----------
    table : DataFrame
        Columns region, hemisphere (L, R, both), map, mean, sd, coverage, source, units, reference.
    symbols : mapping of str to str
        Maps in their order -> what charts call them.

    Returns
    -------
    SVG file.
    """
    table = table[np.isfinite(pd.to_numeric(table['mean'], errors='coerce'))]
    symbols = symbols or {}
    maps = [m for m in symbols if m in set(table['map'])] + sorted(set(table['map']) - set(symbols))
    order = _by_value(table[table['map'] == maps[0]]) if maps else []
    figure = Figure(figsize=(11, max(2.2, 0.9 + 0.27 * len(order))), layout='constrained')
    if not order:
        figure.text(0.5, 0.5, 'No region has a voxel inside the mask.', ha='center')
        return as_svg(figure)
    axes = figure.subplots(1, len(maps), sharey=True, squeeze=False)[0]
    place = {region: i for i, region in enumerate(order)}
    for ax, name in zip(axes, maps, strict=True):
        rows = table[(table['map'] == name) & table['region'].isin(place)]
        paired = set(rows.loc[rows['hemisphere'].isin(['L', 'R']), 'region'])
        for row in rows.to_dict('records'):
            if row['hemisphere'] not in _SIDES and row['region'] in paired:
                continue
            colour, mark, shift, _ = _SIDES.get(row['hemisphere'], _WHOLE)
            full = row.get('coverage', 1.0) >= 0.9
            ax.errorbar(
                row['mean'], place[row['region']] + shift, xerr=row['sd'] if row['sd'] >= 0 else 0,
                fmt=mark, color=colour, markersize=5, markerfacecolor=colour if full else 'white',
                elinewidth=1, alpha=0.4 if row.get('source') in ('prior', 'mixed') else 0.95,
            )  # fmt: skip
        unit = only(rows, 'units')
        ax.set_xlabel(f'{symbols.get(name, name)} ({unit})' if unit else symbols.get(name, name))
        reference = only(rows, 'reference')
        if name == 'chi' and reference:
            ax.set_title(f'reference: {reference}', fontsize=9, loc='left', wrap=True)
        ax.set_yticks(range(len(order)), order)
        ax.grid(axis='x', color='#dddddd', linewidth=0.7)
        if name == 'chi':
            ax.axvline(0, color='#888888', linewidth=0.8)
        ax.spines[['top', 'right']].set_visible(False)
    sides = [*_SIDES.values(), _WHOLE]
    for colour, mark, _, label in sides:
        axes[0].plot([], [], mark, color=colour, label=label, markersize=5)
    axes[0].legend(frameon=False, fontsize=8, loc='best')
    return as_svg(figure)


def plot_distributions(
    table: pd.DataFrame,
    *,
    map_name: str = 'chi',
    symbol: str = '',
    group: str | None = None,
    regions: Sequence[str] = COHORT_REGIONS,
    statistic: str = 'mean',
) -> str:
    """Draw box and points of the regional means of all series, by region and group.

    Parameters
    ----------
    table : DataFrame
        The rows of one atlas in the long table of the cohort: columns region, hemisphere, map, mean, units,
        reference, and atlas where it is named.
    map_name
        Value of the column ``map``.
    symbol
        What the chart calls it.
    group
        Column that groups the participants; None: all together.
    statistic
        Column to show.

    Returns
    -------
    SVG file.

    Raises
    ------
    ValueError
        The table has several atlases, so that each series would count more than once.
    """
    if 'atlas' in table and table['atlas'].nunique() > 1:
        raise ValueError(f'one atlas a figure, not {only(table, "atlas")}')
    table = table[(table['map'] == map_name) & (table['hemisphere'] == 'both') & table[statistic].notna()]
    table = table.assign(_group='all' if group is None else table[group].fillna('n/a').astype(str))
    regions = [r for r in regions if r in set(table['region'])]
    colours = group_colours(table['_group'])
    figure = Figure(figsize=(11, 4), layout='constrained')
    ax = figure.subplots()
    width = 0.8 / max(len(colours), 1)
    for g, (name, colour) in enumerate(colours.items()):
        rows = table[table['_group'] == name]
        for r, region in enumerate(regions):
            values = np.sort(rows.loc[rows['region'] == region, statistic].to_numpy(float))
            if not values.size:
                continue
            centre = r - 0.4 + width * (g + 0.5)
            # spread by rank, not at random: the picture is the same each time
            jitter = (np.arange(values.size) * 0.618 % 1 - 0.5) * (0.45 if values.size < 40 else 0.6) * width
            ax.plot(
                centre + jitter, values, 'o', color=colour, **crowd(values.size), zorder=2,
            )  # fmt: skip
            if values.size >= 4:
                line = {'color': '#222222', 'linewidth': 1.1}
                ax.boxplot(
                    values, positions=[centre], widths=0.75 * width, showfliers=False, manage_ticks=False,
                    medianprops={**line, 'linewidth': 2}, boxprops=line, whiskerprops=line, capprops=line,
                    zorder=3,
                )  # fmt: skip
        n = rows['participant_id'].nunique() if 'participant_id' in rows else 0
        ax.plot([], [], 'o', color=colour, label=f'{name} ({n} participant{"" if n == 1 else "s"})')
    unit = only(table, 'units')
    ax.set_ylabel(f'{symbol or map_name} ({unit})')
    reference = only(table, 'reference')
    if map_name == 'chi' and reference:
        ax.set_title(f'reference: {reference}', fontsize=9, loc='left')
    ax.set_xticks(range(len(regions)), regions)
    ax.set_xlim(-0.6, max(len(regions), 1) - 0.4)
    for edge in range(1, len(regions)):
        ax.axvline(edge - 0.5, color='#e4e4e4', linewidth=0.8)
    if map_name == 'chi':
        ax.axhline(0, color='#888888', linewidth=0.8)
    ax.spines[['top', 'right']].set_visible(False)
    if colours:
        figure.legend(frameon=False, fontsize=9, loc='outside upper right', ncols=min(len(colours), 5))
    return as_svg(figure)


def group_colours(names: Iterable[str], groups: Iterable[str] = ()) -> dict[str, str]:
    """Colour of each of the ``names`` of groups; 'n/a' (no group) is grey and comes last.

    ``groups`` are all groups of the cohort, so that each has the same colour in every chart; 'all' means all
    participants together.
    """
    names = set(names)
    known = sorted({*groups, *names} - {'n/a', 'all'})
    colours = {name: COLOURS[i % (len(COLOURS) - 1)] for i, name in enumerate(known)}
    colours |= {'all': '#222222' if known else COLOURS[0], 'n/a': COLOURS[-1]}
    return {name: colour for name, colour in colours.items() if name in names}


def crowd(n: int) -> dict:
    """Style of ``n`` marks: many marks are small, pale and drawn as one picture."""
    return {
        'markersize': 5.5 if n <= 60 else 2.6,
        'alpha': 0.75 if n <= 60 else 0.4,
        'markeredgewidth': 0,
        'rasterized': n > 150,
    }


def _by_value(table: pd.DataFrame) -> list[str]:
    """Regions in order of their mean over both sides, or of the mean of what there is."""
    whole = table[table['hemisphere'] == 'both'].groupby('region')['mean'].mean()
    return (
        table.groupby('region')['mean'].mean().mask(lambda m: m.notna(), whole).sort_values().index.tolist()
    )


def only(rows: pd.DataFrame, column: str) -> str:
    """The value of a column; several values are joined by commas."""
    if column not in rows:
        return ''
    return ', '.join(sorted(rows[column].dropna().astype(str).unique()))


def as_svg(figure: Figure) -> str:
    """Write a figure as SVG, byte by byte the same each time."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a dollar sign in the name of a group is not a formula
    file = io.StringIO()
    # without random ids and dates
    with mpl.rc_context({'svg.hashsalt': 'bids_qsm', 'svg.fonttype': 'path', 'savefig.dpi': 200}):
        FigureCanvasSVG(figure).print_svg(file, metadata={'Date': None})
    return file.getvalue()
