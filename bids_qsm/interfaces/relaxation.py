"""Decay of the magnitude."""

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
from bids_qsm.recon.registry import call
from bids_qsm.recon.relaxation import R2STAR


class FitRelaxation(Step):
    """Fit R2*, T2* and the signal at TE = 0."""

    input_spec = inputs(
        magnitude=image('magnitude, echoes last'),
        mask=mask('where to fit'),
        field=image('total field (ppm)'),
        echo_times=ECHO_TIMES,
        field_strength=FIELD_STRENGTH,
        **methods(R2STAR),
    )
    output_spec = outputs(r2star=image('R2* (1/s)'), t2star=image('T2* (s)'), s0=image('signal at TE = 0'))

    def compute(self, data: Data):
        return call(R2STAR[self.inputs.method], data, self.inputs.params)
