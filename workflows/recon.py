"""The reconstruction chain of one series: scanner phase to susceptibility, R2* and SWI."""

from bids_qsm.derivatives.products import is_compared
from bids_qsm.interfaces.relaxation import FitRelaxation
from bids_qsm.interfaces.swi import ComputeSWI
from bids_qsm.recon.registry import facts, needs
from bids_qsm.recon.relaxation import R2STAR
from bids_qsm.recon.swi import SWI
from bids_qsm.workflows import engine as pe
from bids_qsm.workflows.field import init_field_wf
from bids_qsm.workflows.memory import Sizes, need
from bids_qsm.workflows.susceptibility import COMPARED, init_susceptibility_wf

OUTPUTS = ('mask', 'field', 'noise', 'residual', 'local_field', 'chi', 'chi_mask', 'slow_sd', 'reference')
OUTPUTS += ('notes',)
RELAXATION = ('r2star', 't2star', 's0')


def init_recon_wf(
    *,
    field_params: dict,
    inversion_params: dict,
    reference: str,
    reference_params: dict,
    r2star: str,
    r2star_params: dict,
    swi: str,
    swi_params: dict,
    n_echoes: int,
    sizes: Sizes,
    omp_nthreads: int,
    name: str = 'recon_wf',
):
    """Reconstruct susceptibility, R2* and susceptibility-weighted images from conditioned phase.

    ``field_params`` and ``inversion_params`` go to :func:`init_field_wf` and :func:`init_inversion_wf`.
    A single echo has no relaxation maps, and their ports stay undefined.

    Inputs: magnitude, phase (4D, rad), combined (3D magnitude), quality, brain, echo_times (s),
    field_strength (T).
    Outputs: mask, field, noise, local_field, chi (ppm), chi_mask, residual (rad), reference and notes (JSON),
    slow_sd (ppm), r2star (1/s), t2star (s), s0, swi, minip; with a plug-in classical and departure (ppm).
    """
    workflow = pe.Workflow(name=name)
    measured = ('magnitude', 'phase', 'quality', 'brain', 'echo_times', 'field_strength')
    inputnode = pe.inputnode(*measured, 'combined')
    compared = is_compared(inversion_params['background'], inversion_params['inversion'])
    outputnode = pe.outputnode(*OUTPUTS, *RELAXATION, 'swi', 'minip', *(COMPARED if compared else []))
    field_wf = init_field_wf(**field_params, n_echoes=n_echoes, sizes=sizes, omp_nthreads=omp_nthreads)
    susceptibility_wf = init_susceptibility_wf(
        two_pass=field_params['mask'] == 'two_pass',
        reference=reference,
        reference_params=reference_params,
        inversion_params={**inversion_params, 'n_echoes': n_echoes, 'omp_nthreads': omp_nthreads},
        sizes=sizes,
    )
    weigh = pe.Node(
        ComputeSWI(method=swi, params=swi_params),
        name='weigh',
        mem_gb=need(facts(SWI[swi]).memory, sizes),
        n_procs=omp_nthreads,
    )
    workflow.link(inputnode, field_wf, *measured)
    workflow.link(inputnode, weigh, 'magnitude', 'phase', 'echo_times')
    workflow.link(inputnode, susceptibility_wf, 'combined', 'echo_times', 'field_strength')
    workflow.link(field_wf, weigh, 'unwrapped', 'mask')
    workflow.link(field_wf, susceptibility_wf, 'field', 'noise', 'mask', 'support')
    workflow.link(field_wf, outputnode, 'mask', 'field', 'noise', 'residual', 'notes')
    workflow.link(
        susceptibility_wf, outputnode, 'local_field', 'chi', 'reference', 'slow_sd', chi_mask='mask'
    )
    workflow.link(weigh, outputnode, 'swi', 'minip')
    if compared:
        workflow.link(susceptibility_wf, outputnode, *COMPARED)
    if field_params['mask'] == 'two_pass':
        workflow.link(field_wf, susceptibility_wf, 'strict')
    if 'chi' in needs(SWI[swi]):
        workflow.link(susceptibility_wf, weigh, 'chi')
    if n_echoes > 1:
        relaxation = pe.Node(
            FitRelaxation(method=r2star, params=r2star_params),
            name='relaxation',
            mem_gb=need(facts(R2STAR[r2star]).memory, sizes),
            n_procs=omp_nthreads,
        )
        workflow.link(inputnode, relaxation, 'magnitude', 'echo_times', 'field_strength')
        workflow.link(field_wf, relaxation, 'mask', 'field')
        workflow.link(relaxation, susceptibility_wf, 'r2star')
        workflow.link(relaxation, outputnode, *RELAXATION)
    workflow.__desc__ = (
        f'R2*, T2* and S0 were estimated with {facts(R2STAR[r2star]).prose}. ' if n_echoes > 1 else ''
    ) + f'Susceptibility-weighted images were made with {facts(SWI[swi]).prose}.'
    return workflow
