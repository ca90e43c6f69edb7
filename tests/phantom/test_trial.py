import numpy as np
import pytest

from bids_qsm.phantom.trial import TRIALS, WILSON, draw_trial


def test_metal_stays_while_tissue_is_lost():
    truth = WILSON.truth('GP', 'standard care')
    assert truth['chi_total'] == pytest.approx(0, abs=1e-9)
    assert truth['chi'] > 3
    assert truth['volume'] == pytest.approx(-0.02 * 3.2)


@pytest.mark.parametrize('name', TRIALS)
def test_a_trial_is_drawn_as_it_was_planned(name):
    of = TRIALS[name]
    tables, people, sessions = draw_trial(of, 1)
    assert people['arm'].value_counts().to_dict() == dict(of.arms)
    assert len(tables) == len(sessions) == sum(3 * n + of.retests for n in of.arms.values())
    again = sessions[sessions.duplicated(['participant_id', 'visit'])]
    assert len(again) == of.retests * len(of.arms)
    region = next(iter(of.regions))
    first = [
        table.set_index('region').loc[region, 'mean'] for e, table in tables if e['ses'].startswith('00')
    ]
    assert 1e3 * np.mean(first) == pytest.approx(of.regions[region].level, abs=25)
    same, _, _ = draw_trial(of, 1)
    assert all(a[1].equals(b[1]) for a, b in zip(tables, same, strict=True))
