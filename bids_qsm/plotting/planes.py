"""A picture of small things: the three planes through the middle of each, side by side."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import ndimage

from bids_qsm.anatomy.transform import spacing_of
from bids_qsm.plotting.maps import Look, colours_of
from bids_qsm.plotting.mosaic import AXIAL, CONVENTION, CORONAL, SAGITTAL, canonical, compress

MOST = 24
"""Most labels in a picture."""
MARGIN_MM, LEAST_MM = 4.0, 8.0
"""Shown around the largest of them, and least half side of a tile."""
_DPI, _TILE, _ACROSS = 100, 126, 3
_HEAD, _FOOT, _TITLE, _GAP = 30, 42, 17, 14  # pixels
DOT = '#ffd21f'
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
    marks: np.ndarray | None = None,
    title: str = '',
) -> bytes:
    """Draw the axial, the coronal and the sagittal slice through the middle of each numbered thing.

    Grey values reach from the percentile 1 to 99.5 of what is shown.

    Parameters
    ----------
    data : ndarray of float32, 3D
        Background.
    affine : ndarray (4, 4)
    look : Look
        Of the background.
    numbers : ndarray of int
        The things that get three tiles each; the first `MOST` are shown.
    dseg : ndarray of int
        The label of each, which gives its outline a colour.
    labels : DataFrame
        Columns index and name of the labels.
    marks : ndarray of bool
        Voxels that are dotted.
    title : str

    Returns
    -------
    PNG file.
    """
    volume, turned = canonical(np.asarray(data, np.float32), affine)
    numbers, dseg = (canonical(one, affine)[0] for one in (numbers, dseg))
    dots = np.zeros(volume.shape, bool) if marks is None else canonical(np.asarray(marks, bool), affine)[0]
    spacing = spacing_of(turned)
    boxes = {n: box for n, box in enumerate(ndimage.find_objects(numbers.astype(np.int32)), 1) if box}
    places = {
        n: np.argwhere(numbers[box] == n) + [side.start for side in box] for n, box in [*boxes.items()][:MOST]
    }
    middles = {n: at.mean(0) for n, at in places.items()}
    reach = max(np.abs((at - middles[n]) * spacing).max() for n, at in places.items())
    half = max(LEAST_MM, reach + MARGIN_MM)
    low, high = _window(volume, middles.values(), half / spacing)
    groups = colours_of(dseg, labels)
    view = _View(volume, numbers, dseg, dots, groups, spacing, half, look, Normalize(low, high))
    rows = -(-len(places) // _ACROSS)
    width = _ACROSS * (3 * _TILE + _GAP) + _GAP + 70
    height = _HEAD + rows * (_TILE + _TITLE + _GAP) + _FOOT
    figure = Figure((width / _DPI, height / _DPI), dpi=_DPI, facecolor=_PAPER)
    # one pair of axes in pixels for all tiles: many pairs are slow
    ax = figure.add_axes((0, 0, 1, 1), frameon=False)
    for place, (number, middle) in enumerate(middles.items()):
        left = _GAP + place % _ACROSS * (3 * _TILE + _GAP)
        top = height - _HEAD - place // _ACROSS * (_TILE + _TITLE + _GAP)
        name = next((name for name, indices, _ in groups if dseg[tuple(places[number][0])] in indices), '')
        ax.text(left, top - 2, f'{number}: {name}', color=_INK, fontsize=8, va='top')
        for column, (axis, _) in enumerate(_PLANES):
            view.tile(ax, middle, axis, left + column * _TILE, top - _TITLE - _TILE)
    ax.set(xlim=(0, width), ylim=(0, height), xticks=[], yticks=[])
    more = f' (the first {MOST} of {len(boxes)})' if len(boxes) > MOST else ''
    _surround(figure, f'{title}{more}', view, marks is not None, width, height)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    return compress(pixels, look.cmap, [*(colour for *_, colour in groups), DOT])


def _window(volume: np.ndarray, middles: Iterable[np.ndarray], reach: np.ndarray):
    """Percentiles of what the tiles show."""
    parts = []
    for middle in middles:
        low, high = (np.clip(np.rint(middle + s * reach), 0, volume.shape).astype(int) for s in (-1, 1))
        parts.append(volume[tuple(slice(a, b) for a, b in zip(low, high, strict=True))].ravel())
    values = np.concatenate(parts)
    values = values[np.isfinite(values) & (values != 0)]
    low, high = (float(v) for v in np.percentile(values, [1, 99.5])) if values.size else (0.0, 1.0)
    return (low, high) if high > low else (low, low + 1.0)


@dataclass(frozen=True, eq=False)
class _View:
    """What all tiles share."""

    volume: np.ndarray
    numbers: np.ndarray
    dseg: np.ndarray
    dots: np.ndarray
    groups: list[tuple[str, list[int], str]]
    spacing: np.ndarray
    half: float
    look: Look
    norm: Normalize

    def tile(self, ax: Axes, middle: np.ndarray, axis: int, left: float, bottom: float):
        """One slice around the middle, with outlines and dots; what lies beyond the volume stays black."""
        scale = (_TILE - 2) / (2 * self.half)
        cut, edges, at = [], [], []
        for a, start in zip((a for a in range(3) if a != axis), (left, bottom), strict=True):
            reach = self.half / self.spacing[a]
            low = max(int(np.ceil(middle[a] - reach)), 0)
            high = min(int(np.floor(middle[a] + reach)) + 1, self.volume.shape[a])
            cut.append(slice(low, high))
            place = start + scale * ((np.arange(low, high) - middle[a]) * self.spacing[a] + self.half)
            edges += [place[0] - scale * self.spacing[a] / 2, place[-1] + scale * self.spacing[a] / 2]
            at.append(place)
        index = int(np.clip(round(float(middle[axis])), 0, self.volume.shape[axis] - 1))
        plane, marks, dots, numbers = (
            np.moveaxis(v, axis, 0)[index][tuple(cut)].T
            for v in (self.volume, self.dseg, self.dots, self.numbers)
        )
        look = {'cmap': self.look.cmap, 'norm': self.norm, 'interpolation': 'nearest', 'aspect': 'auto'}
        ax.imshow(plane, extent=edges, origin='lower', **look)
        for _, indices, colour in self.groups:
            own = np.isin(marks, indices) & (numbers > 0)
            if own.any() and min(own.shape) > 1:
                ax.contour(*at, own.astype(np.uint8), levels=[0.5], colors=[colour], linewidths=1.0)
        row, column = np.nonzero(dots)
        ax.plot(at[0][column], at[1][row], '.', color=DOT, markersize=2.4)


def _surround(figure: Figure, title: str, view: _View, dotted: bool, width: int, height: int):
    """Title, bar, legend and what must be known to read the tiles."""
    norm, unit = view.norm, view.look.unit
    figure.text(0.006, 1 - 8 / height, title, color=_INK, fontsize=11, weight='bold', va='top')
    note = f'Of each: {", ".join(name for _, name in _PLANES)}; {2 * view.half:.0f} mm. {CONVENTION}; '
    note += f'window {norm.vmin:.3g} to {norm.vmax:.3g} {unit}'
    figure.text(0.006, 6 / height, note, color=_FAINT, fontsize=7.5, va='bottom')
    entries = [(name, Line2D([], [], color=colour, linewidth=2)) for name, _, colour in view.groups]
    if dotted:
        entries.append(('vein', Line2D([], [], color=DOT, linestyle='', marker='.')))
    figure.legend(
        [line for _, line in entries], [name for name, _ in entries], loc='lower left',
        bbox_to_anchor=(0.0, 18 / height), ncols=len(entries), fontsize=8, labelcolor=_INK, frameon=False,
        borderpad=0.2, borderaxespad=0.2, handlelength=1.2,
    )  # fmt: skip
    tall = min(height - _HEAD - _FOOT - 20, 300)
    cax = figure.add_axes((1 - 58 / width, (height - _HEAD - 12 - tall) / height, 11 / width, tall / height))
    bar = figure.colorbar(ScalarMappable(norm, view.look.cmap), cax=cax)
    bar.ax.set_title(unit, color=_INK, fontsize=8, pad=4)
    bar.ax.tick_params(colors=_INK, labelsize=7)
    bar.outline.set_edgecolor(_FAINT)
