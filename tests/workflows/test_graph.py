"""Every option set builds a graph whose declared ports are the ports used; nothing is run."""

from dataclasses import replace
from pathlib import Path

import pytest
from nipype.interfaces.base import isdefined

from bids_qsm.app.methods import Method, registries
from bids_qsm.applications import application
from bids_qsm.interfaces.anatomy import IdentityTransform
from bids_qsm.layout.bold_run import BoldRun
from bids_qsm.layout.series import GivenMap, Input, Tables, Use
from bids_qsm.plotting.layers import ROOM
from bids_qsm.recon.inversion import INVERSION
from bids_qsm.recon.registry import Need, method
from bids_qsm.templates.spaces import get_template
from bids_qsm.workflows.applications import distinct_names, files_of
from bids_qsm.workflows.base import owners
from tests.workflows.graphs import check_ports, graph


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
        {'resampled': (3.0, 3.0, 3.0)},
    ],
    ids=['plain', 'no T1w', 'one series', 'single echo', 'no manufacturer', 'larger voxels'],
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


def test_maps_in_the_space_of_the_t1w_are_not_aligned_again(options, series, files):
    given = replace(
        series, given=(GivenMap('chi', files('chi.nii')),), magnitude=(), phase=(), echo_times=(), in_t1w=True
    )
    workflow, methods, _ = graph(options, given)
    (rigid,) = [name for name in workflow.list_node_names() if name.endswith('.rigid')]
    assert isinstance(workflow.get_node(rigid).interface, IdentityTransform)
    assert 'were not aligned again' in ' '.join(methods)


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


def test_volumes_of_the_viewer_are_packed_by_application(options, series, files):
    mask = Input('lesions', files('lesion.nii'), 'gre')
    uses = (Use('ironmyelin', (), ()), Use('lesions', (), (mask,)), *series.applications)
    own = replace(series, applications=uses)
    other = replace(series, session='2', entities=(('sub', '01'), ('ses', '2')))
    workflow, _, _ = graph(options, own, other)
    check_ports(workflow)
    found = {name.rpartition('outputs_wf.')[2]: workflow.get_node(name) for name in workflow.list_node_names()
             if '.pack' in name and 'ses_1' in name}  # fmt: skip
    assert set(found) == {'pack', 'pack_ironmyelin', 'pack_lesions'}
    assert [one['port'] for one in found['pack'].inputs.shown_maps] == ['chi', 'r2star', 'swi', 'magnitude']
    assert [one['title'] for one in found['pack'].inputs.shown_labels] == ['Regions (nuclei)']
    assert [one['port'] for one in found['pack_ironmyelin'].inputs.shown_maps] == [
        'ironmyelin_iron', 'ironmyelin_myelin'
    ]  # fmt: skip
    assert [one['title'] for one in found['pack_lesions'].inputs.shown_labels] == ['Lesions']
    rooms = {name: node.inputs.room for name, node in found.items()}
    assert 2 * sum(rooms.values()) == pytest.approx(ROOM, abs=9)
    assert all(node.mem_gb > 0 for node in found.values())
    # what an earlier run packed of applications that do not run is removed
    saves = [n for n in workflow.list_node_names() if n.endswith('outputs_wf.save_viewer')]
    removed = [{path.rpartition('_desc-')[2] for path in workflow.get_node(n).inputs.remove} for n in saves]
    assert ['viewerironmyelin_volumes.json' in one for one in removed] == [False, True]
    assert all('viewerveins_volumes.json' in one for one in removed)


def test_candidates_are_found_on_request(options, series):
    for uses in ((Use('candidates', (('threshold', 8.0),), ()), *series.applications), series.applications):
        workflow, _, _ = graph(options, replace(series, applications=uses))
        check_ports(workflow)
        found = [n for n in workflow.list_node_names() if n.endswith('applications_wf.candidates')]
        assert len(found) == len(uses) - 1
        assert all(workflow.get_node(name).inputs.params == {'threshold': 8.0} for name in found)


@pytest.mark.parametrize(
    ('name', 'taken'),
    [('posterior', set()), ('medi', {'localfield', 'magnitude'}), ('decompose', {'echoes'})],
)
def test_a_method_of_an_application_gets_the_files_that_it_takes(options, series, name, taken):
    use = Use('separation', (('method', name),), ())
    workflow, methods, _ = graph(options, replace(series, applications=(use,)))
    check_ports(workflow)
    (node,) = [n for n in workflow.list_node_names() if n.endswith('applications_wf.separation')]
    inner, _, last = node.rpartition('.')
    flow = workflow.get_node(inner)
    edges = [data['connect'] for *_, to, data in flow._graph.edges(data=True) if to.name == last]
    ports = {port for pairs in edges for _, port in pairs}
    assert ports & {'localfield', 'magnitude', 'echoes'} == taken
    assert any('1/s/ppm' in text for text in methods) == (name != 'posterior')


def test_applications_share_one_fit_and_one_alignment_of_diffusion_images(options, series, files):
    tables = Tables(files('dwi.bval'), files('dwi.bvec'), (64, 64, 40, 26), 6)
    images = Input('dwi', files('dwi.nii'), 'own', gradients=tables)
    uses = tuple(Use(name, (), (images,)) for name in ('separation', 'fibres'))
    workflow, methods, _ = graph(options, replace(series, applications=uses))
    check_ports(workflow)
    assert any('A diffusion tensor was fitted to one shell' in text for text in methods)
    names = workflow.list_node_names()
    (fit,) = [name for name in names if name.partition('.')[2].startswith('fit_')]
    assert workflow.get_node(fit).inputs.bvec == str(tables.bvec)
    assert workflow.get_node(fit).mem_gb > 3 * 4e-9 * 64 * 64 * 40 * 26
    aligned = [name for name in names if name.partition('.')[2].startswith('align_') and 'dwi' in name]
    assert len(aligned) == 1
    assert len([name for name in names if name.endswith('_tensor')]) == 2


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
