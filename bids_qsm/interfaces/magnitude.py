"""Interface that combines the magnitudes of all echoes."""

from nipype.interfaces.base import BaseInterfaceInputSpec, File, SimpleInterface, TraitedSpec

from bids_qsm.interfaces.io import load, save_like
from bids_qsm.recon.magnitude import combine


class _CombineMagnitudeInputSpec(BaseInterfaceInputSpec):
    magnitude = File(exists=True, mandatory=True, desc='magnitude, echoes last')


class _CombineMagnitudeOutputSpec(TraitedSpec):
    combined = File(exists=True, desc='root sum of squares over echoes, 3D')
    first_echo = File(exists=True, desc='first echo, 3D: of all the nearest to T1w in contrast')


class CombineMagnitude(SimpleInterface):
    """Combine the echoes' magnitudes into one image."""

    input_spec, output_spec = _CombineMagnitudeInputSpec, _CombineMagnitudeOutputSpec

    def _run_interface(self, runtime):
        magnitude, _ = load(self.inputs.magnitude)
        images = {'combined': combine(magnitude), 'first_echo': magnitude[..., 0]}
        for name, image in images.items():
            self._results[name] = save_like(image, self.inputs.magnitude, runtime.cwd, f'{name}.nii')
        return runtime
