import numpy as np
import pandas as pd
import pytest

from bids_qsm.cohort.asymmetry import LESS, add_asymmetry
from bids_qsm.cohort.normative import normative
from bids_qsm.cohort.pattern import COLUMNS, PATTERNS, SEEN_IN, dictionary, patterns
from tests.cohort.people import cohort

NORMAL = {'SN': 110.0, 'GP': 130.0, 'RN': 100.0, 'Putamen': 40.0, 'Caudate': 45.0, 'Thalamus': 20.0}


def scores(rise, *, sd=0.08, name='sub-1'):
    """Scores of a participant whose nuclei are raised by a share of what is normal."""
    expected = np.array(list(NORMAL.values()))
    z = np.array([rise.get(region, 0.0) for region in NORMAL]) / sd
    return pd.DataFrame(
        {
            'participant_id': name, 'session_id': 'ses-1', 'atlas': 'a', 'map': 'chi', 'hemisphere': 'both',
            'region': list(NORMAL), 'expected': expected, 'sd': sd * expected,
            'value': expected * (1 + sd * z), 'z': z, 'percentile': np.where(z > 2, 99.99, 50.0),
            'is_control': False,
        }
    )  # fmt: skip


@pytest.mark.parametrize('name', PATTERNS)
def test_each_pattern_is_most_like_itself(name):
    table, notes = patterns(scores(PATTERNS[name]))
    assert list(table) == COLUMNS == list(dictionary())
    first = table.iloc[0]
    assert (first['pattern'], first['rank'], first['seen_in']) == (name, 1, SEEN_IN[name])
    assert first['similarity'] == pytest.approx(1)
    assert table['similarity'].is_monotonic_decreasing
    assert table['share'].sum() == pytest.approx(1)
    assert first['share'] > 0.9
    assert first['raised'] == ', '.join(r for r in NORMAL if r in PATTERNS[name])
    assert 'no diagnosis' in notes[0]


def test_patterns_that_cannot_be_told_apart_have_small_shares():
    faint = patterns(scores({'SN': 0.3, 'GP': 0.21}))[0]
    assert faint['share'].iloc[0] < 0.8


def test_who_is_not_compared():
    parts = [
        scores({}, name='sub-1'),
        scores({'GP': 1.0}, name='sub-2').head(3),
        scores({'GP': 1.0}, name='sub-3').assign(is_control=True),
    ]
    table, _ = patterns(pd.concat(parts))
    assert table['note'].tolist() == ['no nucleus is raised', '3 nuclei are too few']
    assert (table['pattern'] == '').all()
    assert patterns(parts[2])[0].empty


def test_sides_are_compared_with_those_of_controls():
    long = cohort(40, hemispheres=('L', 'R', 'both'), effect=0.0)
    one_side = (long['participant_id'] == 'sub-001') & (long['region'] == 'GP') & (long['hemisphere'] == 'L')
    long.loc[one_side, 'mean'] += 0.1
    both = add_asymmetry(long)
    assert len(both) == len(long) * 4 // 3
    mine = both[(both['participant_id'] == 'sub-002') & (both['region'] == 'SN')].set_index('hemisphere')[
        'mean'
    ]
    assert mine[LESS] == pytest.approx(mine['L'] - mine['R'])
    table, _ = normative(both, controls='control')
    uneven = table[(table['hemisphere'] == LESS) & (table['region'] == 'GP')].set_index('participant_id')
    assert uneven['z'].idxmax() == 'sub-001'
    assert uneven.loc['sub-001', 'z'] > 3
    whole = cohort(4)
    assert add_asymmetry(whole) is whole
