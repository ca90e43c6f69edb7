"""Background field removal."""

from nipype.interfaces.base import traits

from bids_qsm.interfaces.device import DEVICES, call_on
from bids_qsm.interfaces.step import Data, Step, image, inputs, mask, methods, outputs
from bids_qsm.recon.background import BACKGROUND
from bids_qsm.recon.masking.morphology import without_specks


class RemoveBackground(Step):
    """Turn a total field map into a local one."""

    input_spec = inputs(
        field=image('total field (ppm)'),
        mask=mask('where the field is measured'),
        noise=image('standard deviation of the field (ppm)'),
        r2star=image('R2* (1/s); absent with a single echo', optional=True),
        device=traits.Enum(*DEVICES, usedefault=True, desc='where to compute'),
        **methods(BACKGROUND),
    )
    output_spec = outputs(
        local_field=image('ppm'),
        mask=mask('where the local field is given'),
        noise=image('standard deviation of the local field (ppm)'),
    )

    def compute(self, data: Data):
        method = BACKGROUND[self.inputs.method]
        local, kept, *noise = call_on(self.inputs.device, method, data, self.inputs.params)
        kept = without_specks(kept, data['grid'])
        return local * kept, kept, *(noise or [data['noise']])
