"""The group level tells two labels apart: tables, text, page, and what is refused."""

import numpy as np
import pandas as pd
import pytest

from bids_qsm.errors import UserError
from bids_qsm.group.analyse import FILES, METHODS, run_group
from bids_qsm.group.classify import run_classify
from tests.cohorts import assert_described, options, table, write_cohort
from tests.pages import Page, assert_self_contained

ASKED_ALONE = {kind for kind in FILES if kind.startswith('classification')}


@pytest.fixture(scope='module')
def classified(tmp_path_factory):
    """A cohort whose participants were classified by their regions, in few repeats here and in its tests."""
    data, out = write_cohort(tmp_path_factory.mktemp('classes'), n=24, repeated=0, seed=2)
    with pytest.MonkeyPatch.context() as patch:
        for name, few in (('REPEATS', 2), ('PERMUTATIONS', 19), ('RESAMPLES', 20)):
            patch.setattr(f'bids_qsm.group.classify.{name}', few)
        assert run_group(options(data, out, classify='group ~ age + sex | chi_RN + chi_GP')) == 0
        yield data, out


def test_participants_are_classified_with_and_without_qsm(classified):
    _, out = classified
    found = table(out / FILES['classification'])
    auc = found[found['measure'] == 'auc'].set_index('model')['estimate']
    assert auc['base'] < 0.8 < auc['base + QSM']
    assert set(found['n_positive']) == {12}
    predicted = table(out / FILES['classification_predictions'])
    assert predicted['participant_id'].nunique() == len(predicted) == 24
    assert predicted['p_base_qsm'].between(0, 1).all()
    for key in ASKED_ALONE:
        assert_described(out, key)
    text = (out / METHODS).read_text()
    for said in (
        '24 units of 24 participants in the table',
        'seed 0',
        'permutations of participants',
        '1. Collins',
    ):
        assert said in text, said
    page = Page(out / 'group.html')
    assert_self_contained(page)
    assert 'base + QSM: AUC' in page.text
    assert 'TRIPOD+AI' in page.text
    assert 'classification-curves' in page.ids


def test_units_are_lesions_or_rows_of_a_table(classified, tmp_path):
    data, out = classified
    read = pd.DataFrame({'participant_id': [f'{i // 2 + 1:03d}' for i in range(48)], 'lesion': [1, 2] * 24})
    rng = np.random.default_rng(0)
    read['rim'], read['volume'], noise = ['yes', 'no'] * 24, *rng.normal(size=(2, 48))
    read['score'] = noise + 2 * (read['rim'] == 'yes')
    read.to_csv(tmp_path / 'read.tsv', sep='\t', index=False)
    lesions = table(out / 'group_lesions.tsv')

    def classify(formula, units):
        found, notes, _ = run_classify(
            formula, str(units), table(out / 'group_regions.tsv'),
            {'lesions': lesions, 'fmri_quality': lesions[:0]}, data,
            statistic='mean', controls='', site='', n_jobs=1,
        )  # fmt: skip
        return found['classification_predictions'][0], notes['classification']

    # age is of participants.tsv; what sessions.tsv says of columns of the table does not count
    sessions = data / 'sub-001' / 'sub-001_sessions.tsv'
    sessions.parent.mkdir(exist_ok=True)
    sessions.write_text('session_id\trim\nses-1\tno\n')
    read.assign(session_id='ses-1').to_csv(tmp_path / 'read.tsv', sep='\t', index=False)
    predicted, notes = classify('rim ~ age + volume | score', tmp_path / 'read.tsv')
    sessions.unlink()
    assert predicted['label'].tolist() == read['rim'].tolist()
    assert any('sessions.tsv that the table has itself: rim' in note for note in notes)
    assert list(predicted)[:4] == ['participant_id', 'session_id', 'lesion', 'label']
    assert any('within each participant' in note for note in notes)
    for wrong, units, said in (
        ('group ~ age | volume_mm3', 'lesions', 'label of two levels, but group has 1'),
        ('group ~ age', 'nothing', 'neither a file nor one of participants, lesions'),
        ('group ~ age', 'fmri_quality', 'writes it with --fmri'),
    ):
        with pytest.raises(UserError, match=said):
            classify(wrong, units)
    read.assign(participant_id=[None, *read['participant_id'][1:]]).to_csv(
        tmp_path / 'read.tsv', sep='\t', index=False, na_rep='n/a'
    )
    with pytest.raises(UserError, match=r'n/a in the column participant_id \(in 1 rows\)'):
        classify('rim ~ volume', tmp_path / 'read.tsv')
    read.drop(columns='participant_id').to_csv(tmp_path / 'read.tsv', sep='\t', index=False)
    with pytest.raises(UserError, match='has no column participant_id'):
        classify('rim ~ volume', tmp_path / 'read.tsv')
