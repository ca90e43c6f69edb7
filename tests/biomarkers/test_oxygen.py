"""Equations of blood against known values, their derivatives, and what people type into tables."""

import math
from dataclasses import replace

import numpy as np
import pytest

from bids_qsm.biomarkers import oxygen as ox
from bids_qsm.errors import UserError

CONSTANTS = ox.Constants()


def test_the_two_constants_in_use_are_14_points_apart():
    older = replace(CONSTANTS, dchi_do=ox.OTHER_DCHI_DO)
    assert ox.saturation(0.40, 0.42, CONSTANTS) == pytest.approx(0.7193, abs=1e-4)
    assert ox.saturation(0.40, 0.42, older) == pytest.approx(0.5789, abs=1e-4)
    # 4 pi is there
    assert CONSTANTS.dchi_do == pytest.approx(3.393, abs=1e-3)


def test_saturation_and_susceptibility_are_inverse():
    full = replace(CONSTANTS, dchi_oxy=ox.MEASURED_OXY)
    for constants in (CONSTANTS, full):
        dchi = ox.susceptibility(0.63, 0.44, constants, tissue=-0.03)
        assert ox.saturation(dchi, 0.44, constants, tissue=-0.03) == pytest.approx(0.63)
    # oxygenated blood is diamagnetic: -0.042 ppm at haematocrit 0.42
    oxy = ox.susceptibility(1.0, 0.42, full)
    assert oxy == pytest.approx(-0.0422, abs=1e-4)


def test_slopes_are_those_of_differences():
    constants = replace(CONSTANTS, dchi_oxy=ox.MEASURED_OXY)

    def yv(dchi, hct, do):
        return ox.saturation(dchi, hct, replace(constants, dchi_do=do), tissue=0.02)

    at, step = (0.45, 0.41, constants.dchi_do), 1e-5
    slopes = ox.saturation_slopes(at[0], at[1], constants, tissue=0.02)
    for n, slope in enumerate(slopes):
        up, down = list(at), list(at)
        up[n] += step
        down[n] -= step
        assert slope == pytest.approx((yv(*up) - yv(*down)) / (2 * step), rel=1e-5)


def test_sensitivities_are_as_known():
    """1 point of saturation is 0.0143 ppm at haematocrit 0.42; 5 % of haematocrit is 1.75 points at 0.65."""
    dchi = ox.susceptibility(0.65, 0.42, CONSTANTS)
    by_chi, by_hct, _ = ox.saturation_slopes(dchi, 0.42, CONSTANTS)
    assert 0.01 / abs(by_chi) == pytest.approx(0.01425, abs=1e-5)
    assert by_hct * 0.05 * 0.42 == pytest.approx(0.0175, abs=1e-4)


def test_metabolism_of_a_healthy_brain():
    content = ox.oxygen_content(14, 0.98, CONSTANTS)
    assert content == pytest.approx(8.35, abs=0.01)
    assert ox.metabolism(60, 0.35, content) == pytest.approx(175, abs=1)
    se = ox.extraction_error(0.65, 0.98, 0.02, 0.01)
    assert se == pytest.approx(math.hypot(0.02 / 0.98, 0.65 * 0.01 / 0.98**2))


@pytest.mark.parametrize(
    ('row', 'hct', 'origin'),
    [
        ({'hematocrit': 42.0}, 0.42, 'measured (column hematocrit)'),
        ({'Haematocrit': '0.44'}, 0.44, 'measured (column Haematocrit)'),
        ({'hematocrit': '45%'}, 0.45, 'measured (column hematocrit)'),
        ({'hemoglobin_g_l': 134.0}, 0.40, 'derived from hemoglobin (column hemoglobin_g_l)'),
        ({'hematocrit': None, 'sex': 'F'}, 0.38, 'assumed'),
        ({'sex': 'male'}, 0.42, 'assumed'),
        (None, 0.40, 'assumed'),
    ],
)
def test_haematocrit_is_read_or_assumed_and_said(row, hct, origin):
    blood = ox.blood_of(row, constants=CONSTANTS)
    assert blood.hct == pytest.approx(hct)
    assert blood.origin['hematocrit'] == origin
    is_assumed = origin == 'assumed'
    assert (blood.hct_sd == ox.ASSUMED_SD['hct']) is is_assumed
    assert any('assumed' in note for note in blood.notes) is is_assumed
    facts = ox.facts_of(blood, CONSTANTS)
    assert facts['hematocrit']['source'] == origin
    assert all({'value', 'units', 'source'} <= set(fact) for fact in facts.values())


def test_what_is_not_plausible_is_refused():
    for row, said in (
        ({'hematocrit': 4.2}, 'hematocrit 4.2'),
        ({'hematocrit': 0.042}, '0.042'),
        ({'sao2': 9.8}, 'sao2'),
        ({'hemoglobin_g_dl': 3}, 'hemoglobin_g_dl 3'),
        ({'hemoglobin_g_dl': 134}, 'give 5 to 25'),
        ({'hematocrit': 'high'}, 'number or n/a'),
    ):
        with pytest.raises(UserError, match=said):
            ox.blood_of(row, constants=CONSTANTS)


def test_options_are_for_those_of_whom_the_tables_say_nothing():
    row = {'hematocrit': 0.42, 'sao2': 97.0}
    blood = ox.blood_of(row, constants=CONSTANTS, hematocrit=0.36, sao2=0.9)
    assert blood == ox.blood_of(row, constants=CONSTANTS)
    blood = ox.blood_of({'hematocrit': None}, constants=CONSTANTS, hematocrit=36, sao2=0.9)
    assert (blood.hct, blood.ya) == (0.36, 0.9)
    # what is set for all does not measure any of them
    assert (blood.hct_sd, blood.ya_sd) == (ox.ASSUMED_SD['hct'], ox.ASSUMED_SD['ya'])
    assert (blood.origin['hematocrit'], blood.origin['sao2']) == ('option', 'option')
    assert any('set for all' in note for note in blood.notes)
    odd = ox.blood_of({'hematocrit': 0.42, 'hemoglobin_g_dl': 9.0}, constants=CONSTANTS)
    assert any('do not agree' in note for note in odd.notes)
    assert np.isfinite(odd.hb_sd)


def test_units_of_haemoglobin_are_not_guessed():
    for column, value in (('hemoglobin_mmol_l', 8.7), ('hb', 14.016), ('Hemoglobin_g_l', 140.16)):
        assert ox.blood_of({column: value}, constants=CONSTANTS).hb == pytest.approx(14.016, rel=1e-3)
    for column in ('hemoglobin', 'hb'):
        with pytest.raises(UserError, match='hemoglobin_g_dl or hemoglobin_mmol_l'):
            ox.blood_of({column: 8.7}, constants=CONSTANTS)


@pytest.mark.parametrize('row', [{}, {'hemoglobin_g_dl': 13.4}, {'hematocrit': 0.4, 'hemoglobin_g_dl': 13.4}])
def test_errors_of_blood_go_through_the_metabolic_rate_together(row):
    """Against draws of what was measured or assumed, from which the rest follows."""
    blood = ox.blood_of(row, constants=CONSTANTS)
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((4, 200_000))
    ratio = 33.5 * (1 + ox.MEASURED_SD['hb_per_hct_share'] * noise[0])
    ya = 0.98 + ox.ASSUMED_SD['ya'] * noise[1]
    hct, hb = blood.hct + blood.hct_sd * noise[2], 13.4 * (1 + ox.MEASURED_SD['hb_share'] * noise[3])
    if not row:
        hb = ratio * hct
    elif 'hematocrit' not in row:
        hct = hb / ratio
    dchi = ox.susceptibility(0.64, 0.4, CONSTANTS) + 0.01 * rng.standard_normal(200_000)
    extracted = ox.extraction(ox.saturation(dchi, hct, CONSTANTS), ya)
    drawn = ox.metabolism(50, extracted, ox.oxygen_content(hb, ya, CONSTANTS))
    by_chi, by_hct, _ = ox.saturation_slopes(dchi.mean(), 0.4, CONSTANTS)
    found = ox.metabolism_error(50, 0.64, blood, CONSTANTS, 0.01 * abs(by_chi), by_hct)
    assert found == pytest.approx(drawn.std(), rel=0.02)
    if not row:
        # haematocrit itself, +- 7.5 %, hardly counts: what is left is arterial saturation and reference
        known = replace(blood, hb_sd=33.5 * blood.hct_sd)
        alone = ox.metabolism_error(50, 0.64, known, CONSTANTS, 0.0, by_hct)
        assert alone / drawn.mean() == pytest.approx(0.031, abs=0.003)
