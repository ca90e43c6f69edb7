"""Susceptibility-weighted images."""

from bids_qsm.interfaces.step import ECHO_TIMES, Data, Step, image, inputs, mask, methods, outputs
from bids_qsm.recon.registry import call
from bids_qsm.recon.swi import SWI, minip


class ComputeSWI(Step):
    """Weight the magnitude with the phase, and project the minimum."""

    input_spec = inputs(
        magnitude=image('magnitude of all echoes (4D)'),
        unwrapped=image('unwrapped phase of all echoes (4D, rad)'),
        mask=mask('where to weight'),
        phase=image('wrapped phase of all echoes (4D, rad)'),
        chi=image('susceptibility (ppm), for methods that weight by it', optional=True),
        echo_times=ECHO_TIMES,
        **methods(SWI),
    )
    output_spec = outputs(
        swi=image('susceptibility-weighted magnitude'),
        minip=image('minimum-intensity projection over a sliding slab'),
    )

    def compute(self, data: Data):
        weighted = call(SWI[self.inputs.method], data, self.inputs.params)
        return weighted, minip(weighted, data['grid'])
