"""Alignment of the deep grey matter by susceptibility."""

import numpy as np

from bids_qsm.anatomy.refine import REFINEMENT
from bids_qsm.interfaces.step import (
    Data,
    Step,
    head,
    inputs,
    mask,
    methods,
    outputs,
    record,
    table,
    transform,
    volume,
)
from bids_qsm.recon.registry import call


class RefineDeepGrey(Step):
    """Align the deep grey matter by T1w and susceptibility together."""

    input_spec = inputs(
        chi=volume('susceptibility (ppm)'),
        mask=mask('where it holds', of='chi'),
        anat=head('anatomical image, free of bias'),
        image_to_template=transform('resamples the anatomical image onto the template'),
        gre_to_anat=transform('resamples susceptibility onto the anatomical image'),
        template=volume('template of the contrast of the anatomical image'),
        template_chi=volume('susceptibility of the template (ppm)'),
        dseg=volume('atlas in the space of the template'),
        labels=table('its table: index, name, hemisphere, region'),
        **methods(REFINEMENT),
    )
    output_spec = outputs(
        refine=transform('displacement field: template points to where T1w would have them'),
        unrefine=transform('its inverse'),
        note=record('findings: what, found, action, evidence, level'),
    )

    def compute(self, data: Data):
        data['image'], data['image_affine'] = data['anat'], data['anat_affine']
        data['image_chain'] = data['image_to_template']
        data['chi_chain'] = [*data['image_to_template'], *data['gre_to_anat']]
        data['dseg'] = np.rint(data['dseg']).astype(np.int32)
        refine, unrefine, found = call(REFINEMENT[self.inputs.method], data, self.inputs.params)
        return refine, unrefine, {'findings': found}
