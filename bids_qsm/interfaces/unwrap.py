"""Reliability and unwrapping of phase."""

from bids_qsm.interfaces.step import ECHO_TIMES, Data, Step, image, inputs, mask, methods, outputs
from bids_qsm.recon.registry import call
from bids_qsm.recon.unwrap import UNWRAP, voxel_quality


class PhaseQuality(Step):
    """Map how reliable the phase of each voxel is."""

    input_spec = inputs(
        magnitude=image('magnitude, echoes last'),
        phase=image('phase (rad), echoes last'),
        echo_times=ECHO_TIMES,
    )
    output_spec = outputs(quality=image('reliability of the phase, 0 to 1'))

    def compute(self, data: Data):
        return voxel_quality(data['phase'], data['magnitude'], self.inputs.echo_times)


class Unwrap(Step):
    """Unwrap the phase of all echoes."""

    input_spec = inputs(
        phase=image('wrapped phase (rad), echoes last'),
        magnitude=image('magnitude, echoes last'),
        mask=mask('where to unwrap'),
        echo_times=ECHO_TIMES,
        **methods(UNWRAP),
    )
    output_spec = outputs(unwrapped=image('unwrapped phase (rad), echoes last'))

    def compute(self, data: Data):
        return call(UNWRAP[self.inputs.method], data, self.inputs.params)
