"""Background field removal."""

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from bids_qsm.interfaces.device import DEVICES, call_on
from bids_qsm.interfaces.io import load, load_mask, save_like
from bids_qsm.recon.background import BACKGROUND


class _RemoveBackgroundInputSpec(BaseInterfaceInputSpec):
    field = File(exists=True, mandatory=True, desc='total field (ppm)')
    mask = File(exists=True, mandatory=True)
    noise = File(exists=True, mandatory=True, desc='standard deviation of the field (ppm)')
    r2star = File(exists=True, desc='R2* (1/s); absent with a single echo')
    method = traits.Enum(*BACKGROUND, usedefault=True)
    params = traits.Dict({}, usedefault=True)
    device = traits.Enum(*DEVICES, usedefault=True, desc='where to compute')


class _RemoveBackgroundOutputSpec(TraitedSpec):
    local_field = File(exists=True, desc='ppm')
    mask = File(exists=True, desc='where the local field is given')


class RemoveBackground(SimpleInterface):
    """Turn a total field map into a local one."""

    input_spec, output_spec = _RemoveBackgroundInputSpec, _RemoveBackgroundOutputSpec

    def _run_interface(self, runtime):
        field, grid = load(self.inputs.field)
        data = {
            'field': field,
            'mask': load_mask(self.inputs.mask),
            'noise': load(self.inputs.noise)[0],
            'r2star': load(self.inputs.r2star)[0] if isdefined(self.inputs.r2star) else None,
            'grid': grid,
        }
        function = BACKGROUND[self.inputs.method]
        local, mask = call_on(self.inputs.device, function, data, self.inputs.params)
        self._results['local_field'] = save_like(local, self.inputs.field, runtime.cwd, 'local_field.nii')
        self._results['mask'] = save_like(mask, self.inputs.field, runtime.cwd, 'mask.nii')
        return runtime
