"""The maps of a series in the template's space."""

from nipype.interfaces.utility import IdentityInterface, Merge
from nipype.pipeline import engine as pe

from bids_qsm.interfaces.anatomy import Resample


def init_standard_wf(*, maps: tuple[str, ...], name: str = 'standard_wf'):
    """Resample maps of the series onto the template in one interpolation.

    Inputs: template, image_to_template, gre_to_anat, and one port for each of ``maps``. Outputs: ``maps``.
    """
    workflow = pe.Workflow(name=name)
    inputnode = pe.Node(
        IdentityInterface(['template', 'image_to_template', 'gre_to_anat', *maps]), name='inputnode'
    )
    outputnode = pe.Node(IdentityInterface(list(maps)), name='outputnode')
    chain = pe.Node(Merge(2), name='chain')
    workflow.connect([(inputnode, chain, [('image_to_template', 'in1'), ('gre_to_anat', 'in2')])])
    for port in maps:
        resample = pe.Node(
            Resample(interpolation='linear', invert=[False, False]), name=f'resample_{port}', mem_gb=1.5
        )
        workflow.connect(
            [
                (inputnode, resample, [(port, 'image'), ('template', 'reference')]),
                (chain, resample, [('out', 'transforms')]),
                (resample, outputnode, [('image', port)]),
            ]
        )
    return workflow
