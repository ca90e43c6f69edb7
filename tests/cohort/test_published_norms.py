import numpy as np
import pandas as pd
import pytest

from bids_qsm.biomarkers.iron import ADULTS, REGIONS, expected_iron
from bids_qsm.cohort.published_norms import COLUMNS, FLAG, dictionary, fit_line, published_norms
from bids_qsm.cohort.tables import gather, join_participants


def study(n=30, *, seed=0, sick=(), slope=0.009, offset=-0.01, regions=REGIONS):
    """People with the spread of 1958; regions that are sick hold three times the iron in all of them."""
    rng = np.random.default_rng(seed)
    tables, people = [], []
    for i in range(n):
        age = round(rng.uniform(30, 75), 1)
        iron = {}
        for region in regions:
            spread = ADULTS[region][1] if region in ADULTS else 0.15 * float(expected_iron(region, 60.0))
            iron[region] = float(expected_iron(region, age)) + spread * rng.standard_normal()
        mean = [offset + slope * iron[r] * (3 if r in sick else 1) for r in regions]
        frame = pd.DataFrame({'region': regions, 'mean': mean, 'hemisphere': 'both', 'map': 'chi'})
        tables.append(({'sub': f'{i:03d}', 'seg': 'a'}, frame.assign(units='ppm', coverage=1.0)))
        people.append((f'sub-{i:03d}', 'patient' if i % 2 else 'control', age))
    known = pd.DataFrame(people, columns=['participant_id', 'group', 'age'])
    return join_participants(gather(tables), known)[0]


def test_the_curves_of_1958():
    """In ug/g at 30 years, as another group has computed them: 203.41, 106.77 and 78.35."""
    iron = [float(expected_iron(region, 30.0)) for region in ('GP', 'Putamen', 'Caudate')]
    np.testing.assert_allclose(iron, (20.341, 10.677, 7.835), atol=0.001)


def test_people_of_1958_have_scores_of_a_normal_distribution():
    table, notes = published_norms(study(60))
    assert list(table) == COLUMNS == list(dictionary())
    assert abs(table['z'].mean()) < 0.2
    assert table['z'].std() == pytest.approx(1, abs=0.15)
    assert table['slope'].iloc[0] == pytest.approx(0.009, rel=0.15)
    assert set(table['norm']) == {FLAG}
    assert any('not norms of healthy people' in note for note in notes)
    spread = table.groupby('region')['spread'].first()
    assert spread['SN'] == 'published'
    assert spread['GP'] == 'study'


def test_regions_that_are_sick_in_all_do_not_move_the_line():
    table, notes = published_norms(study(sick=('GP', 'SN')))
    z = table.groupby('region')['z'].mean()
    assert z[['GP', 'SN']].min() > 3
    assert z.drop(['GP', 'SN']).abs().max() < 0.6
    assert any('Off the line' in note and 'GP, SN' in note for note in notes)
    own, notes = published_norms(study(sick=('GP', 'SN')), controls='control')
    assert any('fitted to the controls' in note for note in notes)
    assert len(own) == len(table)


def test_what_cannot_be_scaled_is_refused_in_a_sentence():
    for long, said in (
        (study(4), 'too few'),
        (study(regions=('GP', 'SN', 'RN')), 'too few for a line'),
        (study(slope=-0.009), 'cannot be scaled'),
        (study().drop(columns='age'), 'no column age'),
        (study().assign(age='old'), 'no column age'),
        (study().assign(region='Hippocampus'), 'No table has a region'),
    ):
        table, notes = published_norms(long)
        assert table.empty
        assert any(said in note for note in notes), notes
    assert isinstance(fit_line(np.array([5.0, 6, 7, 8]), np.arange(4.0)), str)


def test_young_people_have_no_norm_of_adults():
    long = study()
    long.loc[long['participant_id'] == 'sub-000', 'age'] = 20
    table, _ = published_norms(long)
    own = table[table['participant_id'] == 'sub-000'].set_index('region')
    assert np.isnan(own.loc['SN', 'z'])
    assert '30 years' in own.loc['SN', 'note']
    assert np.isfinite(own.loc['GP', 'z'])


def test_a_spread_is_not_that_of_few_people():
    long = study(60)
    control = (long['region'] == 'GP') & (long['group'] == 'control')
    few = control & (long['participant_id'] != long.loc[control, 'participant_id'].iloc[0])
    table, _ = published_norms(long[~few], controls='control')
    own = table[table['region'] == 'GP']
    assert own['z'].isna().all()
    assert own['note'].str.contains('fewer than 5 people').all()
    assert table.loc[table['region'] == 'SN', 'z'].notna().all()
