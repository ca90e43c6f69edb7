"""Field mapping: phase to the total field, and the mask where it can be trusted."""

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline import engine as pe

from bids_qsm.interfaces.field import FitField
from bids_qsm.interfaces.masking import MakeMask
from bids_qsm.interfaces.unwrap import Unwrap


def init_field_wf(
    *,
    mask: str,
    mask_params: dict,
    unwrap: str,
    unwrap_params: dict,
    series_gb: float,
    omp_nthreads: int,
    name: str = 'field_wf',
):
    """Mask, unwrap, and fit the field over all echoes.

    Inputs: magnitude, phase (4D, rad), quality, brain (mask on the same grid),
    echo_times (s), field_strength (T).
    Outputs: mask, unwrapped (rad), field, noise (ppm), residual (rad).
    """
    workflow = pe.Workflow(name=name)
    workflow.__desc__ = (
        f'The mask ({mask}) was made from the brain mask and the quality of the phase. Phase was unwrapped '
        f'({unwrap}) [@{unwrap}] and a field map fitted over all echoes, weighted by signal-to-noise ratio.'
    )
    inputnode = pe.Node(
        IdentityInterface(['magnitude', 'phase', 'quality', 'brain', 'echo_times', 'field_strength']),
        name='inputnode',
    )
    outputnode = pe.Node(
        IdentityInterface(['mask', 'unwrapped', 'field', 'noise', 'residual']), name='outputnode'
    )
    make_mask = pe.Node(
        MakeMask(method=mask, params=mask_params), name='make_mask', mem_gb=0.3 + 2 * series_gb
    )
    unwrap_phase = pe.Node(
        Unwrap(method=unwrap, params=unwrap_params),
        name='unwrap_phase',
        mem_gb=0.3 + 5 * series_gb,
        n_procs=omp_nthreads,
    )
    fit = pe.Node(FitField(), name='fit', mem_gb=0.3 + 5 * series_gb, n_procs=omp_nthreads)
    workflow.connect(
        [
            (
                inputnode,
                make_mask,
                [('magnitude', 'magnitude'), ('quality', 'quality'), ('brain', 'brain')],
            ),
            (
                inputnode,
                unwrap_phase,
                [('phase', 'phase'), ('magnitude', 'magnitude'), ('echo_times', 'echo_times')],
            ),
            (
                inputnode,
                fit,
                [
                    ('magnitude', 'magnitude'),
                    ('echo_times', 'echo_times'),
                    ('field_strength', 'field_strength'),
                ],
            ),
            (make_mask, unwrap_phase, [('mask', 'mask')]),
            (make_mask, fit, [('mask', 'mask')]),
            (unwrap_phase, fit, [('unwrapped', 'unwrapped')]),
            (make_mask, outputnode, [('mask', 'mask')]),
            (unwrap_phase, outputnode, [('unwrapped', 'unwrapped')]),
            (fit, outputnode, [('field', 'field'), ('noise', 'noise'), ('residual', 'residual')]),
        ]
    )
    return workflow
