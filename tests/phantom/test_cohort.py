import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from bids_qsm.phantom.cohort import REGIONS, Effects, aged, draw_people, truth_table, write_cohort
from bids_qsm.phantom.gre import Protocol
from tests.cohorts import region_tables

COARSE = Protocol((5.0, 5.0, 5.0), echo_times=(0.006, 0.014))


def first(people):
    truth = truth_table(people)
    return truth[truth['session_id'] == 'ses-1'].reset_index(drop=True)


def test_a_study_has_its_groups_and_sessions():
    people = draw_people(3)
    truth = truth_table(people)
    assert truth['participant_id'].nunique() == 24
    assert first(people).groupby('group').size().to_dict() == {'control': 12, 'patient': 12}
    again = truth[truth['session_id'] == 'ses-2']
    assert len(again) == 6
    assert set(again['group']) == {'patient'}
    assert again['years'].between(0.99, 2.0).all()
    ages = first(people).groupby('group')['age'].mean()
    assert abs(ages['control'] - ages['patient']) < 2
    assert first(people).groupby('group')['sex'].value_counts().eq(6).all()
    scores = truth[['dystonia', 'parkinsonism']]
    assert scores.isna().all(axis=1).equals(truth['group'] == 'control')
    assert truth_table(draw_people(3)).equals(truth)
    assert not truth_table(draw_people(4)).equals(truth)


@pytest.mark.parametrize('seed', range(4))
def test_effects_are_those_of_the_population(seed):
    effects = Effects(gp=1.9, sn=1.5, variation=0.0, noise=0.0)
    people = draw_people(seed, effects=effects)
    table = first(people)
    patient, age = table['group'] == 'patient', table['age']
    excess = {r: table[r] / table[r][~patient].mean() for r in REGIONS}
    excess['GP'] = table['GP'] / [aged('GP', a) for a in age] / 0.131
    assert excess['GP'][patient].mean() == pytest.approx(1.9, abs=0.005)
    assert excess['GP'][patient].std() == pytest.approx(effects.spread, rel=0.15)
    assert excess['SN'][patient].mean() == pytest.approx(1.5, abs=0.005)
    assert excess['Thalamus'].to_numpy() == pytest.approx(1)
    assert abs(np.corrcoef(excess['GP'][patient], excess['SN'][patient])[0, 1]) < 0.25
    together = table[patient].corr(numeric_only=True)
    assert together.loc['dystonia', 'GP'] > 0.98
    assert together.loc['parkinsonism', 'SN'] > 0.98
    assert abs(together.loc['dystonia', 'SN']) < 0.4
    truth = truth_table(people).set_index(['participant_id', 'session_id'])
    later = truth.xs('ses-2', level='session_id')
    ratio = later[list(REGIONS)] / truth.xs('ses-1', level='session_id').loc[later.index, list(REGIONS)]
    assert ratio['GP'].mean() == pytest.approx(effects.treated, abs=0.05)
    assert (ratio.drop(columns='GP') == 1).all(axis=None)


def test_tables_are_the_truth_with_noise():
    people = draw_people(2)
    tables = list(region_tables(people, 2, noise_ppm=0.004))
    assert len(tables) == 30
    truth = truth_table(people).set_index(['participant_id', 'session_id'])
    errors = []
    for entities, table in tables:
        known = truth.loc[(f'sub-{entities["sub"]}', f'ses-{entities["ses"]}')]
        means = table[table['hemisphere'] == 'both'].set_index('region')['mean']
        errors += [means[region] - known[region] for region in REGIONS]
    assert np.std(errors) == pytest.approx(0.004, rel=0.15)
    assert np.mean(errors) == pytest.approx(0, abs=0.001)


@pytest.fixture(scope='module')
def study(tmp_path_factory):
    """Two of the people, coarsely: a control and a patient seen twice."""
    everyone = draw_people(1)
    people = [everyone[0], next(p for p in everyone if len(p.sessions) == 2)]
    path = tmp_path_factory.mktemp('cohort') / 'data'
    return people, write_cohort(path, people, seed=1, protocol=COARSE, t1w=4.0, spacing=2.0)


def test_the_dataset_holds_scores_times_and_truth(study):
    people, data = study
    table = pd.read_csv(data / 'participants.tsv', sep='\t', na_values='n/a')
    assert list(table['dystonia'].notna()) == [False, True]
    assert set(json.loads((data / 'participants.json').read_text())) == set(table) - {'participant_id'}
    for person in people:
        folder = data / f'sub-{person.subject}'
        times = pd.read_csv(folder / f'sub-{person.subject}_sessions.tsv', sep='\t')
        assert list(times['session_id']) == [f'ses-{s.label}' for s in person.sessions]
        assert pd.to_datetime(times['acq_time']).is_monotonic_increasing
        assert len(list(folder.glob('ses-*/anat/*_T1w.nii.gz'))) == 1
        assert len(list(folder.glob('ses-*/anat/*_part-phase_MEGRE.nii.gz'))) == 2 * len(person.sessions)
    truth = pd.read_csv(data / 'derivatives' / 'truth' / 'cohort.tsv', sep='\t')
    pd.testing.assert_frame_equal(truth, truth_table(people), check_dtype=False)


def test_the_images_hold_the_effects(study):
    people, data = study
    truth = truth_table(people).set_index(['participant_id', 'session_id'])
    means = {}
    for (subject, session), known in truth.iterrows():
        stem = data / f'derivatives/truth/{subject}/{session}/anat/{subject}_{session}'
        chi, dseg = (
            np.asanyarray(nib.load(f'{stem}_{s}.nii.gz').dataobj) for s in ('Chimap', 'seg-nuclei_dseg')
        )
        labels = pd.read_csv(f'{stem}_seg-nuclei_dseg.tsv', sep='\t')
        pallidum = labels.loc[labels['region'].isin(['GPe', 'GPi']), 'index']
        means[subject, session] = chi[np.isin(dseg, pallidum)].mean(), known['GP']
    (control, known), *patient = (means[key] for key in truth.index)
    # 5 mm voxels blur each alike
    for mean, chi in patient:
        assert mean / control == pytest.approx(chi / known, rel=0.25)
    assert patient[1][0] / patient[0][0] == pytest.approx(patient[1][1] / patient[0][1], rel=0.12)


@pytest.mark.parametrize('part', ['.', 'derivatives/truth'])
def test_validator_finds_no_error(study, part):
    validator = Path(sys.executable).with_name('bids-validator-deno')
    if not validator.exists():
        pytest.skip('bids-validator-deno is not installed')
    result = subprocess.run(
        [validator, study[1] / part, '--json'], capture_output=True, text=True, check=False
    )
    issues = json.loads(result.stdout)['issues']['issues']
    errors = [i for i in issues if i['severity'] == 'error']
    assert not errors, errors
