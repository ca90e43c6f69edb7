"""Interface that maps the decay of the magnitude."""

from nipype.interfaces.base import BaseInterfaceInputSpec, File, SimpleInterface, TraitedSpec, traits

from bids_qsm.interfaces.io import load, load_mask, save_like
from bids_qsm.recon.registry import call
from bids_qsm.recon.relaxation import R2STAR


class _FitRelaxationInputSpec(BaseInterfaceInputSpec):
    magnitude = File(exists=True, mandatory=True, desc='magnitude, echoes last')
    mask = File(exists=True, mandatory=True, desc='where to fit')
    field = File(exists=True, mandatory=True, desc='total field (ppm)')
    echo_times = traits.List(traits.Float, mandatory=True, desc='rising echo times (s)')
    field_strength = traits.Float(mandatory=True, desc='B0 (T)')
    method = traits.Enum(*R2STAR, usedefault=True)
    params = traits.Dict({}, usedefault=True)


class _FitRelaxationOutputSpec(TraitedSpec):
    r2star = File(exists=True, desc='R2* (1/s)')
    t2star = File(exists=True, desc='T2* (s)')
    s0 = File(exists=True, desc='signal at TE = 0')


class FitRelaxation(SimpleInterface):
    """Fit R2*, T2* and the signal at TE = 0."""

    input_spec, output_spec = _FitRelaxationInputSpec, _FitRelaxationOutputSpec

    def _run_interface(self, runtime):
        magnitude, grid = load(self.inputs.magnitude)
        data = {
            'magnitude': magnitude,
            'mask': load_mask(self.inputs.mask),
            'echo_times': self.inputs.echo_times,
            'field': load(self.inputs.field)[0],
            'field_strength': self.inputs.field_strength,
            'grid': grid,
        }
        maps = call(R2STAR[self.inputs.method], data, self.inputs.params)
        for name, data in zip(('r2star', 't2star', 's0'), maps, strict=True):
            self._results[name] = save_like(data, self.inputs.magnitude, runtime.cwd, f'{name}.nii')
        return runtime
