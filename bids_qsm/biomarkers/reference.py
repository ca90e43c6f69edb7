"""Reference regions of susceptibility: the whole brain, CSF of the ventricles, white matter."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bids_qsm.recon.csf import ventricles
from bids_qsm.recon.grid import Grid

REFERENCES = ('Brain', 'CSF', 'White matter')
"""Names of these regions in the table."""


@dataclass(frozen=True)
class ReferenceRegion:
    """A reference region; ``note`` describes it, or states why it was not found."""

    name: str
    region: np.ndarray
    how: str
    coverage: float
    note: str


def reference_regions(
    maps: Mapping[str, np.ndarray],
    mask: np.ndarray,
    white_matter: np.ndarray | None,
    grid: Grid,
    *,
    max_ratio: float = 0.5,
    min_white_ml: float = 2.0,
):
    """Find the reference regions and check each.

    CSF is that of the lateral ventricles (`bids_qsm.recon.csf.ventricles`), found by R2*. It is valid with a
    plausible volume and a median R2* below ``max_ratio`` times that of the brain; white matter is valid from
    ``min_white_ml``. An invalid region is empty, as a wrong reference would shift all values.

    Parameters
    ----------
    maps : dict of str to ndarray
        'chi' (ppm), and 'R2star' (1/s) if available.
    mask : ndarray of bool
    white_matter : ndarray of bool or None
    grid : Grid

    Returns
    -------
    list of ReferenceRegion
        In the order of REFERENCES.
    """
    return [
        ReferenceRegion('Brain', mask, 'whole', 1.0, ''),
        _csf(maps, mask, grid, max_ratio),
        _white(maps, mask, white_matter, grid, min_white_ml),
    ]


def _csf(maps: Mapping[str, np.ndarray], mask: np.ndarray, grid: Grid, max_ratio: float):
    r2star = maps.get('R2star')
    if r2star is None:
        return _none('CSF', mask, 'not found: there is no R2* to find the ventricles by')
    region, found = ventricles(mask, np.nan_to_num(r2star), grid)
    if not region.any():
        return _none('CSF', mask, f'not found: {found}')
    fluid, brain = (float(np.median(r2star[part & (r2star > 0)])) for part in (region, mask))
    if fluid > max_ratio * brain:
        return _none('CSF', mask, f'not found: {found} has R2* {fluid:.1f}/s, the brain {brain:.1f}/s')
    spread = _spread(maps, region)
    return ReferenceRegion(
        'CSF', region, 'whole', 1.0, f'{found}, R2* {fluid:.1f}/s (brain {brain:.1f}/s){spread}'
    )


def _white(
    maps: Mapping[str, np.ndarray],
    mask: np.ndarray,
    white_matter: np.ndarray | None,
    grid: Grid,
    min_ml: float,
):
    if white_matter is None:
        return _none('White matter', mask, 'not found: no mask of white matter was given')
    region = white_matter & mask
    ml = region.sum() * grid.voxel_volume / 1000
    if ml < min_ml:
        why = f'not found: {ml:.1f} ml of deep white matter inside the mask, where {min_ml:g} ml is least'
        return _none('White matter', mask, why)
    coverage = region.sum() / white_matter.sum()
    note = f'{ml:.1f} ml of deep white matter{_spread(maps, region)}'
    return ReferenceRegion('White matter', white_matter, 'whole', float(coverage), note)


def _spread(maps: Mapping[str, np.ndarray], region: np.ndarray):
    """Spread of susceptibility as text; from quartiles, which are robust against veins in the region."""
    chi = maps.get('chi')
    if chi is None or not np.isfinite(chi[region]).any():
        return ''
    low, high = np.nanpercentile(chi[region], (25, 75))
    return f', chi spread {(high - low) / 1.349:.3f} ppm'


def _none(name: str, mask: np.ndarray, note: str):
    return ReferenceRegion(name, np.zeros_like(mask), 'none', 0.0, note)


def slow_error(data: np.ndarray, region: np.ndarray):
    r"""Standard error of the mean of a region by errors of the map that change slowly over space.

    They do not average out over a region as noise does. Where the two halves of a region have means
    :math:`m_1` and :math:`m_2`, that of both has the error :math:`|m_1 - m_2| / 2`, if the error of a half is
    that of the other by chance alone. The root mean square is taken over splits at the median along the axes.
    Real differences between the halves count as error too.

    Parameters
    ----------
    data : ndarray of float
        A map.
    region : ndarray of bool
        At least one voxel, all of them finite in ``data``.
    """
    values = data[region].astype(np.float64)
    found = []
    for place in np.nonzero(region):
        lower = place <= np.median(place)
        if not lower.all():
            found.append((values[lower].mean() - values[~lower].mean()) / 2)
    return float(np.sqrt(np.mean(np.square(found)))) if found else 0.0
