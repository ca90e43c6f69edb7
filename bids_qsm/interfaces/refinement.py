"""Segmentation of the deep grey matter in susceptibility."""

import numpy as np
from nipype.interfaces.base import traits

from bids_qsm.anatomy.nuclei import REFINEMENT
from bids_qsm.interfaces.step import (
    Data,
    Step,
    inputs,
    mask,
    methods,
    outputs,
    record,
    shares,
    table,
    transform,
    volume,
)
from bids_qsm.recon.registry import call


class RefineDeepGrey(Step):
    """Find the deep grey nuclei in susceptibility, from where registration put those of the atlas."""

    input_spec = inputs(
        chi=volume('susceptibility (ppm)'),
        mask=mask('where it holds', of='chi'),
        magnitude=volume('magnitude of the series', optional=True),
        r2star=volume('R2* (1/s)', optional=True),
        field_strength=traits.Float(desc='B0 (T)'),
        image_to_template=transform('resamples the anatomical image onto the template'),
        template_to_image=transform('its inverse'),
        gre_to_anat=transform('resamples susceptibility onto the anatomical image'),
        dseg=volume('atlas in the space of the template'),
        labels=table('its table: index, name, hemisphere, region'),
        given=volume('segmentation of T1w on the grid of susceptibility', optional=True),
        given_labels=table('its table', optional=True),
        **methods(REFINEMENT),
    )
    output_spec = outputs(
        refine=transform('displacement field: template points to where T1w would have them'),
        unrefine=transform('its inverse'),
        note=record('findings: what, found, action, evidence, level'),
        dseg=volume("labels of the participant's nuclei on the grid of susceptibility"),
        labels=table('their table, with source, confidence, moved_mm and volume_ratio of each'),
        probseg=shares('share of each voxel that lies in each label'),
    )

    def compute(self, data: Data):
        data['chi_chain'] = [*data['image_to_template'], *data['gre_to_anat']]
        # of the GRE to the anatomical image it is a matrix
        to_anat = [np.linalg.inv(matrix) for matrix in reversed(data['gre_to_anat'])]
        data['to_template'] = [*to_anat, *data['template_to_image']]
        for name in ('dseg', 'given'):
            if data[name] is not None:
                data[name] = np.rint(data[name]).astype(np.int32)
        data['field_strength'] = self.inputs.field_strength or None
        found = call(REFINEMENT[self.inputs.method], data, self.inputs.params)
        note = {'findings': found.findings}
        return found.refine, found.unrefine, note, found.dseg, found.labels, found.shares
