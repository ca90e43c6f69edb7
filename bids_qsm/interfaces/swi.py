"""Susceptibility-weighted images."""

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from bids_qsm.interfaces.io import load, load_mask, save_like
from bids_qsm.recon.registry import call, needs
from bids_qsm.recon.swi import SWI, minip


class _ComputeSWIInputSpec(BaseInterfaceInputSpec):
    magnitude = File(exists=True, mandatory=True, desc='magnitude of all echoes (4D)')
    unwrapped = File(exists=True, mandatory=True, desc='unwrapped phase of all echoes (4D, rad)')
    mask = File(exists=True, mandatory=True)
    echo_times = traits.List(traits.Float, mandatory=True, desc='s')
    phase = File(exists=True, mandatory=True, desc='wrapped phase of all echoes (4D, rad)')
    chi = File(exists=True, desc='susceptibility (ppm), for methods that weight by it')
    method = traits.Enum(*SWI, usedefault=True)
    params = traits.Dict({}, usedefault=True)


class _ComputeSWIOutputSpec(TraitedSpec):
    swi = File(exists=True)
    minip = File(exists=True, desc='minimum-intensity projection over a sliding slab')


class ComputeSWI(SimpleInterface):
    """Weight the magnitude with the phase, and project the minimum."""

    input_spec, output_spec = _ComputeSWIInputSpec, _ComputeSWIOutputSpec

    def _run_interface(self, runtime):
        magnitude, grid = load(self.inputs.magnitude)
        function = SWI[self.inputs.method]
        data = {
            'magnitude': magnitude,
            'unwrapped': load(self.inputs.unwrapped)[0] if 'unwrapped' in needs(function) else None,
            'phase': load(self.inputs.phase)[0] if 'phase' in needs(function) else None,
            'mask': load_mask(self.inputs.mask),
            'chi': load(self.inputs.chi)[0] if isdefined(self.inputs.chi) else None,
            'echo_times': self.inputs.echo_times,
            'grid': grid,
        }
        image = call(function, data, self.inputs.params)
        for name, volume in (('swi', image), ('minip', minip(image, grid))):
            self._results[name] = save_like(volume, self.inputs.mask, runtime.cwd, f'{name}.nii')
        return runtime
