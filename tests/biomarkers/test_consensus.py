"""Each consensus check says so where its rule is broken, passes where it is kept, and else knows nothing."""

import math
from dataclasses import replace

import numpy as np
import pytest

from bids_qsm.biomarkers.consensus import CHECKS, COLUMNS, Facts, counts, judge
from bids_qsm.biomarkers.consensus.acquisition import T1_S, T2STAR_MS, by_field, coil_elements, ernst_range
from bids_qsm.biomarkers.consensus.check import SEVERITIES, STATES
from bids_qsm.biomarkers.consensus.kspace import sampled_shares
from bids_qsm.biomarkers.consensus.measure import echo_misfit, found_numbers, ghost_ratio, measure_images
from bids_qsm.biomarkers.consensus.processing import (
    EXACT_UNWRAPPING,
    FIELD_FITS,
    PHASE_MASKS,
    REFERENCES,
    SHARP_OR_PDF,
    SPARSE,
)
from bids_qsm.biomarkers.consensus.reporting import checklist, paragraph
from bids_qsm.biomarkers.consensus.singularities import longest_singularity
from bids_qsm.recon.background import BACKGROUND
from bids_qsm.recon.conditioning import condition
from bids_qsm.recon.field import FIELD
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.inversion import INVERSION
from bids_qsm.recon.masking import MASK
from bids_qsm.recon.reference import REFERENCE
from bids_qsm.recon.unwrap import UNWRAP

GOOD = Facts(
    sidecar={
        'Manufacturer': 'Siemens',
        'MRAcquisitionType': '3D',
        'ScanningSequence': 'GR',
        'SequenceVariant': 'SP',
        'RepetitionTime': 0.037,
        'FlipAngle': 15,
        'PixelBandwidth': 200,
        'SliceThickness': 1,
        'SpacingBetweenSlices': 1,
        'AcquisitionMatrixPE': 224,
        'ReconMatrixPE': 224,
        'ReceiveCoilName': 'Head_32',
        'CoilCombinationMethod': 'Adaptive Combine',
        'PartialFourier': 1,
        'ParallelReductionFactorInPlane': 2,
        'ParallelReductionFactorOutOfPlane': 1,
    },
    echo_times=(0.004, 0.011, 0.018, 0.025, 0.032),
    field_strength=3.0,
    shape=(192, 224, 176),
    voxel_size=(1.0, 1.0, 1.0),
    b0_dir=(0.0, 0.0, 1.0),
    numbers={
        'missing': 0.0,
        'usual_scale': 1.0,
        'least_turn': 8192.0,
        'largest_turn': 8192.0,
        'levels': 4096.0,
        'slice_bend': 0.02,
        'slices_mended': 0.0,
        'bipolar_span': 0.01,
        'bipolar_share': 0.01,
        'filtered': 0.0,
        'slow_field': 0.1,
        'fast_field': 0.02,
        'sign_sure': 1.0,
        'sign_correlation': 0.6,
        'height_mm': 170.0,
        'cut_mm': 40.0,
        'brain_cuts': 0.0,
        'snr_first': 60.0,
        'snr_last': 30.0,
        'singularity_mm': 0.0,
        'poor_phase': 0.01,
        'sampled': 1.0,
        'one_sided': 1.0,
        'misfit': 0.0,
        'ghost': 0.01,
        'moved_mm': 0.2,
    },
    methods={
        'mask': 'combined',
        'unwrap': 'romeo',
        'field': 'linear',
        'background': 'vsharp',
        'inversion': 'tv',
        'reference': 'csf',
        'regions': 'the atlas nuclei',
    },
)
"""A scan and a run that keep every rule."""


def said(**fields):
    return replace(GOOD, sidecar={**GOOD.sidecar, **fields})


def measured(**numbers):
    return replace(GOOD, numbers={**GOOD.numbers, **numbers})


def chosen(**methods):
    return replace(GOOD, methods={**GOOD.methods, **methods})


BROKEN = {
    'field_strength': (replace(GOOD, field_strength=0.5), 'warn'),
    'three_dimensional': (said(MRAcquisitionType='2D'), 'fail'),
    'spoiled': (said(ScanningSequence=['EP', 'GR']), 'warn'),
    'echo_count': (replace(GOOD, echo_times=(0.02,)), 'fail'),
    'first_echo': (replace(GOOD, echo_times=(0.012, 0.02, 0.028)), 'fail'),
    'echo_spacing': (replace(GOOD, echo_times=(0.004, 0.011, 0.02, 0.027)), 'fail'),
    'last_echo': (replace(GOOD, echo_times=(0.002, 0.005, 0.008)), 'fail'),
    'repetition_time': (said(RepetitionTime=1.0), 'fail'),
    'flip_angle': (said(FlipAngle=40), 'fail'),
    'isotropic': (replace(GOOD, voxel_size=(0.8, 0.8, 3.0)), 'fail'),
    'voxel_volume': (replace(GOOD, voxel_size=(2.0, 2.0, 2.0)), 'fail'),
    'slice_gap': (said(SliceThickness=5, SpacingBetweenSlices=9), 'fail'),
    'stated_interpolation': (said(ReconMatrixPE=448), 'fail'),
    'bandwidth': (said(PixelBandwidth=1008), 'fail'),
    'coil_elements': (said(ReceiveCoilName='Body'), 'fail'),
    'coil_combination': (said(CoilCombinationMethod='Sum of Squares'), 'warn'),
    'partial_fourier': (said(PartialFourier=0.75), 'warn'),
    'acceleration': (said(ParallelReductionFactorOutOfPlane=4), 'fail'),
    'slab': (replace(GOOD, shape=(192, 224, 60)), 'fail'),
    'monopolar': (measured(bipolar_span=0.9, bipolar_share=0.8), 'warn'),
    'phase_scale': (measured(largest_turn=4096.0, least_turn=2048.0), 'fail'),
    'phase_levels': (measured(levels=64.0), 'fail'),
    'unfiltered': (measured(filtered=1.0, slow_field=0.004), 'fail'),
    'slices': (measured(slice_bend=0.7), 'fail'),
    'singularities': (measured(singularity_mm=30.0), 'fail'),
    'snr': (measured(snr_last=4.0), 'fail'),
    'phase_quality': (measured(poor_phase=0.3), 'fail'),
    'phase_linearity': (measured(misfit=0.8), 'fail'),
    'moved': (measured(moved_mm=4.0), 'fail'),
    'ghosts': (measured(ghost=0.15), 'fail'),
    'zero_filled': (measured(sampled=0.6), 'fail'),
    'symmetric_kspace': (measured(one_sided=0.4), 'fail'),
    'head_in_view': (measured(cut_mm=130.0), 'fail'),
    'head_height': (measured(height_mm=90.0), 'fail'),
    'brain_coverage': (measured(brain_cuts=1.0), 'fail'),
    'missing_values': (measured(missing=0.1), 'warn'),
    'unwrapping': (chosen(unwrap='laplacian'), 'warn'),
    'echo_combination': (chosen(field='other'), 'warn'),
    'phase_mask': (chosen(mask='bet:f=0.5'), 'warn'),
    'background_removal': (chosen(background='levelled'), 'warn'),
    'inversion': (chosen(inversion='tkd:threshold=0.2'), 'warn'),
    'reference': (chosen(reference='none'), 'fail'),
    'whole_brain': (chosen(regions=''), 'warn'),
}
"""Check -> facts that break its rule, and what it says. A sign that is not settled is unknown."""


def state_of(name, facts):
    return judge(facts, [name])['state'].item()


def test_a_good_scan_passes_everything():
    table = judge(GOOD)
    assert counts(table) == {'fail': 0, 'warn': 0, 'unknown': 0, 'pass': len(CHECKS)}
    assert list(table) == list(COLUMNS)
    assert (table['advice'] == '').all()


def test_what_is_not_known_is_unknown():
    table = judge(Facts())
    assert set(table['state']) == {'unknown'}
    assert set(table['value']) == {'n/a'}


def test_every_check_is_tried_and_declared_well():
    assert len(CHECKS) >= 25
    assert {*BROKEN, 'phase_sign'} == set(CHECKS)
    for check in CHECKS.values():
        assert check.severity in SEVERITIES
        assert check.advice.endswith('.')
        assert 'own' in check.source or '10.1002' in check.source or 'dicompare' in check.source


@pytest.mark.parametrize('name', BROKEN)
def test_a_broken_rule_is_told(name):
    facts, expected = BROKEN[name]
    (row,) = judge(facts, [name]).to_dict('records')
    assert row['state'] == expected
    assert row['advice']
    assert row['value'] != 'n/a'


def test_a_sign_that_is_not_settled_is_unknown():
    assert state_of('phase_sign', measured(sign_sure=0.0, sign_correlation=0.1)) == 'unknown'


def test_fails_come_first():
    table = judge(replace(GOOD, voxel_size=(0.8, 0.8, 3.0), methods={**GOOD.methods, 'reference': 'none'}))
    order = [STATES.index(state) for state in table['state']]
    assert order == sorted(order)
    assert table['check'].tolist()[:2] == ['reference', 'isotropic']


def test_limits_scale_with_the_field():
    for tesla, (short, long) in T2STAR_MS.items():
        assert by_field(T2STAR_MS, tesla) == pytest.approx((short, long))
    assert 31.5 < by_field(T2STAR_MS, 2.0)[0] < 55.5
    assert ernst_range(0.03, 3.0) == pytest.approx((10.9, 14.7), abs=0.1)
    assert by_field(T1_S, 9.4) == T1_S[7.0]
    late = replace(GOOD, echo_times=(0.004, 0.012, 0.020))
    assert [state_of('last_echo', replace(late, field_strength=t)) for t in (3.0, 7.0)] == ['warn', 'pass']
    wide = said(PixelBandwidth=400)
    assert [state_of('bandwidth', replace(wide, field_strength=t)) for t in (3.0, 7.0)] == ['warn', 'pass']


def test_uk_biobank_breaks_rules_and_none_of_high_severity():
    scan = replace(
        said(RepetitionTime=0.027, FlipAngle=15, SliceThickness=3, SpacingBetweenSlices=3),
        echo_times=(0.0094, 0.020),
        voxel_size=(0.8, 0.8, 3.0),
        shape=(256, 288, 48),
    )
    table = judge(scan)
    broken = table[table['state'].isin(['fail', 'warn'])]
    assert {'echo_count', 'first_echo', 'isotropic', 'voxel_volume', 'last_echo'} <= set(broken['check'])
    assert 'high' not in set(broken['severity'])


@pytest.mark.parametrize(
    ('sidecar', 'n'),
    [
        ({'ReceiveCoilName': 'HeadNeck_64'}, 64),
        ({'ReceiveCoilName': 'Body'}, 1),
        ({'ReceiveCoilName': 'MULTI COIL'}, None),
        ({}, None),
    ],
)
def test_elements_of_a_coil(sidecar, n):
    assert coil_elements(Facts(sidecar=sidecar)) == n


@pytest.mark.parametrize('odd', [10**400, math.inf, math.nan, -3, '3', True])
def test_odd_numbers_are_unknown(odd):
    fields = ('FlipAngle', 'RepetitionTime', 'PixelBandwidth', 'PartialFourier', 'SliceThickness')
    facts = said(**dict.fromkeys((*fields, 'NumberReceiveCoilActiveElements'), odd), ReceiveCoilName='x')
    names = ('flip_angle', 'repetition_time', 'bandwidth', 'partial_fourier', 'slice_gap', 'coil_elements')
    assert set(judge(facts, names)['state']) == {'unknown'}
    assert set(judge(facts)['check']) == set(CHECKS)


@pytest.mark.parametrize(
    ('sidecar', 'state'),
    [
        ({'PulseSequenceType': 'RF-spoiled GRE'}, 'pass'),
        ({'PulseSequenceType': 'Spoiled gradient echo'}, 'pass'),
        ({'PulseSequenceType': 'unspoiled GRE'}, 'fail'),
        ({'PulseSequenceType': 'Non-spoiled'}, 'fail'),
        ({'PulseSequenceType': 'without RF spoiling'}, 'fail'),
        ({'ScanningSequence': 'SE', 'SequenceVariant': 'SP'}, 'fail'),
        ({'ScanningSequence': ['SE', 'EP']}, 'fail'),
        ({'ScanningSequence': 'RM', 'SequenceVariant': 'SP'}, 'pass'),
        ({'ScanningSequence': 'EP'}, 'warn'),
        ({'ScanningSequence': 'GR'}, 'unknown'),
    ],
)
def test_spoiling_is_read_in_whole_words(sidecar, state):
    assert state_of('spoiled', Facts(sidecar=sidecar)) == state


@pytest.mark.parametrize(
    ('methods', 'state', 'value'),
    [
        ({'reference': 'csf', 'found_reference': 'CSF'}, 'pass', 'csf'),
        (
            {'reference': 'brain', 'reference_name': 'whole brain', 'found_reference': 'whole brain'},
            'pass',
            'brain',
        ),
        ({'reference': 'csf', 'found_reference': 'whole brain'}, 'pass', 'whole brain (csf was asked for)'),
        ({'reference': 'csf', 'found_reference': 'none'}, 'fail', 'none (csf was asked for)'),
        ({'reference_name': 'as given', 'found_reference': 'as given'}, 'unknown', 'n/a'),
    ],
)
def test_the_reference_that_was_found(methods, state, value):
    (row,) = judge(Facts(methods=methods), ['reference']).to_dict('records')
    assert (row['state'], row['value']) == (state, value)


def test_motion_is_judged_by_mm_and_voxels():
    """What a head that lies still looks like is no alarm; 2 mm are found whatever the voxel."""
    coarse = replace(measured(moved_mm=2.2), voxel_size=(3.0, 3.0, 3.0))
    assert state_of('moved', measured(moved_mm=0.6)) == 'pass'
    assert (state_of('moved', measured(moved_mm=2.2)), state_of('moved', coarse)) == ('fail', 'warn')


def test_the_last_echo_says_both_limits():
    (row,) = judge(replace(GOOD, echo_times=(0.004, 0.05, 0.12)), ['last_echo']).to_dict('records')
    assert row['state'] == 'fail'
    assert 'or above 99.0 ms' in row['threshold']


def test_every_method_is_classed():
    """A new method is judged on purpose, not by default."""
    others = {
        'unwrap': ({'laplacian'}, EXACT_UNWRAPPING, UNWRAP),
        'field': (set(), FIELD_FITS, FIELD),
        'mask': ({'bet', 'hdbet', 'brain', 'magnitude'}, PHASE_MASKS, MASK),
        'background': ({'levelled', 'ismv', 'lbv'}, SHARP_OR_PDF, BACKGROUND),
        'inversion': ({'tkd', 'ndi', 'tsvd', 'l2', 'tikhonov', 'ilsqr'}, SPARSE, INVERSION),
        'reference': ({'none'}, REFERENCES, REFERENCE),
    }
    for step, (not_so, good, registry) in others.items():
        assert not_so | set(good) == set(registry), step


SHAPE, TIMES = (48, 40, 36), (0.004, 0.010, 0.016)


def ball(seed=0, snr=50.0, grain=0.2):
    """Magnitude and phase (rad) of a textured ball in a smooth field, three echoes."""
    rng = np.random.default_rng(seed)
    at = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing='ij'))
    inside = (at**2).sum(0) < 0.64
    field = 30 * (at[0] ** 2 - at[1]) + 20 * at[2]
    texture = inside * (1 + grain * np.sin(9 * at[0]) * np.cos(8 * at[1]))
    signal = np.stack([texture * np.exp((6j * field - 15) * t) for t in TIMES], -1)
    noise = rng.standard_normal((2, *signal.shape)) / snr
    return (signal + noise[0] + 1j * noise[1]).astype(np.complex64), inside


def parts(signal):
    return np.abs(signal), np.angle(signal)


def test_singularities_are_seen_where_there_is_signal():
    signal, inside = ball()
    x, y = np.meshgrid(np.arange(SHAPE[0]), np.arange(SHAPE[1]), indexing='ij')
    vortex = np.exp(1j * np.arctan2(y - 20.5, x - 24.5))[..., None]
    wrong = signal[..., 0] * vortex
    combined = signal[..., 0] * vortex * np.hypot(x - 24.5, y - 20.5).clip(0, 4)[..., None] / 4
    lengths = [
        longest_singularity(np.angle(s), np.abs(s), inside, 0.02, (2.0, 2.0, 2.0), least=0.5)
        for s in (signal[..., 0], wrong, combined)
    ]
    assert lengths[0] == 0
    assert lengths[1] > 30
    assert lengths[2] < 6  # the signal vanishes on the line, as physics has it


def test_empty_kspace_is_seen():
    rng = np.random.default_rng(1)
    signal = (rng.standard_normal((48, 40, 10)) + 1j * rng.standard_normal((48, 40, 10))).astype(np.complex64)
    spectrum = np.fft.fftn(signal)
    k = [np.fft.fftfreq(n) / 0.5 for n in signal.shape]
    shares = sampled_shares(signal)
    assert shares[:2] == [(1.0, 1.0), (1.0, 1.0)]
    assert np.isnan(shares[2]).all()
    filled = np.fft.ifftn(spectrum * (np.abs(k[0]) < 0.65)[:, None, None]).astype(np.complex64)
    assert sampled_shares(filled)[0] == pytest.approx((0.65, 0.65), abs=0.06)
    half = np.fft.ifftn(spectrum * (k[1] > -0.5)[None, :, None]).astype(np.complex64)
    assert sampled_shares(half)[1] == pytest.approx((0.5, 1.0), abs=0.06)


def test_echoes_that_contradict_each_other():
    signal, inside = ball()
    magnitude, phase = parts(signal)
    assert echo_misfit(phase, magnitude, TIMES, inside) < 0.01
    other = phase.copy()
    other[..., 2] *= -1
    assert echo_misfit(other, magnitude, TIMES, inside) > 0.5
    assert echo_misfit(phase, magnitude, (0.004, 0.010, 0.018), inside) is None
    assert echo_misfit(phase[..., :2], magnitude[..., :2], TIMES[:2], inside) is None


def test_ghosts():
    signal, _ = ball()
    first = np.pad(np.abs(signal[..., 0]), 14, constant_values=0)
    first = np.hypot(first, 0.01 * np.random.default_rng(0).standard_normal(first.shape)).astype(np.float32)
    clean = ghost_ratio(first, (2.0, 2.0, 2.0))
    doubled = ghost_ratio(first + 0.15 * np.roll(first, 34, 1), (2.0, 2.0, 2.0))
    assert clean < 0.02
    assert doubled > 0.08
    assert ghost_ratio(np.where(first > 0.3, first, 0), (2.0, 2.0, 2.0)) is None


def test_numbers_of_the_conditioning_are_taken_over():
    signal, _ = ball()
    magnitude, phase = parts(signal)
    y = np.linspace(-1, 1, SHAPE[1])[:, None, None]
    grid = Grid(SHAPE, (3.0, 3.0, 3.0), (0.0, 0.0, 1.0))
    states = {}
    for name, swing in (('monopolar', 0.0), ('bipolar', 0.8)):
        turned = phase + swing * y * (-1) ** np.arange(3)
        stored = np.round((np.angle(np.exp(1j * turned)) / np.pi + 1) * 2047.5).astype(np.float32)
        findings = condition(magnitude, stored, TIMES, grid, field_strength=3.0)[2]
        numbers = found_numbers(findings)
        states[name] = state_of('monopolar', Facts(numbers=numbers))
        assert numbers['levels'] > 1000
        assert state_of('phase_scale', Facts(numbers=numbers)) == 'pass'
        assert state_of('phase_levels', Facts(numbers=numbers)) == 'pass'
    assert states == {'monopolar': 'pass', 'bipolar': 'warn'}


def test_a_phantom_has_no_coverage_and_does_not_move():
    signal, _ = ball(grain=0.0)
    magnitude, phase = parts(signal)
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    grid = Grid(SHAPE, (3.0, 3.0, 3.0), (0.0, 0.0, 1.0))
    numbers = measure_images(magnitude, phase, TIMES, grid, affine, np.ones(SHAPE, bool))
    assert {'height_mm', 'cut_mm', 'moved_mm'}.isdisjoint(numbers)
    assert numbers['brain_cuts'] == 6
    assert numbers['singularity_mm'] == 0
    assert numbers['snr_first'] == pytest.approx(50, rel=0.3)


def test_the_checklist_is_filled_in():
    facts = replace(
        measured(brain_mean_ppm=0.012, brain_sd_ppm=0.04), methods={**GOOD.methods, 'software': 'x 1'}
    )
    table = checklist(facts)
    known = table.set_index('item')['value']
    assert known['Echoes'] == '5 echoes, TE = 4:7:32 ms'
    assert known['Sequence type'] == '3D spoiled gradient echo'
    assert known['Receive coil'] == 'Head_32, 32 elements'
    assert known['Readout polarity'].startswith('monopolar')
    assert '-12.0 ppb' in known['Reference']
    assert known['Scanner model'] == 'n/a'
    text = paragraph(table)
    assert text.startswith('Images were acquired at 3 T on a scanner of Siemens')
    assert text.endswith('To be added by hand: inclusion and exclusion.')
    assert 'n/a' not in text
    empty = paragraph(checklist(Facts()))
    assert 'an unknown field strength' in empty
    assert 'vendor' in empty


def test_half_a_range_is_no_turn():
    facts = measured(usual_scale=0.0, least_turn=math.pi, largest_turn=math.pi)
    assert state_of('phase_scale', facts) == 'warn'
    stated = replace(facts, sidecar={**facts.sidecar, 'Units': 'rad'})
    assert state_of('phase_scale', stated) == 'fail'


def test_lines_where_the_signal_is_weak_are_doubtful():
    assert state_of('singularities', measured(fringe_mm=5.0)) == 'pass'
    assert state_of('singularities', measured(fringe_mm=15.0)) == 'warn'
