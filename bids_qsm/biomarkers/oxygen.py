"""Oxygen in blood: susceptibility to saturation, extraction and metabolism, with their errors."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields

import numpy as np
import pandas as pd

from bids_qsm.errors import UserError

CGS = 4 * np.pi
"""A volume susceptibility in SI over that in cgs units."""


@dataclass(frozen=True)
class Constants:
    """Constants of blood; ``about`` says of each what it is, its units and where it comes from."""

    dchi_do: float = field(
        default=CGS * 0.27,
        metadata={
            'about': 'Susceptibility of fully deoxygenated less fully oxygenated red cells: 4 pi 0.27 in SI',
            'units': 'ppm',
            'source': 'Spees et al. (2001), doi:10.1002/mrm.1072; 0.273 +- 0.006 (cgs) in Jain et al. '
            '(2012), doi:10.1002/mrm.23282',
        },
    )
    dchi_oxy: float = field(
        default=0.0,
        metadata={
            'about': 'Susceptibility of fully oxygenated red cells less water; 0 leaves the term out, '
            'measured -0.1005 (4 pi x -0.008)',
            'units': 'ppm',
            'source': 'left out by default; measured by Jain et al. (2012), doi:10.1002/mrm.23282',
        },
    )
    csf: float = field(
        default=0.019,
        metadata={
            'about': 'Susceptibility of cerebrospinal fluid less water, where fluid is the reference',
            'units': 'ppm',
            'source': 'value of digital phantoms, Marques et al. (2021), doi:10.1002/mrm.28716; uncertain by '
            'about 0.01',
        },
    )
    hb_per_hct: float = field(
        default=33.5,
        metadata={
            'about': 'Haemoglobin in red cells (mean corpuscular haemoglobin concentration)',
            'units': 'g/dl',
            'source': 'middle of the usual clinical range, 32 to 35 g/dl',
        },
    )
    o2_per_hb: float = field(
        default=1.34,
        metadata={
            'about': 'Oxygen that saturated haemoglobin binds (Huefner number)',
            'units': 'ml/g',
            'source': 'value in common use; 1.39 by the molar mass of haemoglobin',
        },
    )
    o2_solved: float = field(
        default=0.0031,
        metadata={
            'about': 'Oxygen dissolved in blood by its partial pressure',
            'units': 'ml/dl/mmHg',
            'source': 'value in common use',
        },
    )
    pao2: float = field(
        default=100.0,
        metadata={
            'about': 'Partial pressure of oxygen in arterial blood',
            'units': 'mmHg',
            'source': 'assumed: at rest, breathing air',
        },
    )


OTHER_DCHI_DO = CGS * 0.18
"""The value of older work (ppm per unit of haematocrit), from Weisskoff & Kiihne (1992); shown beside."""
MEASURED_OXY = CGS * -0.008
"""Susceptibility of oxygenated red cells less water (ppm), Jain et al. (2012), doi:10.1002/mrm.23282."""
_UMOL_PER_ML = 1000 / 22.4 / 100
"""Oxygen: ml in 100 ml of blood to umol in 1 ml; a mole of gas takes 22.4 l."""


def saturation(dchi: float, hct: float, constants: Constants, *, tissue: float = 0.0):
    r"""Oxygen saturation of venous blood from its susceptibility against the tissue around it [1]_.

    .. math:: Y_v = 1 - \frac{(\Delta\chi + \chi_t) / Hct - \Delta\chi_{oxy}}{\Delta\chi_{do}}

    Parameters
    ----------
    dchi : float or ndarray
        Susceptibility of the vein less that of the tissue around it (ppm).
    hct : float
        Haematocrit (fraction).
    constants : Constants
    tissue : float
        Susceptibility of that tissue less that of water, :math:`\chi_t` (ppm).

    References
    ----------
    .. [1] Jain et al. (2012), MRM 68:863. doi:10.1002/mrm.23282

    >>> round(saturation(0.40, 0.42, Constants()), 3)
    0.719
    >>> round(saturation(0.40, 0.42, Constants(dchi_do=OTHER_DCHI_DO)), 3)
    0.579
    """
    return 1 - ((dchi + tissue) / hct - constants.dchi_oxy) / constants.dchi_do


def susceptibility(yv: float, hct: float, constants: Constants, *, tissue: float = 0.0):
    """Susceptibility of venous blood less that of tissue (ppm), the inverse of `saturation`.

    >>> round(susceptibility(0.65, 0.42, Constants()), 3)
    0.499
    """
    return hct * (constants.dchi_do * (1 - yv) + constants.dchi_oxy) - tissue


def saturation_slopes(dchi: float, hct: float, constants: Constants, *, tissue: float = 0.0):
    """Partial derivatives of `saturation` by dchi (1/ppm), hct and dchi_do (1/ppm).

    >>> [round(float(slope), 2) for slope in saturation_slopes(0.40, 0.42, Constants())]
    [-0.7, 0.67, 0.08]
    """
    blood = (dchi + tissue) / hct
    do = constants.dchi_do
    return -1 / (hct * do), blood / (hct * do), (blood - constants.dchi_oxy) / do**2


def extraction(yv: float, ya: float):
    """Oxygen extraction fraction (Ya - Yv) / Ya of arterial and venous saturation.

    >>> round(extraction(0.637, 0.98), 3)
    0.35
    """
    return (ya - yv) / ya


def extraction_error(yv: float, ya: float, yv_se: float, ya_se: float):
    """Standard error of `extraction`."""
    return np.hypot(yv_se / ya, yv * ya_se / ya**2)


def oxygen_content(hb: float, ya: float, constants: Constants):
    r"""Oxygen in arterial blood (umol/ml).

    .. math:: C_a = \frac{10}{22.4} (1.34 \, Hb \, Y_a + 0.0031 \, PaO_2)

    Parameters
    ----------
    hb : float
        Haemoglobin (g/dl).
    ya : float
        Arterial saturation (fraction).
    constants : Constants

    >>> round(oxygen_content(14, 0.98, Constants()), 2)
    8.35
    """
    return _UMOL_PER_ML * (constants.o2_per_hb * hb * ya + constants.o2_solved * constants.pao2)


def metabolism(cbf: float, oef: float, content: float):
    """Metabolic rate of oxygen (umol/100 g/min): flow (ml/100 g/min), extraction, arterial content (umol/ml).

    >>> round(metabolism(60, 0.35, 8.35), 1)
    175.3
    """
    return cbf * oef * content


def metabolism_error(
    cbf: float, yv: float, blood: 'Blood', constants: Constants, yv_se: float, by_hct: float
):
    r"""Standard error of the metabolic rate of oxygen without that of flow (umol/100 g/min).

    Haematocrit, haemoglobin and arterial saturation enter extraction and arterial content together, and the
    errors of the first two nearly cancel: a share of oxygen too large is one of a content too small.

    .. math:: \sigma^2 = g^T \Sigma g, \quad
        g = \partial (CBF \cdot OEF \cdot C_a) / \partial (Y_v, Hct, Hb, Y_a)

    Parameters
    ----------
    cbf : float
        Flow (ml/100 g/min).
    yv : float
        Venous saturation (fraction) and its standard error ``yv_se`` without that by haematocrit.
    blood : Blood
    constants : Constants
    by_hct : float
        Derivative of ``yv`` by haematocrit, see `saturation_slopes`.
    """

    def rate(y: float, hct: float, hb: float, ya: float):
        y = y + by_hct * (hct - blood.hct)
        return metabolism(cbf, extraction(y, ya), oxygen_content(hb, ya, constants))

    at = np.array([yv, blood.hct, blood.hb, blood.ya])
    steps = np.diag(1e-4 * at)
    slopes = np.array([rate(*(at + step)) - rate(*(at - step)) for step in steps]) / (2e-4 * at)
    covariance = np.diag(np.square([yv_se, blood.hct_sd, blood.hb_sd, blood.ya_sd]))
    covariance[1, 2] = covariance[2, 1] = blood.covariance
    return float(np.sqrt(slopes @ covariance @ slopes))


@dataclass(frozen=True)
class Blood:
    """What is known of a participant's blood, and how.

    ``origin`` says of hematocrit, hemoglobin and sao2: 'measured' (with the column), 'option', 'derived' or
    'assumed'; ``notes`` are sentences for the reader; ``covariance`` is that of the errors of haematocrit and
    haemoglobin (g/dl), of which one may be derived from the other.
    """

    hct: float
    """Haematocrit (fraction)."""
    hct_sd: float
    hb: float
    """Haemoglobin (g/dl)."""
    hb_sd: float
    ya: float
    """Arterial saturation (fraction)."""
    ya_sd: float
    origin: dict[str, str]
    notes: tuple[str, ...] = ()
    covariance: float = 0.0


_HCT = ('hematocrit', 'haematocrit', 'hct')
_G_DL = {'g_dl': 1.0, 'g_l': 0.1, 'mmol_l': 1.611}
"""Haemoglobin in g/dl of a unit; a mole of its subunits, which laboratories count, weighs 16.11 kg."""
_HB = {
    **{f'{name}_{unit}': scale for unit, scale in _G_DL.items() for name in ('hemoglobin', 'haemoglobin')},
    **dict.fromkeys(('hemoglobin', 'haemoglobin', 'hb')),
}
"""Column of haemoglobin -> its unit in g/dl, None where the name does not state one."""
_SAO2 = ('sao2', 'spo2')
ASSUMED_HCT = {'male': 0.42, 'female': 0.38, '': 0.40}
"""Haematocrit where nobody measured it, by sex: an assumption of this program, so its error is large."""
ASSUMED_SD = {'hct': 0.03, 'ya': 0.01}
"""Standard deviation of what is assumed: the spread between healthy people, about."""
MEASURED_SD = {'hct': 0.01, 'hb_share': 0.02, 'ya': 0.005, 'hb_per_hct_share': 0.03}
"""Standard deviation of what was measured, as laboratory and day vary, about."""


def as_fraction(value: float, name: str, least: float, most: float):
    """A quantity typed as a fraction or in per cent, as a fraction.

    Raises
    ------
    UserError
        It lies outside ``least`` .. ``most`` either way.

    >>> as_fraction(42, 'hematocrit', 0.15, 0.7), as_fraction(0.42, 'hematocrit', 0.15, 0.7)
    (0.42, 0.42)
    """
    share = value / 100 if value > 1 else value
    if not least <= share <= most:
        raise UserError(
            f'{name} {value:g} is not plausible: give a fraction from {least:g} to {most:g}, or per cent '
            f'from {100 * least:g} to {100 * most:g}.'
        )
    return float(share)


def as_g_dl(value: float, name: str, unit: float | None):
    """Haemoglobin in g/dl, from a column that states its ``unit`` (g/dl) or one that does not.

    Without a unit, 14 to 25 is g/dl and 50 to 250 is g/l; less may be g/dl or mmol/l.

    Raises
    ------
    UserError
        It is not plausible, or the unit is not plain.

    >>> as_g_dl(14.2, 'hemoglobin', None), as_g_dl(140, 'hb', None), as_g_dl(9.0, 'hemoglobin_g_dl', 1)
    (14.2, 14.0, 9.0)
    """
    if unit is None and 3 <= value < 14:
        raise UserError(
            f'{name} {value:g} may be in g/dl or in mmol/l: call its column hemoglobin_g_dl or '
            'hemoglobin_mmol_l.'
        )
    scale = unit or (0.1 if value >= 50 else 1.0)
    if not 5 <= value * scale <= 25:
        most = f'{5 / unit:.3g} to {25 / unit:.3g}' if unit else 'g/dl from 14 to 25, or g/l from 50 to 250'
        raise UserError(
            f'{name} {value:g} is not plausible: give {most}. Columns of other units are hemoglobin_g_dl, '
            'hemoglobin_g_l and hemoglobin_mmol_l.'
        )
    return float(value * scale)


def _known(participant: Mapping[str, object], names: Iterable[str]):
    """Column and number of the first of ``names`` that a participant has, in any case of letters."""
    lower = {str(key).lower(): (str(key), value) for key, value in participant.items()}
    for name in names:
        key, value = lower.get(name, ('', None))
        if value is None or str(value).strip().lower() in ('', 'n/a', 'nan', 'none'):
            continue
        try:
            return key, float(str(value).strip().rstrip('%'))
        except ValueError as error:
            raise UserError(
                f'{key} of the participant is {value!r}; give a number or n/a in participants.tsv.'
            ) from error
    return '', None


def blood_of(
    participant: Mapping[str, object] | None,
    *,
    constants: Constants,
    hematocrit: float | None = None,
    sao2: float | None = None,
) -> Blood:
    """What is known of the blood of a participant: of participants.tsv, as given for all, or assumptions.

    Parameters
    ----------
    participant : mapping or None
        Columns of participants.tsv and sessions.tsv -> values: hematocrit and sao2 (fraction or per cent),
        hemoglobin_g_dl, sex.
    constants : Constants
    hematocrit, sao2 : float, optional
        Of participants for whom the tables state none. It is as uncertain as an assumption.

    Raises
    ------
    UserError
        A value is no number, or not plausible.

    >>> blood_of({'hematocrit': '44 %'}, constants=Constants()).hct
    0.44
    >>> blood_of({'sex': 'F'}, constants=Constants()).origin['hematocrit']
    'assumed'
    """
    participant = participant or {}
    origin, notes = {}, []
    ratio = constants.hb_per_hct
    column, typed = _known(participant, _HCT)
    hb_column, hb_typed = _known(participant, _HB)
    hb = None if hb_typed is None else as_g_dl(hb_typed, hb_column, _HB[hb_column.lower()])
    hb_sd, covariance = 0.0 if hb is None else hb * MEASURED_SD['hb_share'], 0.0
    if hematocrit is not None:
        hematocrit = as_fraction(hematocrit, 'hematocrit', 0.15, 0.7)
    if typed is not None:
        hct, hct_sd = as_fraction(typed, column, 0.15, 0.7), MEASURED_SD['hct']
        origin['hematocrit'] = f'measured (column {column})'
    elif hb is not None:
        hct = hb / ratio
        hct_sd = float(hct * np.hypot(MEASURED_SD['hb_share'], MEASURED_SD['hb_per_hct_share']))
        covariance = hb_sd**2 / ratio
        origin['hematocrit'] = f'derived from hemoglobin (column {hb_column})'
    elif hematocrit is not None:
        hct, hct_sd, origin['hematocrit'] = hematocrit, ASSUMED_SD['hct'], 'option'
        notes.append(
            f'Haematocrit {hct:g} was set for all whose tables state none; the standard deviation between '
            f'people, {hct_sd:g}, counts as its error.'
        )
    else:
        sex = str(_text(participant, 'sex')).lower()
        sex = {'m': 'male', 'f': 'female'}.get(sex, sex if sex in ASSUMED_HCT else '')
        hct, hct_sd = ASSUMED_HCT[sex], ASSUMED_SD['hct']
        origin['hematocrit'] = 'assumed'
        notes.append(
            f'No haematocrit was given: {hct:g} was assumed ({sex or "sex unknown"}), with a standard '
            f'deviation of {hct_sd:g}. It is the largest source of error; a blood count removes it.'
        )
    if hb is not None:
        origin['hemoglobin'] = f'measured (column {hb_column})'
        if typed is not None and abs(hb / ratio / hct - 1) > 0.15:
            notes.append(f'Haemoglobin {hb:g} g/dl and haematocrit {hct:g} do not agree: check both.')
    else:
        hb = ratio * hct
        hb_sd = float(hb * np.hypot(hct_sd / hct, MEASURED_SD['hb_per_hct_share']))
        covariance = ratio * hct_sd**2
        origin['hemoglobin'] = 'derived from hematocrit'
    column, typed = _known(participant, _SAO2)
    if sao2 is not None:
        sao2 = as_fraction(sao2, 'sao2', 0.5, 1)
    if typed is not None:
        ya, ya_sd = as_fraction(typed, column, 0.5, 1), MEASURED_SD['ya']
        origin['sao2'] = f'measured (column {column})'
    elif sao2 is not None:
        ya, ya_sd, origin['sao2'] = sao2, ASSUMED_SD['ya'], 'option'
    else:
        ya, ya_sd, origin['sao2'] = 0.98, ASSUMED_SD['ya'], 'assumed'
    if _is_noted(_text(participant, 'sickle')):
        notes.append('Sickle cell disease is noted: the susceptibility of its haemoglobin may differ.')
    return Blood(hct, hct_sd, hb, hb_sd, ya, ya_sd, origin, tuple(notes), covariance)


def _is_noted(value: object):
    """Whether a cell of the column sickle says anything but no.

    >>> [_is_noted(value) for value in (1.0, 'HbSS', 'SCD', 'yes', 0.0, 'n/a', None, 'No', 'HbAA')]
    [True, True, True, True, False, False, False, False, False]
    """
    if isinstance(value, int | float):
        return bool(value) and not np.isnan(value)
    said = str(value or '').strip().lower()
    return said not in ('', 'no', 'n', '0', 'false', 'n/a', 'nan', 'none', 'negative', 'aa', 'hbaa')


def _text(participant: Mapping[str, object], name: str):
    return next((value for key, value in participant.items() if str(key).lower() == name), '')


def facts_of(blood: Blood, constants: Constants) -> dict[str, dict[str, object]]:
    """Every constant with its value, units and source, for sidecars; nothing is left unsaid."""
    defaults = Constants()
    found = {}
    for one in fields(constants):
        value = getattr(constants, one.name)
        source = one.metadata['source'] if value == getattr(defaults, one.name) else 'set by the user'
        found[one.name] = {
            'value': float(value),
            'units': one.metadata['units'],
            'meaning': one.metadata['about'],
            'source': source,
        }
    for name, value, sd, units in (
        ('hematocrit', blood.hct, blood.hct_sd, 'fraction'),
        ('hemoglobin', blood.hb, blood.hb_sd, 'g/dl'),
        ('sao2', blood.ya, blood.ya_sd, 'fraction'),
    ):
        found[name] = {
            'value': float(value),
            'standard_deviation': float(sd),
            'units': units,
            'source': blood.origin[name],
        }
    return found


def constants_table(facts: Mapping[str, Mapping[str, object]]) -> pd.DataFrame:
    """Rows of the numbers of `facts_of`: constant, value, standard_deviation, units, source."""
    columns = ['value', 'standard_deviation', 'units', 'source']
    return pd.DataFrame([{'constant': name, **facts[name]} for name in facts], columns=['constant', *columns])


def of_constants_table(table: pd.DataFrame) -> tuple[Blood, Constants, dict[str, dict[str, object]]]:
    """Blood, constants and their facts as a `constants_table` states them.

    >>> blood, full = blood_of({'hematocrit': 0.44}, constants=Constants()), Constants(dchi_do=CGS * 0.18)
    >>> found, constants, _ = of_constants_table(constants_table(facts_of(blood, full)))
    >>> found.hct, found.ya, constants == full
    (0.44, 0.98, True)
    """
    rows = table.set_index('constant')
    value, sd = rows['value'].astype(float), rows['standard_deviation'].astype(float)
    known = ('hematocrit', 'hemoglobin', 'sao2')
    numbers = [float(one[name]) for name in known for one in (value, sd)]
    origin = {name: str(rows.loc[name, 'source']) for name in known}
    constants = Constants(**{one.name: float(value[one.name]) for one in fields(Constants)})
    facts = {
        str(name): {key: one[key] for key in table if key != 'constant' and pd.notna(one[key])}
        for name, one in rows.iterrows()
    }
    hct, hct_sd, hb, hb_sd, ya, ya_sd = numbers
    return Blood(hct, hct_sd, hb, hb_sd, ya, ya_sd, origin), constants, facts
