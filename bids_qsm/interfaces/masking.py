"""Masks of where the field can be trusted."""

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from bids_qsm.interfaces.io import load, load_mask, save_like
from bids_qsm.recon.masking import MASK
from bids_qsm.recon.registry import call


class _MakeMaskInputSpec(BaseInterfaceInputSpec):
    magnitude = File(exists=True, mandatory=True, desc='magnitude of all echoes (4D)')
    quality = File(exists=True, mandatory=True, desc='reliability of the phase (0 to 1)')
    brain = File(exists=True, desc='brain mask on the same grid')
    method = traits.Enum(*MASK, usedefault=True)
    params = traits.Dict({}, usedefault=True)


class _MakeMaskOutputSpec(TraitedSpec):
    mask = File(exists=True)


class MakeMask(SimpleInterface):
    """Make the mask of the reconstruction."""

    input_spec, output_spec = _MakeMaskInputSpec, _MakeMaskOutputSpec

    def _run_interface(self, runtime):
        magnitude, grid = load(self.inputs.magnitude)
        data = {
            'magnitude': magnitude,
            'quality': load(self.inputs.quality)[0],
            'brain': load_mask(self.inputs.brain) if isdefined(self.inputs.brain) else None,
            'grid': grid,
        }
        mask = call(MASK[self.inputs.method], data, self.inputs.params)
        self._results['mask'] = save_like(mask, self.inputs.quality, runtime.cwd, 'mask.nii')
        return runtime
