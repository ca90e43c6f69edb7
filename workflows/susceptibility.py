"""From the total field to referenced susceptibility."""

from bids_qsm.derivatives.products import is_compared, is_levelled, is_one_step
from bids_qsm.interfaces.background import RemoveBackground
from bids_qsm.interfaces.inversion import Invert
from bids_qsm.interfaces.masking import MergePasses
from bids_qsm.interfaces.plugins import CompareMaps
from bids_qsm.interfaces.reference import ReferenceChi
from bids_qsm.plugins import is_plugin
from bids_qsm.plugins.methods import find_method, plugin_files
from bids_qsm.recon.background import BACKGROUND
from bids_qsm.recon.inversion import INVERSION
from bids_qsm.recon.reference import REFERENCE
from bids_qsm.recon.registry import facts
from bids_qsm.workflows import engine as pe
from bids_qsm.workflows.memory import Sizes, need

COMPARED = ('classical', 'departure')
FIELDS = ('field', 'noise', 'combined', 'r2star', 'echo_times', 'field_strength')


def init_susceptibility_wf(
    *,
    two_pass: bool,
    reference: str,
    reference_params: dict,
    inversion_params: dict,
    sizes: Sizes,
    name: str = 'susceptibility_wf',
):
    """Find susceptibility and set its zero.

    ``inversion_params`` goes to :func:`init_inversion_wf`. With ``two_pass`` the strict mask is reconstructed
    too, and its susceptibility taken where it is given, without the streaks of the strong sources that the
    strict mask leaves out.

    Inputs: field, noise (ppm), mask, support (where the field is measured), strict (mask of the first pass),
    combined (3D magnitude), r2star (1/s; not of a single echo), echo_times (s), field_strength (T).
    Outputs: local_field, chi (ppm), mask (where chi is given), reference (JSON), slow_sd (ppm, where R2*
    settles the slowly varying part of susceptibility); with a plug-in classical (ppm, by the default methods)
    and departure (ppm, how much chi differs from it).
    """
    workflow = pe.Workflow(name=name)
    about = facts(REFERENCE[reference])
    workflow.__desc__ = about.prose
    inputnode = pe.inputnode(*FIELDS, 'mask', 'support', *(['strict'] if two_pass else []))
    background, inversion = inversion_params['background'], inversion_params['inversion']
    compared = is_compared(background, inversion)
    outputnode = pe.outputnode(
        *('local_field', 'chi', 'mask', 'reference', 'slow_sd'),
        *(COMPARED if compared else []),
    )
    filled_wf = init_inversion_wf(**inversion_params, sizes=sizes)
    # the inversion of a levelled field may free its slowly varying part again
    levels = is_levelled(background, inversion)
    refer = pe.Node(
        ReferenceChi(method=reference, params=reference_params, levels=levels),
        name='refer',
        mem_gb=max(need(about.memory, sizes), need('level', sizes) if levels else 0),
    )
    workflow.link(inputnode, filled_wf, *FIELDS, 'mask', 'support')
    workflow.link(inputnode, refer, 'r2star')
    workflow.link(filled_wf, refer, 'mask')
    workflow.link(filled_wf, outputnode, 'mask')
    workflow.link(refer, outputnode, 'chi', 'slow_sd')
    for port in plugin_ports(background, inversion):
        workflow.link(filled_wf, refer, port)
    if compared:
        ports = ('mask', 'support', *(['strict'] if two_pass else []))
        _add_classical(workflow, ports, two_pass, reference, reference_params, inversion_params, sizes)
    else:
        workflow.link(refer, outputnode, reference='note')
    if background and not is_one_step(inversion):
        workflow.link(filled_wf, outputnode, 'local_field')
    if not two_pass:
        workflow.link(filled_wf, refer, 'chi')
        return workflow
    strict_wf = init_inversion_wf(**inversion_params, sizes=sizes, name='strict_wf')
    merge = pe.Node(MergePasses(), name='merge', mem_gb=need('merge', sizes))
    workflow.link(inputnode, strict_wf, *FIELDS, mask='strict', support='strict')
    workflow.link(strict_wf, merge, chi_strict='chi', strict='mask')
    workflow.link(filled_wf, merge, chi_filled='chi')
    workflow.link(merge, refer, 'chi')
    workflow.__desc__ = (
        'This was done twice, with and without the strongest sources, and the two maps were joined. '
        + workflow.__desc__
    )
    return workflow


def _add_classical(
    workflow: pe.Workflow,
    ports: tuple[str, ...],
    two_pass: bool,
    reference: str,
    reference_params: dict,
    inversion_params: dict,
    sizes: Sizes,
):
    """Find susceptibility by the default methods in place of plug-ins too, and compare the two."""
    inputnode, outputnode = workflow.get_node('inputnode'), workflow.get_node('outputnode')
    params, background = dict(inversion_params), inversion_params['background']
    for step, registry in (('background', BACKGROUND), ('inversion', INVERSION)):
        if is_plugin(params[step]):
            params[step], params[f'{step}_params'] = next(iter(registry)), {}
    classical_wf = init_susceptibility_wf(
        two_pass=two_pass,
        reference=reference,
        reference_params=reference_params,
        inversion_params=params,
        sizes=sizes,
        name='classical_wf',
    )
    classical_wf.__desc__ = (
        'For comparison the same was done with the default methods in place of the plug-ins.'
    )
    compare = pe.Node(CompareMaps(), name='compare', mem_gb=need('compare', sizes))
    workflow.link(inputnode, classical_wf, *FIELDS, *ports)
    workflow.link(workflow.get_node('refer'), compare, 'chi', 'note')
    own_wf = workflow.get_node('inversion_wf')
    workflow.link(own_wf, compare, 'mask', own='chi')
    workflow.link(classical_wf, compare, classical='chi', classical_mask='mask')
    workflow.connect(classical_wf, 'inversion_wf.outputnode.chi', compare, 'classical_own')
    # a map has to explain the local field that it was made of; one made in one step, the classical one
    if background is None:
        workflow.link(inputnode, compare, 'field', classical_field='field')
    else:
        source = classical_wf if is_one_step(inversion_params['inversion']) else own_wf
        workflow.link(source, compare, field='local_field')
        workflow.link(classical_wf, compare, classical_field='local_field')
    workflow.link(classical_wf, outputnode, classical='chi')
    workflow.link(compare, outputnode, 'departure', reference='note')


def plugin_ports(background: str | None, inversion: str) -> list[str]:
    """Outputs of :func:`init_inversion_wf` that are records of plug-ins."""
    removed = is_plugin(background) and not is_one_step(inversion)
    return [*(['removed'] if removed else []), *(['inverted'] if is_plugin(inversion) else [])]


def init_inversion_wf(
    *,
    background: str | None,
    background_params: dict,
    inversion: str,
    inversion_params: dict,
    device: str,
    n_echoes: int,
    sizes: Sizes,
    omp_nthreads: int,
    name: str = 'inversion_wf',
):
    """Remove the background field and invert the dipole model.

    Methods of inversion that take the total field do without the removal of its background; so does a
    local field, for which ``background`` is None.

    Inputs: field, noise (ppm), mask, support (where the field is measured), combined (3D magnitude),
    r2star (1/s), echo_times (s), field_strength (T).
    Outputs: local_field, chi (ppm), mask (where chi is given), and those of :func:`plugin_ports`.
    """
    workflow = pe.Workflow(name=name)
    about = facts(find_method(INVERSION, inversion))
    inputnode = pe.inputnode(*FIELDS, 'mask', 'support')
    outputnode = pe.outputnode('local_field', 'chi', 'mask', *plugin_ports(background, inversion))
    invert = pe.Node(
        Invert(method=inversion, params=inversion_params, device=device),
        name='invert',
        mem_gb=need(about.memory, sizes),
        n_procs=omp_nthreads,
    )
    workflow.link(
        inputnode,
        invert,
        *('r2star', 'echo_times', 'field_strength'),
        magnitude='combined',
        brain='mask',
    )
    workflow.link(invert, outputnode, 'chi', 'mask')
    if is_plugin(inversion):
        invert.inputs.plugin_files = plugin_files(inversion)
        workflow.link(invert, outputnode, inverted='plugin')
    if background is None or is_one_step(inversion):
        field = 'local field' if background is None else 'total field in one step'
        workflow.__desc__ = f'Susceptibility was found from the {field} with {about.prose}. '
        workflow.link(inputnode, invert, 'field', 'noise', mask='support')
        return workflow
    removal = facts(find_method(BACKGROUND, background))
    workflow.__desc__ = (
        f'The background field was removed with {removal.single_echo if n_echoes == 1 else removal.prose}, '
        f'the dipole model inverted with {about.prose}.'
    )
    remove = pe.Node(
        RemoveBackground(method=background, params=background_params, device=device),
        name='remove',
        mem_gb=need(removal.memory, sizes),
        n_procs=omp_nthreads,
    )
    workflow.link(inputnode, remove, 'field', 'noise', 'r2star', mask='support')
    workflow.link(remove, invert, 'mask', 'noise', field='local_field')
    workflow.link(remove, outputnode, 'local_field')
    if is_plugin(background):
        remove.inputs.plugin_files = plugin_files(background)
        workflow.link(inputnode, remove, 'field_strength')
        workflow.link(remove, outputnode, removed='plugin')
    return workflow
