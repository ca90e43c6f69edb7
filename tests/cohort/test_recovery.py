"""Statistics of a cohort whose effects are known: they lie inside the intervals, and a null stays null."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

from bids_qsm.cohort.change import change_summary, changes
from bids_qsm.cohort.correlation import compare_correlations, correlate
from bids_qsm.cohort.model import fit_models
from bids_qsm.cohort.normative import normative
from bids_qsm.cohort.tables import gather, join_participants, join_sessions
from bids_qsm.phantom.cohort import Effects, aged, draw_people, normal, truth_table
from tests.cohorts import region_tables

TRAITS = ['group', 'age', 'sex', 'dystonia', 'parkinsonism']
MODEL = 'chi ~ group + age + sex + session_id'
EFFECTS = Effects()


@dataclass(frozen=True)
class Study:
    """The tables of a study, and what is true of its participants."""

    truth: pd.DataFrame
    long: pd.DataFrame

    @property
    def patients(self):
        """True values at the first session of patients."""
        first = self.truth[self.truth['session_id'] == 'ses-1']
        return first[first['group'] == 'patient'].set_index('participant_id')


def study(seed):
    people = draw_people(seed)
    truth = truth_table(people)
    participants = truth.drop_duplicates('participant_id')[['participant_id', *TRAITS]]
    long, notes = join_participants(gather(region_tables(people, seed)), participants)
    assert not notes
    long, notes = join_sessions(long, truth[['participant_id', 'session_id', 'acq_time']])
    assert not notes
    return Study(truth, long[long['hemisphere'] == 'both'].reset_index(drop=True))


@pytest.fixture(scope='module')
def one():
    return study(4)


@pytest.fixture(scope='module')
def studies():
    return [study(seed) for seed in range(24)]


@pytest.fixture(scope='module')
def models(studies):
    """Tables of the models of all studies, one below the other."""
    tables = []
    for some in studies:
        wanted = some.long['region'].isin(['GP', 'SN', 'Thalamus', 'Putamen'])
        tables.append(fit_models(some.long[wanted].reset_index(drop=True), MODEL)[0])
    return pd.concat(tables)


def rows(models, region, term):
    return models[(models['region'] == region) & (models['term'] == term)]


def group_effect(region, factor):
    """Difference (ppm) of patients from controls that the population has, over the ages of the study."""
    ages = 20 + 40 * (np.arange(12) + 0.5) / 12
    return normal(region) * np.mean([aged(region, age) for age in ages]) * (factor - 1)


@pytest.mark.parametrize(('region', 'factor'), [('GP', EFFECTS.gp), ('SN', EFFECTS.sn)])
def test_group_effects_lie_inside_their_intervals(models, region, factor):
    found = rows(models, region, 'group')
    true = group_effect(region, factor)
    assert len(found) == 24
    assert found['estimate'].mean() == pytest.approx(true, rel=0.04)
    assert ((found['ci_low'] < true) & (true < found['ci_high'])).sum() >= 21
    assert (found['p_fdr'] < 0.001).all()
    assert (found['effect_low'] > 1).all()
    # not by being wide: the interval tells the effect from one of half its size
    assert ((found['ci_high'] - found['ci_low']) / 2).mean() < 0.35 * true


def test_treatment_lies_inside_its_interval(models, studies):
    found = rows(models, 'GP', 'session_id')
    later = [some.truth.query('session_id == "ses-2"')['GP'].mean() for some in studies]
    true = (1 - 1 / EFFECTS.treated) * np.array(later)
    inside = (found['ci_low'].to_numpy() < true) & (true < found['ci_high'].to_numpy())
    assert inside.sum() >= 20
    assert np.mean(found['estimate'] - true) == pytest.approx(0, abs=0.006)


def test_age_raises_the_putamen_and_sex_raises_nothing(models):
    age, sex = rows(models, 'Putamen', 'age'), rows(models, 'GP', 'sex')
    true = normal('Putamen') * (aged('Putamen', 60) - aged('Putamen', 20)) / 40
    assert age['estimate'].mean() == pytest.approx(true, rel=0.15)
    assert (sex['p'] < 0.05).sum() <= 4


@pytest.mark.parametrize('region', ['Thalamus', 'Putamen'])
def test_a_null_region_stays_null(models, region):
    found = rows(models, region, 'group')
    assert ((found['ci_low'] < 0) & (found['ci_high'] > 0)).sum() >= 20
    assert found['estimate'].mean() == pytest.approx(0, abs=0.002)
    assert (found['p_fdr'] < 0.05).sum() <= 3


def test_dystonia_goes_with_pallidum_and_parkinsonism_with_nigra(one):
    # a score is of the first session: what treatment changed later is another question
    patients = one.long.query('group == "patient" and session_id == "ses-1"').reset_index(drop=True)
    true = one.patients.corr(numeric_only=True)
    differences, _ = compare_correlations(patients)
    assert list(differences['column']) == ['dystonia', 'parkinsonism']
    for row in differences.itertuples():
        known = true.loc[row.column, row.region_a] - true.loc[row.column, row.region_b]
        assert row.ci_low < known < row.ci_high
        assert row.ci_low > 0
        assert row.r_a > 0.85
    for column, region in (('dystonia', 'GP'), ('parkinsonism', 'SN')):
        table, _ = correlate(patients, column, covariates=['age', 'sex'], n_boot=1000)
        found = table.set_index('region')
        assert found.loc[region, 'p_fdr'] < 0.01
        assert found.loc[region, 'ci_low'] < true.loc[column, region] < found.loc[region, 'ci_high']
        assert (found.drop(region)['p_fdr'] > 0.01).all()


def test_change_of_each_participant_is_found_in_the_pallidum_alone(one):
    table, notes = changes(one.long, repeatability=0.004)
    wide = one.truth.pivot(index='participant_id', columns='session_id', values=['GP', 'Putamen', 'years'])
    second = wide[wide[('GP', 'ses-2')].notna()]
    for region in ('GP', 'Putamen'):
        found = table[table['region'] == region].set_index('participant_id')
        assert len(found) == 6
        true = (second[(region, 'ses-2')] - second[(region, 'ses-1')]).reindex(found.index)
        assert ((found['ci_low'] < true) & (true < found['ci_high'])).sum() >= 5
        assert found['beyond'].sum() == (6 if region == 'GP' else 0)
        span = second[('years', 'ses-2')].reindex(found.index)
        np.testing.assert_allclose(found['years'], span, atol=0.001)
        np.testing.assert_allclose(found['per_year'], found['change'] / span, rtol=0.001)
    assert not [note for note in notes if 'acq_time' in note]
    summary = change_summary(table)[0].set_index('region')
    true = (second[('GP', 'ses-2')] - second[('GP', 'ses-1')]).mean()
    assert summary.loc['GP', 'ci_low'] < true < summary.loc['GP', 'ci_high']
    assert summary.loc['GP', 'n_beyond'] == 6
    assert summary.loc['Thalamus', 'p_fdr'] > 0.05


def test_patients_stand_out_from_the_controls_where_they_should(one):
    table, _ = normative(one.long, controls='control')
    first = table[table['session_id'] == 'ses-1']
    patients = first[~first['is_control']].groupby('region')['z'].agg(['mean', 'min'])
    assert patients.loc['GP', 'min'] > 2
    assert patients.loc['SN', 'mean'] > 3
    assert abs(patients.loc['Thalamus', 'mean']) < 1.2
    controls = first[first['is_control']]['z']
    assert controls.mean() == pytest.approx(0, abs=0.3)
    assert 0.7 < controls.std() < 1.5
