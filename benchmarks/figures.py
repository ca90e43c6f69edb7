"""Figures of the benchmark, drawn from its results."""

import matplotlib
import numpy as np
import pandas as pd
import peers
from matplotlib import pyplot as plt
from results import PICTURED

OURS, PEER, DEFAULT = '#2b6cb0', '#a0aec0', '#c05621'


def draw(results, folder):
    """Draw all figures whose results are there."""
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({'font.size': 9, 'axes.spines.top': False, 'axes.spines.right': False}):
        for name, figure in (
            ('maps', _maps),
            ('inversion', _inversion),
            ('conditions', _conditions),
            ('speed', _speed),
        ):
            drawn = figure(results)
            if drawn is not None:
                drawn.savefig(folder / f'{name}.png', dpi=100, metadata={'Software': None})
                plt.close(drawn)


def _maps(results):
    path = results.folder / 'slices.npz'
    if not path.exists():
        return None
    kept = np.load(path)
    shown = [(key.format(**results.defaults), title) for key, title in PICTURED]
    shown = [(key, title) for key, title in shown if key in kept]
    figure, axes = plt.subplots(
        2, len(shown), figsize=(1.7 * len(shown), 4.1), squeeze=False, layout='constrained'
    )
    for column, (key, title) in zip(axes.T, shown, strict=True):
        for axis, part in zip(column, (key, f'{key}|sagittal'), strict=True):
            axis.imshow(kept[part].T, cmap='gray', origin='lower', vmin=0, vmax=255)
            axis.set_axis_off()
        column[0].set_title(title, fontsize=8)
    return figure


def _inversion(results):
    frame, seconds = results.part('inversion'), results.seconds()
    found = [(n, seconds.get(('inversion', n)), row['nrmse']) for n, row in frame.iterrows()]
    found = [(n, s, e) for n, s, e in found if s and not pd.isna(e)]
    if not found:
        return None
    figure, axis = plt.subplots(figsize=(6.5, 4), layout='constrained')
    for name, time, error in found:
        color = DEFAULT if name == results.defaults['inversion'] else OURS
        axis.plot(time, error, 'o', color=color)
        axis.annotate(name, (time, error), (4, 3), textcoords='offset points', color=color)
    axis.set(xscale='log', xlabel='CPU seconds, one thread', ylabel='NRMSE %', ylim=(0, None))
    return figure


def _conditions(results):
    frame = results.accuracy
    if not len(frame):
        return None
    lines = (
        ('chain', 'default', 'default chain', DEFAULT),
        ('background', results.defaults['background'], 'true total field', OURS),
        ('inversion', results.defaults['inversion'], 'true local field', PEER),
    )
    names = list(dict.fromkeys(frame['condition']))
    figure, axis = plt.subplots(figsize=(7.5, 3.6), layout='constrained')
    for part, method, label, color in lines:
        errors = [results.part(part, n)['nrmse'].get(method, np.nan) for n in names]
        axis.plot(names, errors, 'o', color=color, label=label)
    axis.set(ylabel='NRMSE %', ylim=(0, None))
    axis.tick_params(axis='x', rotation=40)
    axis.grid(axis='y', alpha=0.3)
    axis.legend(frameon=False, ncols=3)
    return figure


def _speed(results):
    found = [(*k, s, peers.SECONDS[k]) for k, s in results.seconds().items() if k in peers.SECONDS and s > 0]
    if not found:
        return None
    figure, axis = plt.subplots(figsize=(6.5, 0.3 * len(found) + 0.9), layout='constrained')
    rows = np.arange(len(found))
    axis.barh(rows - 0.2, [p for *_, p in found], 0.38, color=PEER, label='strongest peer')
    axis.barh(rows + 0.2, [s for *_, s, _ in found], 0.38, color=OURS, label='bids_qsm')
    axis.set_yticks(rows, [f'{step}: {method}' for step, method, *_ in found])
    axis.invert_yaxis()
    axis.set(xscale='log', xlabel='CPU seconds, one thread')
    axis.legend(frameon=False)
    return figure
