"""Pictures of maps, outlines and alignments: arrays in, PNG or SVG out."""

import base64
import io
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from PIL import Image

from bids_qsm.plotting.mosaic import AXIAL, MASK_COLOUR, Mosaic, box_of, canonical, few, rows_of, slices_of

# bright, well separated on grey, and none near the yellow of the mask outline
_REGION_COLOURS = (
    '#4dabf7', '#ff6b6b', '#51cf66', '#da77f2', '#22d3ee', '#f783ac', '#c0eb75', '#9775fa',
    '#38d9a9', '#748ffc', '#f06595', '#94d82d', '#15aabf', '#e599f7',
)  # fmt: skip


@dataclass(frozen=True)
class Look:
    """How a map is shown: its name, unit, colours and window (None: from its percentiles)."""

    title: str
    unit: str
    cmap: str = 'gray'
    window: tuple[float, float] | None = None
    percentiles: tuple[float, float] = (0.5, 99.5)
    symmetric: bool = False
    masked: bool = True
    smooth: bool = True


ANATOMY = Look('Anatomical image', 'arbitrary', masked=False)
BOLD_REFERENCE = Look('BOLD reference', 'arbitrary', masked=False)


def plot_map(
    data: np.ndarray, affine: np.ndarray, *, look: Look, mask: np.ndarray | None = None, title: str = ''
) -> bytes:
    """Draw axial, coronal and sagittal slices of a map with its colour bar.

    Parameters
    ----------
    data : ndarray, 3D, or 4D with echoes last
        Of a 4D series, the first, the middle and the last echo are shown, each as a row of axial slices.
    affine : ndarray, 4x4
        Voxels to world (RAS, mm); slices follow the voxel axes that lie nearest to those of the world.
    look : Look
        Name, unit, colours and window.
    mask : ndarray of bool, 3D
        Bounds the slices, sets the window, and blanks what lies outside where the look is masked.

    Returns
    -------
    PNG file.
    """
    volumes, affine, mask = _prepare(data, affine, look, mask)
    box = box_of(mask if mask is not None else np.isfinite(volumes[0]), affine)
    if len(volumes) > 1:
        rows = [[(e, AXIAL, i) for i in slices_of(box, AXIAL, 7)] for e in few(len(volumes), 3)]
    else:
        rows = rows_of(box, axial=(7, 7), coronal=3, sagittal=3)
    mosaic = Mosaic(rows, box, affine, title=title or look.title)
    if len(volumes) > 1:
        mosaic.name_rows([f'echo {row[0][0] + 1}' for row in rows])
    mosaic.show(volumes, look, *window_of(volumes, look, mask))
    return mosaic.png()


def plot_outlines(
    data: np.ndarray,
    affine: np.ndarray,
    *,
    look: Look,
    mask: np.ndarray | None = None,
    dseg: np.ndarray | None = None,
    labels: pd.DataFrame | None = None,
    title: str = '',
) -> bytes:
    """Draw the outline of a mask, and of each region of an atlas in its own colour, over an image.

    The slices cover the regions where there are any, else the mask.

    Parameters
    ----------
    data, affine, look
        As in `plot_map`; of a 4D series the first echo is the background.
    mask : ndarray of bool, 3D
    dseg : ndarray of int, 3D
        Labels.
    labels : DataFrame
        Columns ``index`` and ``region`` (or ``name``); the two sides of a region share a colour.

    Returns
    -------
    PNG file.
    """
    regions = canonical(dseg, affine)[0] if dseg is not None and np.any(dseg) else None
    if regions is None and mask is None:
        raise ValueError('plot_outlines needs a mask or labels that are not all zero')
    volumes, affine, mask = _prepare(data, affine, look, mask)
    for name, other in (('mask', mask), ('dseg', regions)):
        if other is not None and other.shape != volumes[0].shape:
            raise ValueError(f'{name} has shape {other.shape}, the image {volumes[0].shape}')
    whole = mask if mask is not None else np.isfinite(volumes[0])
    if regions is None:
        box = box_of(whole, affine)
        rows = rows_of(box, axial=(7, 7), coronal=3, sagittal=3)
    else:
        # in a whole head the nuclei would be too small to judge
        box = box_of(regions > 0, affine, margin=12.0)
        rows = rows_of(box, axial=(6, 6), coronal=3, sagittal=2, regions=regions)
    mosaic = Mosaic(rows, box, affine, title=title or f'{look.title} with outlines')
    # a blanked background would hide a mask that is too small
    mosaic.show(volumes[:1], replace(look, masked=False), *window_of(volumes[:1], look, mask))
    legend = []
    if mask is not None:
        mosaic.outline(mask, MASK_COLOUR)
        legend.append(('mask', MASK_COLOUR))
    if regions is not None:
        wanted = np.zeros(int(regions.max()) + 1, bool)
        for name, indices, colour in colours_of(regions, labels):
            wanted[:] = False
            wanted[indices] = True
            mosaic.outline(wanted[np.maximum(regions, 0)], colour)
            legend.append((name, colour))
    return mosaic.png(legend)


def plot_flicker(
    fixed: np.ndarray,
    moving: np.ndarray,
    affine: np.ndarray,
    *,
    mask: np.ndarray | None = None,
    labels: tuple[str, str] = ('fixed', 'moving'),
    title: str = '',
) -> str:
    """Draw two images on one grid in alternation, so that a misalignment is seen as motion.

    Returns
    -------
    SVG file: both pictures embedded, animated by CSS alone.
    """
    frames = []
    for image, label in zip((fixed, moving), labels, strict=True):
        volumes, grid, inside = _prepare(image, affine, ANATOMY, mask)
        box = box_of(inside if inside is not None else _foreground(volumes[0]), grid)
        rows = rows_of(box, axial=(6,), coronal=3, sagittal=3)
        mosaic = Mosaic(rows, box, grid, title=f'{title}: {label}' if title else label)
        mosaic.show(volumes[:1], ANATOMY, *window_of(volumes[:1], ANATOMY, inside), bar=False)
        if inside is not None:
            mosaic.outline(inside, MASK_COLOUR)
        frames.append(mosaic.png())
    width, height = Image.open(io.BytesIO(frames[0])).size
    size = f'width="{width}" height="{height}"'
    hrefs = [f'data:image/png;base64,{base64.b64encode(f).decode()}' for f in frames]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {size}>\n'
        '<style>@keyframes turn{0%,45%{opacity:0}50%,95%{opacity:1}100%{opacity:0}}'
        '.moving{animation:turn 3s linear infinite}</style>\n'
        f'<image {size} href="{hrefs[0]}"/>\n'
        f'<image class="moving" {size} href="{hrefs[1]}"/>\n'
        '</svg>\n'
    )


def _prepare(
    data: np.ndarray, affine: np.ndarray, look: Look, mask: np.ndarray | None
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray | None]:
    """Volumes, affine and mask on axes near those of the world."""
    affine = np.asarray(affine, float)
    turned, grid = canonical(data, affine)
    if mask is not None:
        mask = canonical(np.asarray(mask, bool), affine)[0]
        if mask.shape != turned.shape[:3]:
            raise ValueError(f'mask has shape {mask.shape}, the image {turned.shape[:3]}')
        if not mask.any():
            mask = None
    volumes = [turned] if turned.ndim == 3 else [turned[..., e] for e in range(turned.shape[3])]
    volumes = [np.where(mask, v, np.nan) if look.masked and mask is not None else v for v in volumes]
    return volumes, grid, mask


def _foreground(volume: np.ndarray) -> np.ndarray:
    finite = np.where(np.isfinite(volume), volume, 0)
    return finite > 0.1 * np.percentile(finite, 99)


def window_of(volumes: list[np.ndarray], look: Look, mask: np.ndarray | None) -> tuple[float, float]:
    """Least and largest value that a picture tells apart: of the look, or of the first volume in the mask."""
    if look.window is not None:
        return look.window
    inside = volumes[0][mask] if mask is not None else volumes[0][_foreground(np.abs(volumes[0]))]
    inside = inside[np.isfinite(inside)]
    if not inside.size:
        return 0.0, 1.0
    if look.symmetric:
        high = float(np.percentile(np.abs(inside), 98))
        low = -high
    else:
        low, high = (float(p) for p in np.percentile(inside, look.percentiles))
        low = min(low, 0.0) if not look.masked else low
    return (low, high) if high > low else (low, low + 1.0)


def colours_of(regions: np.ndarray, labels: pd.DataFrame | None) -> list[tuple[str, list[int], str]]:
    """Name, label indices and colour of each region in the image, in the order of the table."""
    present = set(np.unique(regions).tolist()) - {0}
    if labels is None:
        groups = {str(i): [i] for i in sorted(present)}
    else:
        column = 'region' if 'region' in labels else 'name'
        groups = {}
        for index, name in zip(labels['index'], labels[column], strict=True):
            if int(index) in present:
                groups.setdefault(str(name), []).append(int(index))
    n = len(_REGION_COLOURS)
    return [(name, indices, _REGION_COLOURS[i % n]) for i, (name, indices) in enumerate(groups.items())]
