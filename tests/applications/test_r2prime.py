"""Which source of R2 is used, what is said of it, and what tables and figures hold."""

import numpy as np
import pandas as pd
import pytest

from bids_qsm.applications.contract import Given
from bids_qsm.applications.r2prime import APPLICATION, measure, rate_of, relative_field, variants
from bids_qsm.biomarkers.source_scale import CLASSES
from bids_qsm.errors import UserError
from bids_qsm.plotting.maps import colours_of
from bids_qsm.plotting.relaxation_charts import plot_source_scale
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.spin_echo import Train

SHAPE, AFFINE = (24, 24, 12), np.diag([2.0, 2.0, 2.0, 1.0])
R2STAR = 20.0


@pytest.fixture(scope='module')
def maps():
    """Three nuclei on a line of R2 over susceptibility, and a train of spin echoes at 80 % of the angle."""
    rng = np.random.default_rng(0)
    dseg = np.zeros(SHAPE, np.int32)
    chi, r2 = np.zeros(SHAPE), np.full(SHAPE, 12.0)
    for n, level in enumerate((0.02, 0.06, 0.10)):
        box = np.s_[2 + 7 * n : 8 + 7 * n, 3:12, 2:10]
        dseg[box], chi[box], r2[box] = n + 1, level, 12 + 40 * level
    train = Train(0.01, 12)
    echoes = 1000 * train.signal(r2, np.array(0.8)) + 5 * rng.standard_normal((*SHAPE, 12))
    labels = pd.DataFrame(
        {
            'index': [1, 2, 3],
            'name': ['a', 'b', 'c'],
            'hemisphere': ['both'] * 3,
            'region': ['Caudate', 'Putamen', 'GP'],
        }
    )
    data = dict.fromkeys(APPLICATION.arguments) | {
        'chi': (chi + 0.002 * rng.standard_normal(SHAPE)).astype(np.float32),
        'r2star': (r2 + 8 + 0.5 * rng.standard_normal(SHAPE)).astype(np.float32),
        'mask': np.ones(SHAPE, bool),
        'dseg': dseg,
        'labels': labels,
        'grid': Grid(SHAPE, (2, 2, 2)),
        'affine': AFFINE,
        'field_strength': 3.0,
        'echo_times': [0.005, 0.01],
    }
    return data, r2.astype(np.float32), echoes.astype(np.float32)


def given(data, source='sub-01_R2map.nii.gz', times=()):
    seen = data.mean(-1) if times else data
    return Given(source, data, data, AFFINE, seen, [], [], times)


def measured(maps, *, profile=None, **more):
    found = measure(*(maps[0] | more).values(), profile=profile)
    return dict(zip(APPLICATION.gives, found, strict=True))


@pytest.fixture(scope='module')
def fitted(maps):
    times = tuple(0.01 * np.arange(1, 13))
    return measured(maps, mese=given(maps[2], 'sub-01_echo-1_MESE.nii.gz', times))


def test_spin_echoes_give_r2_and_signed_r2prime(maps, fitted):
    _, r2, _ = maps
    inner = np.s_[2:-2, 2:-2, 2:-2]
    assert np.abs(fitted['r2'] - r2)[inner].mean() < 0.4
    assert (fitted['r2'] - r2)[inner].mean() == pytest.approx(0, abs=0.15)
    assert fitted['r2prime'][inner].mean() == pytest.approx(8, abs=0.15)
    assert fitted['b1'][inner].mean() == pytest.approx(80, abs=2)
    assert fitted['r2sd'][inner].mean() == pytest.approx((fitted['r2'] - r2)[inner].std(), rel=0.5)
    facts = fitted['facts']
    assert facts['R2'] == {'provenance': 'measured', 'source': '12 echoes of sub-01_echo-1_MESE.nii.gz'}
    assert facts['refocusing_angle']['value'] == 180.0
    assert 'not corrected' in facts['R2prime']['R2star']
    assert facts['R2_by_chi']['value'] == pytest.approx(40, abs=8)
    table = fitted['table'].set_index(['region', 'map'])
    assert table.loc[('GP', 'R2'), 'mean'] == pytest.approx(16, abs=0.3)
    assert table.loc[('GP', 'R2prime_per_chi'), 'mean'] == pytest.approx(80, rel=0.1)
    assert table.loc[('GP', 'R2'), 'provenance'] == 'measured'
    assert table.loc[('Caudate', 'share_macroscopic'), 'mean'] == 0
    assert abs(table.loc[('Putamen', 'z_R2_given_chi'), 'mean']) < 1
    assert set(table.index.unique('map')) == {one.name for one in APPLICATION.tables[0].maps}


def test_a_transmit_field_that_is_given_is_used(maps):
    times = tuple(0.01 * np.arange(1, 13))
    mese = given(maps[2], 'MESE', times)
    b1 = np.full(SHAPE, 80.0)
    tb1 = given(relative_field(b1, 'sub-01_TB1map.nii.gz'), 'sub-01_TB1map.nii.gz')
    found = measured(maps, mese=mese, tb1=tb1)
    assert found['b1'] is None
    assert found['facts']['transmit_field'] == 'that of sub-01_TB1map.nii.gz'
    assert (found['r2'] - maps[1]).mean() == pytest.approx(0, abs=0.15)
    # no profile was stated, and pulses were not selective
    assert 'no profile was stated' in found['facts']['angle_at_edge_of_slice']['source']
    assert found['facts']['angle_at_edge_of_slice']['value'] > 0.9
    # tenths of degrees; a map of another place; a corner of it that no pulse gives
    beside = np.where(np.arange(24)[:, None, None] < 12, b1, 0)
    for wrong, said in ((0 * b1, 'shows 0%'), (10 * b1, 'is 8 of the nominal'), (beside, 'shows 50%')):
        with pytest.raises(UserError, match=said):
            measured(maps, mese=mese, tb1=given(relative_field(wrong, 'TB1map'), 'TB1map'))
    b1[:1] = 10
    found = measured(maps, mese=mese, tb1=given(relative_field(b1, 'TB1map'), 'TB1map'), profile='none')
    assert '4% of the brain lies beyond 0.3 to 1.6' in found['facts']['transmit_field']


def test_a_slice_profile_beside_a_given_field_does_not_bias_r2(maps):
    """A Gaussian profile that nobody states: without it R2 would be too low by 9 %."""
    r2 = maps[1]
    sliced = 1000 * Train(0.01, 12).sliced(0.7).signal(r2, np.array(0.9))
    sliced += 5 * np.random.default_rng(1).standard_normal(sliced.shape)
    mese = given(sliced.astype(np.float32), 'MESE', tuple(0.01 * np.arange(1, 13)))
    tb1 = given(np.full(SHAPE, 0.9), 'TB1map')
    for profile, low, high in (('none', -0.2, -0.07), (None, -0.01, 0.01)):
        found = measured(maps, mese=mese, tb1=tb1, profile=profile)
        assert low < (found['r2'] / r2).mean() - 1 < high


def test_maps_that_are_given_win_and_are_never_called_measured(maps):
    times = tuple(0.01 * np.arange(1, 13))
    mese = given(maps[2], 'MESE', times)
    t2 = 1000 / maps[1]
    r2 = rate_of(t2, 'sub-01_T2map.nii.gz')
    np.testing.assert_allclose(r2, maps[1], rtol=1e-5)
    np.testing.assert_allclose(rate_of(t2 / 1000, 'sub-01_T2map.nii.gz'), maps[1], rtol=1e-5)
    found = measured(maps, mese=mese, given_r2=given(r2, 'sub-01_T2map.nii.gz'))
    assert found['facts']['R2'] == {'provenance': 'imported', 'source': 'sub-01_T2map.nii.gz'}
    assert set(found['table']['provenance']) == {'imported'}
    np.testing.assert_allclose(found['r2'], maps[1], rtol=1e-3)
    # R2' of the user, alone: no R2 is made up, and so no classes
    signed = np.full(SHAPE, -1.0, np.float32)
    found = measured(maps, given_r2prime=given(signed, 'sub-01_R2primemap.nii.gz'))
    assert (found['r2prime'] == -1).all()
    assert all(found[name] is None for name in ('r2', 'r2sd', 'b1', 'r2primesd', 'scale', 'z'))
    assert set(found['table']['map']) == {'R2prime', 'R2prime_per_chi'}
    assert (found['table'].query("map == 'R2prime'")['share_negative'] == 1).all()
    assert found['facts']['R2prime']['provenance'] == 'imported'
    assert 'no classes' in draw(maps, found)


def test_without_a_field_strength_there_are_no_classes(maps):
    found = measured(maps, given_r2=given(maps[1]), field_strength=None)
    assert found['scale'] is None
    assert 'field strength is not known' in found['facts']['classes']
    assert 'No classes' in draw(maps, found)


def test_what_shows_nothing_is_refused(maps):
    nothing = np.zeros(SHAPE, np.float32)
    with pytest.raises(UserError, match='shows nothing within the mask'):
        measured(maps, given_r2=given(nothing))
    with pytest.raises(UserError, match="R2' is zero all over the mask"):
        measured(maps, given_r2prime=given(nothing))


@pytest.mark.parametrize('angle', [0, 30, 181, True, 'wide', float('nan')])
def test_angles_that_no_train_has_are_refused(angle):
    with pytest.raises(UserError, match='from 60 to 180 degrees'):
        variants({'refocusing': angle})
    variants({'refocusing': 150, 'profile': 'fitted'})
    with pytest.raises(UserError, match='one of: none, fitted'):
        variants({'profile': 'boxy'})
    assert variants({}).method == APPLICATION.method


def draw(maps, found):
    (figure,) = [one for one in APPLICATION.figures if one.draw]
    data = maps[0] | found
    return plot_source_scale(found['table'], *(data[name] for name in figure.takes))


def test_the_chart_shows_regions_and_classes(maps, fitted):
    drawn = draw(maps, fitted)
    assert drawn.count('<image') >= 2
    # classes have the colours of their outlines
    scale = np.zeros(SHAPE, np.int32)
    scale[3:5, 4:6, 3:5], scale[10:12, 4:6, 3:5] = 1, 3
    drawn = draw(maps, {**fitted, 'scale': scale})
    outlines = colours_of(scale, pd.DataFrame(CLASSES, columns=['index', 'name']))
    assert [name for name, *_ in outlines] == ['macroscopic', 'mixed']
    assert all(f'fill: {colour}' in drawn for *_, colour in outlines)
    none = {**fitted, 'scale': None, 'z': None}
    assert '<svg' in draw(maps, none)
