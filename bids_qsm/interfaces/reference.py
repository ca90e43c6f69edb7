"""The zero of susceptibility."""

import numpy as np

from bids_qsm.interfaces.step import Data, Step, image, inputs, mask, methods, outputs, record
from bids_qsm.recon.reference import REFERENCE
from bids_qsm.recon.registry import call


class ReferenceChi(Step):
    """Set the zero of a susceptibility map."""

    input_spec = inputs(
        chi=image('susceptibility (ppm)'),
        mask=mask('where it is given'),
        r2star=image('R2* (1/s)', optional=True),
        **methods(REFERENCE),
    )
    output_spec = outputs(
        chi=image('susceptibility (ppm) less the reference'),
        note=record('Reference- Region, Description, Offset (ppm), Voxels'),
        region=mask('mask of the reference, where there is one'),
    )

    def compute(self, data: Data):
        offset, region, name, sentence = call(REFERENCE[self.inputs.method], data, self.inputs.params)
        note = {
            'ReferenceRegion': name,
            'ReferenceDescription': sentence,
            'ReferenceOffset': offset,
            'ReferenceVoxels': 0 if region is None else int(region.sum()),
        }
        return np.where(data['mask'], data['chi'] - np.float32(offset), 0), note, region
