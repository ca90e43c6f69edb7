import pytest

from bids_qsm.biomarkers.iron_myelin import constants_at
from bids_qsm.cohort.tables import gather
from bids_qsm.phantom.stages import Stages, draw_stages

EXACT = Stages(
    number=3, varies=0, iron_varies=0, shared=0, myelin_varies=0, zero=0, chi_noise=0, rate_noise=0, years=0,
    curvature=0,
)  # fmt: skip


def test_tissue_without_scatter_differs_by_the_effects_and_constants_of_the_cohort():
    drawn = draw_stages(EXACT, 4)
    long = gather(drawn.tables).merge(drawn.people, on='participant_id')
    means = long.groupby(['map', 'stage', 'region'])['mean'].mean()
    c = drawn.constants
    for name in ('chi', 'R2star'):
        change = means[name, 3, 'White matter'] - means[name, 0, 'White matter']
        expected = 4 * c[f'{name}_iron'] - 0.10 * c[f'{name}_myelin']
        # myelin of healthy people falls by .0006 a year from 45
        assert change == pytest.approx(expected, abs=0.01 * abs(c[f'{name}_myelin']))
    truth = drawn.truth.set_index(['region', 'stage'])
    assert truth.loc[('White matter', 3), 'mvf'] == -0.10
    assert truth.loc[('GP', 3), 'mvf'] == pytest.approx(-0.10 * 0.07 / 0.27)
    assert drawn.people.equals(draw_stages(EXACT, 4).people)


def test_constants_are_drawn_for_each_cohort_and_are_not_those_of_the_analysis():
    drawn = [draw_stages(Stages(number=1), seed).constants for seed in range(12)]
    assert len({one['chi_iron'] for one in drawn}) == 12
    own = constants_at(3.0, ('chi', 'R2star')).slopes
    for name, value in (('chi_iron', own[0, 0]), ('R2star_iron', own[1, 0])):
        off = [abs(one[name] / value - 1) for one in drawn]
        assert max(off) > 0.2
    wide = draw_stages(Stages(number=1, spread=2.0), 0).constants
    assert wide['chi_iron'] - 0.00625 == pytest.approx(2 * (drawn[0]['chi_iron'] - 0.00625))
