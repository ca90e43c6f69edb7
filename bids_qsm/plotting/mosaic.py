"""A picture of slices side by side, with a colour bar, outlines and marks of the sides."""

import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import matplotlib as mpl
import nibabel as nib
import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from PIL import Image

from bids_qsm.anatomy.transform import spacing_of

if TYPE_CHECKING:
    from bids_qsm.plotting.maps import Look

mpl.rcdefaults()  # a matplotlibrc of the user would change the figures

Box = list[tuple[int, int]]
"""First and last index along each axis."""
Tile = tuple[int, int, int]
"""Index of a volume, axis of the slice, index of the slice."""

AXIAL, CORONAL, SAGITTAL = 2, 1, 0
CONVENTION = "neurological: the subject's left is on the left"

_DPI, _WIDTH = 100, 1200
_INK, _FAINT, _PAPER = '#e8e8e8', '#b0b0b0', '#000000'
_GAP, _MARGIN = 3.0, 6.0  # mm between tiles and around the mask
MASK_COLOUR = '#ffd21f'


def canonical(data: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flip and permute axes so that they are nearest to right, anterior, superior; no interpolation."""
    data = np.asarray(data)
    orientation = nib.io_orientation(affine)
    turned = nib.apply_orientation(data, orientation)
    return turned, affine @ nib.orientations.inv_ornt_aff(orientation, data.shape[:3])


def few(n: int, wanted: int) -> list[int]:
    """Up to ``wanted`` indices below ``n``, with the first and the last."""
    return sorted({round(float(i)) for i in np.linspace(0, n - 1, min(n, wanted))})


def box_of(mask: np.ndarray, affine: np.ndarray, margin: float = _MARGIN) -> Box:
    """The box round a mask, with a margin (mm); the whole image where the mask is empty."""
    spacing = spacing_of(affine)
    box = []
    for axis in range(3):
        inside = np.flatnonzero(mask.any(tuple(a for a in range(3) if a != axis)))
        first, last = (inside[0], inside[-1]) if inside.size else (0, mask.shape[axis] - 1)
        extra = int(np.ceil(margin / spacing[axis]))
        box.append((max(int(first) - extra, 0), min(int(last) + extra, mask.shape[axis] - 1)))
    return box


def slices_of(box: Box, axis: int, n: int, regions: np.ndarray | None = None) -> list[int]:
    """Up to ``n`` slices, spread evenly over the box, or over the regions so that each gets its share."""
    first, last = box[axis]
    if regions is None:
        return sorted({round(float(i)) for i in np.linspace(first, last, n + 2)[1:-1]})
    where = np.nonzero(regions)
    place, region = np.unique(np.stack([where[axis], regions[where]]), axis=1)
    _, inverse, extent = np.unique(region, return_inverse=True, return_counts=True)
    share = np.cumsum(np.bincount(place, weights=1 / extent[inverse]))
    return sorted({int(np.searchsorted(share, share[-1] * (i + 0.5) / n)) for i in range(n)})


def rows_of(
    box: Box, *, axial: tuple[int, ...], coronal: int, sagittal: int, regions: np.ndarray | None = None
) -> list[list[Tile]]:
    """Rows of tiles: axial slices from bottom to top, then coronal and sagittal ones."""
    planes = slices_of(box, AXIAL, sum(axial), regions)
    starts = np.cumsum([0, *axial])
    rows = [[(0, AXIAL, i) for i in planes[a : a + n]] for a, n in zip(starts, axial, strict=False)]
    rows.append(
        [(0, CORONAL, i) for i in slices_of(box, CORONAL, coronal, regions)]
        + [(0, SAGITTAL, i) for i in slices_of(box, SAGITTAL, sagittal, regions)]
    )
    return [row for row in rows if row]


class Mosaic:
    """Rows of slices side by side on one pair of axes in mm, so that anisotropic voxels keep their shape."""

    def __init__(self, rows: list[list[Tile]], box: Box, affine: np.ndarray, title: str) -> None:
        self._spacing = spacing_of(affine)
        self._box = box
        self._affine = affine
        self._title = title
        size = [(last - first + 1) * h for (first, last), h in zip(box, self._spacing, strict=True)]
        shape = {AXIAL: (size[0], size[1]), CORONAL: (size[0], size[2]), SAGITTAL: (size[1], size[2])}
        widths = [sum(shape[axis][0] + _GAP for _, axis, _ in row) - _GAP for row in rows]
        heights = [max(shape[axis][1] for _, axis, _ in row) for row in rows]
        self._extent = (max(widths), sum(heights) + _GAP * (len(rows) - 1))
        self._tiles, self._row_tops = [], []
        top = self._extent[1]
        for row, width, height in zip(rows, widths, heights, strict=True):
            left = (self._extent[0] - width) / 2
            self._row_tops.append((left, top))
            for volume, axis, index in row:
                w, h = shape[axis]
                bottom = top - height + (height - h) / 2
                self._tiles.append((volume, axis, index, (left, left + w, bottom, bottom + h)))
                left += w + _GAP
            top -= height + _GAP
        # a small field of view does not become a picture taller than a screen
        scale = min((_WIDTH - 90) / self._extent[0], 640 / self._extent[1])
        self._pixels = (self._extent[0] * scale, self._extent[1] * scale)
        self._figure = Figure(dpi=_DPI, facecolor=_PAPER)
        self._axes = self._figure.add_axes((0, 0, 1, 1), frameon=False)
        self._axes.set(xlim=(0, self._extent[0]), ylim=(0, self._extent[1]), xticks=[], yticks=[])
        self._bar: tuple[ScalarMappable, Look] | None = None
        self._cmap, self._outlines = 'gray', []
        self._annotate()

    def _cut(self, volume: np.ndarray, axis: int, index: int) -> np.ndarray:
        plane = np.moveaxis(volume, axis, 0)[index]
        a, b = (self._box[i] for i in range(3) if i != axis)
        return plane[a[0] : a[1] + 1, b[0] : b[1] + 1].T

    def _text(self, x: float, y: float, text: str, size: float = 7.5, **where: str) -> None:
        shade = [withStroke(linewidth=1.2, foreground=_PAPER)]
        self._axes.text(x, y, text, color=_INK, fontsize=size, zorder=5, path_effects=shade, **where)

    def _annotate(self) -> None:
        marked = set()
        centre = [(first + last) / 2 for first, last in self._box]
        for _, axis, index, (left, right, bottom, top) in self._tiles:
            point = list(centre)
            point[axis] = index
            place = nib.affines.apply_affine(self._affine, point)[axis]
            self._text(left + 1, bottom + 1, f'{"xyz"[axis]} = {place:.0f} mm', 6.5, va='bottom')
            if axis not in marked:
                low, high = ('P', 'A') if axis == SAGITTAL else ('L', 'R')
                middle = (bottom + top) / 2
                self._text(left + 1, middle, low, 9, va='center', weight='bold')
                self._text(right - 1, middle, high, 9, va='center', ha='right', weight='bold')
                marked.add(axis)

    def name_rows(self, names: Iterable[str]) -> None:
        """Write a name at the top left of each row."""
        for (left, top), name in zip(self._row_tops, names, strict=True):
            self._text(left + 1, top - 1, name, 8, va='top')

    def show(
        self, volumes: list[np.ndarray], spec: 'Look', low: float, high: float, *, bar: bool = True
    ) -> None:
        """Fill each tile from its volume, in the colours and the unit of ``spec``."""
        norm, self._cmap = Normalize(low, high), spec.cmap
        interpolation = 'bilinear' if spec.smooth else 'nearest'
        for volume, axis, index, extent in self._tiles:
            self._axes.imshow(
                self._cut(volumes[volume], axis, index),
                cmap=spec.cmap, norm=norm, extent=extent, origin='lower',
                interpolation=interpolation, aspect='auto',
            )  # fmt: skip
        self._axes.set(xlim=(0, self._extent[0]), ylim=(0, self._extent[1]))
        if bar:
            self._bar = (ScalarMappable(norm, spec.cmap), spec)

    def outline(self, mask: np.ndarray, colour: str) -> None:
        """Draw the border of a mask in every tile that it crosses."""
        self._outlines.append(colour)
        for _, axis, index, (left, right, bottom, top) in self._tiles:
            plane = self._cut(mask, axis, index)
            if plane.any() and not plane.all() and min(plane.shape) > 1:
                h, w = plane.shape
                x = left + (np.arange(w) + 0.5) * (right - left) / w
                y = bottom + (np.arange(h) + 0.5) * (top - bottom) / h
                self._axes.contour(
                    x, y, plane.astype(np.uint8), levels=[0.5], colors=[colour], linewidths=1.0
                )

    def png(self, legend: Sequence[tuple[str, str]] = ()) -> bytes:
        """Render the picture as PNG; ``legend`` has (name, colour) of the outlines."""
        columns = 10
        head, foot = 30, 22 + 17 * -(-len(legend) // columns)
        width, height = _WIDTH, self._pixels[1] + head + foot
        figure = self._figure
        figure.set_size_inches(width / _DPI, height / _DPI)
        right = 80
        left = max((width - right - self._pixels[0]) / 2, 5)
        self._axes.set_position(
            (left / width, foot / height, self._pixels[0] / width, self._pixels[1] / height)
        )
        figure.text(0.006, 1 - 8 / height, self._title, color=_INK, fontsize=11, weight='bold', va='top')
        note = CONVENTION
        if self._bar:
            mappable, spec = self._bar
            cax = figure.add_axes(
                (1 - 64 / width, (foot + 8) / height, 12 / width, (self._pixels[1] - 24) / height)
            )
            bar = figure.colorbar(mappable, cax=cax)
            unit = '' if spec.unit == '1' else spec.unit  # a fraction has none
            bar.ax.set_title(unit, color=_INK, fontsize=9, pad=5)
            # four digits after the point do not fit otherwise
            is_fine = max(map(abs, (mappable.norm.vmin, mappable.norm.vmax))) < 0.005
            bar.ax.tick_params(colors=_INK, labelsize=6.5 if is_fine else 8)
            bar.outline.set_edgecolor(_FAINT)
            note += f'; window {mappable.norm.vmin:.3g} to {mappable.norm.vmax:.3g} {unit}'.rstrip()
        figure.text(0.006, 6 / height, note, color=_FAINT, fontsize=7.5, va='bottom')
        if legend:
            figure.legend(
                [Line2D([], [], color=c, linewidth=2) for _, c in legend], [n for n, _ in legend],
                loc='lower left', bbox_to_anchor=(0.0, 16 / height), ncols=columns, fontsize=7.5,
                labelcolor=_INK, frameon=False, borderpad=0.2, borderaxespad=0.2, columnspacing=1.2,
                handlelength=1.2,
            )  # fmt: skip
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return compress(np.asarray(canvas.buffer_rgba())[..., :3], self._cmap, self._outlines)


def compress(pixels: np.ndarray, cmap: str, outlines: list[str]) -> bytes:
    """Write an RGB picture as PNG in greys or in 256 colours, a third of the size of true colour."""
    spread = pixels.max(-1).astype(int) - pixels.min(-1)
    if not spread.any():
        picture = Image.fromarray(pixels[..., 0])
    else:
        if cmap == 'gray':
            # the colours of the outlines, and their mixtures with grey at the edges
            rgb = [np.array(to_rgb(colour)) for colour in outlines]
            blends = [a * c + (1 - a) * g for c in rgb for a in (0.3, 0.65) for g in (0.1, 0.5, 0.9)]
            colours = np.array(rgb + blends)[:128]
        else:
            colours = colormaps[cmap](np.linspace(0, 1, 160))[:, :3]
        greys = np.linspace(0, 1, 256 - len(colours))[:, None].repeat(3, 1)
        palette = Image.new('P', (1, 1))
        palette.putpalette((np.concatenate([greys, colours]) * 255).round().astype(np.uint8).tobytes())
        picture = Image.fromarray(pixels).quantize(palette=palette, dither=Image.Dither.NONE)
    file = io.BytesIO()
    picture.save(file, 'PNG', optimize=True)
    return file.getvalue()
