"""Everything done to one series, from its files to its figures."""

from nipype.interfaces.utility import IdentityInterface

from bids_qsm.interfaces.anatomy import Resample
from bids_qsm.workflows import engine as pe
from bids_qsm.workflows.align import init_align_wf
from bids_qsm.workflows.labels import init_labels_wf, label_inputs, label_ports
from bids_qsm.workflows.memory import Sizes, need
from bids_qsm.workflows.outputs import init_outputs_wf
from bids_qsm.workflows.phase import init_phase_wf
from bids_qsm.workflows.recon import RELAXATION, init_recon_wf
from bids_qsm.workflows.reportlets import figures_of, init_reportlets_wf
from bids_qsm.workflows.susceptibility import is_one_step


def init_series_phase_wf(*, series, options, omp_nthreads: int, name: str):
    """Condition the phase of ``series``; on its own, as its magnitude may be the anatomical image."""
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


def standard_maps(series):
    """Maps of the series that are resampled to template space."""
    return ('chi', 'r2star') if len(series.echo_times) > 1 else ('chi',)


def init_series_wf(*, series, options, template, atlas, is_anatomy: bool, omp_nthreads: int, name: str):
    """Reconstruct a series, label it, tabulate it and draw it.

    ``series``, ``options``, ``template`` and its ``atlas`` are the frozen descriptions made before the graph.
    With ``is_anatomy`` the series stands in for the missing T1w.

    Inputs: magnitude, phase (4D, rad), combined (3D magnitude), quality, notes (JSON), all of
    :func:`init_series_phase_wf`; anat, anat_mask, template_to_image and, where they are needed,
    image_to_template and flair_to_anat.
    Outputs: gre_to_anat, reference (JSON), the maps that are resampled to template space, and refine, where
    the deep grey matter is aligned by susceptibility too.
    """
    workflow = pe.Workflow(name=name)
    n_echoes = len(series.echo_times)
    sizes = Sizes.of(series)
    has_r2star, is_refined = n_echoes > 1, options.refinement.name != 'none'
    placed_by = [port for port in label_inputs(series, options) if port != 'gre_to_anat']
    inputnode = pe.Node(
        IdentityInterface(
            [
                *('magnitude', 'phase', 'combined', 'quality', 'notes'),
                *('anat', 'anat_mask', *(port for port in placed_by if port != 'anat')),
            ]
        ),
        name='inputnode',
    )
    refined = ['refine'] if is_refined else []
    outputnode = pe.Node(
        IdentityInterface(['gre_to_anat', 'reference', *standard_maps(series), *refined]), name='outputnode'
    )

    align_wf = init_align_wf(is_anatomy=is_anatomy, sizes=sizes)
    recon_wf = init_series_recon_wf(series, options, omp_nthreads)
    labels_wf = init_labels_wf(
        series=series, options=options, template=template, atlas=atlas, sizes=sizes, has_r2star=has_r2star
    )
    figures = figures_of(n_echoes=n_echoes, one_step=is_one_step(options.inversion.name))
    reportlets_wf = init_reportlets_wf(figures=figures, sizes=sizes)
    reportlets_wf.inputs.inputnode.labels = str(atlas.labels)
    outputs_wf = init_outputs_wf(
        series=series, options=options, template=template, atlas=atlas, figures=figures
    )
    outputs_wf.inputs.inputnode.labels = str(atlas.labels)

    relaxation = RELAXATION if has_r2star else ()
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
                [(f, f'inputnode.{f}') for f in ('magnitude', 'phase', 'combined', 'quality')],
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
                    ('outputnode.chi', 'inputnode.chi'),
                    ('outputnode.chi_mask', 'inputnode.mask'),
                    ('outputnode.reference', 'inputnode.reference'),
                    *([('outputnode.r2star', 'inputnode.r2star')] if has_r2star else []),
                ],
            ),
            (
                inputnode,
                reportlets_wf,
                [
                    ('combined', 'inputnode.magnitude'),
                    *[(f, f'inputnode.{f}') for f in ('phase', 'anat', 'anat_mask')],
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
                [(f'outputnode.{f}', f) for f in ('reference', *standard_maps(series))],
            ),
            (
                recon_wf,
                outputs_wf,
                [
                    (f'outputnode.{f}', f'inputnode.{f}')
                    for f in ('chi', 'swi', 'minip', 'reference', *relaxation)
                ],
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
    else:
        workflow.connect(align_wf, 'outputnode.brain', recon_wf, 'inputnode.brain')
    return workflow


def init_series_recon_wf(series, options, omp_nthreads):
    """Reconstruct ``series`` with the methods that ``options`` choose, see :func:`init_recon_wf`."""
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
