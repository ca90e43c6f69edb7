"""A picture of small things: the three planes through the middle of each, side by side."""

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bids_qsm.anatomy.transform import spacing_of
from bids_qsm.plotting.maps import Look, colours_of, window_of
from bids_qsm.plotting.mosaic import AXIAL, CONVENTION, CORONAL, SAGITTAL, canonical, compress

MOST = 24
"""Most labels in a picture."""
MARGIN_MM, LEAST_MM = 4.0, 8.0
"""Shown around the largest of them, and least half side of a tile."""
_DPI, _TILE, _ACROSS = 100, 126, 3
_HEAD, _FOOT, _TITLE, _GAP = 30, 42, 17, 14  # pixels
_INK, _FAINT, _PAPER = '#e8e8e8', '#b0b0b0', '#000000'
_PLANES = ((AXIAL, 'axial'), (CORONAL, 'coronal'), (SAGITTAL, 'sagittal'))


def plot_planes(
    data: np.ndarray,
    affine: np.ndarray,
    *,
    look: Look,
    numbers: np.ndarray,
    dseg: np.ndarray,
    labels: pd.DataFrame | None = None,
    title: str = '',
) -> bytes:
    """Draw the axial, the coronal and the sagittal slice through the middle of each numbered label.

    Parameters
    ----------
    data : ndarray of float32, 3D
        Background.
    affine : ndarray (4, 4)
    look : Look
        Of the background.
    numbers : ndarray of int
        The labels that get three tiles each; the first `MOST` are shown.
    dseg : ndarray of int
        What is outlined, in a colour for each label.
    labels : DataFrame
        Columns index and name of the labels of ``dseg``.
    title : str

    Returns
    -------
    PNG file.
    """
    volume, turned = canonical(np.asarray(data, np.float32), affine)
    numbers, dseg = (canonical(one, affine)[0] for one in (numbers, dseg))
    spacing = spacing_of(turned)
    shown, size = np.unique(numbers[numbers > 0]), 0
    shown, size = shown[:MOST], len(shown)
    middles = [np.argwhere(numbers == n).mean(0) for n in shown]
    reach = [np.abs((np.argwhere(numbers == n) - m) * spacing).max() for n, m in zip(shown, middles, strict=True)]
    half = max(LEAST_MM, max(reach, default=0) + MARGIN_MM)
    rows = -(-len(shown) // _ACROSS)
    width = _ACROSS * (3 * _TILE + _GAP) + _GAP + 70
    height = _HEAD + rows * (_TILE + _TITLE + _GAP) + _FOOT
    figure = Figure((width / _DPI, height / _DPI), dpi=_DPI, facecolor=_PAPER)
    low, high = window_of([volume], look, None)
    groups = colours_of(dseg, labels)
    for place, (number, middle) in enumerate(zip(shown, middles, strict=True)):
        left = _GAP + place % _ACROSS * (3 * _TILE + _GAP)
        top = _HEAD + place // _ACROSS * (_TILE + _TITLE + _GAP)
        values, counts = np.unique(dseg[numbers == number], return_counts=True)
        name = _name(int(values[counts.argmax()]), labels)
        figure.text(
            left / width, 1 - (top + 2) / height, f'{number}: {name}', color=_INK, fontsize=8, va='top'
        )
        for column, (axis, _) in enumerate(_PLANES):
            bottom = height - top - _TITLE - _TILE
            box = ((left + column * _TILE) / width, bottom / height, (_TILE - 2) / width, _TILE / height)
            _tile(figure, box, volume, dseg, groups, middle, axis, spacing, half, (look, low, high))
    _surround(figure, title, size, look, Normalize(low, high), groups, width, height)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    return compress(pixels, look.cmap, [colour for *_, colour in groups])


def _name(label: int, labels: pd.DataFrame | None):
    if labels is None:
        return str(label)
    return str(labels.set_index('index')['name'].get(label, label))


def _tile(
    figure: Figure,
    box: tuple[float, float, float, float],
    volume: np.ndarray,
    dseg: np.ndarray,
    groups: list,
    middle: np.ndarray,
    axis: int,
    spacing: np.ndarray,
    half: float,
    shades: tuple[Look, float, float],
):
    """One slice around the middle, with outlines; what lies beyond the volume stays black."""
    look, low, high = shades
    ax = figure.add_axes(box, facecolor=_PAPER)
    index = int(np.clip(round(float(middle[axis])), 0, volume.shape[axis] - 1))
    first, second = (a for a in range(3) if a != axis)
    plane, marks = (np.moveaxis(v, axis, 0)[index].T for v in (volume, dseg))
    x, y = (
        (np.arange(plane.shape[1 - k]) - middle[a]) * spacing[a] for k, a in ((0, first), (1, second))
    )
    edges = [(v[0] - s / 2, v[-1] + s / 2) for v, s in ((x, spacing[first]), (y, spacing[second]))]
    ax.imshow(
        plane, cmap=look.cmap, norm=Normalize(low, high), extent=(*edges[0], *edges[1]), origin='lower',
        interpolation='nearest', aspect='equal',
    )  # fmt: skip
    for _, indices, colour in groups:
        own = np.isin(marks, indices)
        if own.any() and min(own.shape) > 1:
            ax.contour(x, y, own.astype(np.uint8), levels=[0.5], colors=[colour], linewidths=0.9)
    ax.set(xlim=(-half, half), ylim=(-half, half), xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def _surround(
    figure: Figure, title: str, size: int, look: Look, norm: Normalize, groups: list, width: int, height: int
):
    """Title, bar, legend and what must be known to read the tiles."""
    more = f' (the first {MOST} of {size})' if size > MOST else ''
    figure.text(
        0.006, 1 - 8 / height, f'{title}{more}', color=_INK, fontsize=11, weight='bold', va='top'
    )
    note = f'Of each: {", ".join(name for _, name in _PLANES)}. {CONVENTION}; '
    note += f'window {norm.vmin:.3g} to {norm.vmax:.3g} {look.unit}'
    figure.text(0.006, 6 / height, note, color=_FAINT, fontsize=7.5, va='bottom')
    if groups:
        figure.legend(
            [Line2D([], [], color=colour, linewidth=2) for *_, colour in groups],
            [name for name, *_ in groups], loc='lower left', bbox_to_anchor=(0.0, 18 / height),
            ncols=len(groups), fontsize=8, labelcolor=_INK, frameon=False, borderpad=0.2,
            borderaxespad=0.2, handlelength=1.2,
        )  # fmt: skip
    tall = min(height - _HEAD - _FOOT - 20, 300)
    cax = figure.add_axes((1 - 58 / width, (height - _HEAD - 12 - tall) / height, 11 / width, tall / height))
    bar = figure.colorbar(ScalarMappable(norm, look.cmap), cax=cax)
    bar.ax.set_title(look.unit, color=_INK, fontsize=8, pad=4)
    bar.ax.tick_params(colors=_INK, labelsize=7)
    bar.outline.set_edgecolor(_FAINT)
