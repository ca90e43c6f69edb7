"""Interface that combines the magnitudes of all echoes."""

from nipype.interfaces.base import BaseInterfaceInputSpec, File, SimpleInterface, TraitedSpec

from bids_qsm.interfaces.io import load, save_like
from bids_qsm.recon.magnitude import combine


class _CombineMagnitudeInputSpec(BaseInterfaceInputSpec):
    magnitude = File(exists=True, mandatory=True, desc='magnitude, echoes last')


class _CombineMagnitudeOutputSpec(TraitedSpec):
    combined = File(exists=True, desc='root sum of squares over echoes, 3D')


class CombineMagnitude(SimpleInterface):
    """Combine the echoes' magnitudes into one image."""

    input_spec, output_spec = _CombineMagnitudeInputSpec, _CombineMagnitudeOutputSpec

    def _run_interface(self, runtime):
        magnitude, _ = load(self.inputs.magnitude)
        self._results['combined'] = save_like(
            combine(magnitude), self.inputs.magnitude, runtime.cwd, 'combined.nii.gz'
        )
        return runtime
