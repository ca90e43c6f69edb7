"""Candidates and CT together: what is said where the CT lies right, and where it does not."""

import numpy as np
import pandas as pd
import pytest

from bids_qsm.applications import calcium
from bids_qsm.applications.contract import Given
from tests.biomarkers.test_ct import AFFINE, MASK, ball, head


def measured(monkeypatch, distance, candidates):
    """What `measure` gives of a CT that lies 3 mm off, whose second alignment is ``distance`` mm away."""
    monkeypatch.setattr(calcium, 'second_alignment', lambda *_: distance)
    hu = head()
    hu[ball((6, 0, 0), 2)] += 250
    hu[ball((0, -8, -4), 1.5)] += 200
    moved, to_maps = AFFINE.copy(), np.eye(4)
    moved[0, 3] += 3
    to_maps[0, 3] = -3
    ct = Given('ct', hu, hu, moved, hu, [to_maps])
    foci = np.where(ball((6, 0, 0), 2), 1, np.where(ball((-6, 0, 0), 2), 2, 0)).astype(np.int32)
    found = calcium.measure(
        ct, foci, candidates, hu, MASK, np.zeros(MASK.shape, np.int32), pd.DataFrame(), AFFINE, []
    )
    return dict(zip(calcium.APPLICATION.gives, found, strict=True))


CANDIDATES = pd.DataFrame(
    {
        'candidate': [1, 2],
        'class': ['calcification', 'microbleed'],
        'sign': ['diamagnetic', 'paramagnetic'],
    }
)


def test_candidates_are_checked_and_calcium_is_listed(monkeypatch):
    found = measured(monkeypatch, 0.3, CANDIDATES)
    assert found['table']['ct_class'].tolist() == ['calcified', 'none']
    assert found['table']['agreement'].tolist() == ['agree', 'agree']
    assert list(found['table']) == list(calcium.FOCI)
    assert found['pieces']['candidate'].fillna(0).tolist() == [1, 0]
    assert found['density'][30, 24, 24] > 200
    assert set(np.unique(found['calcium'])) == {0, 1, 2}
    assert found['facts']['AlignmentDistance']['value'] == 0.3
    assert calcium.counts(found['table'].head(0))['mean'].tolist() == [0, 0, 0]
    counted = calcium.counts(found['table']).set_index('map')['mean']
    assert counted.to_dict() == {'ct_calcified_count': 1, 'ct_unclear_count': 0, 'ct_none_count': 1}


@pytest.mark.parametrize('n', [0, 2])
def test_a_ct_that_lies_elsewhere_is_not_used(monkeypatch, n):
    found = measured(monkeypatch, 5.0, CANDIDATES.head(n))
    assert len(found['table']) == max(n, 1)
    assert set(found['table']['ct_class']) == {'n/a'}
    assert '5.0 mm from where' in found['table']['warning'][0]
    # as it is read back
    table = found['table'].replace('n/a', np.nan)
    assert calcium.counts(table)['mean'].isna().all()
    said = calcium.overview(table.assign(participant_id='sub-01'))['answers'][0]
    assert said.startswith(f'{n} candidates' if n else 'There was no candidate')
    assert not n or said.endswith(f'says nothing of {n}.')
    assert found['pieces'].empty
    assert not found['calcium'].any()
