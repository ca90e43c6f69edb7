"""The maps of a series in the template's space."""

from nipype.interfaces.utility import Merge

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
    inputnode = pe.inputnode('template', *transforms, *maps)
    outputnode = pe.outputnode(*maps)
    chain = pe.Node(Merge(len(transforms)), name='chain')
    workflow.link(inputnode, chain, **{f'in{i}': port for i, port in enumerate(transforms, start=1)})
    for port in maps:
        resample = pe.Node(
            Resample(interpolation='linear'), name=f'resample_{port}', mem_gb=need('resample_template', sizes)
        )
        workflow.link(inputnode, resample, image=port, reference='template')
        workflow.link(chain, resample, transforms='out')
        workflow.link(resample, outputnode, **{port: 'image'})
    return workflow
