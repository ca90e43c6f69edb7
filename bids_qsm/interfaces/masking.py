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
from bids_qsm.recon.masking import MASK, merge_two_pass, refine, strict, support, widen
from bids_qsm.recon.registry import call


class _MakeMaskInputSpec(BaseInterfaceInputSpec):
    magnitude = File(exists=True, mandatory=True, desc='magnitude of all echoes (4D)')
    quality = File(exists=True, mandatory=True, desc='reliability of the phase (0 to 1)')
    brain = File(exists=True, desc='brain mask on the same grid')
    method = traits.Enum(*MASK, usedefault=True)
    params = traits.Dict({}, usedefault=True)


class _MaskOutputSpec(TraitedSpec):
    mask = File(exists=True)


class _MakeMaskOutputSpec(_MaskOutputSpec):
    wide = File(exists=True, desc='the mask and what lies round it with good phase')


class MakeMask(SimpleInterface):
    """Make the mask of the reconstruction."""

    input_spec, output_spec = _MakeMaskInputSpec, _MakeMaskOutputSpec

    def _run_interface(self, runtime):
        magnitude, grid = load(self.inputs.magnitude)
        quality, _ = load(self.inputs.quality)
        data = {
            'magnitude': magnitude,
            'quality': quality,
            'brain': load_mask(self.inputs.brain) if isdefined(self.inputs.brain) else None,
            'grid': grid,
        }
        mask = call(MASK[self.inputs.method], data, self.inputs.params)
        for name, data in (('mask', mask), ('wide', widen(mask, quality, grid))):
            self._results[name] = save_like(data, self.inputs.quality, runtime.cwd, f'{name}.nii')
        return runtime


class _RefineMaskInputSpec(BaseInterfaceInputSpec):
    mask = File(exists=True, mandatory=True)
    wide = File(exists=True, mandatory=True, desc='where the field was fitted')
    as_given = traits.Bool(False, usedefault=True, desc='leave the mask as it is')
    residual = File(exists=True, mandatory=True, desc='root mean square residual of the field fit (rad)')
    noise = File(exists=True, mandatory=True, desc='standard deviation of the field (ppm)')


class _RefineMaskOutputSpec(_MaskOutputSpec):
    support = File(exists=True, desc='where the field is measured: the mask and what is good round it')


class RefineMask(SimpleInterface):
    """Take off the rim of a mask where the fit of the field failed, and find where it went well outside."""

    input_spec, output_spec = _RefineMaskInputSpec, _RefineMaskOutputSpec

    def _run_interface(self, runtime):
        residual, grid = load(self.inputs.residual)
        noise, _ = load(self.inputs.noise)
        mask, wide = load_mask(self.inputs.mask), load_mask(self.inputs.wide)
        if not self.inputs.as_given:
            mask = refine(mask, residual, noise, grid)
        found = {'mask': mask, 'support': support(mask, wide, residual, noise)}
        for name, data in found.items():
            self._results[name] = save_like(data, self.inputs.mask, runtime.cwd, f'{name}.nii')
        return runtime


class _StrictMaskInputSpec(BaseInterfaceInputSpec):
    quality = File(exists=True, mandatory=True, desc='reliability of the phase (0 to 1)')
    mask = File(exists=True, mandatory=True, desc='mask of the second pass')


class StrictMask(SimpleInterface):
    """Leave strong sources out of a mask, for the first of two passes."""

    input_spec, output_spec = _StrictMaskInputSpec, _MaskOutputSpec

    def _run_interface(self, runtime):
        quality, _ = load(self.inputs.quality)
        mask = strict(quality, load_mask(self.inputs.mask))
        self._results['mask'] = save_like(mask, self.inputs.mask, runtime.cwd, 'mask.nii')
        return runtime


class _MergePassesInputSpec(BaseInterfaceInputSpec):
    chi_strict = File(exists=True, mandatory=True, desc='susceptibility of the first pass (ppm)')
    chi_filled = File(exists=True, mandatory=True, desc='susceptibility of the second pass (ppm)')
    strict = File(exists=True, mandatory=True, desc='where the first pass gives susceptibility')


class _MergePassesOutputSpec(TraitedSpec):
    chi = File(exists=True, desc='susceptibility (ppm)')


class MergePasses(SimpleInterface):
    """Join the susceptibility of two passes, the first without strong sources and their streaks."""

    input_spec, output_spec = _MergePassesInputSpec, _MergePassesOutputSpec

    def _run_interface(self, runtime):
        first, grid = load(self.inputs.chi_strict)
        second, _ = load(self.inputs.chi_filled)
        chi = merge_two_pass(first, second, load_mask(self.inputs.strict), grid)
        self._results['chi'] = save_like(chi, self.inputs.chi_filled, runtime.cwd, 'chi.nii')
        return runtime
