import pytest

from bids_qsm.phantom.gre import Protocol, simulate
from bids_qsm.phantom.head import make_head

COARSE = Protocol((4.0, 4.0, 4.0), echo_times=(0.004, 0.010, 0.016), rotation=(12, 0, 5))


@pytest.fixture(scope='session')
def head():
    return make_head(5, spacing=2.0)


@pytest.fixture(scope='session')
def simulation(head):
    return simulate(head, COARSE, 3)
