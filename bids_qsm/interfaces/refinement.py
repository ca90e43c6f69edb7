"""The interface that refines the alignment of the deep grey matter by susceptibility."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from nipype.interfaces.base import BaseInterfaceInputSpec, File, SimpleInterface, TraitedSpec, traits

from bids_qsm.anatomy.refine import REFINEMENT
from bids_qsm.errors import UserError
from bids_qsm.interfaces.anatomy import load_image, load_volume
from bids_qsm.interfaces.xfm import load_xfm, save_xfm
from bids_qsm.recon.registry import call


class _RefineDeepGreyInputSpec(BaseInterfaceInputSpec):
    chi = File(exists=True, mandatory=True, desc='susceptibility (ppm)')
    mask = File(exists=True, mandatory=True, desc='where it holds')
    anat = File(exists=True, mandatory=True, desc='anatomical image, free of bias')
    image_to_template = File(
        exists=True, mandatory=True, desc='resamples the anatomical image onto the template'
    )
    gre_to_anat = File(exists=True, mandatory=True, desc='resamples susceptibility onto the anatomical image')
    template = File(exists=True, mandatory=True, desc='template of the contrast of the anatomical image')
    template_chi = File(exists=True, mandatory=True, desc='susceptibility of the template (ppm)')
    dseg = File(exists=True, mandatory=True, desc='atlas in the space of the template')
    labels = File(exists=True, mandatory=True, desc='its table: index, name, hemisphere, region')
    method = traits.Enum(*REFINEMENT, usedefault=True)
    params = traits.Dict({}, usedefault=True)


class _RefineDeepGreyOutputSpec(TraitedSpec):
    refine = File(exists=True, desc='ITK displacement field: template points to where T1w would have them')
    unrefine = File(exists=True, desc='its inverse')
    note = File(exists=True, desc='findings: what, found, action, evidence, level (JSON)')


class RefineDeepGrey(SimpleInterface):
    """Align the deep grey matter by T1w and susceptibility together."""

    input_spec, output_spec = _RefineDeepGreyInputSpec, _RefineDeepGreyOutputSpec

    def _run_interface(self, runtime):
        inputs = self.inputs
        chi, chi_affine = load_volume(inputs.chi)
        mask = load_volume(inputs.mask)[0] > 0.5
        if mask.shape != chi.shape:
            raise UserError(
                f'The mask {inputs.mask} has shape {mask.shape}, but {inputs.chi} has {chi.shape}.'
            )
        image, image_affine = load_image(inputs.anat)
        template, template_affine = load_volume(inputs.template)
        template_chi, template_chi_affine = load_volume(inputs.template_chi)
        dseg, dseg_affine = load_volume(inputs.dseg)
        image_chain = load_xfm(inputs.image_to_template)
        data = {
            'chi': chi,
            'chi_affine': chi_affine,
            'mask': mask,
            'chi_chain': [*image_chain, *load_xfm(inputs.gre_to_anat)],
            'image': image,
            'image_affine': image_affine,
            'image_chain': image_chain,
            'template': template,
            'template_affine': template_affine,
            'template_chi': template_chi,
            'template_chi_affine': template_chi_affine,
            'dseg': np.rint(dseg).astype(np.int32),
            'dseg_affine': dseg_affine,
            'labels': pd.read_csv(inputs.labels, sep='\t', keep_default_na=False),
        }
        refine, unrefine, found = call(REFINEMENT[inputs.method], data, inputs.params)
        self._results['refine'] = save_xfm(refine, runtime.cwd, 'refine.nii.gz')
        self._results['unrefine'] = save_xfm(unrefine, runtime.cwd, 'unrefine.nii.gz')
        path = Path(runtime.cwd) / 'refinement.json'
        path.write_text(json.dumps({'findings': found}, indent=2) + '\n')
        self._results['note'] = str(path)
        return runtime
