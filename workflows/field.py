"""Field mapping: phase to the total field, and the mask where it can be trusted."""

from typing import TYPE_CHECKING

from bids_qsm.interfaces.field import FitField
from bids_qsm.interfaces.masking import MakeMask, RefineMask, StrictMask
from bids_qsm.interfaces.unwrap import Unwrap
from bids_qsm.plugins import is_plugin
from bids_qsm.plugins.methods import find_method, plugin_files
from bids_qsm.recon.field import FIELD
from bids_qsm.recon.masking import MASK
from bids_qsm.recon.registry import facts
from bids_qsm.recon.unwrap import UNWRAP
from bids_qsm.workflows import engine as pe
from bids_qsm.workflows.memory import Sizes, need

if TYPE_CHECKING:
    from bids_qsm.app.options import Options
    from bids_qsm.layout.series import Series

AS_GIVEN = ('brain',)
"""Masks that the user gave, which are taken as they are."""


def mask_of(series: 'Series', options: 'Options') -> tuple[str, dict]:
    """Method and parameters of the mask of a series.

    Of a mask of the user the largest piece is taken as it is; where there is no head, no brain is sought.
    """
    if series.mask:
        return 'brain', {}
    if not series.is_head and options.mask.name in ('combined', 'hdbet'):
        return 'quality', options.mask.as_dict
    return options.mask.name, options.mask.as_dict


def init_field_wf(
    *,
    mask: str,
    mask_params: dict,
    unwrap: str,
    unwrap_params: dict,
    field: str,
    field_params: dict,
    is_head: bool,
    n_echoes: int,
    sizes: Sizes,
    omp_nthreads: int,
    name: str = 'field_wf',
):
    """Mask, unwrap, and fit the field over all echoes.

    Inputs: magnitude, phase (4D, rad), quality, brain (mask on the same grid),
    echo_times (s), field_strength (T).
    Outputs: mask, support (the mask and what lies round it with a good field), unwrapped (rad), field, noise
    (ppm), residual (rad), notes (JSON, how well the field fits); with the mask "two_pass" also
    strict, the mask of the first pass.
    """
    workflow = pe.Workflow(name=name)
    masking, unwrapping, fitting = facts(find_method(MASK, mask)), facts(UNWRAP[unwrap]), facts(FIELD[field])
    workflow.__desc__ = (
        f'The mask was made by {masking.prose}. '
        if is_plugin(mask)
        else f'The mask ({mask}) was {masking.prose}. '
    ) + (
        f'Phase was unwrapped '
        f'{unwrapping.prose} and a field map fitted over all echoes {fitting.prose}, weighted by '
        'signal-to-noise ratio, also up to 3 mm outside the mask where the phase is good to keep its rim. '
        + ('' if mask in AS_GIVEN else 'Voxels of the rim and end slices were dropped where the fit failed. ')
        + (
            'A quadratic was subtracted from the field of the single echo, as the phase offset of the coils '
            'leaves one in conducting tissue [@ept]. '
            if n_echoes == 1 and is_head
            else ''
        )
    ).rstrip()
    inputnode = pe.inputnode('magnitude', 'phase', 'quality', 'brain', 'echo_times', 'field_strength')
    strict_ports = ['strict'] if mask == 'two_pass' else []
    outputnode = pe.outputnode(
        'mask', 'support', 'unwrapped', 'field', 'noise', 'residual', 'notes', *strict_ports
    )
    make_mask = pe.Node(
        MakeMask(method=mask, params=mask_params), name='make_mask', mem_gb=need(masking.memory, sizes)
    )
    unwrap_phase = pe.Node(
        Unwrap(method=unwrap, params=unwrap_params),
        name='unwrap_phase',
        mem_gb=need(unwrapping.memory, sizes),
        n_procs=omp_nthreads,
    )
    fit = pe.Node(
        FitField(method=field, params=field_params, is_head=is_head),
        name='fit',
        mem_gb=max(need(fitting.memory, sizes), need('curvature', sizes) if n_echoes == 1 else 0),
        n_procs=omp_nthreads,
    )
    refine = pe.Node(RefineMask(as_given=mask in AS_GIVEN), name='refine', mem_gb=need('refine', sizes))
    workflow.link(inputnode, make_mask, 'magnitude', 'quality', 'brain')
    if is_plugin(mask):
        make_mask.inputs.plugin_files = plugin_files(mask)
        workflow.link(make_mask, refine, 'plugin')
    workflow.link(inputnode, unwrap_phase, 'phase', 'magnitude', 'echo_times')
    workflow.link(make_mask, unwrap_phase, mask='wide')
    workflow.link(inputnode, fit, 'magnitude', 'phase', 'echo_times', 'field_strength')
    workflow.link(make_mask, fit, mask='wide')
    workflow.link(unwrap_phase, fit, 'unwrapped')
    workflow.link(make_mask, refine, 'mask', 'wide')
    workflow.link(fit, refine, 'residual', 'noise', earlier='notes')
    workflow.link(inputnode, refine, 'magnitude')
    workflow.link(unwrap_phase, outputnode, 'unwrapped')
    workflow.link(fit, outputnode, 'field', 'noise', 'residual')
    workflow.link(refine, outputnode, 'mask', 'support', 'notes')
    if mask == 'two_pass':
        strict = pe.Node(StrictMask(), name='strict', mem_gb=need('strict', sizes))
        workflow.link(inputnode, strict, 'quality')
        workflow.link(refine, strict, 'mask')
        workflow.link(strict, outputnode, strict='mask')
    return workflow
