"""Charts of R2 against susceptibility."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from bids_qsm.biomarkers.source_scale import CLASSES, STRONG, WEAK, above_middle, zones_of
from bids_qsm.plotting.maps import colours_of
from bids_qsm.plotting.region_charts import COHORT_REGIONS, COLOURS, as_svg

CHI, R2, Z = (-0.1, 0.35), (5.0, 45.0), (-10.0, 10.0)
"""Limits of the axes (ppm, 1/s, standard deviations)."""
NAMED = (*COHORT_REGIONS, 'GPe', 'GPi', 'SNc', 'SNr')
"""Regions that have their name beside them; all would overlap."""
_WIDE, _HIGH = 340, 275
"""Size of the left axes (points), about."""
_NAME, _LINE = 48, 11
"""Room that a name takes (points)."""


def plot_source_scale(
    table: pd.DataFrame,
    chi: np.ndarray,
    r2: np.ndarray | None,
    z: np.ndarray | None,
    scale: np.ndarray | None,
    dseg: np.ndarray,
    white: np.ndarray | None,
    facts: Mapping,
) -> str:
    """Draw the density of voxels over susceptibility and R2, and over their deviations with the classes.

    Parameters
    ----------
    table : DataFrame
        Columns region, hemisphere, map, mean, chi_mean.
    chi, r2, z : ndarray
        Susceptibility (ppm), R2 (1/s), deviation of R2; None where R2 or classes are not there.
    scale : ndarray of int
        Classes, see `bids_qsm.biomarkers.source_scale`.
    dseg : ndarray of int
        Regions.
    white : ndarray of bool
        Deep white matter.
    facts : mapping
        R2_at_zero and R2_by_chi of the person.

    Returns
    -------
    SVG file.
    """
    figure = Figure(figsize=(11, 4.4), layout='constrained')
    if r2 is None:
        figure.text(0.5, 0.5, "R2' was given without R2: there are no classes.", ha='center')
        return as_svg(figure)
    left, right = figure.subplots(1, 2)
    known = r2 > 0
    _density(left, chi[known], r2[known], CHI, R2)
    left.set(xlabel='susceptibility (ppm)', ylabel='R2 (1/s)')
    rows = table[(table['map'] == 'R2') & (table['hemisphere'] == 'both')]
    rows = table[table['map'] == 'R2'] if len(rows) < 2 else rows
    middles = rows[rows['region'] != 'Brain'].groupby('region')[['chi_mean', 'mean']].mean().dropna()
    left.plot(middles['chi_mean'], middles['mean'], 'o', color=COLOURS[0], markersize=5)
    _name_points(left, [(name, x, y) for name, x, y in middles.itertuples() if name in NAMED])
    if scale is None or z is None:
        why = 'No classes: too few regions, or no field strength.'
        right.text(0.5, 0.5, why, ha='center', transform=right.transAxes)
        return as_svg(figure)
    start, slope = (facts[name]['value'] for name in ('R2_at_zero', 'R2_by_chi'))
    left.plot(CHI, [start + slope * x for x in CHI], color=COLOURS[1], lw=1.2)
    away = above_middle(chi, zones_of(dseg, white), z != 0)
    _density(right, away[z != 0], z[z != 0], CHI, Z)
    # the colours of the picture of the classes
    colours = colours_of(scale, pd.DataFrame(CLASSES, columns=['index', 'name']))
    for name, (number,), colour in colours:
        there = scale == number
        at = np.flatnonzero(there)[:: max(int(there.sum()) // 2000, 1)]
        label = f'{name}-like ({int(there.sum())} voxels)'
        x, y = np.clip(away.ravel()[at], *CHI), np.clip(z.ravel()[at], *Z)
        right.plot(x, y, '.', color=colour, markersize=3, label=label, rasterized=True)
    for x, low, high in ((-WEAK, 0.5, 1), (WEAK, 0.5, 1), (STRONG, 0, 0.5)):
        right.axvline(x, low, high, ls='--', color='#555555', lw=0.9)
    right.set(xlabel='susceptibility above that of the region (ppm)', ylabel='deviation of R2 (z)')
    if colours:
        right.legend(fontsize=8, loc='lower left', markerscale=2.5)
    return as_svg(figure)


def _name_points(ax: Axes, points: Sequence[tuple[str, float, float]]):
    """Write the name of each point right of it, and farther up where another name is."""
    placed: list[tuple[float, float]] = []
    for name, x, y in sorted(points, key=lambda point: point[2]):
        across, up = ((value - low) / (high - low) for value, (low, high) in ((x, CHI), (y, R2)))
        across, up = _WIDE * across + 5, _HIGH * up - 3
        was = up
        while any(abs(across - other) < _NAME and abs(up - at) < _LINE for other, at in placed):
            up += 1
        placed.append((across, up))
        line = {'arrowstyle': '-', 'lw': 0.6, 'color': '#555555', 'shrinkB': 3}
        ax.annotate(
            name,
            (x, y),
            (5, up - was - 3),
            textcoords='offset points',
            fontsize=9,
            arrowprops=line if up - was > _LINE / 2 else None,
            path_effects=[withStroke(linewidth=2, foreground='white')],
        )


def _density(ax: Axes, x: np.ndarray, y: np.ndarray, across: tuple, up: tuple):
    """Voxels by square, as their logarithm; what lies outside counts at the edge."""
    counts, xs, ys = np.histogram2d(np.clip(x, *across), np.clip(y, *up), bins=90, range=(across, up))
    shown = np.ma.masked_equal(np.log10(np.maximum(counts.T, 0.5)), np.log10(0.5))
    ax.pcolormesh(xs, ys, shown, cmap='Greys', vmin=-0.5, rasterized=True)
    ax.set(xlim=across, ylim=up)
    ax.spines[['top', 'right']].set_visible(False)
