"""The application of the central vein sign: several masks, tables, and their page."""

import numpy as np
import pandas as pd

from bids_qsm.applications.centralvein import APPLICATION, measure, overview, tidy
from bids_qsm.applications.contract import Given
from bids_qsm.recon.grid import Grid
from tests.biomarkers.test_central_vein import AFFINE, CENTRE, SHAPE, ball, line


def given(name, labels):
    labels = labels.astype(np.int32)
    return Given(name, labels, labels, AFFINE, labels, [])


def test_lesions_of_several_masks_have_labels_one_after_another():
    first = 4 * ball(CENTRE - (9, 0, 0), 3.0) + 9 * ball(CENTRE - (-9, 0, 0), 3.0)
    lesions = (given('first', first), given('none', np.zeros(SHAPE)), given('second', ball(CENTRE, 3.0)))
    lines = line((-9, -8, 0), (-9, 8, 0))
    skeleton = np.zeros(SHAPE, bool)
    skeleton[8, :, 12] = True
    chi = (0.1 * skeleton).astype(np.float32)
    made = measure(chi, np.ones(SHAPE, bool), None, lesions, skeleton, lines, AFFINE, Grid(SHAPE))
    found = dict(zip(APPLICATION.gives, made, strict=True))
    table = found['table']
    assert table[['source', 'lesion', 'label', 'cvs']].to_numpy().tolist() == [
        ['first', 4, 1, 'yes'],
        ['first', 9, 2, 'no'],
        ['second', 1, 3, 'no'],
    ]
    assert set(table) == set(APPLICATION.tables[0].described())
    assert set(found['centralveinshare']) == set(APPLICATION.tables[1].described())
    assert np.array_equal(np.unique(found['centralveinlesions']), [0, 1, 2, 3])
    assert (found['centralvein'][found['centralveinlesions'] == 1] == 1).all()
    assert 15 < found['courses'].sum() < skeleton.sum()
    assert table[['x', 'y', 'z']].iloc[0].tolist() == [-9, 0, 0]

    assert tidy(table).set_index('map')['mean'].round(2).to_dict() == {
        'cvs_share': 0.33,
        'cvs_count': 1,
        'cvs_assessed': 3,
    }
    said = overview(pd.concat([table.assign(participant_id=f'sub-0{n}') for n in (1, 2)]))
    assert said['answers'][0].startswith('2 of 6 lesions assessed')
    assert said['tables'][0][1]['share'].tolist() == [0.333, 0.333]


def test_the_page_of_the_cohort_keeps_sessions_apart():
    # the first session has 39.98 %, which would be 40 % if rounded first
    answers = ['yes'] * 3998 + ['no'] * 6002 + ['yes']
    sessions = ['1'] * 10000 + ['2']
    rows = pd.DataFrame({'participant_id': 'sub-01', 'session_id': sessions, 'cvs': answers})
    said = overview(rows)
    assert said['tables'][0][1]['session_id'].tolist() == ['1', '2']
    assert '1 of 2 with a lesion assessed' in said['answers'][0]


def test_without_a_lesion_on_the_grid_tables_are_empty():
    none = pd.DataFrame({name: [] for name in ('segment', 'x', 'y', 'z', 'diameter_mm')})
    mask = np.ones(SHAPE, bool)
    lesions = (given('none', np.zeros(SHAPE)),)
    *_, table, share = measure(
        np.zeros(SHAPE, np.float32), mask, None, lesions, ~mask, none, AFFINE, Grid(SHAPE)
    )
    assert table.empty
    assert share.empty
    assert tidy(table)['mean'].fillna(-1).tolist() == [-1, 0, 0]


def test_where_all_lesions_are_excluded_no_number_has_the_sign():
    assert tidy(pd.DataFrame({'cvs': ['excluded'] * 3}))['mean'].fillna(-1).tolist() == [-1, -1, 0]
