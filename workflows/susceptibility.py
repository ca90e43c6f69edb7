"""From the total field to referenced susceptibility."""

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline import engine as pe

from bids_qsm.interfaces.background import RemoveBackground
from bids_qsm.interfaces.inversion import Invert
from bids_qsm.interfaces.reference import ReferenceChi

REFERENCE_PROSE = {
    'csf': 'Susceptibility is relative to the fluid of the ventricles [@csf] where that could be found '
    'by its low R2*, else to the mean of the brain, as each sidecar states.',
    'brain': 'Susceptibility is relative to the mean of the brain.',
    'none': 'Susceptibility was not referenced to a region.',
}


def init_susceptibility_wf(
    *,
    background: str,
    background_params: dict,
    inversion: str,
    inversion_params: dict,
    reference: str,
    reference_params: dict,
    volume_gb: float,
    omp_nthreads: int,
    name: str = 'susceptibility_wf',
):
    """Remove the background field, invert the dipole model, set the zero of susceptibility.

    Inputs: field, noise (ppm), mask, r2star (1/s).
    Outputs: local_field, chi (ppm), mask (where chi is given), reference (JSON).
    """
    workflow = pe.Workflow(name=name)
    zero = REFERENCE_PROSE.get(reference, f'Susceptibility is relative to {reference}.')
    workflow.__desc__ = (
        f'The background field was removed with {background.upper()} [@{background}], the dipole model '
        f'inverted with {inversion.upper()} [@{inversion}]. {zero}'
    )
    inputnode = pe.Node(IdentityInterface(['field', 'noise', 'mask', 'r2star']), name='inputnode')
    outputnode = pe.Node(IdentityInterface(['local_field', 'chi', 'mask', 'reference']), name='outputnode')
    remove = pe.Node(
        RemoveBackground(method=background, params=background_params),
        name='remove',
        mem_gb=0.3 + 20 * volume_gb,
        n_procs=omp_nthreads,
    )
    invert = pe.Node(
        Invert(method=inversion, params=inversion_params),
        name='invert',
        mem_gb=0.3 + 20 * volume_gb,
        n_procs=omp_nthreads,
    )
    refer = pe.Node(
        ReferenceChi(method=reference, params=reference_params), name='refer', mem_gb=0.3 + 6 * volume_gb
    )
    workflow.connect(
        [
            (inputnode, remove, [('field', 'field'), ('noise', 'noise'), ('mask', 'mask')]),
            (inputnode, invert, [('noise', 'noise')]),
            (inputnode, refer, [('r2star', 'r2star')]),
            (remove, invert, [('local_field', 'field'), ('mask', 'mask')]),
            (remove, refer, [('mask', 'mask')]),
            (invert, refer, [('chi', 'chi')]),
            (remove, outputnode, [('local_field', 'local_field'), ('mask', 'mask')]),
            (refer, outputnode, [('chi', 'chi'), ('note', 'reference')]),
        ]
    )
    return workflow
