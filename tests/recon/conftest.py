import pytest

from tests.recon import little_head


@pytest.fixture(scope='session')
def head():
    return little_head.make(step=3.0)
