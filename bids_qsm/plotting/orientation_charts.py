"""Pictures of several head positions: what they measure in k-space, susceptibility of each, fibres."""

import io
from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from bids_qsm.anatomy.transform import spacing_of
from bids_qsm.plotting.mosaic import CONVENTION, canonical
from bids_qsm.plotting.region_charts import COLOURS, as_svg
from bids_qsm.recon.orientations.conditioning import conditioning, strength


def plot_coverage(table: pd.DataFrame, facts: Mapping[str, Mapping[str, object]]) -> str:
    """Draw how strongly each direction of k-space is measured, with the directions of B0.

    Half of the sphere is seen from B0 of the first position, on a map of equal areas. The colour is the root
    mean square of the dipole kernel over positions.

    Parameters
    ----------
    table : DataFrame
        Columns position, b0_x, b0_y, b0_z.
    facts : dict
        Its 'limit' has the root mean square below which frequencies are regularised, drawn as a line; there
        is no line without. Its 'noise_gain' is named, or without it that of the directions.

    Returns
    -------
    SVG file.
    """
    h = table[['b0_x', 'b0_y', 'b0_z']].to_numpy(float)
    found = conditioning(h)
    axes = _frame(h[0])
    x, y = np.meshgrid(*[np.linspace(-1, 1, 201)] * 2)
    radius = x**2 + y**2
    inside = radius <= 1
    # Lambert's azimuthal projection of the half sphere onto a disc of radius 1
    z = 1 - radius
    scale = np.sqrt(np.maximum(2 - radius, 0))
    k = np.stack([x * scale, y * scale, z], -1)[inside] @ axes
    values = np.full(x.shape, np.nan)
    values[inside] = strength(h, k)
    figure = Figure(figsize=(6.2, 4.8), layout='constrained')
    ax = figure.subplots()
    drawn = ax.pcolormesh(x, y, values, vmin=0, vmax=0.5, cmap='viridis', rasterized=True)
    limit = facts.get('limit', {}).get('value', 0)
    if found.coverage < limit:
        ax.contour(x, y, values, levels=[limit], colors='white', linewidths=1)
    gain = facts.get('noise_gain', {}).get('value', found.noise_gain)
    for n, direction in enumerate(h, 1):
        place = direction @ axes.T
        place = place * np.sign(place[2] or 1)
        at = place[:2] / np.sqrt(1 + place[2])
        ax.plot(*at, 'o', color='white', markeredgecolor='black', markersize=6)
        label = ax.annotate(str(n), at, (4, 4), textcoords='offset points', fontsize=8, color='white')
        label.set_path_effects([withStroke(linewidth=2, foreground='black')])  # it may lie on yellow
    bar = figure.colorbar(drawn, ax=ax, shrink=0.85)
    bar.set_label('root mean square of the dipole kernel')
    ax.set_title(
        f'least {found.coverage:.3f}, noise gain {gain:.2f}; circles: B0 of each position',
        fontsize=9,
    )
    ax.set_aspect('equal')
    ax.set_axis_off()
    return as_svg(figure)


def _frame(direction: np.ndarray):
    """Orthonormal rows (3, 3), of which the last is a direction."""
    other = np.eye(3)[int(np.argmin(np.abs(direction)))]
    first = np.cross(other, direction)
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(direction, first), direction])


MOST_COLOURS = 6
"""Positions that have a colour each in the chart of regions."""


def plot_singles(table: pd.DataFrame) -> str:
    """Draw susceptibility of each region from all positions, and from each position alone.

    Parameters
    ----------
    table : DataFrame
        Columns region, hemisphere, position, chi_single, chi_cosmos, cosmos_sd (ppm).

    Returns
    -------
    SVG file.
    """
    table = table[pd.to_numeric(table['chi_cosmos'], errors='coerce').notna()]
    table = table[table['region'] != 'Brain'].copy()
    table['chi_single'] = pd.to_numeric(table['chi_single'], errors='coerce')
    names = [
        f'{region} {side}' if side in ('L', 'R') else region
        for region, side in zip(table['region'], table['hemisphere'], strict=True)
    ]
    table = table.assign(name=names)
    order = table.groupby('name')['chi_cosmos'].first().sort_values().index
    figure = Figure(figsize=(8, max(2.2, 0.9 + 0.24 * len(order))), layout='constrained')
    if not len(order):
        figure.text(0.5, 0.5, 'No region has a voxel inside the mask.', ha='center')
        return as_svg(figure)
    ax = figure.subplots()
    place = {name: n for n, name in enumerate(order)}
    own = table.drop_duplicates('name')
    ax.errorbar(
        own['chi_cosmos'],
        own['name'].map(place),
        xerr=own['cosmos_sd'],
        fmt='D',
        color='#222222',
        markersize=5,
        lw=1.2,
        label='all positions',
    )
    shown = table[table['chi_single'].notna()]
    groups = [rows for _, rows in shown.groupby('position', sort=False)]
    # more colours than these cannot be told apart
    is_few = len(groups) <= MOST_COLOURS
    for n, rows in enumerate(groups):
        label = f'position {n + 1} alone' if is_few else 'each position alone' if n == 0 else None
        ax.plot(
            rows['chi_single'],
            rows['name'].map(place),
            'o',
            color=COLOURS[n] if is_few else '#888888',
            markersize=4,
            label=label,
        )
    ax.set_yticks(np.arange(len(order)), list(order), fontsize=8)
    ax.set_xlabel('susceptibility (ppm)')
    ax.grid(axis='x', color='#dddddd', linewidth=0.7)
    ax.spines[['top', 'right']].set_visible(False)
    ax.legend(fontsize=8, frameon=False)
    return as_svg(figure)


def plot_angles(table: pd.DataFrame) -> str:
    """Draw susceptibility of white matter by the angle of its fibres to B0, before and after correction.

    Parameters
    ----------
    table : DataFrame
        Columns angle_deg, share, and chi, chi_fibercorrected (ppm), each with ``_sd``.

    Returns
    -------
    SVG file.
    """
    figure = Figure(figsize=(6.4, 3.8), layout='constrained')
    ax = figure.subplots()
    for name, label, colour in (
        ('chi', 'with what fibres add', COLOURS[1]),
        ('chi_fibercorrected', 'without', COLOURS[0]),
    ):
        mean, sd = table[name], table[f'{name}_sd']
        ax.plot(table['angle_deg'], mean, 'o-', color=colour, label=label)
        ax.fill_between(table['angle_deg'], mean - sd, mean + sd, color=colour, alpha=0.15, lw=0)
    ax.set_xlim(0, 90)
    ax.set_xticks(np.arange(0, 91, 15))
    ax.set_xlabel('angle between fibres and B0 (degrees)')
    ax.set_ylabel('susceptibility (ppm)')
    ax.grid(color='#dddddd', linewidth=0.7)
    ax.spines[['top', 'right']].set_visible(False)
    ax.legend(fontsize=8, frameon=False)
    return as_svg(figure)


def plot_anisotropy(anisotropy: np.ndarray, mean: np.ndarray, affine: np.ndarray) -> bytes:
    """Draw the anisotropy in colours over the mean susceptibility, in axial and coronal slices.

    Parameters
    ----------
    anisotropy : ndarray
        Susceptibility along less across (ppm); 0 where it is not given.
    mean : ndarray
        Mean susceptibility (ppm); 0 where it is not given.
    affine : ndarray, 4x4

    Returns
    -------
    PNG file.
    """
    top = _top(anisotropy)
    scale = ScalarMappable(Normalize(0, top), 'plasma')
    # to_rgba takes a volume for a picture
    colours = scale.cmap(scale.norm(canonical(anisotropy, affine)[0]))[..., :3]
    figure, axes = _drawn(colours, anisotropy, mean, affine)
    bar = figure.colorbar(scale, ax=axes, shrink=0.8)
    bar.set_label('ppm', color='white')
    bar.ax.tick_params(colors='white')
    return _as_png(figure)


def plot_directions(
    vectors: np.ndarray, anisotropy: np.ndarray, mean: np.ndarray, affine: np.ndarray
) -> bytes:
    """Draw principal directions by colour over the mean susceptibility, in axial and coronal slices.

    Red runs from left to right, green from front to back, blue up; the brightness is the anisotropy.

    Parameters
    ----------
    vectors : ndarray, (x, y, z, 3)
        Unit vectors along the axes of the scanner.
    anisotropy, mean, affine
        As of `plot_anisotropy`.

    Returns
    -------
    PNG file.
    """
    bright = DARKEST + (1 - DARKEST) * np.clip(anisotropy / _top(anisotropy), 0, 1)
    colours = np.stack([canonical(np.abs(vectors[..., n]) * bright, affine)[0] for n in range(3)], -1)
    return _as_png(_drawn(colours, anisotropy, mean, affine)[0])


DARKEST = 0.4
"""Brightness of directions where there is no anisotropy, so that they can be told from what lies behind."""
BEHIND = 0.45
"""Brightness of the mean susceptibility behind them."""


def _top(anisotropy: np.ndarray):
    """Anisotropy (ppm) that few voxels exceed."""
    there = anisotropy != 0
    return max(float(np.percentile(anisotropy[there], 95)), 1e-9) if there.any() else 1.0


def _drawn(colours: np.ndarray, anisotropy: np.ndarray, mean: np.ndarray, affine: np.ndarray):
    """Slices through where there is anisotropy, in ``colours`` over the mean; the figure and its axes."""
    shown, back = (canonical(one, affine)[0] for one in (anisotropy != 0, mean))
    brain = back != 0
    low, high = np.percentile(back[brain], [2, 98]) if brain.any() else (0.0, 1.0)
    grey = BEHIND * brain * np.clip((back - low) / max(high - low, 1e-9), 0, 1)
    colours = np.where(shown[..., None], colours, grey[..., None])
    kept, box = (
        [
            (int(one[0]), int(one[-1]) + 1) if one.size else (0, n)
            for one, n in zip(_lines(there), shown.shape, strict=True)
        ]
        for there in (brain | shown, shown)
    )
    figure = Figure(figsize=(12, 6), layout='constrained', facecolor='black')
    axes = figure.subplots(2, 5)
    aspects = spacing_of(canonical(mean, affine)[1])
    for row, axis in zip(axes, (2, 1), strict=True):
        low, high = box[axis]
        across, along = (a for a in range(3) if a != axis)
        for ax, share in zip(row, (0.25, 0.4, 0.5, 0.6, 0.75), strict=True):
            plane = np.take(colours, int(low + share * (high - low)), axis=axis)
            plane = plane[slice(*kept[across]), slice(*kept[along])]
            ax.imshow(
                np.swapaxes(plane, 0, 1),
                origin='lower',
                interpolation='nearest',
                aspect=aspects[along] / aspects[across],
            )
            ax.set_axis_off()
    figure.supxlabel(CONVENTION, x=0.01, ha='left', fontsize=9, color='#bbbbbb')
    return figure, axes


def _lines(there: np.ndarray):
    """Indices along each axis at which something is."""
    return [np.flatnonzero(there.any(tuple(b for b in range(3) if b != a))) for a in range(3)]


def _as_png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with mpl.rc_context({'savefig.facecolor': 'black'}):
        FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()
