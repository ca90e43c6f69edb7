"""The anatomical image: bias, brain, alignment, and resampling through transforms."""

import nibabel as nib
import numpy as np
from nipype.interfaces.base import File, InputMultiObject, traits

from bids_qsm.anatomy.bias import correct_bias
from bids_qsm.anatomy.brainmask import cut_ends, extract_brain, odd_volume
from bids_qsm.anatomy.fibres import UNUSABLE
from bids_qsm.anatomy.hdbet import hdbet
from bids_qsm.anatomy.head import SCALP_MM
from bids_qsm.anatomy.register import REGISTER, rigid
from bids_qsm.anatomy.transform import resample, resample_labels
from bids_qsm.biomarkers.vein_signal import mean_frame
from bids_qsm.interfaces.io import Frames, load_volume, read, without_frames
from bids_qsm.interfaces.step import (
    Data,
    Step,
    head,
    image,
    inputs,
    mask,
    methods,
    outputs,
    path,
    record,
    transform,
    volume,
)
from bids_qsm.interfaces.xfm import load_chain
from bids_qsm.recon.registry import call


class CorrectBias(Step):
    """Take the smooth bias field out of an image."""

    input_spec = inputs(
        image=head('T1w or magnitude, 3D'),
        is_t1w=traits.Bool(True, usedefault=True, desc='whether the scalp is no brighter than the brain'),
    )
    output_spec = outputs(image=volume('image over its bias field'))

    def compute(self, data: Data):
        deep_mm = 0.0 if self.inputs.is_t1w else SCALP_MM
        return correct_bias(data['image'], data['image_affine'], deep_mm=deep_mm)[0]


class ExtractBrain(Step):
    """Find the brain by a template, tissue and phase, and say what is odd with it."""

    input_spec = inputs(
        image=head('whole head, free of bias'),
        template=volume('template, with or without skull'),
        template_mask=mask('brain of the template', of='template'),
        quality=image('reliability of the phase (0 to 1), where the image is a magnitude', optional=True),
        is_t1w=traits.Bool(True, usedefault=True, desc='whether it has the contrast of the template'),
    )
    output_spec = outputs(
        mask=volume('brain of the image'),
        xfm=transform('affine that resamples the image onto the template'),
        notes=record('findings: how large the brain is, and what is odd with it'),
    )

    def compute(self, data: Data):
        template = (data['template'], data['template_affine'], data['template_mask'])
        brain = extract_brain(
            data['image'],
            data['image_affine'],
            *template,
            quality=data['quality'],
            same_contrast=self.inputs.is_t1w,
        )
        return brain.mask, brain.matrix, {'findings': brain_findings(brain.millilitres, brain.doubts)}


class ExtractBrainHdBet(Step):
    """Find the brain by HD-BET."""

    input_spec = inputs(image=head('T1w or magnitude'))
    output_spec = outputs(mask=volume('brain of the image'))

    def compute(self, data: Data):
        return hdbet(data['image'], data['image_affine'])


class CheckBrain(Step):
    """Say how large a brain is that no template was laid on, and whether that is odd."""

    input_spec = inputs(mask=mask('brain'))
    output_spec = outputs(notes=record('findings: how large the brain is, and what is odd with it'))

    def compute(self, data: Data):
        volume = float(data['mask'].sum() * data['grid'].voxel_volume / 1000)
        is_part = bool(cut_ends(data['mask'], data['mask_affine']))
        return {'findings': brain_findings(volume, odd_volume(volume, is_part), is_part=is_part)}


def brain_findings(millilitres: float, doubts: list[str], *, is_part: bool = False) -> list[dict]:
    """Findings on a brain for the report: its volume, and each doubt as a warning."""
    found = [{'what': 'Brain', 'found': f'The brain has {millilitres:.0f} ml.', 'level': 'info'}]
    if is_part:
        part = (
            'The brain mask is cut straight, so it covers a part of a brain. Where a template is aligned by '
            'it, the head in the image is aligned instead.'
        )
        found.append({'what': 'Brain', 'found': part, 'level': 'info'})
    action = 'look at its outline; give a better mask by --mask FILE, or try --mask hdbet'
    return found + [
        {'what': 'Brain', 'found': doubt, 'level': 'warning', 'action': action} for doubt in doubts
    ]


class MeanFrame(Step):
    """Mean of the frames of a BOLD run, without the first few, which are brighter."""

    input_spec = inputs(image=path('BOLD run'))
    output_spec = outputs(mean=volume('mean volume'))

    def compute(self, data: Data):
        frames = Frames(data['image'])
        return mean_frame(frames, skip=min(4, len(frames) // 4))


class MeanEcho(Step):
    """Mean of the echoes of a train."""

    input_spec = inputs(
        echoes=InputMultiObject(File(exists=True), mandatory=True, desc='one 3D image an echo')
    )
    output_spec = outputs(mean=volume('mean over echoes'))

    def compute(self, _: Data):
        return sum(load_volume(echo)[0] for echo in self.inputs.echoes) / len(self.inputs.echoes)


class RegisterRigid(Step):
    """Align two images of one person rigidly."""

    input_spec = inputs(
        moving=head('image to align, e.g. combined GRE magnitude'),
        fixed=head('image to align it to, e.g. T1w'),
        fixed_mask=mask('where to compare: brain of the fixed image', of='fixed', optional=True),
        affine=traits.Bool(False, usedefault=True, desc='whether it may also scale and shear'),
        has_bias=traits.Bool(True, usedefault=True, desc='whether the moving image has a bias to take out'),
        facts=record(
            'what is said of the moving image; one that cannot be used stays in place', optional=True
        ),
    )
    output_spec = outputs(
        xfm=transform('rigid, resamples moving onto fixed'),
        inverse=transform('rigid, resamples fixed onto moving'),
    )

    def compute(self, data: Data):
        if UNUSABLE in (data['facts'] or {}):
            return np.eye(4), np.eye(4)
        fixed = (data['fixed'], data['fixed_affine'], data['fixed_mask'])
        if self.inputs.has_bias:
            data['moving'] = correct_bias(data['moving'], data['moving_affine'])[0]
        matrix = rigid(data['moving'], data['moving_affine'], *fixed, affine=self.inputs.affine)
        return matrix, np.linalg.inv(matrix)


class Window(Step):
    """Clip an image with units of its own to a range, and let that begin at 0."""

    input_spec = inputs(
        image=volume('image, such as CT'),
        low=traits.Float(mandatory=True, desc='least value that is told apart'),
        high=traits.Float(mandatory=True, desc='largest value that is told apart'),
    )
    output_spec = outputs(image=volume('image from 0 to high less low'))

    def compute(self, data: Data):
        # no number stands outside of the scan, where 0 would be fluid
        there = np.isfinite(without_frames(read(self.inputs.image)[0]))
        image = np.where(there, data['image'], np.float32(self.inputs.low))
        return np.clip(image, self.inputs.low, self.inputs.high) - np.float32(self.inputs.low)


class RegisterTemplate(Step):
    """Align a brain to a template, affine and deformable."""

    input_spec = inputs(
        image=head('T1w or magnitude, free of bias'),
        mask=mask('brain of the image', of='image'),
        template=volume('template'),
        template_mask=mask('brain of the template', of='template'),
        init=transform('affine that resamples the image onto the template, if known', optional=True),
        same_contrast=traits.Bool(True, usedefault=True, desc='whether both show tissues alike'),
        **methods(REGISTER),
    )
    output_spec = outputs(
        image_to_template=transform('displacement field that resamples image onto template'),
        template_to_image=transform('displacement field that resamples template onto image'),
    )

    def compute(self, data: Data):
        if data['init']:
            data['init'] = data['init'][0]
        return call(REGISTER[self.inputs.method], data, self.inputs.params)


class Resample(Step):
    """Bring an image onto another grid through a chain of transforms, with one interpolation."""

    input_spec = inputs(
        reference=path('image whose grid the output takes'),
        image=volume('image to resample, 3D'),
        transforms=InputMultiObject(
            File(exists=True),
            desc='transforms met by the points of the reference, in order; none where only the grids differ',
        ),
        invert=traits.List(traits.Bool, desc='which of them to invert (matrices only); none by default'),
        interpolation=traits.Enum(
            *('linear', 'cubic', 'label'), usedefault=True, desc="'label' keeps integers, outline and volume"
        ),
    )
    output_spec = outputs(image=volume('image on the grid of the reference'))

    def compute(self, data: Data):
        reference = nib.load(self.inputs.reference)
        chain = load_chain(self.inputs.transforms, self.inputs.invert)
        onto = (data['image_affine'], reference.shape[:3], reference.affine, chain)
        if self.inputs.interpolation == 'label':
            labels = np.rint(data['image']).astype(np.int32)
            # small types keep masks and atlases small on disk
            small = np.uint8 if labels.max(initial=0) < 256 else np.int32
            return resample_labels(labels.astype(small), *onto)
        order = {'linear': 1, 'cubic': 3}[self.inputs.interpolation]
        return resample(data['image'], *onto, order=order)


class IdentityTransform(Step):
    """Write the transform between an image and itself."""

    input_spec, output_spec = inputs(), outputs(xfm=transform('affine that moves nothing'))

    def compute(self, _: Data):
        return np.eye(4)
