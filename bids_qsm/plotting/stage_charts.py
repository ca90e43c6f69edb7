"""Charts of the stages of a disease: changes by stage, and iron and myelin together."""

import numpy as np
import pandas as pd
from matplotlib.patches import Ellipse
from scipy import stats

from bids_qsm.plotting.cohort_charts import axis_names, heading, panels, plain
from bids_qsm.plotting.region_charts import COLOURS, as_svg

_INK, _FAINT = '#222222', '#999999'
_ALPHA = 0.05


def plot_trajectories(rows: pd.DataFrame, *, ylabel: str) -> str:
    """Draw the change from the first stage with its 95 % interval by stage, in one panel for each region.

    Parameters
    ----------
    rows : DataFrame
        Columns region, stage, reference, estimate, ci_low, ci_high, p_fdr; of one map.

    Returns
    -------
    SVG file.
    """
    figure, axes, _ = panels(rows.assign(group='all'), ['all'])
    names = [rows['reference'].iloc[0], *dict.fromkeys(rows['stage'])]
    place = {name: k for k, name in enumerate(names)}
    for region, ax in axes.items():
        here = rows[rows['region'] == region]
        x = here['stage'].map(place).to_numpy()
        y = here['estimate'].to_numpy(float)
        ax.axhline(0, color=_FAINT, linewidth=0.8)
        ax.plot([0, *x], [0, *y], '-', color=COLOURS[0], linewidth=1.5)
        off = np.abs(here[['ci_low', 'ci_high']].to_numpy(float).T - y)
        ax.errorbar(x, y, off, fmt='none', ecolor=COLOURS[0], capsize=3, linewidth=1.2)
        sure = (here['p_fdr'] < _ALPHA).to_numpy()
        for mark, face in ((sure, COLOURS[0]), (~sure, 'white')):
            ax.plot(x[mark], y[mark], 'o', color=COLOURS[0], markerfacecolor=face, markersize=6)
        heading(ax, region, '')
        plain(ax)
        ax.set_xticks(range(len(names)), names)
        ax.set_xlim(-0.4, len(names) - 0.6)
    axis_names(figure, 'stage', ylabel)
    return as_svg(figure)


def plot_ellipses(rows: pd.DataFrame) -> str:
    """Draw the joint 95 % ellipses of the changes of iron and myelin, in one panel for each region.

    Parameters
    ----------
    rows : DataFrame
        Columns region, stage, map ('iron', 'mvf'), estimate, se, dof, rho_iron_mvf.

    Returns
    -------
    SVG file.
    """
    stages = list(dict.fromkeys(rows['stage']))
    figure, axes, colours = panels(rows.assign(group=rows['stage']), stages)
    for region, ax in axes.items():
        here = rows[rows['region'] == region]
        ax.plot(0, 0, '+', color=_INK, markersize=10)
        for stage, part in here.groupby('stage', sort=False):
            both = part.set_index('map').loc[['iron', 'mvf']]
            centre, se = both['estimate'].to_numpy(float), both['se'].to_numpy(float)
            dof, rho = both['dof'].iloc[0], both['rho_iron_mvf'].iloc[0]
            cov = np.outer(se, se) * np.array([[1, rho], [rho, 1]])
            ax.add_patch(_ellipse(centre, cov, dof, colours[stage]))
            ax.plot(*centre, 'o', color=colours[stage], markersize=4)
        heading(ax, region, '')
        plain(ax)
        ax.margins(0.1)
        ax.autoscale_view()
    axis_names(figure, 'change of iron (mg/100 g)', 'change of the myelin fraction')
    return as_svg(figure)


def _ellipse(centre: np.ndarray, cov: np.ndarray, dof: float, colour: str) -> Ellipse:
    """Where both lie with a confidence of 95 %, by the F distribution."""
    size, axes = np.linalg.eigh(cov)
    # an axis of myelin is a hundredth of one of iron: the angle is that of the data, not of the page
    fewer = max(dof - 1, 1)
    radius = np.sqrt(2 * dof / fewer * stats.f.ppf(0.95, 2, fewer) * np.maximum(size, 0))
    angle = np.degrees(np.arctan2(axes[1, 1], axes[0, 1]))
    return Ellipse(
        tuple(centre),
        2 * radius[1],
        2 * radius[0],
        angle=angle,
        facecolor=colour,
        edgecolor=colour,
        alpha=0.3,
    )
