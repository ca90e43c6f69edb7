"""Everything done to one series, from its files to its figures."""

from dataclasses import replace
from typing import TYPE_CHECKING

from nipype.interfaces.utility import IdentityInterface

from bids_qsm.interfaces.anatomy import Resample
from bids_qsm.workflows import engine as pe
from bids_qsm.workflows.align import init_align_wf
from bids_qsm.workflows.given import given_inputs, init_given_recon_wf, init_given_wf
from bids_qsm.workflows.labels import init_labels_wf, label_inputs, label_ports
from bids_qsm.workflows.memory import Sizes, need
from bids_qsm.workflows.outputs import init_outputs_wf
from bids_qsm.workflows.phase import init_phase_wf
from bids_qsm.workflows.recon import RELAXATION, init_recon_wf
from bids_qsm.workflows.reportlets import figures_of, init_reportlets_wf
from bids_qsm.workflows.susceptibility import is_one_step

if TYPE_CHECKING:
    from bids_qsm.app.options import Options
    from bids_qsm.layout.series import Series
    from bids_qsm.templates.atlases import Atlas
    from bids_qsm.templates.spaces import Template

CONDITIONED = ('magnitude', 'phase', 'combined', 'quality', 'notes')


def what_applies(series: 'Series', options: 'Options') -> tuple['Series', 'Options']:
    """``series`` and ``options`` less what needs susceptibility, where the series has R2* alone."""
    if 'chi' in series.maps:
        return series, options
    bare = replace(series, lesions_anat=(), lesions_gre=(), lesions_flair=())
    return bare, replace(
        options, refinement=replace(options.refinement, name='none', params=()), candidates=False
    )


def source_ports(series: 'Series') -> tuple[str, ...]:
    """What :func:`init_series_phase_wf` hands to :func:`init_series_wf`."""
    if not series.given:
        return CONDITIONED
    return tuple(dict.fromkeys([*given_inputs(series), 'combined', 'notes']))


def init_series_phase_wf(*, series: 'Series', options: 'Options', omp_nthreads: int, name: str):
    """Condition the phase of ``series``, or read the maps that it starts from.

    It is on its own, as the magnitude may be the anatomical image.
    """
    if series.given:
        return init_given_wf(series=series, sizes=Sizes.of(series), name=name)
    phase_wf = init_phase_wf(
        scaling=options.phase_scaling,
        sign=options.phase_sign,
        slice_flip=options.slice_flip,
        bipolar=options.bipolar,
        coils=series.coils,
        sizes=Sizes.of(series),
        omp_nthreads=omp_nthreads,
        name=name,
    )
    inputs = phase_wf.inputs.inputnode
    for part in ('magnitude', 'phase', 'real', 'imag'):
        if files := getattr(series, part):
            setattr(inputs, part, [str(f) for f in files])
    inputs.echo_times = list(series.echo_times)
    inputs.manufacturer = series.manufacturer or ''
    return phase_wf


def init_series_wf(
    *,
    series: 'Series',
    options: 'Options',
    template: 'Template',
    atlas: 'Atlas',
    is_anatomy: bool,
    omp_nthreads: int,
    name: str,
):
    """Reconstruct a series, label it, tabulate it and draw it.

    ``series``, ``options``, ``template`` and its ``atlas`` are the frozen descriptions made before the graph.
    With ``is_anatomy`` the series stands in for the missing T1w.

    Inputs: those of :func:`source_ports`, such as magnitude, phase (4D, rad), combined (3D magnitude),
    quality and notes (JSON); anat, anat_mask, template_to_image and, where they are needed,
    image_to_template and flair_to_anat.
    Outputs: gre_to_anat, reference (JSON), the maps that are resampled to template space, and refine, where
    the deep grey matter is aligned by susceptibility too.
    """
    workflow = pe.Workflow(name=name)
    sizes = Sizes.of(series)
    has_r2star, is_refined = 'r2star' in series.maps, options.refinement.name != 'none'
    of_chi = ['chi', 'reference'] if 'chi' in series.maps else []
    placed_by = [port for port in label_inputs(series, options) if port != 'gre_to_anat']
    inputnode = pe.Node(
        IdentityInterface(
            [
                *source_ports(series),
                *('anat', 'anat_mask', *(port for port in placed_by if port != 'anat')),
            ]
        ),
        name='inputnode',
    )
    refined = ['refine'] if is_refined else []
    outputs = list(dict.fromkeys([*of_chi, *series.maps]))
    outputnode = pe.Node(IdentityInterface(['gre_to_anat', *outputs, *refined]), name='outputnode')

    moving = 'combined GRE magnitude' if series.magnitude or series.real else 'given map itself'
    align_wf = init_align_wf(is_anatomy=is_anatomy, sizes=sizes, moving=moving)
    recon_wf = init_series_recon_wf(series, options, omp_nthreads)
    labels_wf = init_labels_wf(
        series=series, options=options, template=template, atlas=atlas, sizes=sizes, has_r2star=has_r2star
    )
    figures = figures_of(series=series, one_step=is_one_step(options.inversion.name))
    reportlets_wf = init_reportlets_wf(figures=figures, sizes=sizes)
    reportlets_wf.inputs.inputnode.labels = str(atlas.labels)
    outputs_wf = init_outputs_wf(
        series=series, options=options, template=template, atlas=atlas, figures=figures
    )
    outputs_wf.inputs.inputnode.labels = str(atlas.labels)

    if series.given:
        saved = (*outputs, *(RELAXATION[1:] if series.echo_times else ()))
        taken = given_inputs(series)
        has_brain = series.is_whole or series.mask is not None
    else:
        saved = ('chi', 'swi', 'minip', 'reference', *(RELAXATION if has_r2star else ()))
        taken, has_brain = ('magnitude', 'phase', 'combined', 'quality'), True
    workflow.connect(
        [
            (
                inputnode,
                align_wf,
                [(f, f'inputnode.{f}') for f in ('combined', 'anat', 'anat_mask')],
            ),
            (
                inputnode,
                recon_wf,
                [(f, f'inputnode.{f}') for f in taken],
            ),
            (
                inputnode,
                labels_wf,
                [(port, f'inputnode.{port}') for port in placed_by],
            ),
            (align_wf, labels_wf, [('outputnode.gre_to_anat', 'inputnode.gre_to_anat')]),
            (
                recon_wf,
                labels_wf,
                [
                    ('outputnode.chi_mask', 'inputnode.mask'),
                    *[(f'outputnode.{f}', f'inputnode.{f}') for f in outputs],
                ],
            ),
            (
                inputnode,
                reportlets_wf,
                [
                    *([('combined', 'inputnode.magnitude')] if 'magnitude' in figures else []),
                    *([('phase', 'inputnode.phase')] if 'phase' in figures else []),
                    *[(f, f'inputnode.{f}') for f in ('anat', 'anat_mask')],
                ],
            ),
            (align_wf, reportlets_wf, [('outputnode.in_anat', 'inputnode.in_anat')]),
            (
                recon_wf,
                reportlets_wf,
                [
                    ('outputnode.chi_mask', 'inputnode.mask'),
                    *[
                        (f'outputnode.{port}', f'inputnode.{port.replace("_", "")}')
                        for port in ('field', 'residual', 'local_field', 'chi', 'r2star', 'swi', 'minip')
                        if port.replace('_', '') in figures
                    ],
                ],
            ),
            (
                labels_wf,
                reportlets_wf,
                [('outputnode.dseg', 'inputnode.dseg'), ('outputnode.table', 'inputnode.table')],
            ),
            (inputnode, outputs_wf, [('notes', 'inputnode.notes')]),
            (align_wf, outputs_wf, [('outputnode.gre_to_anat', 'inputnode.gre_to_anat')]),
            (align_wf, outputnode, [('outputnode.gre_to_anat', 'gre_to_anat')]),
            (
                recon_wf,
                outputnode,
                [(f'outputnode.{f}', f) for f in outputs],
            ),
            (
                recon_wf,
                outputs_wf,
                [(f'outputnode.{f}', f'inputnode.{f}') for f in saved],
            ),
            (recon_wf, outputs_wf, [('outputnode.chi_mask', 'inputnode.mask')]),
            (
                labels_wf,
                outputs_wf,
                [(f'outputnode.{port}', f'inputnode.{port}') for port in label_ports(series, options)],
            ),
            (
                reportlets_wf,
                outputs_wf,
                [(f'outputnode.{f}', f'inputnode.figure_{f}') for f in figures],
            ),
        ]
    )
    if is_refined:
        workflow.connect(labels_wf, 'outputnode.refine', outputnode, 'refine')
    if series.mask:
        place = pe.Node(
            Resample(image=str(series.mask), interpolation='label'),
            name='place_mask',
            mem_gb=need('carry_mask', sizes),
        )
        workflow.connect(
            [
                (inputnode, place, [('combined', 'reference')]),
                (place, recon_wf, [('image', 'inputnode.brain')]),
            ]
        )
    elif has_brain:
        workflow.connect(align_wf, 'outputnode.brain', recon_wf, 'inputnode.brain')
    return workflow


def init_series_recon_wf(series: 'Series', options: 'Options', omp_nthreads: int):
    """Reconstruct ``series`` with the methods that ``options`` choose, see :func:`init_recon_wf`."""
    if series.given:
        return init_given_recon_wf(
            series=series, options=options, sizes=Sizes.of(series), omp_nthreads=omp_nthreads
        )
    recon_wf = init_recon_wf(
        field_params={
            # of a mask of the user the largest piece is taken as it is
            'mask': 'brain' if series.mask else options.mask.name,
            'mask_params': {} if series.mask else options.mask.as_dict,
            'unwrap': options.unwrap.name,
            'unwrap_params': options.unwrap.as_dict,
            'field': options.field.name,
            'field_params': options.field.as_dict,
        },
        inversion_params={
            'background': options.background.name,
            'background_params': options.background.as_dict,
            'inversion': options.inversion.name,
            'inversion_params': options.inversion.as_dict,
            'device': options.device,
        },
        reference=options.reference.name,
        reference_params=options.reference.as_dict,
        r2star=options.r2star.name,
        r2star_params=options.r2star.as_dict,
        swi=options.swi.name,
        swi_params=options.swi.as_dict,
        n_echoes=len(series.echo_times),
        sizes=Sizes.of(series),
        omp_nthreads=omp_nthreads,
    )
    recon_wf.inputs.inputnode.echo_times = list(series.echo_times)
    recon_wf.inputs.inputnode.field_strength = series.field_strength
    return recon_wf
