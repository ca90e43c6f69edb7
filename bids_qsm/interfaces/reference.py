"""The slowly varying part and the zero of susceptibility."""

import numpy as np
from nipype.interfaces.base import traits

from bids_qsm.interfaces.step import Data, Step, image, inputs, mask, methods, outputs, record
from bids_qsm.recon.harmonic_susceptibility import harmonic_susceptibility
from bids_qsm.recon.reference import REFERENCE
from bids_qsm.recon.registry import call


class ReferenceChi(Step):
    """Take the slowly varying part that R2* tells off a susceptibility map, and set its zero."""

    input_spec = inputs(
        chi=image('susceptibility (ppm)'),
        mask=mask('where it is given'),
        r2star=image('R2* (1/s)', optional=True),
        levels=traits.Bool(False, usedefault=True, desc='take off what varies slowly at equal R2*'),
        inverted=record('what a plug-in that inverted says of itself', optional=True),
        removed=record('what a plug-in that removed the background says of itself', optional=True),
        **methods(REFERENCE),
    )
    output_spec = outputs(
        chi=image('susceptibility (ppm) less the reference'),
        note=record(
            'Reference- Region, Description, Offset (ppm), Voxels; SlowVariation- Removed, Uncertainty '
            '(ppm); Plugins'
        ),
        region=mask('mask of the reference, where there is one'),
        slow_sd=image('standard deviation of the error of what was taken off (ppm), where levels'),
    )

    def compute(self, data: Data):
        slow, uncertainty = {}, None
        if self.inputs.levels and data['r2star'] is not None:
            smooth, uncertainty = call(harmonic_susceptibility, data, {})
            data['chi'] = data['chi'] - smooth
            slow = {
                'SlowVariationRemoved': float(smooth[data['mask']].std(dtype=float)),
                'SlowVariationUncertainty': None
                if uncertainty is None
                else float(np.sqrt(np.mean(uncertainty[data['mask']] ** 2))),
            }
        offset, region, name, sentence = call(REFERENCE[self.inputs.method], data, self.inputs.params)
        note = {
            'ReferenceRegion': name,
            'ReferenceDescription': sentence,
            'ReferenceOffset': offset,
            'ReferenceVoxels': 0 if region is None else int(region.sum()),
            **slow,
        }
        if plugins := [data[port] for port in ('removed', 'inverted') if data[port]]:
            note['Plugins'] = plugins
        chi = np.where(data['mask'], data['chi'] - np.float32(offset), 0)
        return chi, note, region, uncertainty
