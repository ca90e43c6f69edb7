"""Susceptibility of each vein against the tissue around it, by the method that its width needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bids_qsm.biomarkers.oximetry_pieces import (
    Scan,
    Surroundings,
    box_about,
    fit_pieces,
    sampling_of,
    surroundings_of,
)
from bids_qsm.biomarkers.oximetry_sampling import KSpace
from bids_qsm.biomarkers.oximetry_tube import Tube
from bids_qsm.biomarkers.veins import Segment, Veins
from bids_qsm.recon.grid import Grid

THIN, WIDE = 1.5, 3.0
"""Diameters (voxels) from which a vein is usable, and from which its susceptibility is read in chi."""
DOUBT = 0.8
"""Share of the least diameter from which a vein is fitted: the fit finds its diameter again."""
ALONG, ALONG_WIDTH = 20.0, 3.0
"""Tilt (degrees) below which the field outside a vein is too weak, so that it must have this diameter
(voxels)."""
SHALLOW = 35.0
"""Tilt (degrees) below which the field outside a vein is weak."""
SHELL_MM = (2.0, 4.0)
"""Distance from the wall of a vein of the tissue that it is compared with."""
PURE = 0.95
"""Least share of blood of the voxels that chi is read from."""
PLAIN_WIDTH = 4.0
"""Diameter (voxels) from which the map is hardly blurred inside a vein."""
MODEL_SE = {'field': 0.02, 'chi': 0.06, 'wide': 0.03}
"""Error that every vein may share with its kind, as a share of its susceptibility difference: of the field,
sections that are not round and a sampling of another kind; of chi, the inversion and the blur of the map,
which wide veins hardly have."""
SURROUNDINGS = 0.013
"""Field (ppm) that other veins and borders of tissue in a head add about a piece of vein, and that is not
known: with it the errors of thin veins of two simulated heads were as large as they were."""
LOW = 0.04
"""What the fit is low by in heads, as a share, about the same in all veins of a head."""
SCOUTS = 6
"""Longest veins that are measured first, for the susceptibility of all."""
INSIDE = 0.7
"""Least share of the tissue about a vein that lies in the mask."""
VAGUE = 0.4
"""Largest error of a fit, as a share of its susceptibility difference."""
LINEAR = 0.35
"""Largest misfit of the phase (rad, median over pure blood): more is flow."""


@dataclass(frozen=True)
class VeinMeasure:
    """What was measured of a segment; ``reason`` says why it is not usable, and is empty where it is.

    ``dchi`` (ppm) is of blood less the tissue around it; ``dchi_se`` counts noise, width and place,
    ``model_se`` the error that veins share. ``reference`` and ``reference_se`` are of that tissue in the map
    of susceptibility. ``by_field`` is the value of the fit in the field, ``by_chi`` that read in that map,
    where blood fills voxels. ``sampling`` is that of the scan, None for means over voxels.
    ``flow_checked`` says whether the phase of blood could be tested for flow.
    """

    segment: Segment
    method: str
    reason: str
    dchi: float = np.nan
    dchi_se: float = np.nan
    model_se: float = np.nan
    reference: float = np.nan
    reference_se: float = np.nan
    diameter: float = np.nan
    diameter_se: float = np.nan
    tilt: float = np.nan
    n_pieces: int = 0
    n_voxels: int = 0
    by_field: float = np.nan
    by_chi: float = np.nan
    flow_checked: bool = False
    sampling: KSpace | None = None


def measure_veins(scan: Scan, veins: Veins, *, most: int = 40) -> list[VeinMeasure]:
    """Measure the susceptibility of each segment of the veins against the tissue around it.

    From the field in and around them, in pieces (`bids_qsm.biomarkers.oximetry_fit.fit_piece`), after the
    fields of other veins and of the tissue have been taken off. A vein nearly along B0 has no field outside,
    and must be 3 voxels wide. A vein of 3 voxels and more has the median of susceptibility where blood fills
    the voxel, less that of the tissue 2 to 4 mm from the wall: sinuses are so short, bent and near the edge
    of the brain that the field about them is not that of a tube. Both are given where both are possible.

    Parameters
    ----------
    scan : Scan
    veins : Veins
    most : int
        Segments without a name of their own to fit, the longest first; those with a name are fitted always.

    Returns
    -------
    list of VeinMeasure
        One a segment, in their order; those not usable with the reason.
    """
    surroundings = surroundings_of(scan, veins)
    chosen = _chosen(scan.grid, veins.segments, most)
    longest = sorted((s for s in veins.segments if s.number in chosen), key=lambda s: -s.length_mm)
    # sinuses are bent and short, so that thin veins tell more of the sampling
    plain = [s for s in longest if DOUBT * THIN <= _width(s, scan.grid) < WIDE and _tilt(s) > ALONG]
    sampling = sampling_of(scan, veins, plain[:SCOUTS] or longest[:SCOUTS], surroundings)
    # the veins of a person are much alike: a few tell the field of the others
    if len(veins.segments) > 1:
        first = [_measure(scan, veins, segment, surroundings, sampling) for segment in longest[:SCOUTS]]
        known = [one.dchi for one in first if not one.reason]
        surroundings = surroundings.scaled(float(np.median(known))) if known else surroundings
    return [
        _measure(scan, veins, segment, surroundings, sampling)
        if segment.number in chosen
        else VeinMeasure(segment, 'none', 'not among the longest')
        for segment in veins.segments
    ]


def _width(segment: Segment, grid: Grid):
    """Diameter in voxels of the same volume."""
    return float(np.median(segment.diameter_mm)) / grid.voxel_volume ** (1 / 3)


def _tilt(segment: Segment):
    return float(np.median(segment.tilt_deg))


def _chosen(grid: Grid, segments: Sequence[Segment], most: int):
    named = {s.number for s in segments if s.name not in ('cortical_vein', 'deep_vein', 'other_vein')}
    wide = [s for s in segments if s.number not in named and _width(s, grid) >= DOUBT * THIN]
    wide.sort(key=lambda s: -s.length_mm)
    thin = {s.number for s in segments if _width(s, grid) < DOUBT * THIN}
    return named | thin | {s.number for s in wide[:most]}


def _measure(
    scan: Scan, veins: Veins, segment: Segment, around: Surroundings, sampling: KSpace | None
) -> VeinMeasure:
    width, tilt = _width(segment, scan.grid), _tilt(segment)
    diameter = float(np.median(segment.diameter_mm))
    plain: dict[str, Any] = {'tilt': tilt, 'sampling': sampling}
    side = scan.grid.voxel_volume ** (1 / 3)
    if width < DOUBT * THIN:
        why = _too_thin(width)
        return VeinMeasure(segment, 'none', why, diameter=diameter, **plain)
    if tilt < ALONG and width < ALONG_WIDTH:
        why = f'along B0: tilted by {tilt:.0f} degrees, {width:.1f} voxels wide'
        return VeinMeasure(segment, 'none', why, diameter=diameter, **plain)
    near = box_about(segment, scan.grid, diameter / 2 + SHELL_MM[1] + max(scan.grid.voxel_size))
    away = _distance(segment, scan.grid, near)
    own = (veins.numbers[near] == segment.number) & scan.mask[near]
    pure = own & (veins.share[near] > PURE)
    wall = away - diameter / 2
    shell = (wall > SHELL_MM[0]) & (wall < SHELL_MM[1])
    inside = shell & scan.mask[near]
    if inside.sum() < INSIDE * shell.sum() or not inside.any():
        why = f'near the edge of the mask: {100 * inside.sum() / max(shell.sum(), 1):.0f} % of its '
        return VeinMeasure(segment, 'none', why + 'surroundings lie in it', diameter=diameter, **plain)
    if scan.residual is not None and pure.sum() >= 5:
        misfit = float(np.median(scan.residual[near][pure]))
        if misfit > LINEAR:
            why = f'phase not linear over echoes ({misfit:.2f} rad), as in fast flow'
            return VeinMeasure(segment, 'none', why, diameter=diameter, **plain)
        plain['flow_checked'] = True
    tissue = inside & (around.away[near] > max(scan.grid.voxel_size))
    tissue = tissue if tissue.sum() >= 20 else inside
    values = scan.chi[near][tissue]
    reference = float(np.median(values))
    # neighbours share their errors: count one in eight voxels
    reference_se = float(1.4826 * np.median(np.abs(values - reference)) / np.sqrt(max(values.size / 8, 1)))
    plain |= {'reference': reference, 'reference_se': reference_se}
    by_chi = float(np.median(scan.chi[near][pure])) - reference if pure.sum() >= 5 else np.nan
    fits = list(fit_pieces(scan, veins, segment, around, sampling))
    if not fits and not (width >= WIDE and np.isfinite(by_chi)):
        why = 'too short or too near to others for a fit'
        return VeinMeasure(segment, 'none', why, diameter=diameter, **plain)
    plain |= {'by_chi': by_chi}
    size = diameter
    if fits:
        field, field_se = pool([fit.dchi for fit in fits], [fit.dchi_se for fit in fits])
        field_se = float(np.hypot(field_se, SURROUNDINGS / _strength(tilt) / np.sqrt(len(fits))))
        size, size_se = pool([2 * fit.radius for fit in fits], [2 * fit.radius_se for fit in fits])
        apart = _disagreement(field, by_chi, size / side)
        plain |= {'diameter': size, 'diameter_se': size_se, 'n_pieces': len(fits), 'by_field': field}
    else:
        plain |= {'diameter': diameter}
        apart = 0.0
    if not fits or (np.isfinite(by_chi) and size >= WIDE * side):
        se = float(np.hypot(_median_error(scan.chi[near][pure]), apart))
        shared = MODEL_SE['wide' if size >= PLAIN_WIDTH * side else 'chi'] * abs(by_chi)
        return VeinMeasure(segment, 'chi', '', by_chi, se, shared, n_voxels=int(pure.sum()), **plain)
    count = sum(fit.n_voxels for fit in fits)
    if size < THIN * side:
        return VeinMeasure(segment, 'none', _too_thin(size / side), n_voxels=count, **plain)
    if field_se > VAGUE * abs(field):
        why = f'the fit is vague: {field:.2f} with an error of {field_se:.2f} ppm'
        return VeinMeasure(segment, 'none', why, n_voxels=count, **plain)
    se, shared = float(np.hypot(field_se, apart)), _model_se(size / side, tilt) * abs(field)
    return VeinMeasure(segment, 'field', '', field, se, shared, n_voxels=count, **plain)


def _strength(tilt: float):
    r"""Size of the field of a vein over its susceptibility, inside and at the wall together.

    .. math:: \sqrt{(\sin^2\theta / 2)^2 + ((3 \cos^2\theta - 1) / 6)^2}
    """
    cosine = np.cos(np.radians(tilt)) ** 2
    return float(np.hypot((1 - cosine) / 2, (3 * cosine - 1) / 6))


def _disagreement(field: float, chi: float, width: float):
    """Error (ppm) that two methods show that differ: in wide veins by more than their models may.

    The map is too low inside a thin vein, so that one that is higher there than the fit shows an error.
    """
    if not np.isfinite(chi):
        return 0.0
    if width < WIDE:
        return max(chi - field, 0.0) / 2
    allowed = 2 * float(np.hypot(MODEL_SE['field'], MODEL_SE['chi'])) * abs(field)
    return max(abs(field - chi) - allowed, 0.0) / 2


def _model_se(width: float, tilt: float):
    """Share of the susceptibility difference: more for thin veins, whose voxels are all mixed, near B0."""
    shallow = 1.5 if tilt < SHALLOW and width < ALONG_WIDTH else 1.0
    return float(np.hypot(LOW, MODEL_SE['field'] * max(1.0, 2.0 / width) * shallow))


def _too_thin(width: float):
    return f'too thin: {width:.1f} voxels, {THIN:g} are needed'


def _median_error(values: np.ndarray):
    """Standard error of a median of voxels that share their errors eight by eight."""
    return float(1.2533 * np.std(values) / np.sqrt(max(values.size / 8, 1)))


def pool(values: Sequence[float], errors: Sequence[float]):
    r"""Mean of values with unlike errors that also differ among themselves [1]_.

    Weights are :math:`1 / (s_i^2 + \tau^2)`; :math:`\tau^2` is the variance that the errors do not explain.

    Returns
    -------
    mean, se : float

    References
    ----------
    .. [1] DerSimonian & Laird (1986), Control Clin Trials 7:177. doi:10.1016/0197-2456(86)90046-2

    >>> [round(float(x), 3) for x in pool([1.0, 1.0], [0.1, 0.1])]
    [1.0, 0.071]
    >>> [round(float(x), 3) for x in pool([0.0, 2.0], [0.1, 0.1])]
    [1.0, 1.0]
    """
    x, s = np.asarray(values, float), np.maximum(np.asarray(errors, float), 1e-9)
    w = 1 / s**2
    mean = np.average(x, weights=w)
    extra = (w * (x - mean) ** 2).sum() - (len(x) - 1)
    between = max(extra / (w.sum() - (w**2).sum() / w.sum()), 0.0) if len(x) > 1 else 0.0
    w = 1 / (s**2 + between)
    return float(np.average(x, weights=w)), float(1 / np.sqrt(w.sum()))


def _distance(segment: Segment, grid: Grid, box: tuple[slice, ...]):
    """Distance (mm) of the voxels of a box to the axis of a segment."""
    centres = np.stack(np.meshgrid(*(np.arange(s.start, s.stop) for s in box), indexing='ij'), -1)
    voxel = np.asarray(grid.voxel_size)
    points = Tube.through(segment.voxels * voxel, float(voxel.min()) / 2).points
    found = np.full(centres.shape[:3], np.inf)
    for point in points:
        found = np.minimum(found, ((centres * voxel - point) ** 2).sum(-1))
    return np.sqrt(found)
