"""Interface that maps the decay of the magnitude."""

from nipype.interfaces.base import BaseInterfaceInputSpec, File, SimpleInterface, TraitedSpec, traits

from bids_qsm.interfaces.io import load, load_mask, save_like
from bids_qsm.recon.relaxation import fit_arlo


class _FitRelaxationInputSpec(BaseInterfaceInputSpec):
    magnitude = File(exists=True, mandatory=True, desc='magnitude, echoes last')
    mask = File(exists=True, mandatory=True, desc='where to fit')
    echo_times = traits.List(traits.Float, mandatory=True, desc='rising echo times (s)')


class _FitRelaxationOutputSpec(TraitedSpec):
    r2star = File(exists=True, desc='R2* (1/s)')
    t2star = File(exists=True, desc='T2* (s)')
    s0 = File(exists=True, desc='signal at TE = 0')


class FitRelaxation(SimpleInterface):
    """Fit R2*, T2* and the signal at TE = 0."""

    input_spec, output_spec = _FitRelaxationInputSpec, _FitRelaxationOutputSpec

    def _run_interface(self, runtime):
        magnitude, _ = load(self.inputs.magnitude)
        maps = fit_arlo(magnitude, load_mask(self.inputs.mask), self.inputs.echo_times)
        for name, data in zip(('r2star', 't2star', 's0'), maps, strict=True):
            self._results[name] = save_like(data, self.inputs.magnitude, runtime.cwd, f'{name}.nii')
        return runtime
