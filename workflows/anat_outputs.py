"""Where results of the anatomy and its registration go in the output dataset."""

from typing import TYPE_CHECKING

from bids_qsm.derivatives.files import bids_uri, output_path, sidecar
from bids_qsm.interfaces.anatomy import Resample
from bids_qsm.interfaces.derivatives import SaveDerivatives
from bids_qsm.interfaces.report import PlotFlicker, PlotOutlines
from bids_qsm.workflows import engine as pe
from bids_qsm.workflows.memory import Sizes, need
from bids_qsm.workflows.outputs import anat_name, figure_path, sources_of

if TYPE_CHECKING:
    from bids_qsm.app.options import Options
    from bids_qsm.layout.series import Series
    from bids_qsm.templates.atlases import Atlas
    from bids_qsm.templates.spaces import Template


def init_anat_outputs_wf(*, series: 'Series', options: 'Options', name: str = 'save_anat_wf'):
    """Save the subject's anatomical image, where it is a T1w, and its brain mask. Inputs: image, mask."""
    workflow = pe.Workflow(name=name)
    entities = _anat_entities(series)
    roots = {'raw': options.bids_dir, **dict(options.derivatives)}
    image = series.t1w_preproc or series.t1w
    sources = (bids_uri(image, roots),) if image else sources_of(series, options)
    paths = {
        'mask': output_path(
            options.output_dir, entities, space=anat_name(series), suffix='mask', desc='brain'
        )
    }
    sidecars = {
        'mask': sidecar(
            'Brain mask of the anatomical image',
            sources=sources,
            mask_type='Brain',
            spatial_reference=sources[0],
        )
    }
    if image:
        paths['image'] = output_path(options.output_dir, entities, suffix='T1w', desc='preproc')
        sidecars['image'] = sidecar('Bias-corrected T1w', sources=sources, skull_stripped=False)
    inputnode = pe.inputnode(*paths)
    save = pe.Node(SaveDerivatives(paths, sidecars), name='save')
    workflow.link(inputnode, save, *paths)
    return workflow


def _anat_entities(series: 'Series') -> dict[str, str]:
    """Entities of the subject's anatomy: its sessions and runs share it."""
    return {'sub': series.subject}


def init_normalize_outputs_wf(
    *,
    series: 'Series',
    options: 'Options',
    template: 'Template',
    atlas: 'Atlas | None',
    sizes: Sizes,
    name: str,
):
    """Save the transforms between the anatomy and a template, and figures of how they fit.

    ``atlas`` is drawn on the anatomical image, None where it is in another space.

    Inputs: image_to_template, template_to_image, in_template, and with an atlas image (the anatomical one).
    """
    workflow = pe.Workflow(name=name)
    anat, subject = anat_name(series), f'sub-{series.subject}'
    ends = {'image_to_template': (anat, template.name), 'template_to_image': (template.name, anat)}
    ports = [*ends, 'in_template', *(['image'] if atlas is not None else [])]
    inputnode = pe.inputnode(*ports)
    entities = {**_anat_entities(series), 'mode': 'image'}
    given = any(space == template.name for space, *_ in series.template_xfm)
    paths = {
        port: output_path(
            options.output_dir,
            {**entities, 'from': source, 'to': target},
            suffix='xfm',
            extension='.h5' if given else '.nii.gz',
        )
        for port, (source, target) in ends.items()
    }
    paths['flicker'] = figure_path(options, f'{subject}_space-{template.name}', 't1w2template')
    if atlas is not None:
        paths['outlines'] = figure_path(options, subject, 'atlast1w')
    save = pe.Node(SaveDerivatives(paths), name='save')
    flicker = pe.Node(
        PlotFlicker(title=f'Anatomical image and {template.name}', labels=['template', 'anatomy']),
        name='flicker',
        mem_gb=need('flicker', sizes),
    )
    flicker.inputs.fixed, flicker.inputs.mask = str(template.t1w), str(template.mask)
    workflow.link(inputnode, save, *ends)
    workflow.link(inputnode, flicker, moving='in_template')
    workflow.link(flicker, save, flicker='figure')
    if atlas is not None:
        place = pe.Node(
            Resample(image=str(atlas.dseg), interpolation='label', invert=[False]),
            name='place',
            mem_gb=need('place_atlas', sizes),
        )
        outlines = pe.Node(
            PlotOutlines(labels=str(atlas.labels)),
            name='outlines',
            mem_gb=need('plot_anat', sizes),
        )
        workflow.link(inputnode, place, reference='image', transforms='template_to_image')
        workflow.link(inputnode, outlines, 'image')
        workflow.link(place, outlines, dseg='image')
        workflow.link(outlines, save, outlines='figure')
    return workflow
