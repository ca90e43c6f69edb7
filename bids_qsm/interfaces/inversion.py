"""Dipole inversion."""

from nipype.interfaces.base import BaseInterfaceInputSpec, File, SimpleInterface, TraitedSpec, traits

from bids_qsm.interfaces.io import load, load_mask, save_like
from bids_qsm.recon.inversion import INVERSION
from bids_qsm.recon.registry import call


class _InvertInputSpec(BaseInterfaceInputSpec):
    field = File(exists=True, mandatory=True, desc='local field (ppm)')
    mask = File(exists=True, mandatory=True)
    noise = File(exists=True, mandatory=True, desc='standard deviation of the field (ppm)')
    method = traits.Enum(*INVERSION, usedefault=True)
    params = traits.Dict({}, usedefault=True)


class _InvertOutputSpec(TraitedSpec):
    chi = File(exists=True, desc='susceptibility (ppm)')


class Invert(SimpleInterface):
    """Turn a local field map into a susceptibility map."""

    input_spec, output_spec = _InvertInputSpec, _InvertOutputSpec

    def _run_interface(self, runtime):
        field, grid = load(self.inputs.field)
        data = {
            'field': field,
            'mask': load_mask(self.inputs.mask),
            'noise': load(self.inputs.noise)[0],
            'grid': grid,
        }
        chi = call(INVERSION[self.inputs.method], data, self.inputs.params)
        self._results['chi'] = save_like(chi, self.inputs.field, runtime.cwd, 'chi.nii')
        return runtime
