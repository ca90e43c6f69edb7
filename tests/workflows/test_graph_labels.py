"""How graphs are wired that label regions: of the atlas, of nuclei that are segmented, of segmentations."""

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from bids_qsm.app.methods import Method
from bids_qsm.applications import modules
from bids_qsm.applications.contract import Application, Column, Table
from bids_qsm.layout.series import Segmentation, Use
from bids_qsm.plotting.layers import ROOM
from bids_qsm.templates.spaces import get_template
from bids_qsm.workflows.outputs import joint_clean
from tests.workflows.graphs import all_workflows, check_ports, graph, sources_of


def test_segmentations_are_further_atlases(options, series, files):
    given = replace(
        series,
        segmentations=(
            Segmentation('aseg', files('aseg.mgz'), None, 'anat', 'freesurfer'),
            Segmentation('manual', files('dseg.nii'), files('dseg.tsv'), 'gre'),
        ),
    )
    workflow, methods, _ = graph(options, given)
    check_ports(workflow)
    (save,) = [n for n in workflow.list_node_names() if n.endswith('.save_labels')]
    paths = workflow.get_node(save).inputs.paths
    assert len(set(paths.values())) == len(paths)
    tables = {
        path.rpartition('_seg-')[2]
        for name in workflow.list_node_names()
        if '.save_regions' in name
        for path in workflow.get_node(name).inputs.paths.values()
        if path.endswith('_stats.tsv')
    }
    assert tables == {f'{name}_stats.tsv' for name in ('nuclei', 'aseg', 'manual')}
    # the report tells the atlas from segmentations of the subject by this
    sidecars = workflow.get_node(save).inputs.sidecars
    assert [port for port, content in sidecars.items() if 'Atlas' in content] == ['dseg']
    assert 'given with the anatomy' in sidecars['dseg_aseg']['Description']
    assert 'given with the GRE' in sidecars['dseg_manual']['Description']
    told = ' '.join(methods)
    assert "the subject's own anatomy were carried to the GRE by the rigid alignment." in told
    assert 'Segmentations of the GRE itself were taken without alignment' in told


def test_the_deep_grey_is_refined_unless_told_not_to(options, series):
    for name in ('segment', 'none'):
        workflow, methods, _ = graph(replace(options, refinement=Method(name)), series)
        check_ports(workflow)
        names = workflow.list_node_names()
        assert len([n for n in names if n.endswith('.refine_labels')]) == (name != 'none')
        (chain,) = [workflow.get_node(n) for n in names if n.endswith('.to_template')]
        (labels_wf,) = [wf for wf in all_workflows(workflow) if wf.name == 'labels_wf']
        edges = [d['connect'] for _, to, d in labels_wf._graph.edges(data=True) if to is chain]
        ports = {target: source for connect in edges for source, target in connect}
        assert ports.get('in3') == (None if name == 'none' else 'unrefine')
        # what reads the chain inverts the matrix alone; segmented labels are on the grid already
        readers = [workflow.get_node(n) for n in names if n.endswith(('.atlas_white_matter', '.atlas_dseg'))]
        inverted = [True] + [False] * (len(ports) - 1)
        assert [node.inputs.invert for node in readers] == [inverted] * (2 if name == 'none' else 1)
        (save,) = [workflow.get_node(n) for n in names if n.endswith('.save_labels')]
        refined = [p for p in save.inputs.paths.values() if '_desc-refine_xfm' in p]
        left = [p for p in save.inputs.remove if '_desc-refine_xfm' in p]
        assert (len(refined), len(left)) == ((0, 1) if name == 'none' else (1, 0))
        assert any('were segmented in' in text for text in methods) == (name != 'none')


@pytest.mark.parametrize('name', ['segment', 'none'])
def test_tables_get_the_labels_and_shares_of_segmented_nuclei(options, series, files, name):
    given = replace(
        series, segmentations=(Segmentation('aseg', files('aseg.mgz'), None, 'anat', 'freesurfer'),)
    )
    workflow, _, _ = graph(replace(options, refinement=Method(name)), given)
    check_ports(workflow)
    flat = workflow._create_flat_graph()
    nodes = {node.name: node for node in flat.nodes()}
    ports = {table: sources_of(flat, nodes[table]) for table in ('regions', 'regions_aseg')}
    assert ports['regions'].get('probseg') == ('refine_labels' if name == 'segment' else None)
    assert ports['regions'].get('labels') == ('refine_labels' if name == 'segment' else None)
    assert ports['regions']['dseg'] == ('refine_labels' if name == 'segment' else 'atlas_dseg')
    if name != 'segment':
        (applications_wf,) = [wf for wf in all_workflows(workflow) if wf.name == 'applications_wf']
        assert applications_wf.inputs.inputnode.labels.endswith('.tsv')
    # what the participant's own segmentation lacks is not that of the atlas
    assert ports['regions_aseg']['labels'] == 'read_aseg'
    assert 'probseg' not in ports['regions_aseg']
    (save,) = [node for node in nodes.values() if node.name == 'save_labels']
    assert ('probseg' in save.inputs.paths) == (name == 'segment')
    assert ('confidence' in save.inputs.sidecars['dseg']) == (name == 'segment')
    if name == 'segment':
        assert 'L_RN' in save.inputs.sidecars['probseg']['LabelMap']
    assert any('_seg-nuclei_probseg.nii.gz' in path for path in save.inputs.remove) == (name != 'segment')


def test_a_segmentation_of_nuclei_says_where_the_large_ones_lie(options, series, files, tmp_path):
    def segmentation(name, on, table=None, **more):
        path = tmp_path / f'{name}.tsv'
        if table is not None:
            path.write_text('index\tname\n' + ''.join(f'{n}\t{label}\n' for n, label in enumerate(table, 1)))
        return Segmentation(name, files(f'{name}.nii'), path if table is not None else None, on, **more)

    tissues, lesions = segmentation('tissues', 'anat'), segmentation('lesions', 'anat', ['lesion', 'Left-RN'])
    aseg = segmentation('aseg', 'anat', names='freesurfer')
    manual = segmentation('manual', 'anat', ['Left-Putamen', 'Right-Putamen'])
    on_gre = segmentation('drawn', 'gre', ['Left-Putamen', 'Right-Putamen'])
    for given, first in (
        ((tissues, lesions, on_gre, aseg), 'aseg'),
        ((lesions, manual, aseg), 'manual'),
        ((lesions, on_gre), None),
        ((), None),
    ):
        workflow, methods, _ = graph(options, replace(series, segmentations=given))
        check_ports(workflow)
        flat = workflow._create_flat_graph()
        (node,) = [n for n in flat.nodes() if n.name == 'refine_labels']
        ports = sources_of(flat, node)
        assert ports.get('given') == (first and f'place_{first}')
        assert ports.get('given_labels') == (first and f'read_{first}')
        assert any(f'their places in that named {first}' in text for text in methods) == bool(first)


@pytest.mark.parametrize('name', ['segment', 'none'])
def test_applications_of_several_series_get_the_labels_of_each(options, series, monkeypatch, name):
    def measure(dseg: list, labels: list):
        return pd.DataFrame({'n': [len(one) for one in (dseg, labels)]})

    both = Application(
        'both', 'Both', measure, tables=(Table(columns=(Column('n', 'Number.'),)),), scope='subject'
    )
    module = ModuleType('both_application')
    module.APPLICATION = both
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(modules(), 'both', module.__name__)
    uses = (*series.applications, Use('both', (), ()))
    other = replace(series, entities=(*series.entities, ('run', '2')), applications=uses)
    workflow, _, _ = graph(
        replace(options, refinement=Method(name)), replace(series, applications=uses), other
    )
    check_ports(workflow)
    flat = workflow._create_flat_graph()
    (node,) = [node for node in flat.nodes() if node.name == 'both_ses_1']
    merged = {one.name for one, _ in flat.in_edges(node)}
    assert ('both_ses_1_labels' in merged) == (name == 'segment')
    if name == 'none':
        assert [path.endswith('.tsv') for path in node.inputs.labels] == [True, True]


def test_results_of_several_series_do_not_stay_where_they_are_not_made(options, series):
    """Those of a session that takes part, whichever of its series does, stay."""
    folder = options.output_dir / 'sub-01' / 'ses-1' / 'anat'
    folder.mkdir(parents=True)
    names = ('desc-cosmos_Chimap.nii.gz', 'desc-cosmos_stats.tsv', 'desc-sti_Chimap.nii.gz')
    for name in names:
        (folder / f'sub-01_ses-1_{name}').touch()
    uses = (*series.applications, Use('cosmos', (), ()))
    joint_clean([series, replace(series, applications=uses)], options).interface.run()
    assert sorted(path.name for path in folder.iterdir()) == [f'sub-01_ses-1_{name}' for name in names[:2]]
    joint_clean([series], options).interface.run()
    assert not [*folder.iterdir()]


def test_results_of_several_series_share_the_viewer_of_the_first(options, series, files):
    """They have a part of its room, as one more series, and leave where another series is the first."""
    uses = (*series.applications, *(Use(name, (), ()) for name in ('cosmos', 'tensor')))
    many = [
        replace(
            series,
            entities=(('sub', '01'), ('ses', '1'), ('acq', name)),
            magnitude=tuple(files(f'{name}mag{i}.nii') for i in range(3)),
            phase=tuple(files(f'{name}phase{i}.nii') for i in range(3)),
            applications=uses,
        )
        for name in 'abcdef'
    ]
    workflow, _, _ = graph(options, *many)
    check_ports(workflow)
    nodes = [
        node for node in workflow._create_flat_graph().nodes() if 'viewer' in node.name or 'pack' in node.name
    ]
    named = {node.name: node.inputs for node in nodes}
    shown = {
        name: [one['look']['title'] for one in named[f'pack_{name}_ses_1'].shown_maps]
        for name in ('cosmos', 'tensor')
    }
    assert shown['cosmos'] == ['Susceptibility (COSMOS)', 'Standard deviation (COSMOS)']
    assert shown['tensor'] == ['Mean susceptibility (tensor)', 'Anisotropy (tensor)']
    rooms = [node.inputs.room for node in nodes if node.name.startswith('pack')]
    assert len(rooms) == 6 + 2
    assert 0.99 * ROOM < sum(rooms) < 1.001 * ROOM
    save = named['save_viewer_cosmos_ses_1']
    assert Path(save.paths['volumes']).name == 'sub-01_ses-1_acq-a_desc-viewercosmos_volumes.json'
    assert [Path(path).name.split('_')[2] for path in save.remove] == [f'acq-{name}' for name in 'bcdef']


def test_refinement_is_named_after_the_template_it_is_in(options, series, monkeypatch):
    space = options.output_spaces[0]
    other = replace(get_template(space, options.work_dir / 'templates'), name='MNI152NLin2009cAsym')
    monkeypatch.setattr('bids_qsm.app.participant.get_template', lambda *_: other)
    # not again under another name
    monkeypatch.setattr('bids_qsm.app.participant.get_white_matter', lambda *_: other.t1w)
    workflow, _, _ = graph(replace(options, output_spaces=(other.name,)), series)
    paths = [n.inputs.paths for n in workflow._create_flat_graph().nodes() if n.name == 'save_labels']
    assert f'from-{other.name}_to-{other.name}_mode-image_desc-refine_xfm' in paths[0]['refine']
