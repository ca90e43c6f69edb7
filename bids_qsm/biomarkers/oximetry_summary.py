"""From susceptibility of veins to tables: saturation and extraction by vein, territory and brain."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from bids_qsm.biomarkers.oximetry import VeinMeasure, pool
from bids_qsm.biomarkers.oxygen import (
    MEASURED_OXY,
    OTHER_DCHI_DO,
    Blood,
    Constants,
    extraction,
    extraction_error,
    metabolism,
    metabolism_error,
    oxygen_content,
    saturation,
    saturation_slopes,
)

TERRITORIES = {
    'Deep veins': ('straight_sinus', 'vein_of_galen', 'internal_cerebral_vein'),
    'Superior sagittal sinus': ('superior_sagittal_sinus',),
    'Cortical veins': ('cortical_vein',),
    'Brain': (),
}
"""Territory -> names of the veins that drain it; of the brain, all."""
DEEP = ('Caudate', 'Putamen', 'GPe', 'GPi', 'GP', 'Thalamus', 'Nucleus Accumbens')
"""Regions whose blood the deep veins take."""
PLAUSIBLE = (0.3, 0.95)
"""Saturations that venous blood can have."""
CSF_SE, NO_CSF_SE = 0.010, 0.020
"""Error (ppm) of fluid as water, and of tissue as water where no fluid was found."""


@dataclass(frozen=True)
class Zero:
    """Susceptibility of fluid in the map (ppm) and its standard error; NaN where none was found."""

    csf: float = np.nan
    se: float = np.nan


@dataclass(frozen=True)
class _Vein:
    """A usable vein: name, susceptibility (ppm) against tissue, that of tissue against water, own error."""

    number: int
    name: str
    dchi: float
    tissue: float
    se: float
    model_se: float


def _tissue(one: VeinMeasure, zero: Zero, constants: Constants):
    """Susceptibility (ppm) of the tissue about a vein less that of water."""
    return one.reference - zero.csf + constants.csf if np.isfinite(zero.csf) else 0.0


def _usable(measures: Sequence[VeinMeasure], zero: Zero, constants: Constants, blood: Blood):
    found = []
    for one in measures:
        tissue = _tissue(one, zero, constants)
        if (
            one.reason
            or not PLAUSIBLE[0] <= saturation(one.dchi, blood.hct, constants, tissue=tissue) <= (PLAUSIBLE[1])
        ):
            continue
        # the tissue cancels where vein and fluid are read in one map, and where neither is
        counts = (one.method == 'field') == bool(np.isfinite(zero.csf))
        reference = one.reference_se if counts else 0.0
        se = float(np.hypot(one.dchi_se, reference))
        found.append(_Vein(one.segment.number, one.segment.name, one.dchi, tissue, se, one.model_se))
    return found


def water_error(zero: Zero):
    """Error (ppm) of what is taken as water."""
    return float(np.hypot(CSF_SE, zero.se)) if np.isfinite(zero.csf) else NO_CSF_SE


def _shared(dchi: float, tissue: float, model_se: float, zero: Zero, constants: Constants, blood: Blood):
    """Error of saturation that veins share by reference and model, and its slope by haematocrit."""
    by_chi, by_hct, _ = saturation_slopes(dchi, blood.hct, constants, tissue=tissue)
    return float(abs(by_chi) * np.hypot(water_error(zero), model_se)), float(by_hct)


def vein_table(measures: Sequence[VeinMeasure], zero: Zero, blood: Blood, constants: Constants):
    """One row a segment of vein: susceptibility, saturation, extraction, and why it is not usable.

    Parameters
    ----------
    measures : sequence of VeinMeasure
    zero : Zero
        Fluid in the map. Without it the tissue about a vein is taken to have the susceptibility of water.
    blood : Blood
    constants : Constants

    Returns
    -------
    DataFrame
        Columns as `COLUMNS` describes them.
    """
    usable = {vein.number: vein for vein in _usable(measures, zero, constants, blood)}
    rows = []
    for one in measures:
        tissue = _tissue(one, zero, constants)
        row = {
            'vein': one.segment.number,
            'name': one.segment.name,
            'length_mm': one.segment.length_mm,
            'diameter_mm': one.diameter,
            'diameter_se_mm': one.diameter_se,
            'tilt_deg': one.tilt,
            'method': one.method,
            'n_pieces': one.n_pieces,
            'n_voxels': one.n_voxels,
            'chi_vein_ppm': one.dchi + one.reference,
            'chi_ref_ppm': one.reference,
            'delta_chi_ppm': one.dchi,
            'delta_chi_se_ppm': float(np.hypot(one.dchi_se, one.model_se)),
            'delta_chi_fitted_ppm': one.by_field,
            'delta_chi_read_ppm': one.by_chi,
        }
        row |= dict.fromkeys(('Yv', 'Yv_se', 'Yv_se_own', 'OEF', 'OEF_se'), np.nan)
        if not one.reason:
            own = usable.get(one.segment.number)
            yv = float(saturation(one.dchi, blood.hct, constants, tissue=tissue))
            slope = abs(saturation_slopes(one.dchi, blood.hct, constants, tissue=tissue)[0])
            alone = slope * (own.se if own else float(one.dchi_se))
            shared, by_hct = _shared(one.dchi, tissue, one.model_se, zero, constants, blood)
            se = float(np.sqrt(alone**2 + shared**2 + (by_hct * blood.hct_sd) ** 2))
            row |= {'Yv': yv, 'Yv_se': se, 'Yv_se_own': alone, 'OEF': extraction(yv, blood.ya)}
            row['OEF_se'] = float(extraction_error(yv, blood.ya, se, blood.ya_sd))
        odd = not one.reason and one.segment.number not in usable
        row['flow_checked'] = one.flow_checked
        row['usable'] = one.segment.number in usable
        row['flag'] = 'saturation is not plausible' if odd else one.reason
        rows.append(row)
    return pd.DataFrame(rows, columns=list(COLUMNS))


COLUMNS = {
    'vein': ('Number of the segment.', ''),
    'name': ('Kind of vein.', ''),
    'length_mm': ('Length of the segment.', 'mm'),
    'diameter_mm': ('Diameter that the fit found; that of the segmentation where nothing was fitted.', 'mm'),
    'diameter_se_mm': ('Standard error of diameter_mm.', 'mm'),
    'tilt_deg': ('Angle between the vein and B0.', 'degree'),
    'method': ('field (fitted in and around the vein), chi (read in the map, in wide veins), or none.', ''),
    'n_pieces': ('Number of pieces that were fitted.', ''),
    'n_voxels': ('Number of voxels that were used.', ''),
    'chi_vein_ppm': ('Susceptibility of blood, on the scale of the map.', 'ppm'),
    'chi_ref_ppm': ('Susceptibility of the tissue 2 to 4 mm from the wall, on the scale of the map.', 'ppm'),
    'delta_chi_ppm': ('Susceptibility of blood less that of the tissue around it.', 'ppm'),
    'delta_chi_se_ppm': ('Standard error of delta_chi_ppm: noise, width, place and model.', 'ppm'),
    'delta_chi_fitted_ppm': ('delta_chi_ppm as fitted in and around the vein, whatever the method.', 'ppm'),
    'delta_chi_read_ppm': (
        'delta_chi_ppm as read in the map where blood fills voxels, whatever the method.',
        'ppm',
    ),
    'Yv': ('Oxygen saturation of venous blood.', 'fraction'),
    'Yv_se': (
        'Standard error of Yv: noise, geometry, reference and haematocrit. It does not count the error of '
        'the constant dchi_do, see the table of sensitivity.',
        'fraction',
    ),
    'Yv_se_own': ('The part of Yv_se that other veins of the person do not share.', 'fraction'),
    'OEF': ('Oxygen extraction fraction.', 'fraction'),
    'OEF_se': ('Standard error of OEF, from Yv_se and that of arterial saturation.', 'fraction'),
    'flow_checked': (
        'Whether it was checked that the phase is linear over echoes, as it is not in fast flow. The check '
        'takes the residual of the field fit in at least 5 voxels that are all blood.',
        '',
    ),
    'usable': ('Whether the vein counts in the summary.', ''),
    'flag': ('Why it is not usable; n/a where it is.', ''),
    'warning': ('What speaks against the use of a vein that is usable.', ''),
}
"""Column of `vein_table` -> description and units."""


def _mean(veins: Sequence[_Vein], zero: Zero, blood: Blood, constants: Constants):
    """Saturation of several veins: own errors and their spread average out, what they share does not.

    Returns it with its error but for that by haematocrit, and the slope by haematocrit.
    """
    values = [float(saturation(v.dchi, blood.hct, constants, tissue=v.tissue)) for v in veins]
    slopes = [abs(saturation_slopes(v.dchi, blood.hct, constants)[0]) for v in veins]
    yv, own = pool(values, [s * v.se for s, v in zip(slopes, veins, strict=True)])
    dchi, tissue, model = (
        float(np.mean([getattr(v, name) for v in veins])) for name in ('dchi', 'tissue', 'model_se')
    )
    shared, by_hct = _shared(dchi, tissue, model, zero, constants, blood)
    return yv, float(np.hypot(own, shared)), by_hct


def summary_table(
    measures: Sequence[VeinMeasure],
    zero: Zero,
    blood: Blood,
    constants: Constants,
    *,
    cbf: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    dseg: np.ndarray | None = None,
    labels: pd.DataFrame | None = None,
):
    """Tidy rows: saturation and extraction by territory and of the brain; with a flow map the metabolism.

    The veins of a territory are averaged by inverse variance, with the variance between veins
    (`bids_qsm.biomarkers.oximetry.pool`). The metabolic rate of a region is its mean flow times the
    extraction of its territory (that of the brain, where it has no vein of its own) times the oxygen in
    arterial blood.

    Parameters
    ----------
    measures, zero, blood, constants
        As of `vein_table`.
    cbf : ndarray, optional
        Flow (ml/100 g/min) on the grid of ``mask`` (bool) and ``dseg`` (int) with its ``labels`` (index,
        region, hemisphere).

    Returns
    -------
    DataFrame
        Columns region, hemisphere, map, mean, se, units, n_veins, n_voxels.
    """
    veins = _usable(measures, zero, constants, blood)
    rows, found = [], {}
    for territory, names in TERRITORIES.items():
        own = [vein for vein in veins if vein.name in names or not names]
        base = {'region': territory, 'hemisphere': 'both', 'n_veins': len(own)}
        if not own:
            nothing = {'mean': np.nan, 'se': np.nan, 'units': 'fraction'}
            rows += [{**base, **nothing, 'map': name} for name in ('Yv', 'OEF')]
            continue
        yv, rest, by_hct = found[territory] = _mean(own, zero, blood, constants)
        se = float(np.hypot(rest, by_hct * blood.hct_sd))
        oef = extraction(yv, blood.ya), float(extraction_error(yv, blood.ya, se, blood.ya_sd))
        for name, (mean, error) in {'Yv': (yv, se), 'OEF': oef}.items():
            rows.append({**base, 'map': name, 'mean': mean, 'se': error, 'units': 'fraction'})
    if cbf is not None and mask is not None and found:
        rows += _metabolic_rows(found, blood, constants, cbf, mask, dseg, labels)
    columns = ['region', 'hemisphere', 'map', 'mean', 'se', 'units', 'n_veins', 'n_voxels']
    return pd.DataFrame(rows).reindex(columns=columns)


def _metabolic_rows(
    found: dict[str, tuple[float, float, float]],
    blood: Blood,
    constants: Constants,
    cbf: np.ndarray,
    mask: np.ndarray,
    dseg: np.ndarray | None,
    labels: pd.DataFrame | None,
):
    """Rows of CBF and CMRO2 of the brain and of the regions."""
    known = mask & np.isfinite(cbf) & (cbf != 0)
    regions = [('Brain', 'both', known)]
    if dseg is not None and labels is not None:
        for name in labels['region'].unique():
            of_name = labels[labels['region'] == name]
            for side in sorted(set(of_name['hemisphere'])):
                index = of_name.loc[of_name['hemisphere'] == side, 'index']
                regions.append((name, side, known & np.isin(dseg, index)))
            if of_name['hemisphere'].nunique() > 1:
                regions.append((name, 'both', known & np.isin(dseg, of_name['index'])))
    content = oxygen_content(blood.hb, blood.ya, constants)
    rows = []
    for name, side, where in regions:
        count = int(where.sum())
        if count == 0:
            continue
        flow = float(cbf[where].mean())
        yv, rest, by_hct = found['Deep veins' if name in DEEP and 'Deep veins' in found else 'Brain']
        rate = metabolism(flow, extraction(yv, blood.ya), content)
        error = metabolism_error(flow, yv, blood, constants, rest, by_hct)
        base = {'region': name, 'hemisphere': side, 'n_voxels': count}
        rows.append({**base, 'map': 'CBF', 'mean': flow, 'se': np.nan, 'units': 'ml/100 g/min'})
        rows.append({**base, 'map': 'CMRO2', 'mean': rate, 'se': error, 'units': 'umol/100 g/min'})
    return rows


def sensitivity_table(measures: Sequence[VeinMeasure], zero: Zero, blood: Blood, constants: Constants):
    """What saturation and extraction of the brain would be under other constants; one row a change.

    Returns
    -------
    DataFrame
        Columns changed, value, Yv, OEF, OEF_change (points of a hundred).
    """
    veins = _usable(measures, zero, constants, blood)
    cases = [
        ('as used', '', blood, constants, 0.0),
        ('hematocrit +10 %', f'{1.1 * blood.hct:.3f}', replace(blood, hct=1.1 * blood.hct), constants, 0.0),
        ('hematocrit -10 %', f'{0.9 * blood.hct:.3f}', replace(blood, hct=0.9 * blood.hct), constants, 0.0),
        (
            'dchi_do of older work',
            f'4 pi 0.18 = {OTHER_DCHI_DO:.3f} ppm',
            blood,
            replace(constants, dchi_do=OTHER_DCHI_DO),
            0.0,
        ),
        (
            'susceptibility of oxygenated blood counted',
            f'{MEASURED_OXY:.3f} ppm',
            blood,
            replace(constants, dchi_oxy=MEASURED_OXY),
            0.0,
        ),
        ('reference +10 ppb', '0.010 ppm', blood, constants, 0.010),
        ('reference -10 ppb', '-0.010 ppm', blood, constants, -0.010),
    ]
    rows, used = [], np.nan
    for name, value, person, constant, shift in cases:
        yv = np.nan
        if veins:
            moved = [replace(vein, dchi=vein.dchi - shift) for vein in veins]
            yv = _mean(moved, zero, person, constant)[0]
        oef = extraction(yv, person.ya)
        used = oef if name == 'as used' else used
        rows.append({'changed': name, 'value': value, 'Yv': yv, 'OEF': oef, 'OEF_change': 100 * (oef - used)})
    return pd.DataFrame(rows)
