"""The choice of a method, and what is said of its assumptions."""

import re

import numpy as np
import pandas as pd
import pytest
from onnx import TensorProto, helper

from bids_qsm.app.methods import Method, applications
from bids_qsm.applications import separation
from bids_qsm.applications.contract import Given
from bids_qsm.applications.dwi import fibres_on, fractions
from bids_qsm.applications.separation import APPLICATION, measure, variants
from bids_qsm.biomarkers.positions import b0_in_world
from bids_qsm.errors import UserError
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.registry import call
from tests.plugins.conftest import here  # noqa: F401
from tests.plugins.little import OF_SOURCES, separator, write_plugin

SHAPE = (12, 12, 8)


@pytest.fixture
def maps():
    """A nucleus with iron in tissue with little of both sources."""
    rng = np.random.default_rng(0)
    dseg = np.zeros(SHAPE, np.int32)
    dseg[3:9, 3:9, 2:6] = 1
    para = np.where(dseg, 0.1, 0.02)
    chi = para - 0.02 + 0.002 * rng.standard_normal(SHAPE)
    r2star = 137.0 * (para + 0.02) + 13.0 + 0.3 * rng.standard_normal(SHAPE)
    labels = pd.DataFrame(
        {'index': [1], 'name': ['Left_Putamen'], 'hemisphere': ['L'], 'region': ['Putamen']}
    )
    return {
        'chi': chi.astype(np.float32),
        'r2star': r2star.astype(np.float32),
        'mask': np.ones(SHAPE, bool),
        'dseg': dseg,
        'labels': labels,
    }


def separated(maps, r2, **params):
    """With R2' where ``r2`` is above zero; None stands for no results of the application r2prime."""
    data = dict.fromkeys(APPLICATION.arguments) | maps
    r2prime = None if r2 is None else np.where(r2 > 0, maps['r2star'] - r2, 0)
    table = None if r2 is None else pd.DataFrame({'map': ['R2prime'], 'provenance': ['measured']})
    data |= {'r2prime_r2prime': r2prime, 'r2prime_table': table, 'grid': Grid(SHAPE), 'field_strength': 3.0}
    return dict(zip(APPLICATION.gives, measure(*data.values(), **params), strict=True))


def test_a_chosen_method_says_what_it_assumes(maps):
    measured = separated(maps, np.full(SHAPE, 13.0, np.float32), method='closed', relaxivity=137.0)
    assumed = separated(maps, None, method='closed')
    for found, said in (
        (measured, "R2' (measured; see the application r2prime)"),
        (assumed, 'R2*, less an assumed R2 of each tissue'),
    ):
        assert found['paramagneticsd'] is None
        facts = found['facts']
        assert facts['method'] == 'closed'
        assert facts['relaxation'] == said
        assert facts['relaxivity_paramagnetic']['value'] == 137.0
        table = found['table'].set_index(['region', 'map'])
        row = table.loc[('Putamen', 'chi_para')]
        assert row['mean'] == pytest.approx(0.1, abs=0.005)
        # relaxivity up by a tenth: both sources less by half of a tenth of their sum
        assert row['change_per_tenth'] == pytest.approx(-0.12 / 22, rel=0.1)
        assert np.isnan(row['se'])
    assert measured['facts']['relaxivity_diamagnetic']['source'] == 'stated by the user'


def test_a_plugin_separates_beside_the_default_method(maps, tmp_path, here):  # noqa: ARG001, F811
    folder = write_plugin(tmp_path / 'sep', separator(), **OF_SOURCES)
    name, r2 = f'onnx:{folder}', np.full(SHAPE, 13.0, np.float32)
    found = separated(maps, r2, method=name)
    closed = separated(maps, r2, method='closed')
    posterior = separated(maps, r2)
    for source in ('paramagnetic', 'diamagnetic'):
        # where both equations give sources of the right sign
        inside = maps['dseg'] > 0
        np.testing.assert_allclose(found[source][inside], closed[source][inside], atol=2e-3)
        np.testing.assert_array_equal(found[f'{source}classical'], posterior[source])
        assert posterior[f'{source}classical'] is None
    assert found['paramagnetic'].min() >= 0 >= found['diamagnetic'].max()
    np.testing.assert_allclose(found['total'], found['paramagnetic'] + found['diamagnetic'])
    rows = found['comparison'].set_index(['source', 'region'])
    assert rows.loc[('total', 'whole mask'), 'slope'] == pytest.approx(1, abs=0.02)
    assert rows.loc[('total', 'Putamen'), 'difference'] == pytest.approx(0, abs=1e-3)
    assert found['comparison']['warning'].isna().all()
    assert found['facts']['method'] == 'little 1.0'
    assert found['facts']['PluginFlags'] == []
    table = found['table'].set_index(['region', 'map'])
    assert table.loc[('Putamen', 'chi_para'), 'mean'] == pytest.approx(0.1, abs=0.005)
    assert table['share_fits'].isna().all()
    assert posterior['comparison'] is None
    (figure,) = [one for one in APPLICATION.figures if one.name == 'diamagneticdeparture']
    assert figure.table == 'comparison'
    taken = (found['comparison'], *(found[name] for name in figure.takes[:3]), maps['mask'], np.eye(4))
    assert figure.draw(*taken).startswith(b'\x89PNG')


def test_a_plugin_whose_sources_cannot_be_is_flagged(maps, tmp_path, here):  # noqa: ARG001, F811
    r2 = np.full(SHAPE, 13.0, np.float32)
    half = write_plugin(tmp_path / 'half', separator(0.5), **OF_SOURCES)
    found = separated(maps, r2, method=f'onnx:{half}')
    (said,) = found['comparison']['warning'].dropna()
    assert 'The sum of both sources is not the susceptibility that was taken apart: slope 0.50' in said
    channels = [{**one, 'sign': 1} for one in OF_SOURCES['output']['channels']]
    output = {**OF_SOURCES['output'], 'channels': channels}
    odd = write_plugin(tmp_path / 'odd', separator(), **{**OF_SOURCES, 'output': output})
    found = separated(maps, None, method=f'onnx:{odd}')
    said = ' '.join(found['facts']['PluginFlags'])
    assert '100% of the voxels had positive diamagnetic sources, which were set to 0.' in said
    assert "It takes R2', which was not measured" in said
    assert not found['diamagnetic'].any()


@pytest.fixture
def of_r2star(tmp_path, here):  # noqa: ARG001, F811
    """A plug-in that takes R2*."""
    channels = [{'data': 'chi', 'unit': 'ppm'}, {'data': 'r2star', 'unit': '1/s'}]
    said = {**OF_SOURCES, 'inputs': [{'tensor': 'maps', 'channels': channels}]}
    return f'onnx:{write_plugin(tmp_path / "sep", separator(), **said)}'


def test_classical_sources_beside_a_plugin_are_those_of_the_default_method(maps, of_r2star):
    """With a network of R2* too, whose noise is another and whose domain is larger than that of R2'."""
    rng = np.random.default_rng(1)
    r2 = np.full(SHAPE, 13.0, np.float32)
    noise = (5 * rng.standard_normal(SHAPE)).astype(np.float32)
    whole = maps | {'r2star': maps['r2star'] + noise}
    r2[6:], noise[6:] = 0, 0
    found, usual = separated(whole, r2 + noise, method=of_r2star), separated(whole, r2 + noise)
    assert found['facts']['relaxation'] == 'R2*'
    assert found['facts']['classical']['relaxation'] == "R2' (measured; see the application r2prime)"
    for source in ('paramagnetic', 'diamagnetic'):
        np.testing.assert_array_equal(found[f'{source}classical'], usual[source])
        fact = f'relaxivity_{source}'
        assert found['facts']['classical'][fact] == usual['facts'][fact]
        assert found[source][6:].any()
        assert not usual[source][6:].any()
    rows = found['comparison'].set_index(['source', 'region'])
    for name in ('paramagnetic', 'total'):
        there = (whole['r2star'] > 0) & ((r2 + noise > 0) | (name == 'total'))
        mean = found[name][there].mean()
        assert rows.loc[(name, 'whole mask'), 'plugin'] == pytest.approx(mean, abs=1e-5)


@pytest.mark.parametrize(
    ('r2', 'said'), [(0, 'nowhere known together within the mask'), (13, 'too few voxels with')]
)
def test_a_plugin_keeps_its_sources_where_the_default_method_fails(maps, of_r2star, r2, said):
    few = np.zeros(SHAPE, np.float32)
    few[:2, :2, :2] = r2
    found = separated(maps, few, method=of_r2star)
    assert found['paramagnetic'].any()
    assert found['paramagneticclassical'] is found['diamagneticclassical'] is None
    assert set(found['comparison']['source']) == {'total'}
    (warning,) = found['comparison']['warning'].dropna()
    assert re.search(f'The default method, which is for comparison alone, failed: .*{said}', warning)
    assert any(said in flag for flag in found['facts']['PluginFlags'])


def test_what_a_plugin_takes_is_needed(tmp_path):
    inputs = [
        {'tensor': 'maps', 'channels': [{'data': 'field', 'unit': 'Hz'}, {'data': 'r2star', 'unit': '1/s'}]}
    ]
    folder = write_plugin(tmp_path / 'sep', separator(), **{**OF_SOURCES, 'inputs': inputs})
    method = Method.parse(f'separation:method=onnx:{folder}', applications())
    assert str(method) == f'separation:method=onnx:{folder}'
    assert method.label == 'separation:method=onnx:sep'
    with pytest.raises(UserError, match=r"the folder of a plug-in, in '.*a,b', has a comma"):
        Method.parse('separation:method=onnx:/data/a,b', applications())
    with pytest.raises(UserError, match=r"inversion: the folder of a plug-in, in '/data/a,b', has a comma"):
        Method.parse('onnx:/data/a,b', {}, step='inversion')
    variant = variants(method.as_dict)
    assert variant.needs == ('localfield',)
    assert set(variant.spares) == {'magnitude', 'echoes', 'echo_times'}
    assert 'the network little 1.0 (plug-in; Nobody (2026), no paper)' in variant.method
    assert 'For comparison the same was done with' in variant.method
    assert variant.memory.volume > variants({}).memory.volume
    with pytest.raises(UserError, match='as a network has none'):
        variants({**method.as_dict, 'relaxivity': 114.0})


def test_methods_take_what_they_need_and_wrong_ones_are_refused():
    assert variants({}).needs == ()
    assert variants({'method': 'medi'}).needs == ('localfield', 'magnitude')
    fibres = {'fa', 'directions', 'dwi'}
    assert set(variants({'method': 'decompose'}).spares) == {'localfield', 'magnitude'} | fibres
    assert set(variants({'method': 'hollowcylinder'}).needs) == {'echoes', 'echo_times'}
    assert variants({'method': 'hollowcylinder'}).one_of == ('directions', 'dwi')
    assert variants({}).one_of == ()
    assert not fibres & {*variants({}).needs, *variants({}).spares}
    assert fibres < {*variants({'frame': 'ignore'}).spares}
    assert '114 1/s/ppm' in variants({'method': 'closed', 'relaxivity': 114}).method
    for params, said in (
        ({'method': 'magic'}, 'must be one of: posterior, closed'),
        ({'relaxivity': 114.0}, 'which estimates it'),
        ({'method': 'closed', 'relaxivity': -1.0}, 'must be from 10 to 2000'),
        ({'method': 'closed', 'relaxivity': float('inf')}, 'must be from 10 to 2000'),
        ({'method': 'closed', 'relaxivity': 'high'}, 'must be from 10 to 2000'),
        ({'frame': 'world'}, 'frame is .world.; it must be one of: auto, fsl, voxel, scanner, or ignore'),
        ({'frame': 'none'}, 'or ignore to leave fibres out'),
        ({'method': 'hollowcylinder', 'frame': 'ignore'}, 'takes fibres, which frame=ignore leaves out'),
    ):
        with pytest.raises(UserError, match=said):
            variants(params)


def given(name, data, affine, sidecar=None):
    on_grid = data if data.ndim == 3 else np.empty(0)
    return Given(name, data, data, affine, on_grid, [], [], sidecar=sidecar or {})


def test_the_frame_of_directions_is_that_of_the_file_unless_stated():
    """A vector (.6, 0, .8) of the file, in voxels of an affine that is turned by 90 degrees about y."""
    affine = np.array([[0, 0, 2.0, 0], [0, 2, 0, 0], [-2, 0, 0, 0], [0, 0, 0, 1]])
    fa = np.full(SHAPE, 0.5, np.float32)
    stored = np.broadcast_to(np.float32([0.6, 0.0, 0.8]), (*SHAPE, 3))
    grid = Grid.from_affine(SHAPE, affine)
    for name, sidecar, stated, expected in (
        ('sub-01_V1.nii.gz', None, 'auto', ('fsl', 0.36)),
        ('v1.0/sub-01_v1.nii.gz', None, 'auto', ('fsl', 0.36)),
        ('sub-01_param-tensor_dwimap.nii.gz', None, 'auto', ('scanner', 0.64)),
        ('sub-01_V1.nii.gz', {'OrientationEncoding': {'Reference': 'xyz'}}, 'auto', ('scanner', 0.64)),
        ('sub-01_V1.nii.gz', None, 'scanner', ('scanner', 0.64)),
        ('sub-01_param-tensor_dwimap.nii.gz', None, 'voxel', ('voxel', 0.36)),
    ):
        pair = given('FA', fa, affine), given(name, stored, affine, sidecar)
        found, said = fibres_on(*pair, grid, affine, stated)
        assert said == f'directions of {name}, read in the frame {expected[0]}'
        cosine = found.squared_cosine(b0_in_world(grid, affine))
        assert cosine[1:-1, 1:-1, 1:-1] == pytest.approx(expected[1], abs=1e-4)
    assert fibres_on(*pair, grid, affine, 'ignore') == (None, '')
    peaks = given('sub-01_param-PEAKS_dwimap.nii.gz', 0.2 * stored, affine)
    assert fibres_on(pair[0], peaks, grid, affine, 'auto')[0] is not None


def test_fibres_that_cannot_be_used_stop_only_those_who_asked_for_them():
    affine, grid = np.eye(4), Grid(SHAPE)
    fa = np.full(SHAPE, 0.5, np.float32)
    fa[0, 0, 0] = 1.1  # noise
    stored = np.broadcast_to(np.float32([0.6, 0.0, 0.8]), (*SHAPE, 3))
    vectors = given('sub-01_V1.nii.gz', stored, affine)
    odd = given('sub-01_V1.nii.gz', stored, affine, {'OrientationEncoding': {'Reference': 'qrs'}})
    long = given('sub-01_V1.nii.gz', 2 * stored, affine)
    for anisotropy, one, frame, said in (
        (1000 * fa, vectors, 'scanner', 'fractional anisotropy is 0 to 1; divide it'),
        (255 * fa, vectors, 'scanner', 'fractional anisotropy is 0 to 1; divide it'),
        (fa, long, 'fsl', 'vectors of length 2'),
        (fa, odd, 'auto', r"Reference 'qrs'.*must be one of xyz, ijk, bvec"),
        (fa, given('sub-01_dwi.nii.gz', 0 * stored, affine, {'Unusable': 'no brain'}), 'auto', 'no brain'),
    ):
        pair = given('sub-01_FA.nii.gz', anisotropy, affine), one
        with pytest.raises(UserError, match=said):
            fibres_on(*pair, grid, affine, frame, required=True)
        if frame != 'auto':
            with pytest.raises(UserError, match=said):
                fibres_on(*pair, grid, affine, frame)
        found, why = fibres_on(*pair, grid, affine, 'auto')
        assert found is None
        assert re.search(f'not used: .*{said}', why)
    assert fractions(given('FA', fa, affine)).max() == 1.0


def test_all_relaxation_that_a_network_takes_is_named(maps, tmp_path, here):  # noqa: ARG001, F811
    inputs = [
        {'tensor': 'maps', 'channels': [{'data': 'chi', 'unit': 'ppm'}, {'data': 'r2prime', 'unit': '1/s'}]},
        {'tensor': 'more', 'channels': [{'data': 'r2star', 'unit': '1/s'}]},
    ]
    model = separator()
    model.graph.input.append(helper.make_tensor_value_info('more', TensorProto.FLOAT, [1, 1, *'xyz']))
    folder = write_plugin(tmp_path / 'both', model, **{**OF_SOURCES, 'inputs': inputs})
    for r2, said in (
        (np.full(SHAPE, 13.0, np.float32), "R2* and R2' (measured; see the application r2prime)"),
        (None, 'R2* and R2*, less an assumed R2 of each tissue'),
    ):
        found = separated(maps, r2, method=f'onnx:{folder}')
        assert found['facts']['relaxation'] == said


def test_unusable_fibres_are_left_out_and_the_sidecars_say_so(maps, of_r2star):
    fa = given('sub-01_FA.nii.gz', np.full(SHAPE, 500.0, np.float32), np.eye(4))
    vectors = given('sub-01_V1.nii.gz', np.ones((*SHAPE, 3), np.float32), np.eye(4))
    with_fibres = maps | {'fa': fa, 'directions': vectors}
    found = separated(with_fibres, None)
    assert 'not used: sub-01_FA.nii.gz has values up to 500' in found['facts']['fibres']
    assert 'anisotropy_of_white_matter' not in found['facts']
    assert np.isfinite(found['total']).all()
    with pytest.raises(UserError, match='values up to 500'):
        separated(with_fibres, None, frame='fsl')
    beside = separated(with_fibres, None, method=of_r2star)['facts']
    assert beside['classical']['fibres'] == found['facts']['fibres']
    assert 'fibres' not in beside


def test_the_command_line_can_leave_fibres_out():
    parsed = Method.parse('separation:frame=ignore', applications())
    assert parsed.as_dict == {'frame': 'ignore'}
    assert 'fa' in APPLICATION.variant(parsed.as_dict).spares
    with pytest.raises(UserError, match='or ignore to leave fibres out'):
        APPLICATION.variant(Method.parse('separation:frame=none', applications()).as_dict)


def test_the_stated_noise_of_r2prime_is_taken(maps, monkeypatch):
    """R2' is smooth where R2 has larger voxels: its finest detail does not show its noise."""
    seen = []
    monkeypatch.setattr(
        separation, 'call', lambda function, data, params: seen.append(data) or call(function, data, params)
    )
    sd = np.full(SHAPE, 2.5, np.float32)
    sd[:2] = 0
    for stated, noise in ((sd, 2.5), (None, 0.7)):
        whole = maps | {'r2prime_r2primesd': stated}
        separated(whole, np.full(SHAPE, 13.0, np.float32), method='closed')
        assert seen.pop()['rate_noise'] == pytest.approx(noise)


@pytest.mark.parametrize('name', ['posterior', 'closed', 'medi'])
def test_a_map_of_r2_beside_the_brain_is_refused(maps, name):
    with pytest.raises(UserError, match='nowhere known together within the mask'):
        separated(maps, np.zeros(SHAPE, np.float32), method=name)


def test_a_map_of_r2_does_not_cut_what_is_separated_without_it(maps):
    whole = maps | {'localfield': maps['chi'], 'magnitude': np.ones(SHAPE, np.float32)}
    half = np.full(SHAPE, 13.0, np.float32)
    half[6:] = 0
    found = {name: separated(whole, half, method=name)['total'] for name in ('closed', 'r2starqsm')}
    assert not found['closed'][6:].any()
    assert found['r2starqsm'][6:].any()
