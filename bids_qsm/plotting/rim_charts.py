"""Charts of rim lesions: polar maps of their edge beside a slice."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bids_qsm.anatomy.transform import spacing_of
from bids_qsm.plotting.mosaic import CONVENTION, canonical
from bids_qsm.plotting.region_charts import as_svg

MOST = 12
"""Most lesions in a chart."""
HALF_MM = 14.0
"""Half the side of a slice."""
WINDOW = (-0.06, 0.09)
"""Susceptibility (ppm) above white matter from black to white."""
_MARKS = {'rim': 'o', 'none': 'o', 'vein': 'x', 'not assessable': '.'}


def equal_area(ways: np.ndarray):
    """Lambert's equal-area projection of unit vectors (n, 3) of both halves, side by side: (n, 2).

    The upper half (z > 0) lies left, seen from above; the lower half right, with x to the same side.

    >>> equal_area(np.array([[0, 0, 1.0], [0, 0, -1.0]])).tolist()
    [[-1.1, 0.0], [1.1, 0.0]]
    """
    x, y, z = ways.T
    scale = 1 / np.sqrt(1 + np.abs(z))
    return np.stack([x * scale + np.where(z > 0, -1.1, 1.1), y * scale], -1)


def plot_rims(
    directions: pd.DataFrame, table: pd.DataFrame, chi: np.ndarray, lesions: np.ndarray, affine: np.ndarray
) -> str:
    """Draw the lesions of the highest scores: polar map, central slice, and the slice with the outline.

    Parameters
    ----------
    directions, table : DataFrame
        See `bids_qsm.biomarkers.rim_table`.
    chi : ndarray
        Susceptibility (ppm).
    lesions : ndarray of int
        Numbers of the lesions.
    affine : ndarray (4, 4)

    Returns
    -------
    SVG file.
    """
    shown = table[table['reason'].isna()].sort_values('rim_score', ascending=False).head(MOST)
    figure = Figure(figsize=(10, max(1.5, 2.3 * len(shown))), layout='constrained')
    if shown.empty:
        figure.text(0.5, 0.5, 'No lesion could be assessed.', ha='center')
        return as_svg(figure)
    figure.supxlabel(f'Slices: {CONVENTION}.', fontsize=7, color='#555555')
    (chi, turned), lesions = canonical(chi, affine), canonical(lesions, affine)[0]
    steps = spacing_of(turned)
    axes = figure.subplots(len(shown), 3, width_ratios=(2.1, 1, 1), squeeze=False)
    for (polar, plain, outlined), row in zip(axes, shown.to_dict('records'), strict=True):
        _polar(polar, directions[directions['lesion'] == row['lesion']])
        polar.set_title(
            f'Lesion {row["lesion"]:g}: {row["rim_class"]}; rim in {row["n_positive"]:g} of '
            f'{row["n_assessable"]:g} directions, {1000 * row["rim_contrast"]:.0f} ppb',
            fontsize=9,
            loc='left',
        )
        for ax, contour in ((plain, False), (outlined, True)):
            _slice(ax, chi, lesions, int(row['lesion']), steps, row['chi_outside'], contour)
    return as_svg(figure)


def _polar(ax: Axes, rows: pd.DataFrame):
    """Directions on two discs: filled with a rim, empty without, a cross at veins, a dot where unknown."""
    at = equal_area(rows[list('xyz')].to_numpy(float))
    high = max(float(np.nanmax(rows['contrast'].to_numpy(float), initial=0.0)), 0.01)
    for centre, name in ((-1.1, 'upper half'), (1.1, 'lower half')):
        turn = np.linspace(0, 2 * np.pi, 90)
        ax.plot(centre + np.cos(turn), np.sin(turn), color='#999999', linewidth=0.8)
        ax.text(centre, -1.12, name, ha='center', va='top', fontsize=7, color='#555555')
    for state, mark in _MARKS.items():
        here = (rows['state'] == state).to_numpy()
        if not here.any():
            continue
        more = {'color': '#777777', 's': 16, 'linewidths': 0.8}
        if state in ('rim', 'none'):
            more = {'c': rows['contrast'].to_numpy(float)[here], 'cmap': 'inferno_r', 'vmin': 0, 'vmax': high}
            more |= {'s': 52 if state == 'rim' else 16, 'edgecolors': '#333333', 'linewidths': 0.5}
        ax.scatter(*at[here].T, marker=mark, **more)
    ax.set(xlim=(-2.2, 2.2), ylim=(-1.35, 1.1), aspect='equal')
    ax.axis('off')


def _slice(
    ax: Axes,
    chi: np.ndarray,
    lesions: np.ndarray,
    number: int,
    steps: np.ndarray,
    level: float,
    contour: bool,
):
    """The slice through the middle of a lesion across the longest side of the voxel, of canonical maps."""
    axis = 2 - int(np.argmax(steps[::-1]))
    middle = np.argwhere(lesions == number).mean(0).round().astype(int)
    half = np.ceil(HALF_MM / steps).astype(int)
    box = tuple(
        slice(m, m + 1) if a == axis else slice(max(m - h, 0), min(m + h + 1, n))
        for a, (m, h, n) in enumerate(zip(middle, half, chi.shape, strict=True))
    )
    rows, columns = (a for a in (1, 0) if a != axis) if axis == 2 else ((2, 1) if axis == 0 else (2, 0))
    image = np.squeeze(chi[box], axis).T
    extent = (0, image.shape[1] * steps[columns], 0, image.shape[0] * steps[rows])
    low, high = (level + limit for limit in WINDOW)
    ax.imshow(image, cmap='gray', vmin=low, vmax=high, origin='lower', extent=extent)
    if contour:
        own = np.squeeze(lesions[box] == number, axis).T
        ax.contour(own, [0.5], colors='#ff4444', linewidths=0.9, extent=extent, origin='lower')
    ax.set(xticks=[], yticks=[])
