"""Interface that reads the segmentation of a subject's own anatomy."""

from pathlib import Path

import numpy as np
import pandas as pd
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from bids_qsm.anatomy.segmentation import label_table
from bids_qsm.errors import UserError
from bids_qsm.interfaces.io import read, save


class _ReadSegmentationInputSpec(BaseInterfaceInputSpec):
    dseg = File(exists=True, mandatory=True, desc='label image (NIfTI or FreeSurfer .mgz)')
    table = File(exists=True, desc='its BIDS label table (TSV with index and name)')
    names = traits.Enum('bids', 'freesurfer', usedefault=True, desc='what labels mean that no table names')


class _ReadSegmentationOutputSpec(TraitedSpec):
    dseg = File(exists=True, desc='the labels as NIfTI of whole numbers')
    labels = File(exists=True, desc='their table: index, name, hemisphere, region (TSV)')


class ReadSegmentation(SimpleInterface):
    """Bring a segmentation of any origin into the form of an atlas: labels as NIfTI, and their table."""

    input_spec, output_spec = _ReadSegmentationInputSpec, _ReadSegmentationOutputSpec

    def _run_interface(self, runtime):
        values, affine = read(self.inputs.dseg)
        values = np.nan_to_num(values)
        dseg = np.rint(values).astype(np.int32)
        if dseg.min() < 0 or np.abs(values - dseg).max() > 0.01:
            raise UserError(
                f'{self.inputs.dseg} holds values that are no labels (negative, or no whole numbers); give a '
                'dseg image.'
            )
        table = None
        if isdefined(self.inputs.table):
            table = pd.read_csv(self.inputs.table, sep='\t', dtype=str, keep_default_na=False)
        labels = label_table(np.unique(dseg), table, names=self.inputs.names)
        if labels.empty:
            raise UserError(f'{self.inputs.dseg} holds no label; remove it from the derivatives, or mend it.')
        path = Path(runtime.cwd) / 'labels.tsv'
        labels.to_csv(path, sep='\t', index=False)
        self._results['labels'] = str(path)
        self._results['dseg'] = save(dseg, affine, runtime.cwd, 'dseg.nii.gz')
        return runtime
