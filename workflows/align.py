"""Rigid alignment of a series to the anatomical image."""

from bids_qsm.interfaces.anatomy import IdentityTransform, RegisterRigid, Resample
from bids_qsm.workflows import engine as pe
from bids_qsm.workflows.memory import Sizes, need


def init_align_wf(
    *,
    is_anatomy: bool,
    sizes: Sizes,
    moving: str = 'combined GRE magnitude',
    in_t1w: bool = False,
    name: str = 'align_wf',
):
    """Align the series rigidly to the anatomical image and carry its brain mask over.

    With ``is_anatomy`` the series itself is the anatomical image (the subject has no T1w), and the
    alignment is the identity, and so it is where the series is ``in_t1w`` (in the space of the anatomical
    image) already. ``moving`` says in the methods text what is aligned.

    Inputs: combined (GRE magnitude, 3D), anat (image), anat_mask.
    Outputs: gre_to_anat (resamples the GRE onto the anatomical image), brain (mask on the
    GRE grid), in_anat (the GRE there).
    """
    workflow = pe.Workflow(name=name)
    inputnode = pe.inputnode('combined', 'anat', 'anat_mask')
    outputnode = pe.outputnode('gre_to_anat', 'brain', 'in_anat')
    if is_anatomy:
        rigid = pe.Node(IdentityTransform(), name='rigid')
        workflow.__desc__ = "The anatomical image is the magnitude of the series' own first echo."
    elif in_t1w:
        rigid = pe.Node(IdentityTransform(), name='rigid')
        workflow.__desc__ = 'The given maps were in the space of the T1w image and were not aligned again.'
    else:
        rigid = pe.Node(RegisterRigid(), name='rigid', mem_gb=need('register_rigid', sizes))
        workflow.link(inputnode, rigid, moving='combined', fixed='anat', fixed_mask='anat_mask')
        workflow.__desc__ = (
            f'The {moving} was aligned rigidly to the anatomical image by mutual information [@studholme].'
        )
    brain = pe.Node(
        Resample(interpolation='label', invert=[True]), name='brain', mem_gb=need('carry_mask', sizes)
    )
    in_anat = pe.Node(
        Resample(interpolation='linear', invert=[False]), name='in_anat', mem_gb=need('resample_anat', sizes)
    )
    workflow.link(inputnode, brain, image='anat_mask', reference='combined')
    workflow.link(inputnode, in_anat, image='combined', reference='anat')
    workflow.link(rigid, brain, transforms='xfm')
    workflow.link(rigid, in_anat, transforms='xfm')
    workflow.link(rigid, outputnode, gre_to_anat='xfm')
    workflow.link(brain, outputnode, brain='image')
    workflow.link(in_anat, outputnode, in_anat='image')
    return workflow
