"""The reconstruction chain of one series: scanner phase to susceptibility, R2* and SWI."""

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline import engine as pe

from bids_qsm.interfaces.relaxation import FitRelaxation
from bids_qsm.interfaces.swi import ComputeSWI
from bids_qsm.workflows.field import init_field_wf
from bids_qsm.workflows.susceptibility import init_susceptibility_wf

OUTPUTS = ('mask', 'field', 'noise', 'residual', 'local_field', 'chi', 'chi_mask', 'reference')
RELAXATION = ('r2star', 't2star', 's0')


def init_recon_wf(
    *,
    field_params: dict,
    susceptibility_params: dict,
    n_echoes: int,
    volume_gb: float,
    omp_nthreads: int,
    name: str = 'recon_wf',
):
    """Reconstruct susceptibility, R2* and susceptibility-weighted images from conditioned phase.

    ``field_params`` and ``susceptibility_params`` go to :func:`init_field_wf` and
    :func:`init_susceptibility_wf`.
    A single echo has no relaxation maps, and their ports stay undefined.

    Inputs: magnitude, phase (4D, rad), quality, brain, echo_times (s), field_strength (T).
    Outputs: mask, field, noise, local_field, chi (ppm), chi_mask, residual (rad), reference (JSON),
    r2star (1/s), t2star (s), s0, swi, minip.
    """
    workflow = pe.Workflow(name=name)
    series_gb = volume_gb * n_echoes
    inputnode = pe.Node(
        IdentityInterface(['magnitude', 'phase', 'quality', 'brain', 'echo_times', 'field_strength']),
        name='inputnode',
    )
    outputnode = pe.Node(IdentityInterface([*OUTPUTS, *RELAXATION, 'swi', 'minip']), name='outputnode')
    field_wf = init_field_wf(**field_params, series_gb=series_gb, omp_nthreads=omp_nthreads)
    susceptibility_wf = init_susceptibility_wf(
        **susceptibility_params, volume_gb=volume_gb, omp_nthreads=omp_nthreads
    )
    swi = pe.Node(ComputeSWI(), name='swi', mem_gb=0.3 + 4 * series_gb, n_procs=omp_nthreads)
    workflow.connect(
        [
            (
                inputnode,
                field_wf,
                [(f, f'inputnode.{f}') for f in inputnode.inputs.copyable_trait_names()],
            ),
            (inputnode, swi, [('magnitude', 'magnitude'), ('echo_times', 'echo_times')]),
            (field_wf, swi, [('outputnode.unwrapped', 'unwrapped'), ('outputnode.mask', 'mask')]),
            (
                field_wf,
                susceptibility_wf,
                [(f'outputnode.{f}', f'inputnode.{f}') for f in ('field', 'noise', 'mask')],
            ),
            (
                field_wf,
                outputnode,
                [(f'outputnode.{f}', f) for f in ('mask', 'field', 'noise', 'residual')],
            ),
            (
                susceptibility_wf,
                outputnode,
                [
                    ('outputnode.local_field', 'local_field'),
                    ('outputnode.chi', 'chi'),
                    ('outputnode.mask', 'chi_mask'),
                    ('outputnode.reference', 'reference'),
                ],
            ),
            (swi, outputnode, [('swi', 'swi'), ('minip', 'minip')]),
        ]
    )
    if n_echoes > 1:
        relaxation = pe.Node(
            FitRelaxation(), name='relaxation', mem_gb=0.3 + 3 * series_gb, n_procs=omp_nthreads
        )
        workflow.connect(
            [
                (inputnode, relaxation, [('magnitude', 'magnitude'), ('echo_times', 'echo_times')]),
                (field_wf, relaxation, [('outputnode.mask', 'mask')]),
                (relaxation, susceptibility_wf, [('r2star', 'inputnode.r2star')]),
                (relaxation, outputnode, [(f, f) for f in RELAXATION]),
            ]
        )
    workflow.__desc__ = (
        'R2*, T2* and S0 were estimated with ARLO [@arlo]. ' if n_echoes > 1 else ''
    ) + 'Susceptibility-weighted images follow CLEAR-SWI [@clearswi].'
    return workflow
