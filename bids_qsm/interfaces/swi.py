"""Susceptibility-weighted images."""

from nipype.interfaces.base import BaseInterfaceInputSpec, File, SimpleInterface, TraitedSpec, traits

from bids_qsm.interfaces.io import load, load_mask, save_like
from bids_qsm.recon.swi import minip, swi


class _ComputeSWIInputSpec(BaseInterfaceInputSpec):
    magnitude = File(exists=True, mandatory=True, desc='magnitude of all echoes (4D)')
    unwrapped = File(exists=True, mandatory=True, desc='unwrapped phase of all echoes (4D, rad)')
    mask = File(exists=True, mandatory=True)
    echo_times = traits.List(traits.Float, mandatory=True, desc='s')


class _ComputeSWIOutputSpec(TraitedSpec):
    swi = File(exists=True)
    minip = File(exists=True, desc='minimum-intensity projection over a sliding slab')


class ComputeSWI(SimpleInterface):
    """Weight the magnitude with the phase, and project the minimum."""

    input_spec, output_spec = _ComputeSWIInputSpec, _ComputeSWIOutputSpec

    def _run_interface(self, runtime):
        magnitude, grid = load(self.inputs.magnitude)
        unwrapped, _ = load(self.inputs.unwrapped)
        mask = load_mask(self.inputs.mask)
        image = swi(magnitude, unwrapped, mask, self.inputs.echo_times, grid)
        for name, volume in (('swi', image), ('minip', minip(image, grid))):
            self._results[name] = save_like(volume, self.inputs.mask, runtime.cwd, f'{name}.nii')
        return runtime
