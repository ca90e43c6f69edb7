"""Interfaces that judge and unwrap phase."""

from nipype.interfaces.base import BaseInterfaceInputSpec, File, SimpleInterface, TraitedSpec, traits

from bids_qsm.interfaces.io import load, load_mask, save_like
from bids_qsm.recon.registry import call
from bids_qsm.recon.unwrap import UNWRAP, voxel_quality


class _PhaseQualityInputSpec(BaseInterfaceInputSpec):
    magnitude = File(exists=True, mandatory=True, desc='magnitude, echoes last')
    phase = File(exists=True, mandatory=True, desc='phase (rad), echoes last')
    echo_times = traits.List(traits.Float, mandatory=True, desc='rising echo times (s)')


class _PhaseQualityOutputSpec(TraitedSpec):
    quality = File(exists=True, desc='reliability of the phase, 0 to 1')


class PhaseQuality(SimpleInterface):
    """Map how reliable the phase of each voxel is."""

    input_spec, output_spec = _PhaseQualityInputSpec, _PhaseQualityOutputSpec

    def _run_interface(self, runtime):
        phase, _ = load(self.inputs.phase)
        magnitude, _ = load(self.inputs.magnitude)
        quality = voxel_quality(phase, magnitude, self.inputs.echo_times)
        self._results['quality'] = save_like(quality, self.inputs.phase, runtime.cwd, 'quality.nii')
        return runtime


class _UnwrapInputSpec(BaseInterfaceInputSpec):
    phase = File(exists=True, mandatory=True, desc='wrapped phase (rad), echoes last')
    magnitude = File(exists=True, mandatory=True, desc='magnitude, echoes last')
    mask = File(exists=True, mandatory=True, desc='where to unwrap')
    echo_times = traits.List(traits.Float, mandatory=True, desc='rising echo times (s)')
    method = traits.Enum(*UNWRAP, usedefault=True, desc='unwrapping method')
    params = traits.Dict({}, usedefault=True, desc='parameters of the method')


class _UnwrapOutputSpec(TraitedSpec):
    unwrapped = File(exists=True, desc='unwrapped phase (rad), echoes last')


class Unwrap(SimpleInterface):
    """Unwrap the phase of all echoes."""

    input_spec, output_spec = _UnwrapInputSpec, _UnwrapOutputSpec

    def _run_interface(self, runtime):
        phase, grid = load(self.inputs.phase)
        magnitude, _ = load(self.inputs.magnitude)
        data = {
            'phase': phase,
            'magnitude': magnitude,
            'mask': load_mask(self.inputs.mask),
            'echo_times': self.inputs.echo_times,
            'grid': grid,
        }
        unwrapped = call(UNWRAP[self.inputs.method], data, self.inputs.params)
        self._results['unwrapped'] = save_like(unwrapped, self.inputs.phase, runtime.cwd, 'unwrapped.nii')
        return runtime
