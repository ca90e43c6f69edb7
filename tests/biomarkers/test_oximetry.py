"""Oximetry of single veins of known oxygenation, acquired from a fine grid, and its summaries."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from bids_qsm.biomarkers import oxygen as ox
from bids_qsm.biomarkers.oximetry import VeinMeasure, measure_veins, pool
from bids_qsm.biomarkers.oximetry_pieces import Scan
from bids_qsm.biomarkers.oximetry_sampling import rows, to_voxels
from bids_qsm.biomarkers.oximetry_summary import (
    COLUMNS,
    Zero,
    sensitivity_table,
    summary_table,
    vein_table,
)
from bids_qsm.biomarkers.oximetry_tube import Tube, tube_geometry
from bids_qsm.biomarkers.oximetry_veins import veins_of_tables
from bids_qsm.phantom.fine import Bed, acquire, tube
from bids_qsm.phantom.gre import Protocol
from bids_qsm.recon.field import linear
from bids_qsm.recon.magnitude import combine

CONSTANTS = ox.Constants()
HCT, YV = 0.42, 0.65
BLOOD = ox.blood_of({'hematocrit': HCT, 'sao2': 0.98}, constants=CONSTANTS)


def acquired(*, diameter=2.5, tilt=55.0, side=12, seed=7, off=0.2, width=1.1, kspace=False, **protocol):
    """Maps of a block with one vein; the segmentation is off by ``off`` voxels and 10 % of the width."""
    voxel = np.array(protocol.setdefault('voxel_size', (1.0, 1.0, 1.0)))
    vein = tube(diameter=diameter, tilt=tilt, azimuth=40, centre=(0.3, -0.2, 0.1), oxygenation=YV)
    bed = Bed((vein,), texture=0.005, seed=seed)
    protocol.setdefault('snr', 100.0)
    block = acquire(bed, Protocol(fov=tuple(side * voxel), **protocol), seed=seed, kspace=kspace)
    (segment,) = block.segments
    at = np.r_[0, np.cumsum(np.linalg.norm(np.diff(segment.points, axis=0), axis=1))]
    fine = np.arange(0, at[-1], voxel.min() / 2)
    points = np.stack([np.interp(fine, at, segment.points[:, k]) for k in range(3)], 1)
    direction = np.gradient(points, axis=0)
    direction /= np.linalg.norm(direction, axis=1)[:, None]
    lines = pd.DataFrame(points + off * voxel.max() * np.array([0.6, -0.6, 0.5]), columns=list('xyz'))
    lines[['direction_x', 'direction_y', 'direction_z']] = direction
    lines['segment'], lines['diameter_mm'], lines['tilt_deg'] = 1, diameter * width, tilt
    share = block.truth['veins']
    veins = veins_of_tables(share, share > 0.01, lines, {1: 'straight_sinus'}, block.affine)
    mask = np.ones(share.shape, bool)
    magnitude = block.magnitude.astype(np.float32)
    p = block.protocol
    field, _, residual = linear(
        block.phase.astype(np.float32), magnitude, mask, p.echo_times, p.field_strength
    )
    maps = field, block.truth['chi'], combine(magnitude), mask, block.grid
    return Scan(*maps, p.echo_times, p.field_strength, residual=residual), veins, bed.chi


def saturation(scan, veins, tissue, constants=CONSTANTS):
    (found,) = measure_veins(scan, veins)
    assert found.reason == ''
    return float(ox.saturation(found.dchi, HCT, constants, tissue=tissue)), found


@pytest.fixture(scope='module')
def vein():
    return acquired()


@pytest.fixture(scope='module')
def measured(vein):
    return saturation(*vein)


def test_the_field_of_a_tube_is_that_of_a_cylinder():
    tilt = np.radians(50)
    axis = np.array([0, np.sin(tilt), np.cos(tilt)])
    line = Tube.through(np.linspace(-80, 80, 2)[:, None] * axis, 0.3)
    places = np.random.default_rng(1).uniform(-4, 4, (200, 3))
    across = places - (places @ axis)[:, None] * axis
    rho = np.linalg.norm(across, axis=1)
    up = np.array([0, 0, 1]) - axis[2] * axis
    cosine = across @ up / np.linalg.norm(up) / rho
    distance, outer, inner = tube_geometry(places, line, (0, 0, 1))
    np.testing.assert_allclose(distance, rho, atol=1e-6)
    far = rho > 0.6
    expected = np.sin(tilt) ** 2 * (2 * cosine**2 - 1) / (2 * rho**2)
    np.testing.assert_allclose(outer[far], expected[far], atol=2e-4)
    np.testing.assert_allclose(inner, (3 * np.cos(tilt) ** 2 - 1) / 6)


def test_a_vein_of_known_saturation(measured):
    yv, found = measured
    oef, true = ox.extraction(yv, 0.98), ox.extraction(YV, 0.98)
    assert abs(oef / true - 1) < 0.05
    assert found.diameter == pytest.approx(2.5, rel=0.03)  # 10 % too wide before
    assert abs(yv - YV) * HCT * CONSTANTS.dchi_do < 3 * np.hypot(found.dchi_se, found.model_se)


def test_a_wrong_constant_is_seen(vein, measured):
    _, found = measured
    for wrong in (0.27, 4 * np.pi * 0.18, 0.27 * 4 * np.pi * 1.1):
        yv = ox.saturation(found.dchi, HCT, replace(CONSTANTS, dchi_do=wrong), tissue=vein[2])
        oef, true = ox.extraction(yv, 0.98), ox.extraction(YV, 0.98)
        assert abs(oef / true - 1) > 0.05


@pytest.mark.parametrize(
    'other',
    [
        {'echo_times': (0.004, 0.011, 0.018)},
        {'voxel_size': (0.9, 0.9, 1.2)},
        {'rotation': (12.0, -9.0, 15.0)},
        {'field_strength': 1.5},
    ],
    ids=str,
)
def test_saturation_does_not_depend_on_the_acquisition(measured, other):
    yv, _ = saturation(*acquired(**other))
    assert yv == pytest.approx(measured[0], abs=0.02)


def test_a_wide_vein_is_read_in_chi():
    scan, veins, tissue = acquired(diameter=5.0, width=1.0, off=0.0)
    # the map is right here, and lower than the field would have it: the vein has what the map says
    other = replace(scan, localfield=1.2 * scan.localfield)
    yv, found = saturation(other, veins, tissue)
    assert found.method == 'chi'
    assert found.dchi == found.by_chi
    assert found.by_field > 1.1 * found.by_chi
    assert yv == pytest.approx(YV, abs=0.01)
    # how far both are apart is in the error
    assert found.dchi_se > 0.01 * found.dchi
    # so has a piece that is too short for a fit
    short = replace(veins.segments[0], **{
        name: getattr(veins.segments[0], name)[13:18]
        for name in ('points', 'voxels', 'direction', 'diameter_mm', 'tilt_deg')
    })  # fmt: skip
    yv, found = saturation(scan, replace(veins, segments=(short,)), tissue)
    assert found.method == 'chi'
    assert np.isnan(found.by_field)
    assert yv == pytest.approx(YV, abs=0.01)


def test_veins_that_cannot_be_measured_say_why(vein):
    scan, veins, _ = vein
    segment = veins.segments[0]

    def reason(scan=scan, **changed):
        (found,) = measure_veins(scan, replace(veins, segments=(replace(segment, **changed),)))
        assert found.method == 'none'
        assert np.isnan(found.dchi)
        return found.reason

    ones = np.ones_like(segment.diameter_mm)
    assert 'too thin: 1.0 voxels' in reason(diameter_mm=ones)
    assert 'along B0' in reason(tilt_deg=10 * ones)
    half = scan.mask.copy()
    half[:, :6] = False
    assert 'edge of the mask' in reason(replace(scan, mask=half))
    flow = np.where(veins.share > 0.9, 1.0, 0.02)
    assert 'not linear' in reason(replace(scan, residual=flow), diameter_mm=2.5 * ones)


def test_pieces_that_differ_by_more_than_noise_have_a_larger_error():
    assert pool([1.0, 1.0, 1.0], [0.1, 0.1, 0.1]) == pytest.approx((1.0, 0.1 / np.sqrt(3)))
    mean, se = pool([0.8, 1.0, 1.2], [0.01, 0.01, 0.01])
    assert mean == pytest.approx(1.0)
    assert se == pytest.approx(0.2 / np.sqrt(3), rel=0.02)


@pytest.fixture
def several(vein):
    """Deep veins of 0.65, cortical ones of 0.60, one that is not usable, one that is not plausible."""
    segment = vein[1].segments[0]

    def one(number, name, yv, reason=''):
        dchi = ox.susceptibility(yv, HCT, CONSTANTS, tissue=-0.02)
        named = replace(segment, number=number, name=name)
        return VeinMeasure(named, 'field', reason, dchi, 0.005, 0.01, reference=0.049, reference_se=0.002)

    return [
        one(1, 'straight_sinus', 0.65),
        one(2, 'internal_cerebral_vein', 0.65),
        one(3, 'cortical_vein', 0.60),
        one(4, 'cortical_vein', 0.60),
        one(5, 'cortical_vein', 0.60, 'too thin'),
        one(6, 'cortical_vein', 1.1),
    ]


ZERO = Zero(0.088, 0.001)  # fluid in the map; the tissue at 0.049 is 0.02 below water


def test_rows_of_veins(several):
    table = vein_table(several, ZERO, BLOOD, CONSTANTS)
    assert list(table) == list(COLUMNS)
    assert table['usable'].tolist() == [True] * 4 + [False] * 2
    assert table['flag'].tolist()[4:] == ['too thin', 'saturation is not plausible']
    np.testing.assert_allclose(table['Yv'][:4], [0.65, 0.65, 0.6, 0.6], atol=1e-6)
    assert np.isnan(table['Yv'][4])
    # noise and reference; then all of it
    slope = 1 / (HCT * CONSTANTS.dchi_do)
    assert table['Yv_se_own'][0] == pytest.approx(slope * np.hypot(0.005, 0.002))
    by_hct = ox.saturation_slopes(several[0].dchi, HCT, CONSTANTS, tissue=-0.02)[1] * BLOOD.hct_sd
    shared = np.sqrt((slope * np.sqrt(0.01**2 + 0.001**2 + 0.01**2)) ** 2 + by_hct**2)
    assert table['Yv_se'][0] == pytest.approx(np.hypot(table['Yv_se_own'][0], shared), rel=1e-3)


def test_territories_and_metabolism(several):
    cbf, mask = np.full((4, 4, 4), 50.0), np.ones((4, 4, 4), bool)
    cbf[0] = np.nan
    dseg = np.zeros((4, 4, 4), int)
    dseg[1], dseg[2] = 1, 2
    labels = pd.DataFrame(
        {'index': [1, 2], 'region': ['Putamen'] * 2, 'hemisphere': ['L', 'R'], 'name': ['l', 'r']}
    )
    rows = summary_table(
        several, ZERO, BLOOD, CONSTANTS, cbf=cbf, mask=mask, dseg=dseg, labels=labels
    ).set_index(['region', 'hemisphere', 'map'])
    deep, brain = rows.loc['Deep veins', 'both', 'OEF'], rows.loc['Brain', 'both', 'OEF']
    assert deep['mean'] == pytest.approx(0.33 / 0.98)
    assert rows.loc['Cortical veins', 'both', 'Yv']['mean'] == pytest.approx(0.60)
    assert brain['n_veins'] == 4
    assert np.isnan(rows.loc['Superior sagittal sinus', 'both', 'Yv']['mean'])
    # veins do not average away what they share
    alone = vein_table(several, ZERO, BLOOD, CONSTANTS)
    assert alone['Yv_se_own'][0] < rows.loc['Deep veins', 'both', 'Yv']['se'] < alone['Yv_se'][0]
    content = ox.oxygen_content(BLOOD.hb, BLOOD.ya, CONSTANTS)
    putamen = rows.loc['Putamen', 'L', 'CMRO2']
    assert putamen['mean'] == pytest.approx(50 * 0.33 / 0.98 * content)
    assert putamen['n_voxels'] == 16
    assert rows.loc['Brain', 'both', 'CBF']['n_voxels'] == 48
    # haematocrit counts in extraction, and cancels in the rate
    assert (
        0
        < putamen['se'] / putamen['mean']
        < 0.9 * np.hypot(deep['se'] / deep['mean'], BLOOD.hb_sd / BLOOD.hb)
    )


def test_sensitivities_of_a_person(several):
    table = sensitivity_table(several, ZERO, BLOOD, CONSTANTS).set_index('changed')
    used = table.loc['as used', 'OEF']
    # the deoxygenated share goes by 1 / haematocrit
    deoxy = 1 - table.loc['as used', 'Yv']
    assert 1 - table.loc['hematocrit +10 %', 'Yv'] == pytest.approx(deoxy / 1.1, rel=1e-3)
    assert 1 - table.loc['dchi_do of older work', 'Yv'] == pytest.approx(1.5 * deoxy, rel=1e-3)
    change = table.loc['reference +10 ppb', 'OEF_change']
    assert change == pytest.approx(-100 * 0.010 / (HCT * CONSTANTS.dchi_do) / 0.98, rel=1e-3)
    assert table.loc['susceptibility of oxygenated blood counted', 'OEF'] > used


def test_without_fluid_tissue_is_taken_as_water(several):
    table = vein_table(several, Zero(), BLOOD, CONSTANTS)
    expected = ox.saturation(several[0].dchi, HCT, CONSTANTS)
    assert table['Yv'][0] == pytest.approx(expected)
    assert table['Yv_se'][0] > vein_table(several, ZERO, BLOOD, CONSTANTS)['Yv_se'][0]


def test_tissue_cancels_where_vein_and_fluid_are_read_in_one_map(several):
    slope = 1 / (HCT * CONSTANTS.dchi_do)
    for method, zero, counts in (
        ('field', ZERO, 1),
        ('field', Zero(), 0),
        ('chi', ZERO, 0),
        ('chi', Zero(), 1),
    ):
        table = vein_table([replace(several[0], method=method)], zero, BLOOD, CONSTANTS)
        assert table['Yv_se_own'][0] == pytest.approx(slope * np.hypot(0.005, counts * 0.002))


def test_it_is_said_where_flow_was_not_checked(vein, several):
    scan, veins, _ = vein
    short = replace(veins.segments[0], **{
        name: getattr(veins.segments[0], name)[12:16]
        for name in ('points', 'voxels', 'direction', 'diameter_mm', 'tilt_deg')
    })  # fmt: skip
    filled = replace(veins, share=np.where(veins.share > 0.3, 1.0, 0.0), segments=(short,))
    for residual, checked in ((scan.residual, True), (None, False)):
        (found,) = measure_veins(replace(scan, residual=residual), filled)
        assert found.flow_checked is checked
    (found,) = measure_veins(scan, replace(filled, share=0.9 * filled.share))
    assert found.flow_checked is False
    rows = vein_table([several[0], replace(several[1], flow_checked=True)], ZERO, BLOOD, CONSTANTS)
    assert rows['flow_checked'].tolist() == [False, True]


def test_a_scan_of_k_space_is_told_from_means_over_voxels(measured):
    assert measured[1].sampling is None
    scan, veins, tissue = acquired(kspace=True)
    yv, found = saturation(scan, veins, tissue)
    # the response of the phantom's filter is one half there
    assert found.sampling.cut == pytest.approx(0.46, abs=0.04)
    assert yv == pytest.approx(YV, abs=0.02)
    assert found.diameter == pytest.approx(2.5, rel=0.03)


def test_voxels_have_the_response_of_k_space():
    """A wave of any frequency, from its means over halves of voxels."""
    at = (np.arange(80) + 0.5) / 2
    for frequency, cut in ((0.1, 0.8), (0.2, 0.8), (0.1, 0.3), (0.45, 0.3)):
        halves = np.sinc(frequency / 2) * np.cos(2 * np.pi * frequency * at)
        wave = np.cos(2 * np.pi * frequency * (np.arange(40) + 0.5))
        found = rows(40, cut) @ halves
        np.testing.assert_allclose(found[8:-8], wave[8:-8] * (frequency < cut), atol=0.05)
        np.testing.assert_allclose(rows(40) @ halves, np.sinc(frequency) * wave, atol=1e-9)


def test_halves_are_brought_to_voxels_along_each_axis():
    rng = np.random.default_rng(3)
    halves = rng.standard_normal((3, 4, 5, 8, 2)).astype(np.complex64)
    matrices = [rows(n, 0.5) for n in (3, 4, 5)]
    fine = halves.reshape(3, 4, 5, 2, 2, 2, 2).transpose(0, 3, 1, 4, 2, 5, 6).reshape(6, 8, 10, 2)
    expected = np.einsum('ai,bj,ck,ijke->abce', *matrices, fine)
    np.testing.assert_allclose(to_voxels(halves, matrices), expected, atol=1e-5)
