"""Memory that steps declare: it grows with the images it depends on."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from bids_qsm.recon.inversion import INVERSION
from bids_qsm.recon.registry import facts
from bids_qsm.workflows.memory import NEEDS, Sizes, need

SIZES = Sizes(volume=0.03, padded=0.05, echoes=0.15, stored=0.6, anat=0.04)


@pytest.mark.parametrize('step', [*NEEDS, *(facts(function).memory for function in INVERSION.values())])
def test_needs_grow_with_the_images(step):
    one = NEEDS.get(step, step)
    base = need(step, SIZES)
    assert base >= one.fixed > 0
    for name in ('volume', 'padded', 'echoes', 'stored', 'anat'):
        larger = need(step, replace(SIZES, **{name: 2 * getattr(SIZES, name)}))
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
