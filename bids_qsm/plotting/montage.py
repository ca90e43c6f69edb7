"""A row of small pictures for each candidate: what a reader needs to judge it."""

import io
from collections.abc import Mapping

import nibabel as nib
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bids_qsm.anatomy.transform import spacing_of
from bids_qsm.plotting.maps import Look
from bids_qsm.plotting.mosaic import CONVENTION, canonical

REACH_MM = 20.0
"""Half the width (mm) of a picture."""
MOST = 24
"""Most candidates that are shown."""
_INK, _FAINT, _PAPER, _MARK = '#e8e8e8', '#b0b0b0', '#000000', '#ffd21f'
_SIDE, _TEXT = 1.5, 3.0  # inches of a picture, and of the words beside a row


def plot_candidates(
    table: pd.DataFrame, maps: Mapping[str, np.ndarray], affine: np.ndarray, *, looks: Mapping[str, Look]
) -> bytes:
    """Draw each candidate in axial slices of several maps, and in a coronal slice of the last one.

    Parameters
    ----------
    table : DataFrame
        Columns candidate, x, y, z (mm), class, certainty, mars_region, side, diameter_mm, moment, moment_se.
    maps : mapping of str to ndarray, 3D
        From left to right.
    affine : ndarray (4, 4)
        Voxels to world (RAS, mm).
    looks : mapping of str to Look
        How each map is shown; a window that is not given is that of the 1st to 99th percentile around the
        candidate.

    Returns
    -------
    PNG file.
    """
    turned = {name: canonical(data, affine)[0] for name, data in maps.items()}
    grid = canonical(next(iter(maps.values())), affine)[1]
    shown = table.head(MOST)
    views = [*((name, 2) for name in turned), *((name, 1) for name in list(turned)[-1:])]
    height = max(len(shown), 1) * _SIDE + 0.8
    width = _TEXT + len(views) * _SIDE
    figure = Figure(figsize=(width, height), dpi=80, facecolor=_PAPER)
    figure.text(0.01, 1 - 0.15 / height, 'Candidates', color=_INK, fontsize=11, weight='bold', va='top')
    left = '' if len(table) <= MOST else f'; {len(table) - MOST} more are not shown'
    note = f'{CONVENTION}; pictures are {2 * REACH_MM:.0f} mm wide{left}'
    figure.text(0.01, 0.1 / height, note, color=_FAINT, fontsize=7.5, va='bottom')
    for column, (name, axis) in enumerate(views):
        title = looks[name].title + (' (coronal)' if axis == 1 else '')
        x = (_TEXT + (column + 0.5) * _SIDE) / width
        figure.text(x, 1 - 0.35 / height, title, color=_INK, fontsize=7.5, ha='center', va='center')
    if not len(shown):
        figure.text(0.5, 0.5, 'none', color=_FAINT, ha='center')
    for row, one in enumerate(shown.to_dict('records')):
        bottom = (height - 0.5 - (row + 1) * _SIDE) / height
        words = _words(one)
        figure.text(0.01, bottom + _SIDE / 2 / height, words, color=_INK, fontsize=8.5, va='center')
        centre = nib.affines.apply_affine(np.linalg.inv(grid), [one[axis] for axis in 'xyz'])
        for column, (name, axis) in enumerate(views):
            place = ((_TEXT + column * _SIDE) / width, bottom, _SIDE / width * 0.97, _SIDE / height * 0.97)
            axes = figure.add_axes(place, xticks=[], yticks=[])
            picture, extent = _cut(turned[name], centre, spacing_of(grid), axis)
            low, high = _window(picture, looks[name])
            smooth = 'bilinear' if looks[name].smooth else 'nearest'
            axes.imshow(
                picture.T, cmap=looks[name].cmap, vmin=low, vmax=high, origin='lower', extent=extent,
                interpolation=smooth,
            )  # fmt: skip
            # four ticks that point at the candidate, and leave it free
            for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
                axes.plot([7 * dx, 10 * dx], [7 * dy, 10 * dy], color=_MARK, linewidth=0.8)
            axes.set(xlim=(-REACH_MM, REACH_MM), ylim=(-REACH_MM, REACH_MM), facecolor=_PAPER)
    canvas, file = FigureCanvasAgg(figure), io.BytesIO()
    canvas.print_png(file)
    return file.getvalue()


def _words(one: Mapping):
    size = '' if pd.isna(one['diameter_mm']) else f'{one["diameter_mm"]:.1f} mm'
    moment = 'moment not known'
    if not pd.isna(one['moment']):
        moment = f'm = {one["moment"]:.3g} ± {one["moment_se"]:.2g} ppm mm³'
    side = '' if one['side'] == 'not assessable' else one['side']
    region = 'region not assessable' if one['mars_region'] == 'not assessable' else one['mars_region']
    first = f'{one["candidate"]}: {one["class"]}, {one["certainty"]}'
    place = f'x {one["x"]:.0f}, y {one["y"]:.0f}, z {one["z"]:.0f} mm'
    return '\n'.join((first, moment, f'{size}, {region} {side}'.strip(), place))


def _cut(volume: np.ndarray, centre: np.ndarray, spacing: np.ndarray, axis: int):
    """Slice around a point (voxels), and its extent (mm) relative to that point."""
    index = int(np.clip(round(centre[axis]), 0, volume.shape[axis] - 1))
    plane = np.take(volume, index, axis)
    box, extent = [], []
    for a in (a for a in range(3) if a != axis):
        reach = int(np.ceil(REACH_MM / spacing[a])) + 1
        middle = round(centre[a])
        low, high = max(middle - reach, 0), min(middle + reach + 1, volume.shape[a])
        box.append(slice(low, max(high, low + 1)))
        extent += [(low - 0.5 - centre[a]) * spacing[a], (high - 0.5 - centre[a]) * spacing[a]]
    return plane[tuple(box)], extent


def _window(picture: np.ndarray, look: Look):
    if look.window is not None:
        return look.window
    inside = picture[np.isfinite(picture)]
    low, high = np.percentile(inside, (1, 99)) if inside.size else (0.0, 1.0)
    return float(min(low, 0) if not look.masked else low), float(high if high > low else low + 1)
