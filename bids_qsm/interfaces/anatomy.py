"""Interfaces of the anatomical image: bias, brain, alignment, and resampling through transforms."""

import nibabel as nib
import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    InputMultiObject,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from bids_qsm.anatomy.bias import correct_bias
from bids_qsm.anatomy.brainmask import extract_brain
from bids_qsm.anatomy.register import REGISTER, rigid
from bids_qsm.anatomy.transform import resample, resample_labels
from bids_qsm.errors import UserError
from bids_qsm.interfaces.io import read, save_like
from bids_qsm.interfaces.xfm import load_chain, load_xfm, save_xfm
from bids_qsm.recon.registry import call


def load_volume(path):
    """Array (float32, not finite set to 0) and affine of a 3D image."""
    data, affine = read(path)
    data = data.astype(np.float32)
    if data.ndim == 4 and data.shape[3] == 1:
        data = data[..., 0]
    if data.ndim != 3:
        raise UserError(f'{path} has shape {data.shape}: one 3D volume is needed here.')
    data = np.nan_to_num(data, nan=0.0, posinf=0.0, neginf=0.0)
    return data, affine


def load_image(path):
    """Array and affine of a 3D image that shows something."""
    data, affine = load_volume(path)
    if data.max() <= data.min():
        raise UserError(f'{path} is empty: all its voxels have the same value.')
    return data, affine


def _mask(path, like, image):
    """Boolean mask of shape ``like``."""
    mask = load_volume(path)[0] > 0.5
    if mask.shape != like.shape:
        raise UserError(f'The mask {path} has shape {mask.shape}, but its image {image} has {like.shape}.')
    if not mask.any():
        raise UserError(f'The mask {path} is empty: no brain was found in {image}.')
    return mask


class _CorrectBiasInputSpec(BaseInterfaceInputSpec):
    image = File(exists=True, mandatory=True, desc='T1w or magnitude, 3D')


class _CorrectBiasOutputSpec(TraitedSpec):
    image = File(exists=True, desc='image over its bias field')


class CorrectBias(SimpleInterface):
    """Take the smooth bias field out of an image."""

    input_spec, output_spec = _CorrectBiasInputSpec, _CorrectBiasOutputSpec

    def _run_interface(self, runtime):
        image, affine = load_image(self.inputs.image)
        corrected, _ = correct_bias(image, affine)
        self._results['image'] = save_like(corrected, self.inputs.image, runtime.cwd, 'corrected.nii.gz')
        return runtime


class _ExtractBrainInputSpec(BaseInterfaceInputSpec):
    image = File(exists=True, mandatory=True, desc='whole head, free of bias')
    template = File(exists=True, mandatory=True, desc='template, with or without skull')
    template_mask = File(exists=True, mandatory=True, desc='brain of the template')


class _ExtractBrainOutputSpec(TraitedSpec):
    mask = File(exists=True, desc='brain of the image')
    xfm = File(exists=True, desc='affine (ITK .txt) that resamples the image onto the template')


class ExtractBrain(SimpleInterface):
    """Find the brain by carrying a template's mask back."""

    input_spec, output_spec = _ExtractBrainInputSpec, _ExtractBrainOutputSpec

    def _run_interface(self, runtime):
        image, affine = load_image(self.inputs.image)
        template, template_affine = load_volume(self.inputs.template)
        template_mask = _mask(self.inputs.template_mask, template, self.inputs.template)
        mask, matrix = extract_brain(image, affine, template, template_affine, template_mask)
        self._results['mask'] = save_like(mask, self.inputs.image, runtime.cwd, 'brain.nii.gz')
        self._results['xfm'] = save_xfm(matrix, runtime.cwd, 'image_to_template.txt')
        return runtime


class _RegisterRigidInputSpec(BaseInterfaceInputSpec):
    moving = File(exists=True, mandatory=True, desc='image to align, e.g. combined GRE magnitude')
    fixed = File(exists=True, mandatory=True, desc='image to align it to, e.g. T1w')
    fixed_mask = File(exists=True, desc='where to compare: brain of the fixed image')
    affine = traits.Bool(False, usedefault=True, desc='whether it may also scale and shear')


class _RegisterRigidOutputSpec(TraitedSpec):
    xfm = File(exists=True, desc='rigid ITK .txt that resamples moving onto fixed')
    inverse = File(exists=True, desc='rigid ITK .txt that resamples fixed onto moving')


class RegisterRigid(SimpleInterface):
    """Align two images of one person rigidly."""

    input_spec, output_spec = _RegisterRigidInputSpec, _RegisterRigidOutputSpec

    def _run_interface(self, runtime):
        moving, moving_affine = load_image(self.inputs.moving)
        fixed, fixed_affine = load_image(self.inputs.fixed)
        mask = None
        if isdefined(self.inputs.fixed_mask):
            mask = _mask(self.inputs.fixed_mask, fixed, self.inputs.fixed)
        moving = correct_bias(moving, moving_affine)[0]
        matrix = rigid(moving, moving_affine, fixed, fixed_affine, mask, affine=self.inputs.affine)
        self._results['xfm'] = save_xfm(matrix, runtime.cwd, 'moving_to_fixed.txt')
        self._results['inverse'] = save_xfm(np.linalg.inv(matrix), runtime.cwd, 'fixed_to_moving.txt')
        return runtime


class _RegisterTemplateInputSpec(BaseInterfaceInputSpec):
    image = File(exists=True, mandatory=True, desc='T1w or magnitude, free of bias')
    mask = File(exists=True, mandatory=True, desc='brain of the image')
    template = File(exists=True, mandatory=True, desc='template')
    template_mask = File(exists=True, mandatory=True, desc='brain of the template')
    init = File(exists=True, desc='affine (ITK .txt) that resamples the image onto the template, if known')
    same_contrast = traits.Bool(True, usedefault=True, desc='whether both show tissues alike')
    method = traits.Enum(*REGISTER, usedefault=True, desc='engine')
    params = traits.Dict(desc='parameters of the engine')


class _RegisterTemplateOutputSpec(TraitedSpec):
    image_to_template = File(exists=True, desc='ITK displacement field that resamples image onto template')
    template_to_image = File(exists=True, desc='ITK displacement field that resamples template onto image')


class RegisterTemplate(SimpleInterface):
    """Align a brain to a template, affine and deformable."""

    input_spec, output_spec = _RegisterTemplateInputSpec, _RegisterTemplateOutputSpec

    def _run_interface(self, runtime):
        image, affine = load_image(self.inputs.image)
        template, template_affine = load_volume(self.inputs.template)
        data = {
            'image': image,
            'image_affine': affine,
            'mask': _mask(self.inputs.mask, image, self.inputs.image),
            'template': template,
            'template_affine': template_affine,
            'template_mask': _mask(self.inputs.template_mask, template, self.inputs.template),
            'init': load_xfm(self.inputs.init)[0] if isdefined(self.inputs.init) else None,
            'same_contrast': self.inputs.same_contrast,
        }
        there, back = call(REGISTER[self.inputs.method], data, self.inputs.params)
        self._results['image_to_template'] = save_xfm(there, runtime.cwd, 'image_to_template.nii.gz')
        self._results['template_to_image'] = save_xfm(back, runtime.cwd, 'template_to_image.nii.gz')
        return runtime


class _ResampleInputSpec(BaseInterfaceInputSpec):
    image = File(exists=True, mandatory=True, desc='image to resample, 3D')
    reference = File(exists=True, mandatory=True, desc='image whose grid the output takes')
    transforms = InputMultiObject(
        File(exists=True),
        desc='transforms met by the points of the reference, in order; none where only the grids differ',
    )
    invert = traits.List(traits.Bool, desc='which of them to invert (matrices only); none by default')
    interpolation = traits.Enum(
        'linear', 'cubic', 'label', usedefault=True, desc="'label' keeps integers, their outline and volume"
    )


class _ResampleOutputSpec(TraitedSpec):
    image = File(exists=True, desc='image on the grid of the reference')


class Resample(SimpleInterface):
    """Bring an image onto another grid through a chain of transforms, with one interpolation."""

    input_spec, output_spec = _ResampleInputSpec, _ResampleOutputSpec

    def _run_interface(self, runtime):
        image, affine = load_volume(self.inputs.image)
        reference = nib.load(self.inputs.reference)
        shape = reference.shape[:3]
        chain = load_chain(self.inputs.transforms, self.inputs.invert)
        if self.inputs.interpolation == 'label':
            labels = np.rint(image).astype(np.int32)
            # Small types keep masks and atlases small on disk.
            labels = labels.astype(np.uint8 if labels.max(initial=0) < 256 else np.int32)
            out = resample_labels(labels, affine, shape, reference.affine, chain)
        else:
            order = {'linear': 1, 'cubic': 3}[self.inputs.interpolation]
            out = resample(image, affine, shape, reference.affine, chain, order=order)
        self._results['image'] = save_like(out, self.inputs.reference, runtime.cwd, 'resampled.nii.gz')
        return runtime
