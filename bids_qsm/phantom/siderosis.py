"""Superficial siderosis of a digital head: thin sheets of iron on the surface of the cortex."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from bids_qsm.phantom import tissue as t
from bids_qsm.phantom.head import Head
from bids_qsm.phantom.lesions import DECAY
from bids_qsm.phantom.sampling import Volume, near

INNER = ((-42.0, -66.0, -26.0), (42.0, 44.0, 34.0))
"""Corners (mm, template space) of a box around the ventricles and cisterns, whose walls are no cortex."""
LOWEST = 12.0
"""Least height (mm) of the middle of a sheet: siderosis of the cortex is one of the convexity."""


@dataclass(frozen=True)
class Sheet:
    """Iron on the cortex within a ball: centre, radius (mm, template), thickness (mm), susceptibility (ppm).

    Susceptibility is added to that of what is there; its values are assumed, as of microbleeds.
    """

    centre: tuple[float, float, float]
    radius: float
    thickness: float = 0.8
    chi: float = 0.8


def add_sheets(head: Head, sheets: Sequence[Sheet]) -> Head:
    """Return the same head with sheets on the cortex."""
    volume = replace(head.tissue, data=head.tissue.data.copy())
    for sheet in sheets:
        box, amount = _amount(volume, sheet)
        put = t.channels(volume.data[box])
        put['chi'] += amount * np.float32(sheet.chi)
        put['r2star'] += amount * np.float32(DECAY * sheet.chi)
    return replace(head, tissue=volume)


def sheet_share(head: Head, sheets: Sequence[Sheet], shape: tuple[int, ...], affine: np.ndarray):
    """Share of each voxel of a scanner grid in sheets, and the number of the sheet from 1 (0 for none)."""
    share = replace(head.tissue, data=np.zeros_like(head.tissue.data))
    total, owner = np.zeros(shape, np.float32), np.zeros(shape, np.int32)
    put = t.channels(share.data)
    for number, sheet in enumerate(sheets, 1):
        box, amount = _amount(head.tissue, sheet)
        put['white'][box] = amount
        own = replace(head, tissue=share).bloodless().sample(shape, affine, ('white',))['white']
        put['white'][box] = 0
        owner[own > total] = number
        total = np.maximum(total, own)
    return total, owner


def _amount(volume: Volume, sheet: Sheet):
    """Box of the lattice, and the share of the sheet in its voxels.

    The share of CSF falls from 1 to 0 across the surface of the cortex, so that the share of a thin sheet
    there is its thickness times the slope.
    """
    box, points = near(volume, sheet.centre, 3 * [sheet.radius + 2])
    put = t.channels(volume.data[box])
    solid = np.clip(put['brain'] - put['csf'], 0, 1)
    slope = np.sqrt(sum(np.square(one) for one in np.gradient(solid, volume.spacing)))
    distance = np.linalg.norm(points - np.array(sheet.centre), axis=-1)
    inside = np.clip((sheet.radius - distance) / volume.spacing + 0.5, 0, 1)
    x, y, z = np.moveaxis(points, -1, 0)
    low, high = INNER
    inner = (x > low[0]) & (x < high[0]) & (y > low[1]) & (y < high[1]) & (z > low[2]) & (z < high[2])
    return box, np.clip(sheet.thickness * slope, 0, 1).astype(np.float32) * np.float32(inside) * ~inner


def scatter_sheets(
    seed: int,
    head: Head,
    count: int,
    *,
    radius: tuple[float, float] = (5.0, 12.0),
    thickness: tuple[float, float] = (0.6, 1.2),
    chi: tuple[float, float] = (0.4, 1.2),
    depth: tuple[float, float] = (3.0, 25.0),
    apart: float = 15.0,
) -> tuple[Sheet, ...]:
    """Place sheets at random in sulci of the convexity.

    Parameters
    ----------
    seed : int
    head : Head
    count : int
    radius, thickness, chi : tuple of float
        Least and largest of each (mm, mm, ppm).
    depth : tuple of float
        Of the middle of a sheet below the surface of the brain (mm): sulci within the brain's mask.
    apart : float
        Least distance (mm) between the edges of two.
    """
    rng = np.random.default_rng([seed, 41])
    volume, skip = head.tissue, 2
    put = t.channels(volume.data[::skip, ::skip, ::skip])
    step = volume.spacing * skip
    deep = ndimage.distance_transform_edt(put['brain'] > 0.5) * step
    fluid = ndimage.gaussian_filter(put['csf'], 2.0 / step)
    index = np.argwhere((deep > depth[0]) & (deep < depth[1]) & (fluid > 0.15))
    places = volume.origin + step * index
    low, high = np.array(INNER)
    free = ((places < low) | (places > high)).any(1) & (places[:, 2] > LOWEST) & (np.abs(places[:, 0]) > 8)
    found: list[Sheet] = []
    for _ in range(count):
        if not free.any():
            raise ValueError(f'no place is left in the head for {count} sheets')
        centre = places[rng.choice(np.flatnonzero(free))]
        size = float(rng.uniform(*radius))
        x, y, z = map(float, centre)
        found.append(Sheet((x, y, z), size, float(rng.uniform(*thickness)), float(rng.uniform(*chi))))
        free &= np.linalg.norm(places - centre, axis=1) > size + apart + radius[1]
    return tuple(found)
