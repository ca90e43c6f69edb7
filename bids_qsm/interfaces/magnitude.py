"""Magnitude of all echoes."""

from bids_qsm.interfaces.step import Data, Step, image, inputs, outputs
from bids_qsm.recon.magnitude import combine


class CombineMagnitude(Step):
    """Combine the echoes' magnitudes into one image."""

    input_spec = inputs(magnitude=image('magnitude, echoes last'))
    output_spec = outputs(
        combined=image('root sum of squares over echoes, 3D'),
        first_echo=image('first echo, 3D: of all the nearest to T1w in contrast'),
    )

    def compute(self, data: Data):
        return combine(data['magnitude']), data['magnitude'][..., 0]
