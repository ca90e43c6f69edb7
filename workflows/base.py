"""The whole graph: subjects, their anatomy, their series."""

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from nipype.interfaces.utility import Merge

from bids_qsm.applications import application
from bids_qsm.interfaces.anatomy import MeanEcho, MeanFrame, RegisterRigid, Resample, Window
from bids_qsm.interfaces.derivatives import SaveDerivatives
from bids_qsm.interfaces.diffusion import FitTensor
from bids_qsm.interfaces.report import PlotFlicker
from bids_qsm.workflows import engine as pe
from bids_qsm.workflows.anat import init_anat_wf, init_normalize_wf
from bids_qsm.workflows.anat_outputs import init_anat_outputs_wf, init_normalize_outputs_wf
from bids_qsm.workflows.applications import (
    ATLAS,
    alignment_ports,
    application_node,
    fit_ports,
    joint_runs,
    link_alignments,
    mean_ports,
)
from bids_qsm.workflows.labels import is_refined, label_inputs
from bids_qsm.workflows.memory import Sizes, need
from bids_qsm.workflows.outputs import (
    application_save,
    figure_path,
    init_standard_outputs_wf,
    joint_clean,
)
from bids_qsm.workflows.series import (
    gathered_ports,
    init_maps_wf,
    init_series_phase_wf,
    init_series_wf,
    source_ports,
    standard_maps,
    what_applies,
)
from bids_qsm.workflows.standard import init_standard_wf
from bids_qsm.workflows.viewer import add_joint_viewer, shares_of

if TYPE_CHECKING:
    from bids_qsm.app.options import Options
    from bids_qsm.layout import Plan, Series
    from bids_qsm.templates.atlases import Atlas
    from bids_qsm.templates.spaces import Template

TRANSFORMS = ('image_to_template', 'template_to_image')
BOLD = 'bold'
"""Kind of the alignments of raw BOLD runs."""


def node_name(label: str):
    """Name of a workflow for a BIDS name: letters, digits and underscores; '+' is legal in BIDS only."""
    return re.sub(r'\W', lambda sign: '_' if sign[0] == '-' else f'_{ord(sign[0]):x}_', label) + '_wf'


def series_label(series: 'Series'):
    """Name of a series without its subject."""
    return series.name.partition('_')[2] or 'series'


def owners(root: str, plan: 'Plan', spaces: tuple[str, ...]):
    """Prefix of full node names -> (subject, name of the series or None for the anatomy)."""
    found = {}
    for series in plan.series:
        subject = f'{root}.{node_name(f"sub-{series.subject}")}'
        label = series_label(series)
        found[subject] = (series.subject, None)
        steps = [label, f'{label}_phase']
        steps += [f'{label}_{space}{save}' for space in spaces for save in ('', '_save')]
        found |= {f'{subject}.{node_name(step)}': (series.subject, series.name) for step in steps}
    return found


def init_bids_qsm_wf(
    *,
    options: 'Options',
    plan: 'Plan',
    templates: 'list[Template]',
    atlas: 'Atlas',
    omp_nthreads: int,
    name: str = 'bids_qsm_wf',
):
    """Build the graph of all series of ``plan``, one sub-workflow a subject.

    ``atlas`` is in the space of the first of ``templates``.
    """
    workflow = pe.Workflow(name=name, base_dir=str(options.work_dir))
    subjects = {}
    for series in plan.series:
        subjects.setdefault(series.subject, []).append(series)
    workflow.add_nodes(
        [
            init_subject_wf(
                series_list=found,
                options=options,
                templates=templates,
                atlas=atlas,
                omp_nthreads=omp_nthreads,
                name=node_name(f'sub-{subject}'),
            )
            for subject, found in subjects.items()
        ]
    )
    return workflow


def init_subject_wf(
    *,
    series_list: 'list[Series]',
    options: 'Options',
    templates: 'list[Template]',
    atlas: 'Atlas',
    omp_nthreads: int,
    name: str,
):
    """Align the subject's anatomical image once and reconstruct each of its series.

    Without a T1w the first echo of the first series is the anatomical image; series that are not laid onto a
    template are reconstructed alone.
    """
    workflow = pe.Workflow(name=name)
    _add_maps(workflow, series_list, options, templates[0], atlas, omp_nthreads)
    workflow.add_nodes([joint_clean(series_list, options)])
    n_series = shares_of(series_list)
    series_list = [series for series in series_list if series.has_regions]
    if not series_list:
        return workflow
    first = series_list[0]
    image = first.t1w_preproc or first.t1w
    how = brain_by(first, options)
    has_quality = image is None and not first.given and how == 'template'
    anat_wf = init_anat_wf(
        brain_by=how, is_t1w=image is not None, has_quality=has_quality, sizes=Sizes.of(first)
    )
    inputs = anat_wf.inputs.inputnode
    if image is not None:
        inputs.image = str(image)
    if how == 'given':
        inputs.mask = str(first.anat_mask)
    elif how == 'template':
        inputs.template, inputs.template_mask = str(templates[0].t1w), str(templates[0].mask)
    outputs_wf = init_anat_outputs_wf(series=first, options=options)
    saved = ('image', 'mask') if image is not None else ('mask',)
    workflow.link(anat_wf, outputs_wf, *saved)
    normalize = {
        template.name: _add_normalization(
            workflow, anat_wf, first, template, options, atlas if template is templates[0] else None
        )
        for template in templates
    }
    alignments, means, fits = _add_alignments(workflow, anat_wf, series_list, options)
    built, everyone = [], options
    for series in series_list:
        is_anatomy = image is None and series is first
        options = what_applies(series, everyone)
        label = series_label(series)
        phase_wf = init_series_phase_wf(
            series=series, options=options, omp_nthreads=omp_nthreads, name=node_name(f'{label}_phase')
        )
        series_wf = init_series_wf(
            series=series,
            options=options,
            template=templates[0],
            atlas=atlas,
            is_anatomy=is_anatomy,
            n_series=n_series,
            omp_nthreads=omp_nthreads,
            name=node_name(label),
        )
        if is_anatomy:
            workflow.link(phase_wf, anat_wf, image='first_echo')
            if has_quality:
                workflow.link(phase_wf, anat_wf, 'quality')
        built.append((series, series_wf))
        workflow.link(phase_wf, series_wf, *source_ports(series))
        workflow.link(anat_wf, series_wf, anat='image', anat_mask='mask', brain_notes='notes')
        transforms = [port for port in label_inputs(options) if port in TRANSFORMS]
        workflow.link(normalize[templates[0].name], series_wf, *transforms)
        for port, image in alignment_ports(series).items():
            workflow.link(alignments[image], series_wf, **{port: 'xfm'})
        for port, image in mean_ports(series).items():
            workflow.link(means[image], series_wf, **{port: 'mean'})
        for port, (image, part) in fit_ports(series).items():
            workflow.link(fits[image], series_wf, **{port: part})
        for template in templates:
            with_refinement = is_refined(options) and template is templates[0]
            _add_standard(
                workflow, series_wf, normalize[template.name], series, template, options, with_refinement
            )
    _add_joint_applications(workflow, built, alignments, everyone, atlas, n_series)
    return workflow


def brain_by(series: 'Series', options: 'Options') -> str:
    """How the brain of the anatomical image is found: 'given', 'hdbet' or 'template'."""
    if series.anat_mask is not None:
        return 'given'
    return 'hdbet' if options.mask.name == 'hdbet' else 'template'


def _add_maps(
    workflow: pe.Workflow,
    series_list: 'list[Series]',
    options: 'Options',
    template: 'Template',
    atlas: 'Atlas',
    omp_nthreads: int,
):
    """Add the reconstruction of each series that is not laid onto a template."""
    for series in (one for one in series_list if not one.has_regions):
        label = series_label(series)
        phase_wf = init_series_phase_wf(
            series=series, options=options, omp_nthreads=omp_nthreads, name=node_name(f'{label}_phase')
        )
        maps_wf = init_maps_wf(
            series=series,
            options=options,
            template=template,
            atlas=atlas,
            n_series=shares_of(series_list),
            omp_nthreads=omp_nthreads,
            name=node_name(label),
        )
        workflow.link(phase_wf, maps_wf, *source_ports(series))


def _add_alignments(
    workflow: pe.Workflow, anat_wf: pe.Workflow, series_list: 'list[Series]', options: 'Options'
):
    """Align images that applications read with the anatomical image, and draw how they fit.

    Returns the nodes of the alignments by image, those of the means of raw BOLD runs by run, and those of the
    tensors of diffusion images by image.
    """
    nodes, means, fits, sizes = {}, {}, {}, Sizes.of(series_list[0])
    gradients = {}
    trains: dict[Path, list[str]] = {}
    titles = {series.flair: ('flair', 'FLAIR', False, None) for series in series_list}
    for use in (use for series in series_list for use in series.applications):
        for run in (run for run in use.runs if run.is_raw):
            titles.setdefault(run.bold, (BOLD, f'BOLD run {run.name}', False, None))
        queries = {query.name: query for query in application(use.name).own}
        for one in (one for one in use.inputs if one.space == 'own'):
            query = queries[one.query]
            kind = f'{use.name}{one.query}'
            titles.setdefault(one.path, (kind, query.title, query.affine, query.window))
            if one.gradients is not None:
                gradients[one.path] = one.gradients
            if query.echoes:
                echoes = [str(other.path) for other in use.inputs if other.query == one.query]
                trains[Path(echoes[0])] = echoes
    images = dict.fromkeys(image for series in series_list for image in alignment_ports(series).values())
    numbers: Counter[str] = Counter()
    for image in images:
        kind, title, affine, window = titles[image]
        # of its kind: an application that joins later does not rename what others have drawn
        numbers[kind] += 1
        number = numbers[kind]
        align = pe.Node(
            RegisterRigid(affine=affine, has_bias=window is None),
            name=f'align_{kind}_{number}',
            mem_gb=need('register_rigid', sizes),
        )
        workflow.link(anat_wf, align, fixed='image', fixed_mask='mask')
        nodes[image] = align
        if kind == BOLD:
            mean = pe.Node(MeanFrame(image=str(image)), name=f'mean_{number}', mem_gb=need('mean', sizes))
            workflow.link(mean, align, moving='mean')
            means[image] = mean
        elif image in trains:
            mean = pe.Node(
                MeanEcho(echoes=trains[image]),
                name=f'mean_{kind}_{number}',
                mem_gb=need('register_rigid', sizes),
            )
            workflow.link(mean, align, moving='mean')
        elif image in gradients:
            tables = gradients[image]
            fits[image] = fit = pe.Node(
                FitTensor(images=str(image), bval=str(tables.bval), bvec=str(tables.bvec)),
                name=f'fit_{kind}_{number}',
                mem_gb=need('fit_tensor', sizes.with_frames(tables.shape)),
            )
            workflow.link(fit, align, moving='unweighted', facts='facts')
        elif window is not None:
            clip = pe.Node(
                Window(image=str(image), low=window[0], high=window[1]),
                name=f'window_{kind}_{number}',
                mem_gb=need('register_rigid', sizes),
            )
            workflow.link(clip, align, moving='image')
        else:
            align.inputs.moving = str(image)
        if kind == 'flair':
            continue
        place = pe.Node(
            Resample(interpolation='linear', invert=[False]),
            name=f'place_{kind}_{number}',
            mem_gb=need('resample_anat', sizes),
        )
        if kind == BOLD or image in trains:
            workflow.link(mean, place, image='mean')
        elif image in fits:
            workflow.link(fits[image], place, image='unweighted')
        elif window is not None:
            workflow.link(clip, place, 'image')
        else:
            place.inputs.image = str(image)
        flicker = pe.Node(
            PlotFlicker(
                title=f'{title} and anatomical image',
                labels=['anatomy', 'BOLD run' if kind == BOLD else title],
            ),
            name=f'flicker_{kind}_{number}',
            mem_gb=need('flicker', sizes),
        )
        path = figure_path(options, f'sub-{series_list[0].subject}', f'{kind}{number}2anat')
        save = pe.Node(SaveDerivatives({'figure': path}), name=f'save_{kind}_{number}')
        workflow.link(anat_wf, place, reference='image')
        workflow.link(align, place, transforms='xfm')
        workflow.link(anat_wf, flicker, fixed='image', mask='mask')
        workflow.link(place, flicker, moving='image')
        workflow.link(flicker, save, 'figure')
    return nodes, means, fits


def _add_joint_applications(
    workflow: pe.Workflow,
    built: 'list[tuple[Series, pe.Workflow]]',
    alignments: dict[Path, pe.Node],
    options: 'Options',
    atlas: 'Atlas',
    n_series: int,
):
    """Add the applications that take all series of a session, one node a session.

    ``n_series`` share the viewer, see `shares_of`.
    """
    of_series = {series.name: series_wf for series, series_wf in built}
    for (session, name), members in joint_runs([series for series, _ in built]).items():
        runs, series_list = zip(*members, strict=True)
        run, graphs = runs[0], [of_series[one.name] for one in series_list]
        node = application_node(runs, series_list, options, atlas.name)
        node.name = re.sub(r'\W', '_', '_'.join(filter(None, (name, session and f'ses_{session}'))))
        gathered = set.intersection(
            *(set(gathered_ports(one, what_applies(one, options))) for one in series_list)
        )
        for port in [*run.files, *(['gre_to_anat'] if run.use.inputs else [])]:
            if port in ATLAS and port not in gathered:
                setattr(node.inputs, port, [str(getattr(atlas, ATLAS[port]))] * len(members))
            elif port in gathered or port == 'gre_to_anat':
                merge = pe.Node(Merge(len(members)), name=f'{node.name}_{port}')
                for i, series_wf in enumerate(graphs, start=1):
                    workflow.link(series_wf, merge, **{f'in{i}': port})
                workflow.link(merge, node, **{port: 'out'})
        images = alignment_ports(series_list[0])
        sources = {port: (alignments[image], 'xfm') for port, image in images.items()}
        link_alignments(workflow, node, run, sources)
        save = application_save(run, series_list, options, atlas)
        save.name = f'save_{node.name}'
        workflow.link(node, save, **{outside: port for port, outside in run.outputs.items()})
        add_joint_viewer(
            workflow,
            node,
            run,
            series_list=series_list,
            options=options,
            mask=graphs[0],
            n_series=n_series,
        )


def _add_normalization(
    workflow: pe.Workflow,
    anat_wf: pe.Workflow,
    series: 'Series',
    template: 'Template',
    options: 'Options',
    atlas: 'Atlas | None',
):
    """Add the registration of the subject's anatomy to ``template``, and the saving of its results."""
    # brain extraction has made an affine to the first template, the one with the atlas
    has_affine = brain_by(series, options) == 'template' and atlas is not None
    given = next((pair for space, *pair in series.template_xfm if space == template.name), None)
    normalize_wf = init_normalize_wf(
        template=template.name,
        engine=options.registration.name,
        engine_params=options.registration.as_dict,
        has_transforms=given is not None,
        has_affine=given is None and has_affine,
        is_t1w=(series.t1w_preproc or series.t1w) is not None,
        sizes=Sizes.of(series),
        name=node_name(f'normalize_{template.name}'),
    )
    inputs = normalize_wf.inputs.inputnode
    inputs.template = str(template.t1w)
    if given is None:
        inputs.template_mask = str(template.mask)
        workflow.link(anat_wf, normalize_wf, 'mask')
        if has_affine:
            workflow.link(anat_wf, normalize_wf, 'affine')
    else:
        inputs.image_to_template, inputs.template_to_image = (str(path) for path in given)
    outputs_wf = init_normalize_outputs_wf(
        series=series,
        options=options,
        template=template,
        atlas=atlas,
        sizes=Sizes.of(series),
        name=node_name(f'save_{template.name}'),
    )
    workflow.link(anat_wf, normalize_wf, 'image')
    workflow.link(normalize_wf, outputs_wf, *TRANSFORMS, 'in_template')
    if atlas is not None:
        workflow.link(anat_wf, outputs_wf, 'image')
    return normalize_wf


def _add_standard(
    workflow: pe.Workflow,
    series_wf: pe.Workflow,
    normalize_wf: pe.Workflow,
    series: 'Series',
    template: 'Template',
    options: 'Options',
    is_refined: bool,
):
    """Add the maps of ``series`` in the space of ``template``."""
    label = f'{series_label(series)}_{template.name}'
    maps = standard_maps(series, options)
    standard_wf = init_standard_wf(
        maps=maps, is_refined=is_refined, sizes=Sizes.of(series), name=node_name(label)
    )
    standard_wf.inputs.inputnode.template = str(template.t1w)
    outputs_wf = init_standard_outputs_wf(
        series=series,
        options=options,
        template=template,
        maps=maps,
        is_refined=is_refined,
        name=node_name(f'{label}_save'),
    )
    workflow.link(normalize_wf, standard_wf, 'image_to_template')
    workflow.link(series_wf, standard_wf, 'gre_to_anat', *maps)
    workflow.link(standard_wf, outputs_wf, *maps)
    if 'chi' in maps:
        workflow.link(series_wf, outputs_wf, 'reference')
    if is_refined:
        workflow.link(series_wf, standard_wf, 'refine')
