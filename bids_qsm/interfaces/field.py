"""Interface that maps the field."""

from nipype.interfaces.base import BaseInterfaceInputSpec, File, SimpleInterface, TraitedSpec, traits

from bids_qsm.interfaces.io import load, load_mask, save_like
from bids_qsm.recon.field import FIELD
from bids_qsm.recon.registry import call, needs


class _FitFieldInputSpec(BaseInterfaceInputSpec):
    unwrapped = File(exists=True, mandatory=True, desc='unwrapped phase (rad), echoes last')
    magnitude = File(exists=True, mandatory=True, desc='magnitude, echoes last')
    mask = File(exists=True, mandatory=True, desc='where to fit')
    echo_times = traits.List(traits.Float, mandatory=True, desc='rising echo times (s)')
    field_strength = traits.Float(mandatory=True, desc='B0 (T)')
    phase = File(exists=True, mandatory=True, desc='wrapped phase (rad), echoes last')
    method = traits.Enum(*FIELD, usedefault=True)
    params = traits.Dict({}, usedefault=True)


class _FitFieldOutputSpec(TraitedSpec):
    field = File(exists=True, desc='field (ppm)')
    noise = File(exists=True, desc='standard deviation of the field (ppm)')
    residual = File(exists=True, desc='root mean square residual of the phase (rad)')


class FitField(SimpleInterface):
    """Fit the field to the phase of all echoes."""

    input_spec, output_spec = _FitFieldInputSpec, _FitFieldOutputSpec

    def _run_interface(self, runtime):
        function = FIELD[self.inputs.method]
        unwrapped, grid = load(self.inputs.unwrapped)
        data = {
            'unwrapped': unwrapped,
            'phase': load(self.inputs.phase)[0] if 'phase' in needs(function) else None,
            'magnitude': load(self.inputs.magnitude)[0],
            'mask': load_mask(self.inputs.mask),
            'echo_times': self.inputs.echo_times,
            'field_strength': self.inputs.field_strength,
            'grid': grid,
        }
        maps = call(function, data, self.inputs.params)
        for name, data in zip(('field', 'noise', 'residual'), maps, strict=True):
            self._results[name] = save_like(data, self.inputs.unwrapped, runtime.cwd, f'{name}.nii')
        return runtime
