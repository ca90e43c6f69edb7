"""Every option set builds a graph whose declared ports are the ports used; nothing is run."""

import sys
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
from nipype.interfaces.base import isdefined
from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline import engine as pe

from bids_qsm.app.methods import Method, registries
from bids_qsm.app.options import Options
from bids_qsm.app.participant import build_graph
from bids_qsm.applications import application, modules
from bids_qsm.applications.contract import Application, Column, Table
from bids_qsm.layout import Plan, Series
from bids_qsm.layout.bold_run import BoldRun
from bids_qsm.layout.series import GivenMap, Input, Segmentation, Use
from bids_qsm.recon.inversion import INVERSION
from bids_qsm.recon.registry import Need, method
from bids_qsm.templates.spaces import get_template
from bids_qsm.workflows.applications import distinct_names, files_of
from bids_qsm.workflows.base import owners

# ports that may stay unused: a series has either kind of parts, single echoes have no relaxation maps, and
# methods of one step make no local field
OPTIONAL = {
    *('real', 'imag', 'magnitude', 'phase', 'manufacturer', 'mask'),
    *('r2star', 't2star', 's0', 'figure_r2star', 'figure_residual', 'first_echo'),
    *('local_field', 'figure_localfield', 'residual'),
    'brain',  # of a series that is not laid onto a template
}


@pytest.fixture
def files(tmp_path):
    """A function that makes an empty file to stand for an image: graphs check that inputs exist."""

    def make(name):
        path = tmp_path / 'data' / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
        return path

    return make


@pytest.fixture
def series(files):
    return Series(
        subject='01',
        session='1',
        entities=(('sub', '01'), ('ses', '1'), ('acq', 'highRes')),
        suffix='MEGRE',
        magnitude=tuple(files(f'mag{i}.nii') for i in range(3)),
        phase=tuple(files(f'phase{i}.nii') for i in range(3)),
        real=(),
        imag=(),
        echo_times=(0.004, 0.012, 0.02),
        field_strength=3.0,
        manufacturer='Siemens',
        repetition_time=0.03,
        flip_angle=15.0,
        shape=(32, 32, 24),
        voxel_size=(1.0, 1.0, 1.5),
        b0_dir=(0.0, 0.0, 1.0),
        t1w=files('T1w.nii'),
        applications=(Use('regions', (), ()),),
    )


@pytest.fixture
def options(tmp_path, templates, templates_once):  # noqa: ARG001
    return Options(
        bids_dir=tmp_path / 'data',
        output_dir=tmp_path / 'out',
        work_dir=templates,
        level='participant',
    )


def identity_nodes(workflow):
    """(workflow, node) of every IdentityInterface in the workflow and those inside it."""
    for node in workflow._graph.nodes():
        if isinstance(node, pe.Workflow):
            yield from identity_nodes(node)
        elif isinstance(node.interface, IdentityInterface):
            yield workflow, node


def used_ports(root, workflow, node):
    """Ports of ``node`` that a connection enters, and those that one leaves."""
    entered, left = set(), set()
    for edge_source, edge_target, data in chain.from_iterable(
        inner._graph.edges(data=True) for inner in all_workflows(root)
    ):
        for source_port, target_port in data['connect']:
            source_port = source_port if isinstance(source_port, str) else source_port[0]
            if edge_source is node:
                left.add(source_port)
            if edge_target is node:
                entered.add(target_port)
            if edge_source is workflow and source_port.startswith(f'{node.name}.'):
                left.add(source_port.partition('.')[2])
            if edge_target is workflow and target_port.startswith(f'{node.name}.'):
                entered.add(target_port.partition('.')[2])
    return entered, left


def all_workflows(workflow):
    yield workflow
    for node in workflow._graph.nodes():
        if isinstance(node, pe.Workflow):
            yield from all_workflows(node)


def check_ports(root):
    for workflow, node in identity_nodes(root):
        declared = set(node.inputs.copyable_trait_names())
        entered, left = used_ports(root, workflow, node)
        given = {port for port in declared if isdefined(getattr(node.inputs, port))}
        where = f'{workflow.fullname}.{node.name}'
        assert entered <= declared, f'{where} is given undeclared ports {entered - declared}'
        assert left <= declared, f'{where} is read at undeclared ports {left - declared}'
        if node.name == 'inputnode':
            assert declared - left <= OPTIONAL, f'{where} declares {declared - left} and never uses them'
            unset = left - entered - given
            assert unset <= OPTIONAL, f'{where} is never given {unset}'
        else:
            assert declared - entered <= OPTIONAL, f'{where} declares {declared - entered}, never set'


def graph(options, *series):
    plan = Plan(series=series, rejected=(), dataset_name='test')
    workflow, methods = build_graph(options, plan)
    return workflow, methods, plan


def test_every_method_builds(options, series):
    for step, registry in registries().items():
        for name in registry:
            workflow, methods, _ = graph(replace(options, **{step: Method(name)}), series)
            check_ports(workflow)
            assert methods


@pytest.mark.parametrize(
    'changes',
    [
        {},
        {'t1w': None},
        {'session': None, 'entities': (('sub', '01'),)},
        {'echo_times': (0.02,)},
        {'manufacturer': None},
    ],
    ids=['plain', 'no T1w', 'one series', 'single echo', 'no manufacturer'],
)
def test_every_series_builds(options, series, changes):
    series = replace(series, **changes)
    n = len(series.echo_times)
    series = replace(series, magnitude=series.magnitude[:n], phase=series.phase[:n])
    workflow, _, plan = graph(options, series)
    check_ports(workflow)
    prefixes = owners(workflow.name, plan, options.output_spaces)
    for node in workflow._create_flat_graph().nodes():
        assert any(node.fullname.startswith(prefix + '.') for prefix in prefixes)


@pytest.mark.parametrize(
    ('ports', 'has_magnitude', 'inversion'),
    [
        (('chi',), False, 'tv'),
        (('chi', 'r2star', 'mask'), True, 'tv'),
        (('local_field',), False, 'tv'),
        (('field', 'r2star'), True, 'tv'),
        (('field',), False, 'tgv'),
        (('field',), True, 'tv'),
        (('r2star',), False, 'tv'),
    ],
    ids=str,
)
def test_maps_of_other_tools_build(options, series, files, ports, has_magnitude, inversion):
    fitted = has_magnitude and ports == ('field',)
    given = replace(
        series,
        given=tuple(GivenMap(port, files(f'{port}.nii')) for port in ports),
        magnitude=series.magnitude if has_magnitude else (),
        phase=(),
        echo_times=series.echo_times if fitted else (),
        field_strength=None,
        is_whole='mask' not in ports,
    )
    if 'chi' in given.maps:
        lesions = Use('lesions', (), (Input('lesions', files('lesion_mask.nii'), 'gre'),))
        given = replace(given, applications=(*given.applications, Use('candidates', (), ()), lesions))
    options = replace(options, inversion=Method(inversion))
    workflow, methods, _ = graph(options, given)
    check_ports(workflow)
    names = {name.rpartition('.')[2] for name in workflow.list_node_names()}
    assert not names & {'condition', 'unwrap_phase', 'fit', 'weigh', 'plot_phase'}
    assert ('relaxation' in names) == fitted
    assert ('invert' in names) == bool({'local_field', 'field'} & set(ports))
    assert ('remove' in names) == ('field' in ports and inversion == 'tv')
    # all but tables and alignment needs susceptibility
    assert {'refine_labels', 'candidates', 'lesions'} <= names or 'chi' not in given.maps
    assert ('plot_mask' in names) == has_magnitude
    assert any('another tool' in text for text in methods)


def test_derivatives_replace_our_own(options, series, files):
    space = options.output_spaces[0]
    given = replace(
        series,
        brain_mask=files('mask.nii'),
        t1w_preproc=files('preproc.nii'),
        template_xfm=((space, files('there.h5'), files('back.h5')),),
    )
    workflow, _, _ = graph(options, given)
    check_ports(workflow)
    names = workflow.list_node_names()
    assert not [n for n in names if n.endswith(('.brain_extraction', '.register'))]


def test_mask_of_the_user_stands_for_the_brain(options, series, files):
    options = replace(options, mask=Method('file', (('path', 'given.nii'),)))
    workflow, _, _ = graph(options, replace(series, mask=files('given.nii')))
    check_ports(workflow)
    (place,) = [n for n in workflow.list_node_names() if n.endswith('.place_mask')]
    assert workflow.get_node(place).inputs.image.endswith('given.nii')
    (make,) = [n for n in workflow.list_node_names() if n.endswith('.make_mask')]
    assert workflow.get_node(make).inputs.method == 'brain'


@pytest.mark.parametrize('is_head', [True, False])
def test_a_series_without_regions_gives_its_maps_alone(options, series, is_head):
    plain = replace(series, t1w=None, applications=(), has_regions=False, is_head=is_head, warnings=('No.',))
    workflow, methods, _ = graph(options, plain)
    check_ports(workflow)
    nodes = workflow.list_node_names()
    assert any(name.endswith('outputs_wf.save_maps') for name in nodes)
    assert not any(
        part in name for name in nodes for part in ('labels_wf', 'anat_wf', 'normalize', 'regions')
    )
    assert not any('registered' in text for text in methods)
    mask = workflow.get_node(next(name for name in nodes if name.endswith('make_mask')))
    assert mask.inputs.method == ('combined' if is_head else 'quality')
    save = workflow.get_node(next(name for name in nodes if name.endswith('outputs_wf.save_maps')))
    names = ['desc-brain_mask.nii.gz', 'desc-object_mask.nii.gz']
    own, other = names if is_head else names[::-1]
    assert save.inputs.paths['mask'].endswith(own)
    assert any(path.endswith(other) for path in save.inputs.remove)
    collect = workflow.get_node(next(name for name in nodes if name.endswith('collect')))
    assert collect.inputs.warnings == ['No.']


@pytest.mark.parametrize('field', ['mask', 'brain_mask'])
def test_a_mask_of_the_magnitude_takes_the_place_of_brain_extraction(options, series, files, field):
    given = replace(series, t1w=None, **{field: files('drawn.nii.gz')})
    workflow, *_ = graph(options, given)
    check_ports(workflow)
    nodes = workflow.list_node_names()
    assert not any('brain_extraction' in name for name in nodes)
    place = workflow.get_node(next(name for name in nodes if name.endswith('anat_wf.inputnode')))
    assert place.inputs.mask == str(files('drawn.nii.gz'))


@pytest.mark.parametrize('has_t1w', [True, False])
def test_hdbet_finds_the_brain_of_the_anatomical_image(options, series, has_t1w):
    series = series if has_t1w else replace(series, t1w=None)
    workflow, methods, _ = graph(replace(options, mask=Method('hdbet')), series)
    check_ports(workflow)
    assert any(name.endswith('anat_wf.hdbet') for name in workflow.list_node_names())
    assert any('@hdbet' in text for text in methods)


def test_device_and_coils_reach_the_nodes(options, series):
    workflow, _, _ = graph(replace(options, device='cuda'), replace(series, coils=8))
    found = {n.rpartition('.')[2]: workflow.get_node(n).inputs for n in workflow.list_node_names()}
    assert found['remove'].device == found['invert'].device == 'cuda'
    assert found['condition'].coils == 8


def test_frames_of_a_run_are_averaged_first(options, series):
    run = replace(series, suffix='bold', entities=(('sub', '01'), ('ses', '1'), ('task', 'rest')), frames=200)
    workflow, methods, _ = graph(replace(options, phase_scaling='-4096,4094'), run)
    check_ports(workflow)
    found = {n.rpartition('.')[2]: workflow.get_node(n) for n in workflow.list_node_names()}
    assert found['average_frames'].inputs.scaling == '-4096,4094'
    assert found['condition'].inputs.scaling == 'radians'
    # the memory does not grow with the number of frames
    assert found['average_frames'].mem_gb < 0.2
    assert any('The 200 frames of the run were aligned' in text for text in methods)
    saved = [path for name in found if name == 'save_maps' for path in found[name].inputs.paths.values()]
    assert any(path.endswith('sub-01_ses-1_task-rest_Chimap.nii.gz') for path in saved)


def test_one_step_methods_need_no_background_removal(options, series, monkeypatch):
    @method(memory=Need(), prose='one step [@tgv]')
    def once(total, mask, grid):
        """Invert the total field."""

    monkeypatch.setitem(INVERSION, options.inversion.name, once)
    workflow, methods, _ = graph(options, series)
    check_ports(workflow)
    assert not [n for n in workflow.list_node_names() if n.endswith(('.remove', '.plot_localfield'))]
    assert any('in one step' in text for text in methods)


def test_lesions_have_a_table(options, series, files):
    masks = [Input('lesions', files(f'{space}_mask.nii'), space) for space in ('anat', 'flair', 'gre')]
    for drawn in (masks, masks[2:]):
        use = Use('lesions', (), tuple(drawn))
        workflow, _, _ = graph(options, replace(series, applications=(use,), flair=files('flair.nii')))
        check_ports(workflow)
        names = workflow.list_node_names()
        assert len([n for n in names if n.endswith('.align_flair_1')]) == (len(drawn) > 1)
        (node,) = [n for n in names if n.endswith('applications_wf.lesions')]
        assert len(workflow.get_node(node).inputs.extra[0]['lesions']) == len(drawn)
        (save,) = [n for n in names if n.endswith('.save_lesions')]
        assert workflow.get_node(save).inputs.paths['lesions_table'].endswith('_label-lesion_stats.tsv')


def test_what_an_earlier_run_wrote_of_bold_runs_is_removed(options, series, files):
    """Of a run in another space; and of all runs of the sessions where the application is not asked for."""
    func = options.output_dir / 'sub-01' / 'ses-1' / 'func'
    func.mkdir(parents=True)
    run, end = 'sub-01_ses-1_task-rest', 'label-vein_probseg.nii.gz'
    of_other = 'sub-01_ses-1_task-rest_run-2'
    names = [
        *(f'{one}{space}_{end}' for one in (run, of_other) for space in ('', '_space-T1w')),
        f'{run}_desc-veins_stats.tsv',
        f'{run}_desc-other_stats.tsv',
    ]
    for name in names:
        (func / name).touch()
    later = f'sub-01_ses-2_task-rest_{end}'
    (func.parent.parent / 'ses-2' / 'func').mkdir(parents=True)
    (func.parent.parent / 'ses-2' / 'func' / later).touch()
    entities = (('sub', '01'), ('ses', '1'), ('task', 'rest'))
    bold = BoldRun(entities, files('bold.nii'), (4, 4, 4, 30), 2.0)
    uses = Use('veins', (), ()), Use('fmri', (), (), runs=(bold,))
    asked = replace(options, applications=(Method('fmri'),))

    def removed(options, *uses):
        workflow, _, _ = graph(options, replace(series, applications=(*series.applications, *uses)))
        saves = [n for n in workflow.list_node_names() if '.save_' in n]
        found = (getattr(workflow.get_node(n).inputs, 'remove', None) for n in saves)
        paths = [path for paths in found if isdefined(paths) for path in paths or ()]
        return sorted(Path(path).name for path in paths if '/func/' in path)

    assert removed(asked, *uses) == [f'{run}_space-T1w_{end}']
    assert removed(options) == sorted([*names[:-1], later])
    assert removed(replace(options, session_label=('1',))) == sorted(names[:-1])
    assert removed(asked) == []  # of other series of the session


def test_figures_of_runs_need_nothing_of_the_series():
    assert 'reference' not in files_of(application('fmri'))


def test_names_of_masks_are_told_apart_by_their_folders():
    paths = [
        '/d/derivatives/ann/sub-01/anat/m.nii',
        '/d/derivatives/ben/sub-01/anat/m.nii',
        '/d/sub-01/anat/n.nii',
    ]
    assert distinct_names(paths) == ['ann/sub-01/anat/m.nii', 'ben/sub-01/anat/m.nii', 'n.nii']
    assert distinct_names(['/a/m.nii', '/m.nii']) == ['a/m.nii', 'm.nii']


def test_segmentations_are_further_atlases(options, series, files):
    given = replace(
        series,
        segmentations=(
            Segmentation('aseg', files('aseg.mgz'), None, 'anat', 'freesurfer'),
            Segmentation('manual', files('dseg.nii'), files('dseg.tsv'), 'gre'),
        ),
    )
    workflow, _, _ = graph(options, given)
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


def test_candidates_are_found_on_request(options, series):
    for uses in ((Use('candidates', (('threshold', 8.0),), ()), *series.applications), series.applications):
        workflow, _, _ = graph(options, replace(series, applications=uses))
        check_ports(workflow)
        found = [n for n in workflow.list_node_names() if n.endswith('applications_wf.candidates')]
        assert len(found) == len(uses) - 1
        assert all(workflow.get_node(name).inputs.params == {'threshold': 8.0} for name in found)


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


def sources_of(flat, node):
    """Port of a node -> name of the step that gives it, past the nodes that only hand on."""
    found = {}
    for source, _, data in flat.in_edges(node, data=True):
        for leaves, enters in data['connect']:
            handed = isinstance(source.interface, IdentityInterface)
            found[enters] = sources_of(flat, source).get(leaves) if handed else source.name
    return found


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


def test_refinement_is_named_after_the_template_it_is_in(options, series, monkeypatch):
    space = options.output_spaces[0]
    other = replace(get_template(space, options.work_dir / 'templates'), name='MNI152NLin2009cAsym')
    monkeypatch.setattr('bids_qsm.app.participant.get_template', lambda *_: other)
    # not again under another name
    monkeypatch.setattr('bids_qsm.app.participant.get_white_matter', lambda *_: other.t1w)
    workflow, _, _ = graph(replace(options, output_spaces=(other.name,)), series)
    paths = [n.inputs.paths for n in workflow._create_flat_graph().nodes() if n.name == 'save_labels']
    assert f'from-{other.name}_to-{other.name}_mode-image_desc-refine_xfm' in paths[0]['refine']


def test_two_sessions_share_the_anatomy(options, series):
    other = replace(series, session='2', entities=(('sub', '01'), ('ses', '2')))
    workflow, _, _ = graph(options, series, other)
    check_ports(workflow)
    assert len([n for n in workflow.list_node_names() if n.endswith('.register')]) == 1


def test_contrast_is_decided_by_what_there_is(options, series):
    for t1w in (series.t1w, None):
        workflow, methods, _ = graph(options, replace(series, t1w=t1w))
        (name,) = [n for n in workflow.list_node_names() if n.endswith('.register')]
        assert workflow.get_node(name).inputs.same_contrast == (t1w is not None)
        assert any('diffeomorphic' in text for text in methods) == (t1w is not None)


def test_labels_beyond_letters_and_digits_build(options, series):
    odd = replace(series, subject='01+a', entities=(('sub', '01+a'), ('ses', '1')))
    workflow, _, plan = graph(options, series, odd)
    prefixes = owners(workflow.name, plan, options.output_spaces)
    assert {subject for subject, _ in prefixes.values()} == {'01', '01+a'}


def test_two_spaces_keep_their_figures_apart(options, series, monkeypatch):
    found = [get_template(name, options.work_dir / 'templates') for name in options.output_spaces]
    other = replace(found[0], name='MNI152NLin2009cAsym')
    known = {found[0].name: found[0], other.name: other}
    monkeypatch.setattr('bids_qsm.app.participant.get_template', lambda name, _: known[name])
    both = replace(options, output_spaces=tuple(known))
    workflow, _, _ = graph(both, series)
    check_ports(workflow)
    paths = [n.inputs.paths for n in workflow._create_flat_graph().nodes() if n.name == 'save']
    files = [path for group in paths for path in group.values()]
    assert len(files) == len(set(files))
    assert len([f for f in files if 't1w2template' in f]) == 2
