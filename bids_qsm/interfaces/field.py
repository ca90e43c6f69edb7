"""Interface that maps the field."""

from nipype.interfaces.base import BaseInterfaceInputSpec, File, SimpleInterface, TraitedSpec, traits

from bids_qsm.interfaces.io import load, load_mask, save_like
from bids_qsm.recon.field import fit_field


class _FitFieldInputSpec(BaseInterfaceInputSpec):
    unwrapped = File(exists=True, mandatory=True, desc='unwrapped phase (rad), echoes last')
    magnitude = File(exists=True, mandatory=True, desc='magnitude, echoes last')
    mask = File(exists=True, mandatory=True, desc='where to fit')
    echo_times = traits.List(traits.Float, mandatory=True, desc='rising echo times (s)')
    field_strength = traits.Float(mandatory=True, desc='B0 (T)')


class _FitFieldOutputSpec(TraitedSpec):
    field = File(exists=True, desc='field (ppm)')
    noise = File(exists=True, desc='standard deviation of the field (ppm)')
    residual = File(exists=True, desc='root mean square residual of the phase (rad)')


class FitField(SimpleInterface):
    """Fit the field to the phase of all echoes."""

    input_spec, output_spec = _FitFieldInputSpec, _FitFieldOutputSpec

    def _run_interface(self, runtime):
        unwrapped, _ = load(self.inputs.unwrapped)
        magnitude, _ = load(self.inputs.magnitude)
        maps = fit_field(
            unwrapped,
            magnitude,
            load_mask(self.inputs.mask),
            self.inputs.echo_times,
            field_strength=self.inputs.field_strength,
        )
        for name, data in zip(('field', 'noise', 'residual'), maps, strict=True):
            self._results[name] = save_like(data, self.inputs.unwrapped, runtime.cwd, f'{name}.nii')
        return runtime
