"""Where the regions of a series lie: labels of the atlas and of the participant's own segmentations."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from nipype.interfaces.utility import Merge

from bids_qsm.anatomy.nuclei import REFINEMENT, SHOWN
from bids_qsm.anatomy.nucleus_names import body_of
from bids_qsm.anatomy.segmentation import label_table
from bids_qsm.derivatives.tables import read_labels
from bids_qsm.interfaces.anatomy import Resample
from bids_qsm.interfaces.refinement import RefineDeepGrey
from bids_qsm.interfaces.segmentation import ReadSegmentation
from bids_qsm.recon.registry import facts
from bids_qsm.workflows import engine as pe
from bids_qsm.workflows.memory import Sizes, need

if TYPE_CHECKING:
    from bids_qsm.app.options import Options
    from bids_qsm.layout.series import Segmentation, Series
    from bids_qsm.templates.atlases import Atlas
    from bids_qsm.templates.spaces import Template

REFINED = ('refine', 'unrefine', 'refinement')
SEGMENTED = ('labels', 'probseg')


def is_refined(options: 'Options') -> bool:
    """Whether the deep grey nuclei are segmented in the maps."""
    return options.refinement.name != 'none'


def map_inputs(options: 'Options', maps: Iterable[str]) -> list[str]:
    """Maps among ``maps`` of the series that :func:`init_labels_wf` takes."""
    wanted = ('chi', 'r2star', 'magnitude') if is_refined(options) else ()
    return [port for port in wanted if port in maps]


def label_files(series: 'Series', options: 'Options') -> list[str]:
    """Outputs of :func:`init_labels_wf` that are saved."""
    own = [f'{port}_{one.name}' for one in series.segmentations for port in ('dseg', 'labels')]
    refined = (*REFINED, *SEGMENTED) if is_refined(options) else ()
    return ['dseg', *refined, *own]


def label_inputs(options: 'Options') -> list[str]:
    """Inputs of :func:`init_labels_wf` that say where the series lies."""
    return ['gre_to_anat', 'template_to_image', *(['image_to_template'] if is_refined(options) else [])]


def to_template_invert(options: 'Options') -> list[bool]:
    """Which of the transforms of GRE points to points of the template are to be inverted."""
    return [True, False, *([False] if is_refined(options) else [])]


def init_labels_wf(
    *,
    series: 'Series',
    options: 'Options',
    template: 'Template',
    atlas: 'Atlas',
    maps: list[str],
    wanted: list[str],
    sizes: Sizes,
    name: str = 'labels_wf',
):
    """Bring the atlas and the participant's segmentations to the GRE.

    Inputs: ``maps`` (those of :func:`map_inputs`), mask (GRE grid), and those of :func:`label_inputs`.
    Outputs: dseg (of the atlas); where they are made refine, unrefine (transforms), refinement (JSON), and
    labels (table) and probseg of nuclei that were segmented;
    dseg_<name>, labels_<name> (table) of each segmentation of the participant; and those that are ``wanted``
    of white_matter (mask), to_template (transforms of GRE points to points of the template) and
    own_dseg_<name> (on its own grid).
    """
    workflow = pe.Workflow(name=name)
    workflow.__desc__ = (
        f'Regions are those of the atlas {atlas.name} ({atlas.citation}), carried to the GRE by the inverse '
        'transforms in one interpolation.'
    )
    inputnode = pe.inputnode('mask', *maps, *label_inputs(options))
    outputnode = pe.outputnode(*label_files(series, options), *wanted)
    invert = to_template_invert(options)
    to_template = pe.Node(Merge(len(invert)), name='to_template')
    workflow.link(inputnode, to_template, in1='gre_to_anat', in2='template_to_image')
    if 'to_template' in wanted:
        workflow.link(to_template, outputnode, to_template='out')
    images = {'white_matter': template.white_matter}
    if not is_refined(options):
        images = {'dseg': atlas.dseg, **images}
    for port, image in ((port, image) for port, image in images.items() if port in ('dseg', *wanted)):
        place = pe.Node(
            Resample(image=str(image), interpolation='label', invert=invert),
            name=f'atlas_{port}',  # place_<name> are those of segmentations
            mem_gb=need('resample_gre', sizes),
        )
        workflow.link(inputnode, place, reference='mask')
        workflow.link(to_template, place, transforms='out')
        workflow.link(place, outputnode, **{port: 'image'})
    if is_refined(options):
        _add_refinement(workflow, series, options, atlas, maps, sizes)
    for one in series.segmentations:
        _add_segmentation(workflow, one, wanted, sizes)
    if is_refined(options):
        _place_by_segmentation(workflow, series)
    return workflow


def _add_refinement(
    workflow: pe.Workflow,
    series: 'Series',
    options: 'Options',
    atlas: 'Atlas',
    maps: list[str],
    sizes: Sizes,
):
    """Find the nuclei in susceptibility, from where the anatomical image has them."""
    about = facts(REFINEMENT[options.refinement.name])
    workflow.__desc__ += f' {about.prose}'
    refine_labels = pe.Node(
        RefineDeepGrey(
            method=options.refinement.name,
            params=options.refinement.as_dict,
            dseg=str(atlas.dseg),
            labels=str(atlas.labels),
        ),
        name='refine_labels',
        mem_gb=need(about.memory, sizes),
    )
    if series.field_strength:
        refine_labels.inputs.field_strength = series.field_strength
    inputnode, outputnode = workflow.get_node('inputnode'), workflow.get_node('outputnode')
    transforms = ('image_to_template', 'template_to_image', 'gre_to_anat')
    workflow.link(inputnode, refine_labels, *maps, 'mask', *transforms)
    workflow.link(refine_labels, workflow.get_node('to_template'), in3='unrefine')
    workflow.link(refine_labels, outputnode, 'refine', 'unrefine', 'dseg', *SEGMENTED, refinement='note')


def _place_by_segmentation(workflow: pe.Workflow, series: 'Series'):
    """Let the first segmentation of the T1w that has the large nuclei say where they lie."""
    named = [one for one in series.segmentations if one.on == 'anat' and _has_nuclei(one)]
    if not named:
        return
    refine_labels = workflow.get_node('refine_labels')
    workflow.link(workflow.get_node(f'place_{named[0].name}'), refine_labels, given='image')
    workflow.link(workflow.get_node(f'read_{named[0].name}'), refine_labels, given_labels='labels')
    workflow.__desc__ += (
        ' Putamen, caudate, pallidum and thalamus were searched around their places in that named '
        f'{named[0].name}.'
    )


def _has_nuclei(one: 'Segmentation'):
    if one.table is None:
        return one.names == 'freesurfer'
    given = read_labels(one.table, dtype=str)
    labels = label_table(given['index'].astype(int), given)
    return bool(labels['region'].map(body_of).isin(SHOWN).any())


def _add_segmentation(workflow: pe.Workflow, one: 'Segmentation', wanted: list[str], sizes: Sizes):
    """Add the labels of a segmentation of the participant's own anatomy."""
    on_anat = one.on == 'anat'
    said = (
        "Segmentations of the subject's own anatomy were carried to the GRE by the rigid alignment."
        if on_anat
        else 'Segmentations of the GRE itself were taken without alignment, but resampled to its grid.'
    )
    if said not in workflow.__desc__:
        workflow.__desc__ += f' {said}'
    inputnode, outputnode = workflow.get_node('inputnode'), workflow.get_node('outputnode')
    read = pe.Node(
        ReadSegmentation(dseg=str(one.dseg), names=one.names),
        name=f'read_{one.name}',
        mem_gb=need('read_segmentation', sizes),
    )
    if one.table is not None:
        read.inputs.table = str(one.table)
    place = pe.Node(
        Resample(interpolation='label', invert=[True] if on_anat else []),
        name=f'place_{one.name}',
        mem_gb=need('resample_gre', sizes),
    )
    workflow.link(inputnode, place, reference='mask', **({'transforms': 'gre_to_anat'} if on_anat else {}))
    workflow.link(read, place, image='dseg')
    workflow.link(read, outputnode, **{f'labels_{one.name}': 'labels'})
    if f'own_dseg_{one.name}' in wanted:
        workflow.link(read, outputnode, **{f'own_dseg_{one.name}': 'dseg'})
    workflow.link(place, outputnode, **{f'dseg_{one.name}': 'image'})
