import numpy as np
import pandas as pd
import pytest

from bids_qsm.cohort import patterns
from bids_qsm.cohort.pattern_distance import distances, shrinkage, shrunk
from bids_qsm.cohort.patterns import COLUMNS, REGIONS, compare, dictionary, similarity
from bids_qsm.errors import UserError
from bids_qsm.group.patterns import _control_levels, find_patterns
from bids_qsm.reports.pattern_section import patterns_section

MEANS = {'a': {'SN': 6, 'GP': 8}, 'b': {'Dentate': 6, 'Thalamus': 5, 'Caudate': 5}, 'control': {}}


@pytest.fixture(scope='module')
def people():
    """z-scores of three groups of eight; of people without a label: two of each group, and two of none."""
    rng = np.random.default_rng(5)
    rows, labels = [], {}

    def add(name, mean, label):
        labels[name] = label
        for region, z in zip(REGIONS, mean + rng.standard_normal(len(REGIONS)), strict=True):
            rows.append((name, 'chi', region, 'both', z))

    for group, shape in MEANS.items():
        mean = np.array([shape.get(r, 0.0) for r in REGIONS])
        for i in range(10):
            add(f'sub-{group}{i}', mean * rng.uniform(0.7, 1.4), group if i < 8 else np.nan)
    for i in range(2):
        add(f'sub-x{i}', np.array([-6.0, 0, 6, 6, 6, 0, 0, 0]), np.nan)
    columns = ['participant_id', 'map', 'region', 'hemisphere', 'z']
    return pd.DataFrame(rows, columns=columns), pd.Series(labels)


def nearest(table):
    return table[table['rank'] == 1].set_index('participant_id')


@pytest.fixture(scope='module')
def compared(people):
    with pytest.MonkeyPatch.context() as few:
        few.setattr(patterns, '_RESAMPLES', 20)
        few.setattr(patterns, '_PERMUTATIONS', 40)
        return similarity(*people, controls=['control'])


def test_groups_are_told_and_strangers_fit_none(compared):
    table, means, notes = compared
    assert list(table) == COLUMNS
    assert set(dictionary()) >= {*table, *means}
    first = nearest(table)
    labelled = first.dropna(subset='label')
    assert (labelled['choice'] == labelled['label']).mean() > 0.9
    assert set(first.loc[['sub-a8', 'sub-a9'], 'choice']) == {'a'}
    assert set(first.loc[['sub-x0', 'sub-x1'], 'choice']) == {'none'}
    assert first.loc['sub-a8', 'clear']
    assert table.groupby('participant_id')['support'].sum().round(6).eq(1).all()
    assert means.set_index(['pattern', 'region']).loc[('a', 'GP'), 'z'] == pytest.approx(8, abs=2)
    assert 'SN' in notes[0]
    section = patterns_section(table, means, notes=notes, files=[])
    assert 'none: 2' in section['answers'][1]
    assert len(section['blocks']) == 3


def test_a_participant_is_left_out_of_its_own_group(people):
    z, labels = people
    far = z.copy()
    far.loc[far['participant_id'] == 'sub-a0', 'z'] *= 1e6
    with pytest.MonkeyPatch.context() as few:
        few.setattr(patterns, '_RESAMPLES', 1)
        few.setattr(patterns, '_PERMUTATIONS', 1)
        found = [similarity(one, labels)[0] for one in (z, far)]
    cosine = [t.set_index(['participant_id', 'pattern']).loc[('sub-a0', 'a'), 'cosine'] for t in found]
    assert cosine[0] == pytest.approx(cosine[1], abs=1e-9)


def test_distances_leave_the_participant_out_of_mean_and_covariance():
    """As computed from the others alone, but for the amount of shrinkage."""
    rng = np.random.default_rng(2)
    x, group = rng.standard_normal((17, 3)), np.repeat([0, 1, 2], [6, 8, 3])
    member = np.array([group == g for g in (0, 1)])
    known = group < 2
    rest = np.where(known[:, None], x - np.array([x[group == g].mean(0) for g in range(3)])[group], 0)
    amount = shrinkage(rest, known.astype(float), 2)
    distance, n = distances(x, member)
    assert n[:, 0].tolist() == [5, 8]
    for i in (0, 9, 16):
        others = [x[(group == g) & (np.arange(17) != i)] for g in (0, 1)]
        squares = sum((o - o.mean(0)).T @ (o - o.mean(0)) for o in others)
        inverse = np.linalg.inv(shrunk(squares / (sum(map(len, others)) - 2), amount))
        for g, o in enumerate(others):
            off = x[i] - o.mean(0)
            assert distance[g, i] == pytest.approx(off @ inverse @ off * len(o) / (len(o) + 1))


def test_p_goes_with_the_spread_of_each_group():
    """Many alike controls do not make the patients look far from their own groups."""
    rng = np.random.default_rng(3)
    label = np.repeat(['control', 'a', 'b'], [60, 12, 12])
    mean = np.array([[6 * (name == 'a')] * 4 + [6 * (name == 'b')] * 4 for name in label])
    z = mean + np.where(label == 'control', 1, 2)[:, None] * rng.standard_normal((84, 8))
    wide = pd.DataFrame(z, columns=REGIONS).assign(participant_id=[f's{i}' for i in range(84)])
    long = wide.melt('participant_id', var_name='region', value_name='z').assign(map='chi', hemisphere='both')
    with pytest.MonkeyPatch.context() as few:
        few.setattr(patterns, '_RESAMPLES', 1)
        few.setattr(patterns, '_PERMUTATIONS', 1)
        table, _, _ = similarity(long, pd.Series(label, wide['participant_id']), controls=['control'])
    own = table[table['pattern'] == table['label']].groupby('label')['p'].median()
    assert own.between(0.35, 0.65).all()


def test_labels_that_mean_nothing_are_said_to(people):
    z, labels = people
    patients = labels[labels.isin(['a', 'b'])].index
    mixed = labels.copy()
    mixed[patients] = ['a', 'b'] * 8
    with pytest.MonkeyPatch.context() as few:
        few.setattr(patterns, '_RESAMPLES', 1)
        few.setattr(patterns, '_PERMUTATIONS', 40)
        table, _, notes = similarity(z, mixed, controls=['control'])
    assert not table['clear'].any()
    assert any('by chance' in note for note in notes)


def test_small_groups_are_refused(people):
    z, labels = people
    with pytest.raises(UserError, match='two groups of patients'):
        similarity(z, labels.where(labels != 'b'), controls=['control'])


def test_a_table_of_patterns(people, tmp_path):
    z, _ = people
    given = pd.DataFrame({'region': ['SN', 'GP', 'Dentate'], 'first': [6, 8, 0], 'second': [0, 0, 5]})
    table, _, _ = compare(z, given)
    first = nearest(table)
    assert first.loc['sub-a0', 'choice'] == 'first'
    assert first.loc['sub-b0', 'choice'] == 'second'
    assert first.loc['sub-control1', 'choice'] == 'none'
    assert table['distance'].isna().all()
    path = tmp_path / 'patterns.tsv'
    given.to_csv(path, sep='\t', index=False)
    long = pd.DataFrame({'participant_id': z['participant_id'].unique()})
    notes = {'patterns': []}
    found = find_patterns(long, str(path), {'normative': (z, {})}, '', notes)
    assert set(found) == {'patterns', 'pattern_means'}
    assert any('without a check' in note for note in notes['patterns'])


def test_tables_of_patterns_that_cannot_be_used(people):
    z, labels = people
    given = pd.DataFrame({'region': ['SN', 'GP', 'Dentate'], 'first': [6, 8, 0], 'second': [0, 0, 5]})
    rare = z[(z['region'] != 'GP') | (z['participant_id'] == 'sub-a0')]
    for scores, table, said in (
        (z, given.head(2), 'it needs three'),
        (rare, given, r'only 2 regions \(SN, Dentate\)'),
        (z, pd.concat([given, given.head(1)]), 'more than one row of SN'),
        (z, given[['region']].assign(note='text'), 'no column of numbers'),
        (z, given.assign(second=[0, np.nan, 5]), 'no number for a region of second'),
        (z, given.assign(region=['x', 'y', 'z']), 'shares only 0 regions'),
    ):
        with pytest.raises(UserError, match=said) as raised:
            compare(scores, table, name='mine.tsv')
        assert str(raised.value).startswith('mine.tsv')
    with pytest.raises(UserError, match='both sides together'):
        similarity(z.assign(hemisphere=np.where(z.index % 7, 'L', 'both')), labels)


def test_what_is_missing_is_named(people):
    z, labels = people
    long = pd.DataFrame({'participant_id': labels.index, 'subtype': labels.to_numpy()})
    notes = {'patterns': []}
    for asked, found, said in (
        ('subtype', {}, 'there are none'),
        ('genotype', {'normative': (z, {})}, 'no column'),
        ('none.tsv', {'normative': (z, {})}, 'no such file'),
    ):
        with pytest.raises(UserError, match=said):
            find_patterns(long, asked, found, '', notes)


def test_controls_are_those_of_the_group_column():
    """A site may be coded as controls are, and labels may be numbers."""
    long = pd.DataFrame({'group': ['0', '0', '1', '1'], 'site': ['1', '0', '0', '0']})
    labels = pd.Series([0.0, 0.0, 1.0, np.nan])
    assert _control_levels(long, labels, '0') == ['0']
    assert _control_levels(long, labels, '') == []


def test_a_shrunk_covariance_can_be_inverted():
    rest = np.random.default_rng(1).standard_normal((4, 8))
    found = shrunk(rest.T @ rest / 3, shrinkage(rest, np.ones(4), 1))
    assert np.linalg.cond(found) < 1e4
    np.testing.assert_allclose(np.diag(found), np.diag(rest.T @ rest / 3), rtol=1e-4)
