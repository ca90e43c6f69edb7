"""The worked examples of trials: from tables of visits to the page."""

from collections import defaultdict
from dataclasses import replace

import pandas as pd
import pytest

from bids_qsm.app.options import Options
from bids_qsm.cohort.tables import gather, join_participants, join_sessions
from bids_qsm.group.analyse import FILES, analyse, run_group
from bids_qsm.phantom.trial import DEFERIPRONE, WILSON, draw_trial, write_trial
from tests.cohorts import assert_described
from tests.pages import Page, assert_self_contained


def only(trial, *regions):
    return replace(trial, regions={name: trial.regions[name] for name in regions})


def table(out, kind):
    return pd.read_csv(out / FILES[kind], sep='\t', na_values=['n/a'])


@pytest.fixture(scope='module')
def wilson(tmp_path_factory):
    data, out = write_trial(tmp_path_factory.mktemp('wilson'), only(WILSON, 'Putamen', 'SN'), seed=2)
    assert run_group(Options.from_settings({'bids_dir': data, 'output_dir': out, 'level': 'group'})) == 0
    return out


def test_chelation_in_wilson_disease(wilson):
    page = Page(wilson / 'group.html')
    assert_self_contained(page)
    short = page.in_short
    for said in (
        'χ, sessions of one visit: SDw',
        'comparisons (participants and regions)',
        'χ, chelation against standard care: change over time differs in 1 of 2 regions',
        'Putamen, standard care: the mean changes, the total does not for certain',
        'participants per arm to show, with power 80 %, that a treatment prevents 25 % of the change',
    ):
        assert said in short, said
    total = table(wilson, 'slopes').set_index(['map', 'region', 'arm'])
    truth = WILSON.truth('Putamen', 'chelation')
    row = total.loc[('chi_total', 'Putamen', 'chelation')]
    assert row['slope_low'] < truth['chi_total'] < row['slope_high']
    assert {'repeat-sessions-chi-nuclei', 'slopes-chi-nuclei', 'slopes-difference-chi_total-nuclei'} <= set(
        page.ids
    )
    # an arm is no group of controls
    assert 'Against controls' not in page.text


def test_every_table_of_a_trial_is_described(wilson):
    for kind in ('change', 'change_summary', 'repeatability', 'slopes', 'samples'):
        assert_described(wilson, kind)


def test_deferiprone_in_nbia():
    tables, people, sessions = draw_trial(only(DEFERIPRONE, 'GP'), 1)
    long = join_sessions(join_participants(gather(tables), people)[0], sessions)[0]
    asked = {'statistic': 'mean', 'model': 'chi_total ~ arm + age', 'correlate': [], 'controls': None}
    notes = defaultdict(list)
    found = {kind: table for kind, (table, _) in analyse(long, asked | {'relative_to': None}, notes).items()}
    row = found['slopes'].set_index(['map', 'arm']).loc[('chi', 'deferiprone')]
    apart = DEFERIPRONE.truth('GP', 'deferiprone')['chi'] - DEFERIPRONE.truth('GP', 'placebo')['chi']
    assert row['reference'] == 'placebo'
    assert row['ci_low'] < apart < row['ci_high'] < -30
    sizes = found['samples'].query('map == "chi" and effect_of == "level" and effect == 0.25')
    assert (sizes['n_per_arm'] < 10).all()
    falls = found['change'].query('map == "chi" and direction == "fall"')
    assert len(falls) >= 20
    assert (falls['p_fdr'] < 0.05).all()
    assert set(found['model']['map']) == {'chi_total'}
    assert not notes['normative']


def test_an_arm_that_is_the_reference_is_no_group_of_controls():
    of = replace(only(DEFERIPRONE, 'GP'), arms={'placebo': 3, 'deferiprone': 3}, retests=0)
    tables, people, sessions = draw_trial(of, 1)
    long = join_sessions(join_participants(gather(tables), people)[0], sessions)[0].assign(group='patient')
    asked = {'statistic': 'mean', 'model': None, 'correlate': [], 'controls': 'deferiprone'}
    notes = defaultdict(list)
    found = analyse(long, asked | {'relative_to': None}, notes)
    assert set(found['slopes'][0]['reference']) == {'', 'deferiprone'}
    assert 'normative' not in found
    assert 'deferiprone of --controls is an arm' in notes['normative'][0]
    # arms too small for slopes are said, though there is no table
    few = long[long['participant_id'].isin(long.drop_duplicates('arm')['participant_id'])]
    assert 'slopes' not in analyse(few, asked | {'relative_to': None}, notes)
    assert 'two visits of known time' in notes['slopes'][-1]
