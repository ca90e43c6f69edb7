"""What a user is told of the fit of the field."""

import pytest

from bids_qsm.errors import UserError
from bids_qsm.interfaces.masking import judge
from bids_qsm.recon.misfit import Misfit


@pytest.mark.parametrize(
    ('share', 'level'), [(0.0, 'info'), (0.04, 'info'), (0.06, 'warning'), (0.6, 'warning')]
)
def test_misfit_beyond_noise_is_a_warning(share, level):
    finding = judge(Misfit(share, 0.1, 0.02))
    assert finding['level'] == level
    assert f'{share:.1%} of the mask' in finding['evidence']


def test_echoes_that_contradict_each_other_are_refused():
    with pytest.raises(UserError, match=r'do not agree with one field\. In 80\.0% of the mask'):
        judge(Misfit(0.8, 1.2, 0.02))


def test_one_echo_tells_nothing():
    assert judge(None) is None
