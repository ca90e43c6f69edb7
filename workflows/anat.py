"""The anatomical image of a subject and its alignment to templates, shared by all series."""

from nipype.interfaces.utility import IdentityInterface

from bids_qsm.anatomy.register import REGISTER
from bids_qsm.interfaces.anatomy import CorrectBias, ExtractBrain, RegisterTemplate, Resample
from bids_qsm.recon.registry import facts
from bids_qsm.workflows import engine as pe
from bids_qsm.workflows.memory import Sizes, need


def init_anat_wf(*, has_mask: bool, sizes: Sizes, name: str = 'anat_wf'):
    """Correct the anatomical image for its bias field and find its brain.

    With ``has_mask`` the brain mask comes in from earlier derivatives.

    Inputs: image (T1w, or GRE magnitude where there is none); template, template_mask or, where given, mask.
    Outputs: image (bias-corrected), mask and, where it was found here, affine (image to template).
    """
    workflow = pe.Workflow(name=name)
    ports = ['image', 'mask'] if has_mask else ['image', 'template', 'template_mask']
    inputnode = pe.Node(IdentityInterface(ports), name='inputnode')
    outputs = ['image', 'mask'] if has_mask else ['image', 'mask', 'affine']
    outputnode = pe.Node(IdentityInterface(outputs), name='outputnode')
    bias = pe.Node(CorrectBias(), name='bias', mem_gb=need('bias', sizes))
    workflow.connect([(inputnode, bias, [('image', 'image')]), (bias, outputnode, [('image', 'image')])])
    if has_mask:
        workflow.connect(inputnode, 'mask', outputnode, 'mask')
        found = 'taken from the derivatives given'
    else:
        brain = pe.Node(ExtractBrain(), name='brain_extraction', mem_gb=need('brain_extraction', sizes))
        workflow.connect(
            [
                (inputnode, brain, [('template', 'template'), ('template_mask', 'template_mask')]),
                (bias, brain, [('image', 'image')]),
                (brain, outputnode, [('mask', 'mask'), ('xfm', 'affine')]),
            ]
        )
        found = "the template's, carried back by mutual information [@studholme]"
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
    ours = ['mask', 'template_mask', *(['affine'] if has_affine else [])]
    inputnode = pe.Node(
        IdentityInterface(['image', 'template', *(transforms if has_transforms else ours)]), name='inputnode'
    )
    outputnode = pe.Node(IdentityInterface([*transforms, 'in_template']), name='outputnode')
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
        ports = [(port, 'init' if port == 'affine' else port) for port in ('image', 'template', *ours)]
        workflow.connect([(inputnode, source, ports)])
        how = (
            f'by symmetric diffeomorphic registration [@syn] ({about.prose}), the whole brain first, '
            'then the deep grey matter more finely'
            if is_t1w
            else 'by a smooth deformation that maximises mutual information [@studholme], as its contrast is '
            'not that of the template'
        )
        workflow.__desc__ = f'The anatomical image was registered to {template} {how}.'
    workflow.connect(
        [
            (inputnode, warp, [('image', 'image'), ('template', 'reference')]),
            (source, warp, [('image_to_template', 'transforms')]),
            (source, outputnode, [(t, t) for t in transforms]),
            (warp, outputnode, [('image', 'in_template')]),
        ]
    )
    return workflow
