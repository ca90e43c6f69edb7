"""Sections of the cohort's page: the words tell of all regions, the charts show what was tested."""

import numpy as np
import pandas as pd
import pytest

from bids_qsm.applications import application
from bids_qsm.reports import cohort_sections
from bids_qsm.reports.cohort_sections import (
    application_section,
    change_section,
    correlation_section,
    model_section,
    normative_section,
)

REGIONS = [f'r{i:02d}' for i in range(40)]
PART = {'atlas': '', 'map': 'chi', 'hemisphere': 'both', 'units': 'ppm'}


@pytest.fixture
def drawn(monkeypatch):
    """What each chart was given, by its name."""
    found = {}
    for name in [name for name in dir(cohort_sections) if name.startswith('plot_')]:

        def keep(*data, name=name, **settings):
            found.setdefault(name, []).append((data, settings))
            return '<svg/>'

        monkeypatch.setattr(cohort_sections, name, keep)
    return found


def captions(section):
    return {block['id']: block['caption'] for block in section['children']}


def test_an_effect_on_the_last_region_is_told_and_drawn(drawn):
    p = np.where(np.array(REGIONS) == 'r37', 0.001, 0.5)
    table = pd.DataFrame({**PART, 'region': REGIONS, 'term': 'age', 'level': None, 'estimate': 0.01, 'p': p})
    table = table.assign(ci_low=0.0, ci_high=0.02, p_fdr=p, effect=0.5, effect_name='partial r')
    table = table.assign(effect_low=0.1, effect_high=0.9, n_participants=20, n_observations=20, method='OLS')
    residuals = pd.DataFrame({**PART, 'region': np.repeat(REGIONS, 5), 'fitted': 0.1, 'residual': 0.0})
    found = model_section(table, residuals, 'chi ~ age', [], [])
    assert 'χ, age: an effect on 1 of 40 regions after correction (n = 20): r37' in found['answers'][0]
    sizes = next(block for block in found['blocks'] if block['kind'] == 'table')
    assert len(sizes['table']['rows']) == 40
    shown = drawn['plot_forest'][0][0][0]['region'].tolist()
    assert (len(shown), shown[-1]) == (20, 'r37')
    shown = drawn['plot_residuals'][0][0][0]['region'].unique().tolist()
    assert (len(shown), shown[-1]) == (8, 'r37')
    said = captions(found)
    assert '20 of 40 regions are drawn' in said['model-chi-0-0']
    assert '8 of 40 regions are drawn' in said['residuals-chi']


def cohort(n=12):
    rng = np.random.default_rng(0)
    people = pd.DataFrame({'participant_id': [f'sub-{i}' for i in range(n)], 'age': rng.uniform(20, 70, n)})
    people['score'] = rng.normal(size=n)
    long = people.merge(pd.DataFrame({**PART, 'region': REGIONS}), how='cross')
    return long.assign(mean=rng.normal(size=len(long)), coverage=1.0)


def test_a_correlation_beyond_the_first_regions_is_answered_and_its_axes_fit_the_test(drawn):
    long = cohort()
    table = pd.DataFrame({**PART, 'region': REGIONS, 'column': 'age', 'r': 0.5, 'ci_low': 0.1})
    table = table.assign(ci_high=0.8, p_fdr=0.2, n=12)
    found = correlation_section(
        pd.concat([table, table.assign(column='score')]), pd.DataFrame(), long,
        asked=[('age', 'r39'), ('score', 'r38')], covariates=['age'], statistic='mean', groups={}, notes=[],
        files=[],
    )  # fmt: skip
    assert found['answers'][0].startswith('age and χ of r39: r = 0.50')
    assert {'r38', 'r39'} <= set(drawn['plot_forest'][0][0][0]['region'])
    said = captions(found)
    assert 'given age' not in said['correlation-chi-0']
    assert 'given age' in said['correlation-chi-1']
    assert 'taken out' not in said['scatter-chi-0']
    assert 'what age explain is taken out' in said['scatter-chi-1']
    # the number itself is not a covariate of itself: its axis is not emptied
    (points, *_), _ = drawn['plot_scatter'][0]
    own = points[points['region'] == 'r39']
    assert np.sort(own['x']) == pytest.approx(np.sort(long['age'].unique()))


def test_the_band_knows_what_the_covariates_spent(drawn, monkeypatch):
    spent = []
    line = cohort_sections.describe.regression_line
    monkeypatch.setattr(
        cohort_sections.describe,
        'regression_line',
        lambda x, y, **more: spent.append(more['spent']) or line(x, y, **more),
    )
    table = pd.DataFrame({**PART, 'region': REGIONS[:4], 'column': 'score', 'r': 0.5, 'ci_low': 0.1})
    table = table.assign(ci_high=0.8, p_fdr=0.2, n=12)
    for covariates in ([], ['age']):
        correlation_section(
            table, pd.DataFrame(), cohort(), asked=[('score', 'r01')], covariates=covariates,
            statistic='mean', groups={}, notes=[], files=[],
        )  # fmt: skip
    assert spent == [0] * 4 + [1] * 4
    assert len(drawn['plot_scatter']) == 2


def test_the_bar_of_a_change_is_what_the_test_needs(drawn):
    long = pd.concat([cohort().assign(session_id=f'ses-{i}') for i in (1, 2)], ignore_index=True)
    table = long[long['session_id'] == 'ses-1'][['participant_id', 'region', *PART]]
    table = table.assign(
        session_from='ses-1', session_to='ses-2', years=1.0, change=0.1, per_year=0.1, repeatability=0.01,
        repeatability_source='literature', beyond=table['region'] == 'r35', p_fdr=0.2,
    )  # fmt: skip
    half = np.where(table['participant_id'] == 'sub-0', 0.5, 0.02)
    table = table.assign(ci_low=table['change'] - half, ci_high=table['change'] + half)
    summary = pd.DataFrame({**PART, 'region': REGIONS, 'group': 'all', 'n': 12, 'mean': 0.1, 'ci_low': 0.0})
    summary = summary.assign(ci_high=0.2, p_fdr=np.where(summary['region'] == 'r36', 0.01, 0.6))
    found = change_section(table, summary, long, {}, statistic='mean', notes=[], files=[])
    assert 'χ of r35 changed by more than repetition explains in 12 of 12' in found['answers'][0]
    least = drawn['plot_changes'][0][1]['detectable']
    assert least['r35'] == pytest.approx(0.02)
    assert 'r35' in set(drawn['plot_changes'][0][0][0]['region'])
    assert drawn['plot_forest'][0][0][0]['region'].iloc[-1] == 'r36'
    said = captions(found)
    assert 'half of the 95 % interval of a change (median over participants)' in said['change-chi']
    assert '1.96' not in said['change-chi']
    assert '8 of 40 regions are drawn' in said['change-chi']
    # who has no group is read as missing
    two = pd.concat([summary, summary.assign(group=np.nan)])
    change_section(table, two, long, {}, statistic='mean', notes=[], files=[])
    assert set(drawn['plot_forest'][-1][0][0]['group']) == {'all', 'n/a'}


def test_who_is_far_from_controls_in_the_last_region_is_named(drawn):
    rows = cohort()[['participant_id', 'region', 'age', *PART]]
    far = (rows['region'] == 'r39') & (rows['participant_id'] == 'sub-3')
    rows = rows.assign(z=np.where(far, 4.0, 0.5), is_control=rows['participant_id'].isin(['sub-0', 'sub-1']))
    rows = rows.assign(session_id=None, value=0.1, expected=0.1, sd=0.01, dof=10, percentile=50, n_controls=2)
    found = normative_section(rows, {}, notes=[], files=[])
    assert found['answers'] == [
        'χ of r39: 1 of 10 participants beyond 2 standard deviations from controls (1 above, 0 below; by '
        'chance about 0).'
    ]
    for name, n in (('plot_zscores', 20), ('plot_normative', 8)):
        shown = drawn[name][0][0][0]['region'].unique().tolist()
        assert (len(shown), shown[-1]) == (n, 'r39')
    assert all('of 40 regions are drawn' in text for text in captions(found).values())


def test_rows_that_cannot_be_summed_up_are_shown_with_a_note():
    app = application('lesions')
    about = {
        'participant_id': 'sub-1',
        'session_id': 'n/a',
        'reason': None,
        'source': 'mask',
        'reference': 'CSF',
    }
    rows = pd.DataFrame([dict.fromkeys(app.tables[0].described(), 1.0) | about])
    found = application_section(app, app.tables[0], rows.assign(chi_mean='odd'), notes=['First.'], files=[])
    assert found['question'] == ''
    assert [note.partition(':')[0] for note in found['notes']] == ['First.', 'These rows cannot be summed up']
    assert len(found['blocks']) == 1
