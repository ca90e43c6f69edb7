"""Field mapping."""

from bids_qsm.interfaces.step import (
    ECHO_TIMES,
    FIELD_STRENGTH,
    Data,
    Step,
    image,
    inputs,
    mask,
    methods,
    outputs,
)
from bids_qsm.recon.curvature import remove_curvature
from bids_qsm.recon.field import FIELD
from bids_qsm.recon.registry import call


class FitField(Step):
    """Fit the field to the phase of all echoes."""

    input_spec = inputs(
        unwrapped=image('unwrapped phase (rad), echoes last'),
        magnitude=image('magnitude, echoes last'),
        mask=mask('where to fit'),
        echo_times=ECHO_TIMES,
        field_strength=FIELD_STRENGTH,
        phase=image('wrapped phase (rad), echoes last'),
        **methods(FIELD),
    )
    output_spec = outputs(
        field=image('field (ppm)'),
        noise=image('standard deviation of the field (ppm)'),
        residual=image('root mean square residual of the phase (rad)'),
    )

    def compute(self, data: Data):
        field, *quality = call(FIELD[self.inputs.method], data, self.inputs.params)
        if len(data['echo_times']) == 1:
            field, _ = remove_curvature(field, data['mask'], data['grid'])
        return field, *quality
