"""Every method of separation on blocks whose sources follow its own relaxivity."""

import numpy as np
import pytest

from bids_qsm.biomarkers.separation.closed import closed
from bids_qsm.biomarkers.separation.hollowcylinder import PER_WATER, beat
from bids_qsm.biomarkers.separation.ilsqr import NormalEquations
from bids_qsm.biomarkers.separation.joint import equations
from bids_qsm.biomarkers.separation.methods import SEPARATION, assumed_r2
from bids_qsm.biomarkers.separation.wavelets import analyse, synthesise
from bids_qsm.errors import UserError
from bids_qsm.recon.fourier import convolve, dipole_kernel
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.registry import call, facts, needs, parameters
from bids_qsm.reports.citations import cite

SHAPE = (32, 32, 24)
GRID = Grid(SHAPE, (1.5, 1.5, 1.5), (0.0, 0.1, 0.995))
TIMES = (0.005, 0.010, 0.015, 0.020, 0.025)
ASSUMING = [name for name in SEPARATION if name != 'posterior']
BOXES = {
    'iron': (slice(5, 12), slice(5, 13), slice(6, 18)),
    'myelin': (slice(15, 23), slice(5, 13), slice(6, 18)),
    'both': (slice(8, 20), slice(17, 26), slice(6, 18)),
}


@pytest.fixture(scope='module')
def truth():
    para, dia = (np.full(SHAPE, 0.01, np.float32) for _ in range(2))
    for name, (iron, myelin) in {'iron': (0.1, 0.01), 'myelin': (0.01, 0.06), 'both': (0.06, 0.06)}.items():
        para[BOXES[name]], dia[BOXES[name]] = iron, myelin
    return para, dia


def data_of(truth, name, *, scale=1.0):
    """Maps with little noise, whose relaxation is that which the method assumes."""
    para, dia = truth
    rng = np.random.default_rng(1)
    mask = np.zeros(SHAPE, bool)
    mask[2:-2, 2:-2, 2:-2] = True
    para, dia = para * mask, dia * mask
    kernel = parameters(SEPARATION[name]).get('relaxivity', 190.0) * scale
    rate = kernel * (para + dia)
    r2 = 0.0 if 'r2star' in needs(SEPARATION[name]) else 12.0
    field = convolve((para - dia).astype(np.float32), dipole_kernel(SHAPE, GRID.voxel_size, GRID.b0_dir))
    magnitude = 1 + para
    echoes = magnitude[..., None] * np.exp(-(25.0 + rate)[..., None] * np.array(TIMES))
    data = {
        'chi': para - dia + 0.002 * rng.standard_normal(SHAPE),
        'rate': rate + 0.3 * rng.standard_normal(SHAPE),
        'field': field + 0.0005 * rng.standard_normal(SHAPE),
        'magnitude': magnitude,
        'echoes': echoes,
    }
    data = {key: value.astype(np.float32) for key, value in data.items()}
    return data | {
        'r2prime': data['rate'],
        'r2star': data['rate'] + np.float32(r2),
        'echo_times': TIMES,
        'mask': mask,
        'chi_noise': 0.004,
        'rate_noise': 0.7,
        'scale': scale,
        'grid': GRID,
        'cosine': np.full(SHAPE, 1 / 3, np.float32),
        'fa': np.zeros(SHAPE, np.float32),
    }


@pytest.mark.parametrize('name', ASSUMING)
def test_sources_of_blocks_are_found(truth, name):
    """Signs and values; DECOMPOSE tells one kind of source in a block, and not how much of both there is."""
    data = data_of(truth, name)
    found = call(SEPARATION[name], data, {})
    assert found.para.min() >= 0
    assert found.dia.max() <= 0
    assert not found.para[~data['mask']].any()
    assert found.para.dtype == found.dia.dtype == np.float32
    assert found.relaxivity[0] == pytest.approx(parameters(SEPARATION[name])['relaxivity'])
    inner = {block: tuple(slice(s.start + 2, s.stop - 2) for s in box) for block, box in BOXES.items()}
    means = {block: (found.para[box].mean(), -found.dia[box].mean()) for block, box in inner.items()}
    assert means['iron'][0] > 2 * means['iron'][1]
    assert means['myelin'][1] > 2 * means['myelin'][0]
    for block, (iron, myelin) in means.items():
        box = inner[block]
        assert iron - myelin == pytest.approx((truth[0] - truth[1])[box].mean(), abs=0.015)
        if name != 'decompose':
            assert iron == pytest.approx(truth[0][box].mean(), abs=0.015)
            assert found.fits[box].mean() > 0.9


@pytest.mark.parametrize('name', ASSUMING)
def test_relaxivity_follows_the_field_strength_and_its_change_is_said(truth, name):
    """At 7 T, relaxation by the same sources gives the same sources; a tenth more changes them as said."""
    data = data_of(truth, name, scale=7 / 3)
    few = {'max_iterations': 10, 'alternations': 2}
    params = {key: n for key, n in few.items() if key in parameters(SEPARATION[name])}
    found = call(SEPARATION[name], data, params)
    assert found.relaxivity[0] == pytest.approx(7 / 3 * parameters(SEPARATION[name])['relaxivity'])
    more = {'relaxivity': 1.1 * parameters(SEPARATION[name])['relaxivity']}
    other = call(SEPARATION[name], data, {**params, **more})
    box = BOXES['both']
    if name != 'decompose':
        assert found.para[box].mean() == pytest.approx(0.06, abs=0.015)
    for before, after, said in (
        (found.para, other.para, found.para_change),
        (found.dia, other.dia, found.dia_change),
    ):
        assert (after - before)[box].mean() == pytest.approx(said[box].mean(), rel=0.4, abs=0.001)


def test_methods_say_what_they_are():
    for function in SEPARATION.values():
        assert cite([facts(function).prose])
        assert facts(function).memory.fixed > 0
    assert assumed_r2(np.array([0, 1, 2])) == pytest.approx([12.5, 13.9, 13.0], abs=0.1)
    assert assumed_r2(np.array([0, 1, 2]), 7 / 3) == pytest.approx([17.2, 20.5, 18.4], abs=0.2)


def test_closed_form_has_the_least_squares_where_one_source_is_left():
    rng = np.random.default_rng(0)
    chi, rate = rng.normal(0, 0.05, 200), rng.normal(6, 6, 200)
    para, dia = closed(chi, rate, 137.0, 100.0, chi_noise=0.004, rate_noise=2.0)
    amounts = np.stack([para, -dia])
    assert (amounts >= 0).all()
    # the slope of the squares is zero where a source is free, and upwards where it is held at zero
    first, second = (para + dia - chi) / 0.004**2, (137 * para - 100 * dia - rate) / 2.0**2
    slopes = np.stack([first + 137 * second, -first + 100 * second])
    assert np.abs(slopes[amounts > 0]).max() < 1e-6
    assert slopes[amounts == 0].min() > -1e-6


def test_the_beat_of_fibres_tells_their_myelin():
    """Two halves of white matter of other angles: their echoes and R2' follow the model."""
    shape, times = (16, 16, 8), np.linspace(0.002, 0.040, 12)
    rng = np.random.default_rng(3)
    cosine = np.zeros(shape, np.float32)
    cosine[:8] = 0.6
    myelin = np.full(shape, 0.02)
    myelin[:, 8:] = 0.05
    share = (myelin / PER_WATER).ravel()
    signal = np.abs(beat(share, times, 1 - cosine.ravel(), 3.0)).reshape(*shape, -1) * np.exp(-20 * times)
    signal = signal + 0.001 * rng.standard_normal(signal.shape)
    turned = 1 - 1.5 * (cosine - 1 / 3)
    data = {
        'chi': (0.01 - myelin + 0.004 * rng.standard_normal(shape)).astype(np.float32),
        'r2prime': (137 * (0.01 + turned * myelin) + 0.5 * rng.standard_normal(shape)).astype(np.float32),
        'echoes': signal.astype(np.float32),
        'echo_times': list(times),
        'cosine': cosine,
        'fa': np.full(shape, 0.7, np.float32),
        'mask': np.ones(shape, bool),
        'chi_noise': 0.004,
        'rate_noise': 0.7,
        'scale': 1.0,
    }
    found = call(SEPARATION['hollowcylinder'], data, {})
    without = closed(data['chi'], data['r2prime'], 137.0, 137.0, chi_noise=0.004, rate_noise=0.7)
    for half in (slice(0, 8), slice(8, 16)):
        for part in (slice(0, 8), slice(8, 16)):
            assert -found.dia[half, part].mean() == pytest.approx(myelin[half, part].mean(), abs=0.003)
    assert np.abs(found.dia + myelin).mean() < 0.7 * np.abs(without[1] + myelin).mean()
    with pytest.raises(UserError, match='takes directions of fibres'):
        call(SEPARATION['hollowcylinder'], data | {'fa': None}, {})


def test_the_normal_equations_are_symmetric(truth):
    data = data_of(truth, 'ilsqr')
    maps = (data[name] for name in ('field', 'r2prime', 'chi', 'magnitude', 'mask'))
    one = equations(*maps, GRID, relaxivity=(137.0, 100.0), rate_noise=0.7)
    shape = (2, *one.box.shape)
    operator = NormalEquations(one, 0.01, np.ones(shape, bool))
    x, y = np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float32)
    for apply in (operator.normal, operator.near_inverse):
        there, back = (float(np.vdot(a, b)) for a, b in ((apply(x), y), (x, apply(y))))
        assert there == pytest.approx(back, abs=1e-5 * x.size)


def test_wavelets_are_orthonormal_and_have_an_inverse():
    volume = np.random.default_rng(0).standard_normal((16, 24, 8)).astype(np.float32)
    found = analyse(volume.copy(), 2)
    assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(volume), rel=1e-5)
    np.testing.assert_allclose(synthesise(found, 2), volume, atol=1e-5)
    # a cubic has no details but at the ends, where the period breaks it
    cubic = np.broadcast_to((np.linspace(0, 1, 32) ** 3)[:, None, None], (32, 8, 8)).astype(np.float32).copy()
    assert np.abs(analyse(cubic, 1)[16:28]).max() < 1e-5
