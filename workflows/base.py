"""The whole graph: subjects, their anatomy, their series."""

import re

from bids_qsm.interfaces.anatomy import RegisterRigid
from bids_qsm.workflows import engine as pe
from bids_qsm.workflows.anat import init_anat_wf, init_normalize_wf
from bids_qsm.workflows.labels import label_inputs
from bids_qsm.workflows.memory import Sizes, need
from bids_qsm.workflows.outputs import (
    init_anat_outputs_wf,
    init_normalize_outputs_wf,
    init_standard_outputs_wf,
)
from bids_qsm.workflows.series import init_series_phase_wf, init_series_wf, source_ports, what_applies
from bids_qsm.workflows.standard import init_standard_wf

TRANSFORMS = ('image_to_template', 'template_to_image')


def node_name(label):
    """Name of a workflow for a BIDS name: letters, digits and underscores; '+' is legal in BIDS only."""
    return re.sub(r'\W', lambda sign: '_' if sign[0] == '-' else f'_{ord(sign[0]):x}_', label) + '_wf'


def series_label(series):
    """What tells the series of a subject apart."""
    return series.name.partition('_')[2] or 'series'


def owners(root, plan, spaces):
    """Whose the nodes are: prefix of their full names -> (subject, series name or None for its anatomy)."""
    found = {}
    for series in plan.series:
        subject = f'{root}.{node_name(f"sub-{series.subject}")}'
        label = series_label(series)
        found[subject] = (series.subject, None)
        steps = [label, f'{label}_phase']
        steps += [f'{label}_{space}{save}' for space in spaces for save in ('', '_save')]
        found |= {f'{subject}.{node_name(step)}': (series.subject, series.name) for step in steps}
    return found


def init_bids_qsm_wf(*, options, plan, templates, atlas, omp_nthreads: int, name: str = 'bids_qsm_wf'):
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


def init_subject_wf(*, series_list, options, templates, atlas, omp_nthreads: int, name: str):
    """Align the subject's anatomical image once and reconstruct each of its series.

    Without a T1w the first echo of the first series is the anatomical image.
    """
    workflow = pe.Workflow(name=name)
    first = series_list[0]
    image = first.t1w_preproc or first.t1w
    anat_wf = init_anat_wf(has_mask=first.brain_mask is not None, sizes=Sizes.of(first))
    inputs = anat_wf.inputs.inputnode
    if image is not None:
        inputs.image = str(image)
    if first.brain_mask is not None:
        inputs.mask = str(first.brain_mask)
    else:
        inputs.template, inputs.template_mask = str(templates[0].t1w), str(templates[0].mask)
    outputs_wf = init_anat_outputs_wf(series=first, options=options)
    saved = ('image', 'mask') if image is not None else ('mask',)
    workflow.connect([(anat_wf, outputs_wf, [(f'outputnode.{f}', f'inputnode.{f}') for f in saved])])
    normalize = {
        template.name: _add_normalization(
            workflow, anat_wf, first, template, options, atlas if template is templates[0] else None
        )
        for template in templates
    }
    flairs = _add_flairs(workflow, anat_wf, series_list)
    everyone = options
    for series in series_list:
        is_anatomy = image is None and series is first
        series, options = what_applies(series, everyone)
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
            omp_nthreads=omp_nthreads,
            name=node_name(label),
        )
        if is_anatomy:
            workflow.connect(phase_wf, 'outputnode.first_echo', anat_wf, 'inputnode.image')
        workflow.connect(
            [
                (
                    phase_wf,
                    series_wf,
                    [(f'outputnode.{f}', f'inputnode.{f}') for f in source_ports(series)],
                ),
                (
                    anat_wf,
                    series_wf,
                    [('outputnode.image', 'inputnode.anat'), ('outputnode.mask', 'inputnode.anat_mask')],
                ),
                (
                    normalize[templates[0].name],
                    series_wf,
                    [
                        (f'outputnode.{port}', f'inputnode.{port}')
                        for port in label_inputs(series, options)
                        if port in TRANSFORMS
                    ],
                ),
            ]
        )
        if series.lesions_flair:
            workflow.connect(flairs[series.flair], 'xfm', series_wf, 'inputnode.flair_to_anat')
        for template in templates:
            is_refined = options.refinement.name != 'none' and template is templates[0]
            _add_standard(
                workflow, series_wf, normalize[template.name], series, template, options, is_refined
            )
    return workflow


def _add_flairs(workflow, anat_wf, series_list):
    """Align the FLAIR images that lesions were drawn on with the anatomical image: node by image."""
    flairs = {}
    for image in dict.fromkeys(series.flair for series in series_list if series.lesions_flair):
        rigid = pe.Node(
            RegisterRigid(moving=str(image)),
            name=f'align_flair_{len(flairs) + 1}',
            mem_gb=need('register_rigid', Sizes.of(series_list[0])),
        )
        workflow.connect(
            [(anat_wf, rigid, [('outputnode.image', 'fixed'), ('outputnode.mask', 'fixed_mask')])]
        )
        flairs[image] = rigid
    return flairs


def _add_normalization(workflow, anat_wf, series, template, options, atlas):
    """Add the alignment of the subject's anatomy to ``template``, and what is saved of it."""
    # the brain was found by an affine to the first template, whose atlas is used
    has_affine = series.brain_mask is None and atlas is not None
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
        workflow.connect(anat_wf, 'outputnode.mask', normalize_wf, 'inputnode.mask')
        if has_affine:
            workflow.connect(anat_wf, 'outputnode.affine', normalize_wf, 'inputnode.affine')
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
    outputs = (*TRANSFORMS, 'in_template')
    workflow.connect(
        [
            (anat_wf, normalize_wf, [('outputnode.image', 'inputnode.image')]),
            (normalize_wf, outputs_wf, [(f'outputnode.{f}', f'inputnode.{f}') for f in outputs]),
        ]
    )
    if atlas is not None:
        workflow.connect(anat_wf, 'outputnode.image', outputs_wf, 'inputnode.image')
    return normalize_wf


def _add_standard(workflow, series_wf, normalize_wf, series, template, options, is_refined):
    """Add the maps of ``series`` in the space of ``template``."""
    label = f'{series_label(series)}_{template.name}'
    maps = series.maps
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
    workflow.connect(
        [
            (normalize_wf, standard_wf, [('outputnode.image_to_template', 'inputnode.image_to_template')]),
            (series_wf, standard_wf, [('outputnode.gre_to_anat', 'inputnode.gre_to_anat')]),
            (series_wf, standard_wf, [(f'outputnode.{m}', f'inputnode.{m}') for m in maps]),
            (standard_wf, outputs_wf, [(f'outputnode.{m}', f'inputnode.{m}') for m in maps]),
        ]
    )
    if 'chi' in maps:
        workflow.connect(series_wf, 'outputnode.reference', outputs_wf, 'inputnode.reference')
    if is_refined:
        workflow.connect(series_wf, 'outputnode.refine', standard_wf, 'inputnode.refine')
