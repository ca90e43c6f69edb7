"""Units of a classifier from tables, what is refused, and planted leaks."""

import numpy as np
import pandas as pd
import pytest

from bids_qsm.cohort.tables import gather, join_participants
from bids_qsm.cohort.units import by_participant, make_units
from bids_qsm.errors import UserError
from bids_qsm.phantom.classes import Population

FORMULA = 'label ~ base_0 + base_1 | qsm_0 + qsm_1'


@pytest.fixture
def table():
    return Population(qsm=(0.6, 0.0)).draw(0, people=(20, 20))


def refused(table, formula=FORMULA):
    with pytest.raises(UserError) as caught:
        make_units(table, formula)
    return str(caught.value)


def warned(table, formula=FORMULA):
    return ' '.join(make_units(table, formula)[2])


def test_a_clean_table_has_no_warning(table):
    units, _, warnings, flow = make_units(table.assign(site=['A', 'B'] * 20), FORMULA)
    assert (units.positive, units.y.sum()) == ('patient', 20)
    assert (units.base, units.qsm) == (('base_0', 'base_1'), ('qsm_0', 'qsm_1'))
    assert warnings == []
    assert flow[-1] == {'step': 'with a value of label', 'units': 40, 'participants': 40}


def test_text_becomes_indicators_and_gaps_stay(table):
    table = table.assign(sex=['F', 'M', None, 'M'] * 10, code=[1, 2, 3, 1] * 10)
    units, notes, *_ = make_units(table, 'label ~ sex + C(code)')
    assert list(units.x) == ['sex=M', 'code=2', 'code=3']
    assert units.x['sex=M'].isna().sum() == 10
    assert any('sex=M (10)' in note for note in notes)
    assert units.qsm == ()


def test_rows_without_a_label_or_a_measurement_are_counted_out(table):
    table['reason'] = np.where(np.arange(40) == 3, 'outside the field of view', None)
    table.loc[table.index % 10 == 5, 'label'] = None
    flow = make_units(table, FORMULA)[3]
    assert [step['units'] for step in flow] == [40, 39, 35]


@pytest.mark.parametrize(
    ('formula', 'said'),
    [
        ('base_0', 'must name a label and base features'),
        ('label ~ base_0 |', 'lacks a column'),
        ('label ~ base_0:base_1', 'joined by +'),
        ('label ~ log(base_0)', 'features are columns'),
        ('label ~ base_0 | base_0', "names 'base_0' twice"),
        ('label ~ base_0 | label', "names 'label' twice"),
        ('label ~ nothing', "no column 'nothing'"),
        ('other ~ base_0', "no column 'other'"),
        ('label ~ participant_id', 'too many for a feature'),
    ],
)
def test_wrong_formulas_are_refused(table, formula, said):
    assert said in refused(table, formula)


def test_features_that_do_not_vary_are_named(table):
    flat = table.assign(base_1='F', qsm_1=np.where(table['label'] == 'patient', 1.0, np.nan))
    units, notes, *_ = make_units(flat, FORMULA)
    assert (units.base, units.qsm) == (('base_0',), ('qsm_0',))
    assert [n.rpartition(' ')[2] for n in notes if 'left out' in n] == ['base_1.', 'qsm_1.']
    assert 'nothing on one side of the formula varies' in refused(flat, 'label ~ base_0 | qsm_1')


def test_a_label_has_two_levels(table):
    assert 'but label has 3 (control, patient, unsure)' in refused(
        table.assign(label=['unsure', *table['label'][1:]])
    )


def test_too_few_are_refused_in_one_sentence(table):
    said = refused(table.iloc[:27])
    assert 'at least 10 participants with each label' in said
    assert '20 with label = control and 7 with label = patient' in said
    # many lesions of few participants are few
    lesions = table.iloc[:27].loc[np.repeat(np.arange(27), 5)]
    assert '7 with label = patient' in refused(lesions)


def test_one_person_under_two_names_is_one_participant(table):
    twins = table.iloc[[2, 30]].assign(participant_id=['sub-901', 'sub-902'])
    units, _, warnings, _ = make_units(pd.concat([table, twins], ignore_index=True), FORMULA)
    assert units.person.max() + 1 == 40
    assert units.person[40] == units.person[2]
    assert 'sub-003 = sub-901, sub-031 = sub-902' in warnings[0]
    # and counts once where participants are few
    few = pd.concat([table.iloc[:29], table.iloc[[20]].assign(participant_id='sub-901')])
    assert 'were taken for one (sub-021 = sub-901)' in refused(few)
    # people at the floor of all scores are not one
    scores = {f's{k}': np.where(np.arange(40) < 12, 0, np.arange(40) * (k + 3) % 41) for k in range(5)}
    floored = table.assign(**scores)
    assert make_units(floored, f'label ~ {" + ".join(scores)}')[0].person.max() + 1 == 40
    # few values agree by chance
    coarse = table.assign(base_0=np.arange(40) % 2, base_1=np.arange(40) // 2 % 2)
    assert make_units(coarse, 'label ~ base_0 + base_1')[0].person.max() + 1 == 40


def test_features_that_hold_the_label_are_named(table):
    patient = table['label'] == 'patient'
    assert 'qsm_1 tells the label without an error' in warned(table.assign(qsm_1=patient + 0.0))
    text = table.assign(code=np.where(patient, ['p', 'q'] * 20, 'c'))
    assert 'code tells the label without an error' in warned(text, 'label ~ code | qsm_0')
    score = table.assign(qsm_1=np.where(patient, np.arange(40) % 7, 0))
    assert 'qsm_1 is 0' in warned(score)
    gaps = table.assign(qsm_1=table['qsm_1'].where(~patient | (np.arange(40) % 3 == 0)))
    assert 'qsm_1 is missing much more often' in warned(gaps)
    for later in ('disease_duration', 'DiseaseDuration', 'MDSUPDRS3', 'HoehnYahr'):
        named = table.rename(columns={'base_1': later})
        assert 'known after the label' in warned(named, f'label ~ base_0 + {later}')


def test_a_site_that_tells_the_label_is_named(table):
    site = np.where(np.arange(40) % 8 == 0, 'A', np.where(table['label'] == 'patient', 'B', 'A'))
    said = warned(table.assign(Site=site))
    assert 'Site tells the label' in said
    assert 'B: 100% of' in said


def test_regions_of_participants_become_columns():
    region = pd.DataFrame(
        {'region': ['GP', 'GP'], 'hemisphere': ['both', 'L'], 'map': 'chi', 'units': 'ppm', 'coverage': 1.0}
    )
    tables = [
        ({'sub': sub, 'ses': ses, 'seg': 'nuclei'}, region.assign(mean=[value, value + 1]))
        for sub, ses, value in (('1', 'a', 0.1), ('1', 'b', 0.3), ('2', 'a', 0.5))
    ]
    people = pd.DataFrame({'participant_id': ['1', '2'], 'group': ['HC', 'PD'], 'age': [50, 60]})
    long = join_participants(gather(tables), people)[0]
    wide, _ = by_participant(long)
    assert wide['chi_GP'].tolist() == pytest.approx([0.2, 0.5])
    assert wide['chi_GP_L'].tolist() == pytest.approx([1.2, 1.5])
    assert wide['group'].tolist() == ['HC', 'PD']
    # a label is not averaged
    with pytest.raises(UserError, match='score differs between sessions of sub-1'):
        by_participant(long.assign(score=np.arange(len(long)) // 2 % 2), 'score')
    _, notes = by_participant(long.assign(acquisition=long['session_id']))
    assert 'Series differ in acquisition' in notes[0]


def test_a_site_that_is_the_label_is_refused(table):
    def asked(sites):
        with pytest.raises(UserError) as caught:
            make_units(table.assign(site=sites), FORMULA, site='site', of_site=['qsm_0'])
        return str(caught.value)

    same = np.where(table['label'] == 'patient', 'A', 'B')
    assert 'all with label' in asked(same)
    few = np.where(np.arange(40) % 20 < 2, 'A', 'B')
    assert 'A has 4 participants with a label, fewer than 5' in asked(few)


def test_features_that_are_no_regions_are_not_harmonised(table):
    table = table.assign(site=['A', 'B'] * 20)
    units, notes, *_ = make_units(table, FORMULA, site='site', of_site=['qsm_0'])
    assert units.of_site == ('qsm_0',)
    assert any('taken away from qsm_0, learned in each fold' in note for note in notes)
    units, notes, *_ = make_units(table, FORMULA, site='site', of_site=['other'])
    assert units.site is None
    assert any('none was harmonised' in note for note in notes)


def test_a_site_of_nearly_one_label_is_refused():
    table = Population(qsm=(0.6, 0.0)).draw(0, people=(40, 40))
    patient = (table['label'] == 'patient').to_numpy()
    site = np.where(patient, 'A', 'B')
    other = np.concatenate([np.flatnonzero(patient)[:2], np.flatnonzero(~patient)[:2]])
    site[other] = np.where(site[other] == 'A', 'B', 'A')
    with pytest.raises(UserError, match='only 4 participants have the rarer label of their site'):
        make_units(table.assign(site=site), FORMULA, site='site', of_site=['qsm_0'])
