"""The anatomical image of a subject and its alignment to templates, shared by all series."""

from bids_qsm.anatomy.register import REGISTER
from bids_qsm.interfaces.anatomy import (
    CheckBrain,
    CorrectBias,
    ExtractBrain,
    ExtractBrainHdBet,
    RegisterTemplate,
    Resample,
)
from bids_qsm.recon.registry import facts
from bids_qsm.workflows import engine as pe
from bids_qsm.workflows.memory import Sizes, need


def init_anat_wf(*, brain_by: str, is_t1w: bool, has_quality: bool, sizes: Sizes, name: str = 'anat_wf'):
    """Correct the anatomical image for its bias field and find its brain.

    The brain is found ``brain_by`` 'template' or 'hdbet', or a mask comes in from earlier derivatives or the
    user ('given').

    Inputs: image (T1w or, unless ``is_t1w``, GRE magnitude); by the template also template, template_mask
    and, of a magnitude that ``has_quality``, quality of its phase; given also mask (on any grid).
    Outputs: image (bias-corrected), mask, notes (JSON) and, by the template, affine (to it).
    """
    workflow = pe.Workflow(name=name)
    of_phase = ['quality'] if has_quality else []
    taken = {'given': ['mask'], 'template': ['template', 'template_mask', *of_phase], 'hdbet': []}
    inputnode = pe.inputnode('image', *taken[brain_by])
    outputnode = pe.outputnode('image', 'mask', 'notes', *(['affine'] if brain_by == 'template' else []))
    bias = pe.Node(CorrectBias(is_t1w=is_t1w), name='bias', mem_gb=need('bias', sizes))
    workflow.link(inputnode, bias, 'image')
    workflow.link(bias, outputnode, 'image')
    if brain_by == 'template':
        brain = pe.Node(
            ExtractBrain(is_t1w=is_t1w), name='brain_extraction', mem_gb=need('brain_extraction', sizes)
        )
        workflow.link(inputnode, brain, 'template', 'template_mask', *of_phase)
        workflow.link(bias, brain, 'image')
        workflow.link(brain, outputnode, 'mask', 'notes', affine='xfm')
        found = (
            "the template's, laid onto the bright brain in its dark skull and bent by mutual information "
            '[@studholme]'
        )
        if not is_t1w:
            voters = 'tissue as bright as the brain' + (' and the quality of the phase' if of_phase else '')
            found += f', where {voters} agreed'
    else:
        if brain_by == 'given':
            source = pe.Node(
                Resample(interpolation='label'), name='place_mask', mem_gb=need('carry_mask', sizes)
            )
            workflow.link(inputnode, source, image='mask', reference='image')
            port, found = 'image', 'given'
        else:
            source = pe.Node(ExtractBrainHdBet(), name='hdbet', mem_gb=need('hdbet', sizes))
            workflow.link(bias, source, 'image')
            port, found = 'mask', 'found by HD-BET [@hdbet]'
        check = pe.Node(CheckBrain(), name='check')
        workflow.link(source, check, mask=port)
        workflow.link(source, outputnode, mask=port)
        workflow.link(check, outputnode, 'notes')
    workflow.__desc__ = (
        'The anatomical image was corrected for its bias field (in the manner of N4 [@n4]); '
        f'its brain mask was {found}.'
    )
    return workflow


def init_normalize_wf(
    *,
    template: str,
    engine: str,
    engine_params: dict,
    has_transforms: bool,
    has_affine: bool,
    is_t1w: bool,
    sizes: Sizes,
    name: str = 'normalize_wf',
):
    """Align the anatomical image to a template.

    With ``has_transforms`` the transforms come in from earlier derivatives and nothing is computed; with
    ``has_affine`` an affine that is known already is where registration starts. An image that ``is_t1w``
    shares the template's contrast.

    Inputs: image, template; mask, template_mask (affine) or, where given, image_to_template,
    template_to_image.
    Outputs: image_to_template, template_to_image (each resamples images of the first onto the second),
    in_template (the image resampled onto the template).
    """
    workflow = pe.Workflow(name=name)
    transforms = ['image_to_template', 'template_to_image']
    affine = {'init': 'affine'} if has_affine else {}
    ours = ['mask', 'template_mask', *affine.values()]
    inputnode = pe.inputnode('image', 'template', *(transforms if has_transforms else ours))
    outputnode = pe.outputnode(*transforms, 'in_template')
    warp = pe.Node(
        Resample(interpolation='linear', invert=[False]), name='warp', mem_gb=need('resample_template', sizes)
    )
    if has_transforms:
        source = inputnode
        workflow.__desc__ = (
            f'Transforms between the anatomical image and {template} were taken from the derivatives given.'
        )
    else:
        about = facts(REGISTER[engine])
        source = pe.Node(
            RegisterTemplate(method=engine, params=engine_params, same_contrast=is_t1w),
            name='register',
            mem_gb=need(about.memory, sizes),
        )
        workflow.link(inputnode, source, 'image', 'template', 'mask', 'template_mask', **affine)
        how = (
            f'by symmetric diffeomorphic registration [@syn] ({about.prose}), the whole brain first, '
            'then the deep grey matter more finely'
            if is_t1w
            else 'by a smooth deformation that maximises mutual information [@studholme], as its contrast is '
            'not that of the template'
        )
        workflow.__desc__ = f'The anatomical image was registered to {template} {how}.'
    workflow.link(inputnode, warp, 'image', reference='template')
    workflow.link(source, warp, transforms='image_to_template')
    workflow.link(source, outputnode, *transforms)
    workflow.link(warp, outputnode, in_template='image')
    return workflow
