"""The reconstruction of a series that starts from maps of another tool, as far as it is left to do."""

from typing import TYPE_CHECKING

from bids_qsm.derivatives.products import is_compared, is_levelled, is_one_step
from bids_qsm.interfaces.inversion import USUAL_FIELD
from bids_qsm.interfaces.maps import MaskMaps, ReadMaps
from bids_qsm.interfaces.relaxation import FitRelaxation
from bids_qsm.recon.registry import facts
from bids_qsm.recon.relaxation import R2STAR
from bids_qsm.workflows import engine as pe
from bids_qsm.workflows.memory import Sizes, need
from bids_qsm.workflows.susceptibility import COMPARED, init_susceptibility_wf

if TYPE_CHECKING:
    from bids_qsm.app.options import Options
    from bids_qsm.layout.series import Series

FIELDS = ('local_field', 'field')
USUAL_ECHO = 0.02
"""Echo time (s) at which nonlinear methods compare phases, where it is unknown."""


def given_maps(series: 'Series') -> list[str]:
    """Ports of the maps that a series starts from."""
    return [port for port in series.given_ports if port != 'mask']


def given_inputs(series: 'Series') -> list[str]:
    """Outputs of :func:`init_given_wf` that :func:`init_given_recon_wf` takes."""
    maps = given_maps(series)
    of_field = ['combined', 'noise'] if {*maps} & {*FIELDS} else []
    return [*maps, 'support', *of_field, *(['magnitude'] if series.echo_times else [])]


def init_given_wf(*, series: 'Series', sizes: Sizes, name: str):
    """Read the maps that ``series`` starts from.

    Outputs: those of :func:`given_inputs`: the maps (ppm, 1/s), support (where the first of them is given)
    and, of a field, its noise (ppm) and where R2* can be fitted magnitude (4D); combined and first_echo
    (magnitudes, or images of the first map), notes (JSON).
    """
    workflow = pe.Workflow(name=name)
    workflow.__desc__ = 'Maps that were made by another tool were read and taken as they are.'
    ports = list(dict.fromkeys([*given_inputs(series), 'combined', 'first_echo', 'notes']))
    outputnode = pe.outputnode(*ports)
    read = pe.Node(
        ReadMaps(
            **{one.port: str(one.path) for one in series.given},
            factors={one.port: one.factor for one in series.given},
        ),
        name='read',
        mem_gb=need('read_maps', sizes),
    )
    if series.magnitude:
        read.inputs.magnitude = [str(path) for path in series.magnitude]
    workflow.link(read, outputnode, *ports)
    return workflow


def init_given_recon_wf(
    *, series: 'Series', options: 'Options', sizes: Sizes, omp_nthreads: int, name: str = 'recon_wf'
):
    """Find susceptibility from a field map that was given, or keep given maps to their mask.

    Inputs: those of :func:`given_inputs`; brain (mask to keep the maps to), where
    the maps are not masked or the user gave a mask.
    Outputs: field, local_field, chi (ppm), r2star (1/s), t2star (s), s0, each where there is one, chi_mask,
    reference (JSON).
    """
    workflow = pe.Workflow(name=name)
    maps, has_brain = given_maps(series), series.is_whole or series.mask is not None
    start = next((port for port in FIELDS if port in maps), None)
    inputnode = pe.inputnode(*given_inputs(series), *(['brain'] if has_brain else []))
    outputs = list(
        dict.fromkeys([*maps, *series.maps, 'chi_mask', *(['reference'] if 'chi' in series.maps else [])])
    )
    one_step = is_one_step(options.inversion.name)
    background = options.background.name if start == 'field' else None
    settled = 'r2star' in series.maps and is_levelled(background, options.inversion.name)
    outputs += ['slow_sd'] if settled else []
    if start == 'field' and not one_step:
        outputs.append('local_field')
    compared = start is not None and is_compared(background, options.inversion.name)
    outputs += COMPARED if compared else []
    outputs += ['t2star', 's0'] if series.echo_times else []
    outputnode = pe.outputnode(*outputs)
    keep = pe.Node(MaskMaps(), name='keep', mem_gb=need('read_maps', sizes))
    kept = [port for port in maps if port not in FIELDS]
    keep.inputs.reference = next((one.reference for one in series.given if one.port == 'chi'), '')
    workflow.link(inputnode, keep, *kept, 'support')
    workflow.link(keep, outputnode, *kept)
    if has_brain:
        workflow.link(inputnode, keep, 'brain')
    if start is None:
        workflow.link(keep, outputnode, chi_mask='mask')
        if 'chi' in maps:
            workflow.link(keep, outputnode, reference='note')
            workflow.__desc__ = 'Susceptibility was not changed but for its mask.'
        return workflow
    susceptibility_wf = init_susceptibility_wf(
        two_pass=False,
        reference=options.reference.name,
        reference_params=options.reference.as_dict,
        inversion_params={
            'background': background,
            'background_params': options.background.as_dict,
            'inversion': options.inversion.name,
            'inversion_params': options.inversion.as_dict,
            'device': options.device,
            'n_echoes': 2 if 'r2star' in series.maps else 1,  # with R2* as of several echoes
            'omp_nthreads': omp_nthreads,
        },
        sizes=sizes,
    )
    susceptibility_wf.inputs.inputnode.echo_times = [USUAL_ECHO]
    if series.field_strength:
        susceptibility_wf.inputs.inputnode.field_strength = series.field_strength
    workflow.link(inputnode, outputnode, start)
    workflow.link(inputnode, susceptibility_wf, 'combined', 'noise', field=start)
    workflow.link(keep, susceptibility_wf, 'mask', support='mask')
    workflow.link(susceptibility_wf, outputnode, 'chi', 'reference', chi_mask='mask')
    if start == 'field' and not one_step:
        workflow.link(susceptibility_wf, outputnode, 'local_field')
    if compared:
        workflow.link(susceptibility_wf, outputnode, *COMPARED)
    if settled:
        workflow.link(susceptibility_wf, outputnode, 'slow_sd')
    if 'r2star' in maps:
        workflow.link(keep, susceptibility_wf, 'r2star')
    if series.echo_times:
        about = facts(R2STAR[options.r2star.name])
        relaxation = pe.Node(
            FitRelaxation(
                method=options.r2star.name,
                params=options.r2star.as_dict,
                echo_times=list(series.echo_times),
                field_strength=series.field_strength or USUAL_FIELD,
            ),
            name='relaxation',
            mem_gb=need(about.memory, sizes),
            n_procs=omp_nthreads,
        )
        workflow.link(inputnode, relaxation, 'magnitude', 'field')
        workflow.link(keep, relaxation, 'mask')
        workflow.link(relaxation, susceptibility_wf, 'r2star')
        workflow.link(relaxation, outputnode, 'r2star', 't2star', 's0')
        workflow.__desc__ = f'R2*, T2* and S0 were estimated with {about.prose}.'
    return workflow
