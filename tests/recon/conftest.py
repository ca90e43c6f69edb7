import numpy as np
import pytest

from tests.recon import little_head


@pytest.fixture(scope='session')
def head():
    return little_head.make(step=3.0)


@pytest.fixture(scope='session')
def measured(head):
    """The true local field of `head` with noise."""
    return head.local + head.noise * np.random.default_rng(0).standard_normal(
        head.grid.shape, dtype=np.float32
    )
