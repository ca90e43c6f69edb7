"""Where the series lies in the anatomical image."""

from nipype.interfaces.utility import IdentityInterface

from bids_qsm.interfaces.anatomy import RegisterRigid, Resample
from bids_qsm.interfaces.xfm import IdentityTransform
from bids_qsm.workflows import engine as pe
from bids_qsm.workflows.memory import Sizes, need


def init_align_wf(
    *, is_anatomy: bool, sizes: Sizes, moving: str = 'combined GRE magnitude', name: str = 'align_wf'
):
    """Align the series rigidly to the anatomical image and carry its brain mask over.

    With ``is_anatomy`` the series itself is the anatomical image (the subject has no T1w), and the
    alignment is the identity. ``moving`` says in the methods text what is aligned.

    Inputs: combined (GRE magnitude, 3D), anat (image), anat_mask.
    Outputs: gre_to_anat (resamples the GRE onto the anatomical image), brain (mask on the
    GRE grid), in_anat (the GRE there).
    """
    workflow = pe.Workflow(name=name)
    inputnode = pe.Node(IdentityInterface(['combined', 'anat', 'anat_mask']), name='inputnode')
    outputnode = pe.Node(IdentityInterface(['gre_to_anat', 'brain', 'in_anat']), name='outputnode')
    if is_anatomy:
        rigid = pe.Node(IdentityTransform(), name='rigid')
        workflow.__desc__ = "The anatomical image is the magnitude of the series' own first echo."
    else:
        rigid = pe.Node(RegisterRigid(), name='rigid', mem_gb=need('register_rigid', sizes))
        workflow.connect(
            [
                (
                    inputnode,
                    rigid,
                    [('combined', 'moving'), ('anat', 'fixed'), ('anat_mask', 'fixed_mask')],
                )
            ]
        )
        workflow.__desc__ = (
            f'The {moving} was aligned rigidly to the anatomical image by mutual information [@studholme].'
        )
    brain = pe.Node(
        Resample(interpolation='label', invert=[True]), name='brain', mem_gb=need('carry_mask', sizes)
    )
    in_anat = pe.Node(
        Resample(interpolation='linear', invert=[False]), name='in_anat', mem_gb=need('resample_anat', sizes)
    )
    workflow.connect(
        [
            (inputnode, brain, [('anat_mask', 'image'), ('combined', 'reference')]),
            (inputnode, in_anat, [('combined', 'image'), ('anat', 'reference')]),
            (rigid, brain, [('xfm', 'transforms')]),
            (rigid, in_anat, [('xfm', 'transforms')]),
            (rigid, outputnode, [('xfm', 'gre_to_anat')]),
            (brain, outputnode, [('image', 'brain')]),
            (in_anat, outputnode, [('image', 'in_anat')]),
        ]
    )
    return workflow
