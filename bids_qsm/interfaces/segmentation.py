"""Segmentations of a subject's own anatomy."""

import numpy as np
from nipype.interfaces.base import traits

from bids_qsm.anatomy.segmentation import label_table
from bids_qsm.derivatives.tables import read_labels
from bids_qsm.errors import UserError
from bids_qsm.interfaces.io import read
from bids_qsm.interfaces.step import Data, Step, inputs, outputs, path, table, volume


class ReadSegmentation(Step):
    """Bring a segmentation of any origin into the form of an atlas: labels as NIfTI, and their table."""

    input_spec = inputs(
        dseg=path('label image (NIfTI or FreeSurfer .mgz)'),
        table=path('its BIDS label table (TSV with index and name)', optional=True),
        names=traits.Enum('bids', 'freesurfer', usedefault=True, desc='what labels mean that no table names'),
    )
    output_spec = outputs(
        dseg=volume('the labels as NIfTI of whole numbers'),
        labels=table('their table: index, name, hemisphere, region'),
    )

    def compute(self, data: Data):
        values = np.nan_to_num(read(data['dseg'])[0])
        dseg = np.rint(values).astype(np.int32)
        if dseg.min() < 0 or np.abs(values - dseg).max() > 0.01:
            raise UserError(
                f'{data["dseg"]} holds values that are no labels (negative, or no whole numbers); give a '
                'dseg image.'
            )
        given = data['table'] and read_labels(data['table'], dtype=str)
        labels = label_table(np.unique(dseg), given, names=self.inputs.names)
        if labels.empty:
            raise UserError(f'{data["dseg"]} holds no label; remove it from the derivatives, or mend it.')
        return dseg, labels
