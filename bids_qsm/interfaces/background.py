"""Background field removal."""

from nipype.interfaces.base import BaseInterfaceInputSpec, File, SimpleInterface, TraitedSpec, traits

from bids_qsm.interfaces.io import load, load_mask, save_like
from bids_qsm.recon.background import BACKGROUND
from bids_qsm.recon.registry import call


class _RemoveBackgroundInputSpec(BaseInterfaceInputSpec):
    field = File(exists=True, mandatory=True, desc='total field (ppm)')
    mask = File(exists=True, mandatory=True)
    noise = File(exists=True, mandatory=True, desc='standard deviation of the field (ppm)')
    method = traits.Enum(*BACKGROUND, usedefault=True)
    params = traits.Dict({}, usedefault=True)


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
            'grid': grid,
        }
        local, mask = call(BACKGROUND[self.inputs.method], data, self.inputs.params)
        self._results['local_field'] = save_like(local, self.inputs.field, runtime.cwd, 'local_field.nii')
        self._results['mask'] = save_like(mask, self.inputs.field, runtime.cwd, 'mask.nii')
        return runtime
