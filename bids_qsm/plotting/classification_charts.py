"""Charts of classifiers: ROC, precision-recall, calibration and decision curves."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bids_qsm.plotting.region_charts import COLOURS, as_svg

_MARKS = 'os'


def plot_curves(curves: pd.DataFrame, texts: dict[str, str], *, share: float, positive: str) -> str:
    """Draw the curves of each model beside each other, and those of a classifier that knows nothing.

    The decision curve has that of acting on all units, and 0 is acting on none.

    Parameters
    ----------
    curves : DataFrame
        Columns model, curve (roc, pr, calibration, decision), x, y, low, high, n.
    texts : dict of str to str
        Text of each model in the legend, such as its AUC.
    share : float
        Share of positive units.
    positive : str
        The positive label.

    Returns
    -------
    SVG file.
    """
    figure = Figure(figsize=(8.6, 8.6), layout='constrained')
    (roc, pr), (calibration, decision) = figure.subplots(2, 2)
    grey = {'color': '#888888', 'linewidth': 0.9, 'linestyle': '--'}
    for ax in (roc, calibration):
        ax.plot([0, 1], [0, 1], **grey)
    pr.plot([0, 1], [share, share], **grey)
    thresholds = np.linspace(0, 0.99, 100)
    for benefit in (share - (1 - share) * thresholds / (1 - thresholds), 0 * thresholds):
        decision.plot(thresholds, benefit, **grey)
    for number, (name, own) in enumerate(curves.groupby('model', sort=False)):
        colour = COLOURS[number]
        parts = dict(iter(own.groupby('curve')))
        roc.plot(parts['roc']['x'], parts['roc']['y'], color=colour, label=texts.get(name, name))
        pr.plot(parts['pr']['x'], parts['pr']['y'], color=colour)
        decision.plot(parts['decision']['x'], parts['decision']['y'], color=colour)
        bins = parts['calibration']
        spread = (bins['y'] - bins['low']).clip(lower=0), (bins['high'] - bins['y']).clip(lower=0)
        look = {'color': colour, 'marker': _MARKS[number % 2], 'markersize': 5, 'linewidth': 1}
        calibration.errorbar(bins['x'], bins['y'], yerr=spread, elinewidth=0.9, capsize=2, **look)
    names = (
        (roc, 'ROC', 'false positive rate', 'true positive rate'),
        (pr, 'Precision and recall', 'recall', 'precision'),
        (calibration, 'Calibration', f'predicted probability of {positive}', f'observed share of {positive}'),
        (decision, 'Decision', 'threshold of the probability', 'net benefit'),
    )
    for ax, title, xlabel, ylabel in names:
        ax.set_title(title, fontsize=10, loc='left')
        ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=xlabel, ylabel=ylabel, aspect='equal')
        ax.grid(color='#dddddd', linewidth=0.6)
        ax.spines[['top', 'right']].set_visible(False)
    # far below zero nobody would act
    decision.set(ylim=(-0.15 * share, 1.08 * share), aspect='auto')
    figure.legend(frameon=False, fontsize=9, loc='outside upper right', ncols=2)
    return as_svg(figure)
