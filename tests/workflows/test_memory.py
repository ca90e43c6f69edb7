"""Memory that steps declare: for every method, and growing with the images it depends on."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from bids_qsm.app.methods import registries
from bids_qsm.workflows.memory import NEEDS, Sizes, need

SIZES = Sizes(volume=0.03, padded=0.05, echoes=0.15, stored=0.6, anat=0.04)
STEPS = {
    'mask': 'make_mask',
    'unwrap': 'unwrap_phase',
    'field': 'fit',
    'background': 'remove',
    'inversion': 'invert',
    'reference': 'refer',
    'r2star': 'relaxation',
    'swi': 'weigh',
    'registration': 'register',
}


@pytest.mark.parametrize('option', STEPS)
def test_every_method_has_a_need_and_none_is_left_over(option):
    step = STEPS[option]
    declared = {key.removeprefix(f'{step} ') for key in NEEDS if key.startswith(f'{step} ')}
    assert declared == set(registries()[option])


@pytest.mark.parametrize('key', NEEDS)
def test_needs_grow_with_the_images(key):
    one = NEEDS[key]
    step, _, method = key.partition(' ')
    base = need(step, SIZES, method)
    assert base >= one.fixed > 0
    for name in ('volume', 'padded', 'echoes', 'stored', 'anat'):
        larger = need(step, replace(SIZES, **{name: 2 * getattr(SIZES, name)}), method)
        assert larger - base == pytest.approx(getattr(one, name) * getattr(SIZES, name))


def test_sizes_of_a_series():
    series = SimpleNamespace(
        shape=(250, 200, 100), voxel_size=(1.0, 1.5, 4.0), echo_times=(0.01, 0.02), coils=3, anat_shape=None
    )
    sizes = Sizes.of(series)
    assert sizes.volume == sizes.anat == pytest.approx(0.02)
    assert (sizes.echoes, sizes.stored) == (pytest.approx(0.04), pytest.approx(0.12))
    assert sizes.padded == pytest.approx(4e-9 * 280 * 220 * 108)
    series.anat_shape = (250, 250, 160)
    assert Sizes.of(series) == replace(sizes, anat=0.04)
