"""Interface that numbers lesions on the image they were drawn on."""

import nibabel as nib
import numpy as np
from nipype.interfaces.base import BaseInterfaceInputSpec, File, SimpleInterface, TraitedSpec

from bids_qsm.biomarkers.lesions import label_lesions
from bids_qsm.interfaces.io import save_like


class _LabelLesionsInputSpec(BaseInterfaceInputSpec):
    mask = File(exists=True, mandatory=True, desc='lesion mask, binary or labels')


class _LabelLesionsOutputSpec(TraitedSpec):
    labels = File(exists=True, desc='one label a lesion')


class LabelLesions(SimpleInterface):
    """Number lesions before they are resampled, so that a lesion has one number in all sessions."""

    input_spec, output_spec = _LabelLesionsInputSpec, _LabelLesionsOutputSpec

    def _run_interface(self, runtime):
        mask = np.nan_to_num(np.asanyarray(nib.load(self.inputs.mask).dataobj))
        self._results['labels'] = save_like(
            label_lesions(mask), self.inputs.mask, runtime.cwd, 'lesions.nii.gz'
        )
        return runtime
