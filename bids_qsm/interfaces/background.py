"""Background field removal."""

from nipype.interfaces.base import traits

from bids_qsm.interfaces.device import DEVICES, call_method
from bids_qsm.interfaces.step import Data, Step, image, inputs, mask, methods_or_plugins, outputs, record
from bids_qsm.recon.background import BACKGROUND
from bids_qsm.recon.masking.morphology import without_specks


class RemoveBackground(Step):
    """Turn a total field map into a local one."""

    input_spec = inputs(
        field=image('total field (ppm)'),
        mask=mask('where the field is measured'),
        noise=image('standard deviation of the field (ppm)'),
        r2star=image('R2* (1/s); absent with a single echo', optional=True),
        field_strength=traits.Float(desc='B0 (T), for plug-ins'),
        device=traits.Enum(*DEVICES, usedefault=True, desc='where to compute'),
        **methods_or_plugins(BACKGROUND),
    )
    output_spec = outputs(
        local_field=image('ppm'),
        mask=mask('where the local field is given'),
        noise=image('standard deviation of the local field (ppm)'),
        plugin=record('what the plug-in that made it says of itself', optional=True),
    )

    def compute(self, data: Data):
        asked = (self.inputs.method, data, self.inputs.params)
        strength = data['field_strength']
        found, plugin = call_method(self.inputs.device, BACKGROUND, *asked, field_strength=strength)
        # a plug-in keeps the mask
        local, kept, *noise = found if plugin is None else (found, data['mask'])
        kept = without_specks(kept, data['grid'])
        return local * kept, kept, *(noise or [data['noise']]), plugin
