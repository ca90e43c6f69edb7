"""The maps of a series in the template's space."""

from nipype.interfaces.utility import IdentityInterface, Merge

from bids_qsm.interfaces.anatomy import Resample
from bids_qsm.workflows import engine as pe
from bids_qsm.workflows.memory import Sizes, need


def init_standard_wf(*, maps: tuple[str, ...], is_refined: bool, sizes: Sizes, name: str = 'standard_wf'):
    """Resample maps of the series onto the template in one interpolation.

    Inputs: template, image_to_template, gre_to_anat, refine where the alignment of the deep grey matter
    ``is_refined``, and one port for each of ``maps``. Outputs: ``maps``.
    """
    workflow = pe.Workflow(name=name)
    transforms = [*(['refine'] if is_refined else []), 'image_to_template', 'gre_to_anat']
    inputnode = pe.Node(IdentityInterface(['template', *transforms, *maps]), name='inputnode')
    outputnode = pe.Node(IdentityInterface(list(maps)), name='outputnode')
    chain = pe.Node(Merge(len(transforms)), name='chain')
    workflow.connect([(inputnode, chain, [(port, f'in{i}') for i, port in enumerate(transforms, start=1)])])
    for port in maps:
        resample = pe.Node(
            Resample(interpolation='linear'), name=f'resample_{port}', mem_gb=need('resample_template', sizes)
        )
        workflow.connect(
            [
                (inputnode, resample, [(port, 'image'), ('template', 'reference')]),
                (chain, resample, [('out', 'transforms')]),
                (resample, outputnode, [('image', port)]),
            ]
        )
    return workflow
