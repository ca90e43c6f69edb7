"""Dipole inversion."""

import numpy as np
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
from bids_qsm.recon.inversion import INVERSION
from bids_qsm.recon.registry import needs
from bids_qsm.recon.units import ppm_per_radian


class _InvertInputSpec(BaseInterfaceInputSpec):
    field = File(exists=True, mandatory=True, desc='local field (ppm); the total field for one-step methods')
    mask = File(exists=True, mandatory=True, desc='where the field is given')
    brain = File(exists=True, mandatory=True, desc='where susceptibility is wanted')
    noise = File(exists=True, mandatory=True, desc='standard deviation of the field (ppm)')
    magnitude = File(exists=True, mandatory=True, desc='magnitude of all echoes as one image')
    r2star = File(exists=True, desc='R2* (1/s); absent with a single echo')
    echo_times = traits.List(traits.Float, mandatory=True, desc='echo times (s)')
    field_strength = traits.Float(mandatory=True, desc='B0 (T)')
    method = traits.Enum(*INVERSION, usedefault=True)
    params = traits.Dict({}, usedefault=True)
    device = traits.Enum(*DEVICES, usedefault=True, desc='where to compute')


class _InvertOutputSpec(TraitedSpec):
    chi = File(exists=True, desc='susceptibility (ppm)')
    mask = File(exists=True, desc='where it is given')


class Invert(SimpleInterface):
    """Turn a field map into a susceptibility map."""

    input_spec, output_spec = _InvertInputSpec, _InvertOutputSpec

    def _run_interface(self, runtime):
        inputs = self.inputs
        field, grid = load(inputs.field)
        # of the phase of all echoes together the root mean square echo time says how fast it turns
        effective = float(np.sqrt(np.mean(np.square(inputs.echo_times))))
        function = INVERSION[inputs.method]
        mask = load_mask(inputs.mask)
        data = {
            'field': field,
            'total': field,
            'mask': mask,
            'noise': load(inputs.noise)[0],
            'magnitude': load(inputs.magnitude)[0] if 'magnitude' in needs(function) else None,
            'r2star': load(inputs.r2star)[0] if isdefined(inputs.r2star) else None,
            'radians_per_ppm': 1 / ppm_per_radian(inputs.field_strength, effective),
            'grid': grid,
        }
        chi = call_on(inputs.device, function, data, inputs.params)
        wanted = mask & load_mask(inputs.brain)
        for name, volume in (('chi', chi * wanted), ('mask', wanted)):
            self._results[name] = save_like(volume, inputs.field, runtime.cwd, f'{name}.nii')
        return runtime
