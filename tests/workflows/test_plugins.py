"""Graphs with plug-ins: each in its step, with a classical map beside what it has a part in."""

from dataclasses import replace

import pytest

from bids_qsm.app.methods import Method
from bids_qsm.errors import UserError
from bids_qsm.layout.series import GivenMap, Use
from tests.plugins.little import OF_SOURCES, separator, write_plugin
from tests.workflows.graphs import check_ports, graph

OF_STEP = {
    'inversion': {},
    'onestep': {'step': 'onestep'},
    'background': {'step': 'background', 'output': {'tensor': 'chi', 'unit': 'ppm'}},
    'mask': {
        'step': 'mask',
        'inputs': [{'tensor': 'field', 'channels': [{'data': 'magnitude', 'normalise': 'p99'}]}],
        'output': {'tensor': 'chi', 'unit': 'probability'},
    },
}


@pytest.fixture
def plugin(tmp_path):
    """A function that writes the plug-in of a step and returns it as a method."""
    return lambda step, **more: Method(f'onnx:{write_plugin(tmp_path / step, **OF_STEP[step], **more)}')


def nodes(workflow):
    return {name: workflow.get_node(name) for name in workflow.list_node_names()}


def sources_of(workflow):
    """Port of the node that compares -> where it comes from."""
    edges = workflow._graph.in_edges(workflow.get_node('compare'), data=True)
    return {port: f'{node.name}.{source}' for node, _, data in edges for source, port in data['connect']}


@pytest.mark.parametrize(
    ('option', 'step', 'has_regions'),
    [
        ('inversion', 'inversion', True),
        ('inversion', 'onestep', False),
        ('background', 'background', False),
        ('mask', 'mask', False),
    ],
)
def test_plugins_build(options, series, plugin, option, step, has_regions):
    if not has_regions:
        series = replace(series, applications=(), t1w=None, has_regions=False)
    method = plugin(step, tile={'size': [128, 128, 128], 'margin': 4}, memory=500)
    workflow, texts, _ = graph(replace(options, **{option: method}), series)
    check_ports(workflow)
    found = nodes(workflow)
    is_compared = step != 'mask'
    classical = [name for name in found if '.classical_wf.' in name]
    assert bool(classical) == is_compared
    assert bool([name for name in found if name.endswith('.compare_regions')]) == (
        is_compared and has_regions
    )
    own = {'inversion': '.invert', 'background': '.remove', 'mask': '.make_mask'}[option]
    (node,) = [one for name, one in found.items() if name.endswith(own) and '.classical_wf.' not in name]
    assert node.inputs.method == method.name
    assert [path.rpartition('/')[2] for path in node.inputs.plugin_files] == ['manifest.json', 'model.onnx']
    assert node.mem_gb > 500e-9 * 128**3
    if is_compared:  # each map has to explain the local field that it was made of
        (compare,) = [name for name in found if name.endswith('susceptibility_wf.compare')]
        sources = sources_of(workflow.get_node(compare.removesuffix('.compare')))
        own = 'classical_wf' if step == 'onestep' else 'inversion_wf'
        assert sources['own'] == 'inversion_wf.outputnode.chi'
        assert sources['field'] == f'{own}.outputnode.local_field'
        assert sources['classical_own'] == 'classical_wf.inversion_wf.outputnode.chi'
        assert sources['classical_field'] == 'classical_wf.outputnode.local_field'
    for name in classical:
        if name.endswith(('.invert', '.remove')):
            assert not found[name].inputs.method.startswith('onnx:')
    (save,) = [one for name, one in found.items() if name.endswith('outputs_wf.save_figures')]
    assert ('figure_departure' in save.inputs.paths) == is_compared
    assert any('the network little 1.0 (plug-in; Nobody (2026), no paper)' in text for text in texts)
    # records do not tell where the folder lies
    (save,) = [one for name, one in found.items() if name.endswith('outputs_wf.save_maps')]
    assert method.name not in str(save.inputs.sidecars)
    assert f'onnx:{step}' in str(save.inputs.sidecars)


def test_a_separation_depends_on_the_files_of_its_plugin(options, series, tmp_path):
    folder = write_plugin(tmp_path / 'sep', separator(), **OF_SOURCES)
    params = (('method', f'onnx:{folder}'),)
    asked = replace(options, applications=(Method('separation', params),))
    assert asked.plugins == {'separation:method': f'onnx:{folder}'}
    assert '--separation:method=onnx:sep' in asked.to_command(participants=())
    workflow, texts, _ = graph(asked, replace(series, applications=(Use('separation', params, ()),)))
    check_ports(workflow)
    (node,) = [one for name, one in nodes(workflow).items() if name.endswith('applications_wf.separation')]
    assert [path.rpartition('/')[2] for path in node.inputs.plugin_files] == ['manifest.json', 'model.onnx']
    (save,) = [one for name, one in nodes(workflow).items() if name.endswith('save_separation')]
    notes = save.inputs.notes
    assert notes['separation_diamagnetic'] == 'separation_facts'
    assert notes['separation_diamagneticclassical'] == 'separation_facts_classical'
    assert any('separated with the network little 1.0' in text for text in texts)
    with pytest.raises(UserError, match='for the step separation; give it as --separation:method'):
        replace(options, inversion=Method(f'onnx:{folder}'))


@pytest.mark.parametrize('start', ['local_field', 'field'])
def test_plugins_invert_maps_of_other_tools(options, series, files, plugin, start):
    given = replace(
        series,
        given=(GivenMap(start, files('map.nii')),),
        magnitude=(),
        phase=(),
        echo_times=(),
        field_strength=None,
    )
    workflow, *_ = graph(replace(options, inversion=plugin('inversion')), given)
    check_ports(workflow)
    assert any(name.endswith('.classical_wf.inversion_wf.invert') for name in nodes(workflow))


def test_a_plugin_of_another_step_is_refused(options, plugin):
    with pytest.raises(UserError, match=r'this plug-in is for the step mask; give it as --mask'):
        replace(options, inversion=plugin('mask'))
    with pytest.raises(UserError, match=r'this plug-in is for the step inversion; give it as --inversion'):
        replace(options, unwrap=plugin('inversion'))


def test_names_of_plugins_are_folders(options, plugin, tmp_path, monkeypatch):
    method = plugin('inversion')
    monkeypatch.chdir(tmp_path)
    assert Method.parse('onnx:inversion', {}, step='--inversion') == method
    assert Method.parse(str(method), {}) == method
    for text in ('onnx:~nosuchuser/net', 'onnx:a\0b'):
        with pytest.raises(UserError, match='cannot be found; give its whole path'):
            Method.parse(text, {}, step='--inversion')
    with pytest.raises(UserError, match=r'--work-dir: ~nosuchuser/w cannot be found'):
        replace(options, work_dir='~nosuchuser/w')
    with pytest.raises(UserError, match='name the folder of the plug-in'):
        Method.parse('onnx:', {}, step='--inversion')
    chosen = replace(options, inversion=method)
    assert '--inversion=onnx:inversion' in chosen.to_command(participants=())
    assert type(chosen).from_toml(chosen.to_toml()).inversion == method
    with pytest.raises(UserError, match='there is no folder'):
        replace(options, inversion=Method('onnx:/nowhere'))
    # a file of settings may be used by the group level where the folder is not
    assert replace(options, level='group', inversion=Method('onnx:/nowhere')).inversion.is_plugin
