"""The zero of susceptibility."""

import json
from pathlib import Path

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from bids_qsm.interfaces.io import load, load_mask, save_like
from bids_qsm.recon.reference import REFERENCE
from bids_qsm.recon.registry import call


class _ReferenceChiInputSpec(BaseInterfaceInputSpec):
    chi = File(exists=True, mandatory=True, desc='susceptibility (ppm)')
    mask = File(exists=True, mandatory=True)
    r2star = File(exists=True, desc='R2* (1/s)')
    method = traits.Enum(*REFERENCE, usedefault=True)
    params = traits.Dict({}, usedefault=True)


class _ReferenceChiOutputSpec(TraitedSpec):
    chi = File(exists=True, desc='susceptibility (ppm) less the reference')
    note = File(exists=True, desc='Reference- Region, Description, Offset (ppm), Voxels (JSON)')
    region = File(exists=True, desc='mask of the reference, where there is one')


class ReferenceChi(SimpleInterface):
    """Set the zero of a susceptibility map."""

    input_spec, output_spec = _ReferenceChiInputSpec, _ReferenceChiOutputSpec

    def _run_interface(self, runtime):
        chi, grid = load(self.inputs.chi)
        mask = load_mask(self.inputs.mask)
        r2star = load(self.inputs.r2star)[0] if isdefined(self.inputs.r2star) else None
        data = {'chi': chi, 'mask': mask, 'r2star': r2star, 'grid': grid}
        offset, region, name, sentence = call(REFERENCE[self.inputs.method], data, self.inputs.params)
        chi = np.where(mask, chi - np.float32(offset), 0)
        self._results['chi'] = save_like(chi, self.inputs.chi, runtime.cwd, 'chi.nii')
        note = {
            'ReferenceRegion': name,
            'ReferenceDescription': sentence,
            'ReferenceOffset': offset,
            'ReferenceVoxels': 0 if region is None else int(region.sum()),
        }
        path = Path(runtime.cwd) / 'reference.json'
        path.write_text(json.dumps(note, indent=2) + '\n')
        self._results['note'] = str(path)
        if region is not None:
            self._results['region'] = save_like(region, self.inputs.chi, runtime.cwd, 'region.nii')
        return runtime
