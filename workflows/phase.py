"""Phase conditioning: from the scanner's files to radians in one convention."""

from bids_qsm.errors import size_text
from bids_qsm.interfaces.frames import AverageFrames
from bids_qsm.interfaces.magnitude import CombineMagnitude
from bids_qsm.interfaces.phase import Coarsen, ConditionPhase, RemoveOffset
from bids_qsm.interfaces.unwrap import PhaseQuality
from bids_qsm.workflows import engine as pe
from bids_qsm.workflows.memory import Sizes, need


def init_phase_wf(
    *,
    scaling: str,
    sign: str,
    slice_flip: str,
    bipolar: str,
    filtered: str,
    coils: int,
    frames: int,
    voxel_size: tuple[float, ...] | None,
    sizes: Sizes,
    omp_nthreads: int,
    name: str = 'phase_wf',
):
    """Bring magnitude and phase of all echoes to one convention and remove the phase offset.

    Inputs: magnitude, phase, real, imag (lists of files, one an echo, with ``frames`` volumes each),
    echo_times (s), field_strength (T), manufacturer, filter_said (what the sidecar says of high-pass
    filtering).
    Outputs: magnitude, phase (4D, rad), combined and first_echo (3D magnitudes), quality (0..1), notes
    (JSON). With ``voxel_size`` (mm) these are of larger voxels than those given.
    """
    workflow = pe.Workflow(name=name)
    workflow.__desc__ = (
        (
            f'The {frames} frames of the run were aligned rigidly by mutual information [@studholme], '
            'brought to one phase slice by slice and averaged as complex numbers, without frames that were '
            'moved far or unlike the others; what alternated between odd and even slices was removed. '
            if frames > 1
            else ''
        )
        + 'Phase was brought to radians; its sign, alternating slices, offsets and order of slices and, over '
        'several echoes, differences of odd and even echoes were checked against the data and corrected '
        'where needed. '
        + (f'The images of the {coils} receive coils were combined [@mcpc3ds]. ' if coils > 1 else '')
        + (
            f'The complex images were resampled to {size_text(voxel_size)} mm by leaving out the outer part '
            'of k-space. '
            if voxel_size
            else ''
        )
        + 'From series of several echoes the phase offset of the receive coils was removed with '
        'MCPC-3D-S [@mcpc3ds].'
    )
    given = ('magnitude', 'phase', 'real', 'imag', 'echo_times', 'field_strength', 'manufacturer')
    inputnode = pe.inputnode(*given, 'filter_said')
    outputnode = pe.outputnode('magnitude', 'phase', 'combined', 'first_echo', 'quality', 'notes')
    if frames > 1:
        average_frames = pe.Node(
            AverageFrames(scaling=scaling), name='average_frames', mem_gb=need('average_frames', sizes)
        )
        workflow.link(inputnode, average_frames, 'magnitude', 'phase')
        given, scaling = ('echo_times', 'field_strength', 'manufacturer'), 'radians'
    condition = pe.Node(
        ConditionPhase(
            scaling=scaling, sign=sign, slice_flip=slice_flip, bipolar=bipolar, filtered=filtered, coils=coils
        ),
        name='condition',
        mem_gb=need('condition coils' if coils > 1 else 'condition', sizes),
        n_procs=omp_nthreads if coils > 1 else 1,  # all but the combination of coils has one thread
    )
    source = condition
    if voxel_size:
        source = pe.Node(Coarsen(voxel_size=list(voxel_size)), name='coarsen', mem_gb=need('coarsen', sizes))
        workflow.link(condition, source, 'magnitude', 'phase')
    offset = pe.Node(RemoveOffset(), name='offset', mem_gb=need('offset', sizes), n_procs=omp_nthreads)
    quality = pe.Node(PhaseQuality(), name='quality', mem_gb=need('quality', sizes), n_procs=omp_nthreads)
    combine = pe.Node(CombineMagnitude(), name='combine', mem_gb=need('combine', sizes))
    workflow.link(inputnode, condition, *given, said='filter_said')
    if frames > 1:
        workflow.link(average_frames, condition, 'magnitude', 'phase', earlier='findings')
    workflow.link(inputnode, offset, 'echo_times')
    workflow.link(source, offset, 'magnitude', 'phase')
    workflow.link(inputnode, quality, 'echo_times')
    workflow.link(source, quality, 'magnitude')
    workflow.link(offset, quality, 'phase')
    workflow.link(source, combine, 'magnitude')
    workflow.link(source, outputnode, 'magnitude')
    workflow.link(condition, outputnode, 'notes')
    workflow.link(offset, outputnode, 'phase')
    workflow.link(quality, outputnode, 'quality')
    workflow.link(combine, outputnode, 'combined', 'first_echo')
    return workflow
