"""Everything done to one series, from its files to its figures."""

from dataclasses import replace
from typing import TYPE_CHECKING

from bids_qsm.derivatives.products import Product, products_of
from bids_qsm.interfaces.anatomy import Resample
from bids_qsm.interfaces.measure import FILES
from bids_qsm.interfaces.plugins import CompareRegions
from bids_qsm.workflows import engine as pe
from bids_qsm.workflows.align import init_align_wf
from bids_qsm.workflows.applications import (
    alignment_ports,
    application_inputs,
    atlas_files,
    fit_ports,
    init_applications_wf,
    label_inputs_of,
    mean_ports,
    runs_of,
)
from bids_qsm.workflows.field import mask_of
from bids_qsm.workflows.given import given_inputs, init_given_recon_wf, init_given_wf
from bids_qsm.workflows.labels import (
    SEGMENTED,
    init_labels_wf,
    is_refined,
    label_files,
    label_inputs,
    map_inputs,
)
from bids_qsm.workflows.memory import Sizes, need
from bids_qsm.workflows.outputs import init_outputs_wf
from bids_qsm.workflows.phase import init_phase_wf
from bids_qsm.workflows.recon import init_recon_wf
from bids_qsm.workflows.reportlets import init_reportlets_wf, others_of
from bids_qsm.workflows.viewer import shown_images

if TYPE_CHECKING:
    from bids_qsm.app.options import Options
    from bids_qsm.layout.series import Series
    from bids_qsm.templates.atlases import Atlas
    from bids_qsm.templates.spaces import Template


CONDITIONED = ('magnitude', 'phase', 'combined', 'quality', 'notes')


def what_applies(series: 'Series', options: 'Options') -> 'Options':
    """``options`` less what needs susceptibility, where the series has R2* alone."""
    if 'chi' in series.maps:
        return options
    return replace(options, refinement=replace(options.refinement, name='none', params=()))


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
        filtered=options.filtered_phase,
        coils=series.coils,
        frames=series.frames,
        voxel_size=series.resampled,
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
    inputs.field_strength = series.field_strength
    inputs.filter_said = series.filtered
    return phase_wf


def saved_maps(products: dict[str, Product]) -> list[str]:
    """Maps among the ``products`` of a series that have a file."""
    return [port for port, one in products.items() if one.suffix]


def standard_maps(series: 'Series', options: 'Options') -> tuple[str, ...]:
    """Maps of the series that are resampled to template space."""
    return tuple(port for port, one in series_products(series, options).items() if one.in_template)


def series_products(series: 'Series', options: 'Options') -> dict[str, Product]:
    """The maps that a series gives."""
    return products_of(series, background=options.background.name, inversion=options.inversion.name)


def init_series_wf(
    *,
    series: 'Series',
    options: 'Options',
    template: 'Template',
    atlas: 'Atlas',
    is_anatomy: bool,
    n_series: int,
    omp_nthreads: int,
    name: str,
):
    """Reconstruct a series, label it, run its applications and draw it.

    ``series``, ``options``, ``template`` and its ``atlas`` are the frozen descriptions made before the graph.
    With ``is_anatomy`` the series stands in for the missing T1w; ``n_series`` of a participant share a page.

    Inputs: those of :func:`source_ports`, such as magnitude, phase (4D, rad), combined (magnitude, 3D),
    quality and notes (JSON); anat, anat_mask, brain_notes (JSON), template_to_image and, where they are
    needed, image_to_template and those of :func:`alignment_ports`, :func:`mean_ports` and
    :func:`fit_ports` of applications.
    Outputs: gre_to_anat, reference (JSON), maps that are resampled to template space, refine where the
    deep grey nuclei are segmented, and whatever applications of several series need.
    """
    workflow = pe.Workflow(name=name)
    sizes = Sizes.of(series)
    products = series_products(series, options)
    shown = [port for port, one in products.items() if one.look]
    placed_by = [port for port in label_inputs(options) if port != 'gre_to_anat']
    alignments = [*alignment_ports(series), *mean_ports(series), *fit_ports(series)]
    inputnode = pe.inputnode(
        *source_ports(series), 'anat', 'anat_mask', 'brain_notes', *placed_by, *alignments
    )
    refined = ['refine'] if is_refined(options) else []
    gathered = gathered_ports(series, options)
    reference = ['reference'] if 'chi' in products else []
    outputnode = pe.outputnode(
        *dict.fromkeys(['gre_to_anat', *reference, *standard_maps(series, options), *refined, *gathered])
    )

    moving = 'combined GRE magnitude' if series.magnitude or series.real else 'given map itself'
    align_wf = init_align_wf(is_anatomy=is_anatomy, sizes=sizes, moving=moving, in_t1w=series.in_t1w)
    recon_wf = init_series_recon_wf(series, options, omp_nthreads)
    asked = application_inputs(series)
    of_labels = label_inputs_of(series)
    placed = [port for port in ('white_matter', 'to_template') if port in (*asked, *gathered)]
    labels_wf = init_labels_wf(
        series=series,
        options=options,
        template=template,
        atlas=atlas,
        maps=map_inputs(options, products),
        wanted=[*placed, *(port for port in of_labels if port.startswith('own_dseg_'))],
        sizes=sizes,
    )
    reportlets_wf = init_reportlets_wf(maps=shown, sizes=sizes)
    reportlets_wf.inputs.inputnode.labels = str(atlas.labels)
    figures = (*shown, *others_of(shown))
    outputs_wf = init_outputs_wf(
        series=series,
        options=options,
        template=template,
        atlas=atlas,
        maps=saved_maps(products),
        figures=figures,
        n_series=n_series,
    )
    if not is_refined(options):
        outputs_wf.inputs.inputnode.labels = str(atlas.labels)
    if 'classical' in products:
        _add_comparison(workflow, recon_wf, labels_wf, outputs_wf, str(atlas.labels), sizes)

    workflow.link(inputnode, align_wf, 'combined', 'anat', 'anat_mask')
    taken = given_inputs(series) if series.given else [port for port in CONDITIONED if port != 'notes']
    workflow.link(inputnode, recon_wf, *taken)
    workflow.link(inputnode, labels_wf, *placed_by)
    workflow.link(align_wf, labels_wf, 'gre_to_anat')
    shown_in = map_inputs(options, products)
    if 'magnitude' in shown_in:
        workflow.link(inputnode, labels_wf, magnitude='combined')
    workflow.link(recon_wf, labels_wf, *(port for port in shown_in if port != 'magnitude'), mask='chi_mask')
    images = {'magnitude': 'combined', 'phase': 'phase'}
    images = {port: source for port, source in images.items() if port in products}
    workflow.link(inputnode, reportlets_wf, 'anat', 'anat_mask', **images)
    workflow.link(align_wf, reportlets_wf, 'in_anat')
    made = {port: PORTS.get(port, port) for port in products if port not in ('magnitude', 'phase')}
    drawn = {port: source for port, source in made.items() if port in shown}
    workflow.link(recon_wf, reportlets_wf, mask='chi_mask', **drawn)
    workflow.link(labels_wf, reportlets_wf, 'dseg')
    workflow.link(inputnode, outputs_wf, 'notes', 'brain_notes')
    if not series.given:
        workflow.link(recon_wf, outputs_wf, fit_notes='notes')
    workflow.link(align_wf, outputs_wf, 'gre_to_anat')
    workflow.link(align_wf, outputnode, 'gre_to_anat')
    workflow.link(recon_wf, outputnode, *reference, *standard_maps(series, options))
    workflow.link(recon_wf, outputs_wf, *reference, *saved_maps(products), mask='chi_mask')
    workflow.link(labels_wf, outputs_wf, *label_files(series, options))
    workflow.link(reportlets_wf, outputs_wf, **{f'figure_{kind}': kind for kind in figures})
    if 'magnitude' in images:
        workflow.link(inputnode, outputs_wf, magnitude='combined')
    if is_refined(options):
        workflow.link(labels_wf, outputnode, 'refine')
    segmented = SEGMENTED if is_refined(options) else ()
    sources = {
        **{port: (recon_wf, source) for port, source in made.items()},
        **{port: (inputnode, source) for port, source in images.items()},
        **{port: (labels_wf, port) for port in ('dseg', *segmented, *placed, *of_labels)},
        **{port: (inputnode, port) for port in alignments},
        'mask': (recon_wf, 'chi_mask'),
        **(
            {} if series.given else {'echoes': (inputnode, 'magnitude'), 'conditioning': (inputnode, 'notes')}
        ),
        **{port: (recon_wf, port) for port in reference},
        'gre_to_anat': (align_wf, 'gre_to_anat'),
    }
    of_atlas = atlas_files(options)
    ports = [port for port in asked if port in sources or port in of_atlas]
    if list(runs_of(series)):
        applications_wf = init_applications_wf(series=series, options=options, atlas=atlas, ports=ports)
        for port in (*(port for port in ports if port not in of_atlas), *of_labels):
            step, source = sources[port]
            workflow.link(step, applications_wf, **{port: source})
        made_by = [port for run in runs_of(series) for port in run.outputs.values()]
        workflow.link(applications_wf, outputs_wf, *made_by)
    for port in gathered:
        if port not in ('gre_to_anat', 'reference', *standard_maps(series, options)):
            step, source = sources[port]
            workflow.link(step, outputnode, **{port: source})
    if series.mask:
        _add_given_mask(workflow, series, sizes)
    elif not series.given or series.is_whole:
        workflow.link(align_wf, recon_wf, 'brain')
    return workflow


def _add_comparison(
    workflow: pe.Workflow,
    recon_wf: pe.Workflow,
    labels_wf: pe.Workflow,
    outputs_wf: pe.Workflow,
    labels: str,
    sizes: Sizes,
):
    """Compare the regions of the map of a plug-in with those of the classical map."""
    regions = pe.Node(
        CompareRegions(labels=labels), name='compare_regions', mem_gb=need('compare_regions', sizes)
    )
    workflow.link(recon_wf, regions, 'chi', 'classical', mask='chi_mask')
    workflow.link(labels_wf, regions, 'dseg')
    workflow.link(regions, outputs_wf, plugin_notes='notes')


def _add_given_mask(workflow: pe.Workflow, series: 'Series', sizes: Sizes):
    """Bring the mask of the user to the grid of the series."""
    place = pe.Node(
        Resample(image=str(series.mask), interpolation='label'),
        name='place_mask',
        mem_gb=need('carry_mask', sizes),
    )
    workflow.link(workflow.get_node('inputnode'), place, reference='combined')
    workflow.link(place, workflow.get_node('recon_wf'), brain='image')


def init_maps_wf(
    *,
    series: 'Series',
    options: 'Options',
    template: 'Template',
    atlas: 'Atlas',
    n_series: int,
    omp_nthreads: int,
    name: str,
):
    """Reconstruct and draw a series that is not laid onto a template: its maps alone, without regions.

    ``n_series`` of the participant share a page.

    Inputs: those of :func:`source_ports`.
    """
    workflow = pe.Workflow(name=name)
    sizes, products = Sizes.of(series), series_products(series, options)
    shown = [port for port, one in products.items() if one.look]
    inputnode = pe.inputnode(*source_ports(series))
    recon_wf = init_series_recon_wf(series, options, omp_nthreads)
    reportlets_wf = init_reportlets_wf(maps=shown, has_regions=False, sizes=sizes)
    figures = (*shown, *others_of(shown, has_regions=False))
    outputs_wf = init_outputs_wf(
        series=series,
        options=options,
        template=template,
        atlas=atlas,
        maps=saved_maps(products),
        figures=figures,
        n_series=n_series,
    )
    taken = given_inputs(series) if series.given else [port for port in CONDITIONED if port != 'notes']
    workflow.link(inputnode, recon_wf, *taken)
    images = {'magnitude': 'combined', 'phase': 'phase'}
    images = {port: source for port, source in images.items() if port in products}
    made = {port: PORTS.get(port, port) for port in products if port not in images}
    drawn = {port: source for port, source in made.items() if port in shown}
    workflow.link(inputnode, reportlets_wf, **images)
    workflow.link(recon_wf, reportlets_wf, mask='chi_mask', **drawn)
    reference = ['reference'] if 'chi' in products else []
    workflow.link(inputnode, outputs_wf, 'notes')
    if not series.given:
        workflow.link(recon_wf, outputs_wf, fit_notes='notes')
    workflow.link(recon_wf, outputs_wf, *reference, *saved_maps(products), mask='chi_mask')
    workflow.link(reportlets_wf, outputs_wf, **{f'figure_{kind}': kind for kind in figures})
    if 'magnitude' in images:
        workflow.link(inputnode, outputs_wf, magnitude='combined')
    if series.mask:
        _add_given_mask(workflow, series, sizes)
    return workflow


def gathered_ports(series: 'Series', options: 'Options') -> list[str]:
    """Ports of a series that applications of several series need."""
    runs = [*runs_of(series, ('subject',))]
    needed = {port for run in runs for port in run.files}
    needed |= {'mask'} if any(any(shown_images(run.app)) for run in runs) else set()
    there = {*series_products(series, options), *_PLACED, 'mask', 'reference'}
    there |= {'labels'} if is_refined(options) else set()
    there -= set() if 'chi' in series.maps else {'reference'}
    return [port for port in FILES if port in needed & there]


_PLACED = ('dseg', 'white_matter', 'to_template')
PORTS = {'localfield': 'local_field'}
"""Maps whose port in the reconstruction has another name."""


def init_series_recon_wf(series: 'Series', options: 'Options', omp_nthreads: int):
    """Reconstruct ``series`` with the methods that ``options`` choose, see :func:`init_recon_wf`."""
    if series.given:
        return init_given_recon_wf(
            series=series, options=options, sizes=Sizes.of(series), omp_nthreads=omp_nthreads
        )
    mask, mask_params = mask_of(series, options)
    recon_wf = init_recon_wf(
        field_params={
            'mask': mask,
            'mask_params': mask_params,
            'unwrap': options.unwrap.name,
            'unwrap_params': options.unwrap.as_dict,
            'field': options.field.name,
            'field_params': options.field.as_dict,
            'is_head': series.is_head,
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
