"""The anatomical image: bias, brain, alignment, and resampling through transforms."""

import nibabel as nib
import numpy as np
from nipype.interfaces.base import File, InputMultiObject, traits

from bids_qsm.anatomy.bias import correct_bias
from bids_qsm.anatomy.brainmask import extract_brain
from bids_qsm.anatomy.register import REGISTER, rigid
from bids_qsm.anatomy.transform import resample, resample_labels
from bids_qsm.interfaces.step import Data, Step, head, inputs, mask, methods, outputs, path, transform, volume
from bids_qsm.interfaces.xfm import load_chain
from bids_qsm.recon.registry import call


class CorrectBias(Step):
    """Take the smooth bias field out of an image."""

    input_spec = inputs(image=head('T1w or magnitude, 3D'))
    output_spec = outputs(image=volume('image over its bias field'))

    def compute(self, data: Data):
        return correct_bias(data['image'], data['image_affine'])[0]


class ExtractBrain(Step):
    """Find the brain by carrying a template's mask back."""

    input_spec = inputs(
        image=head('whole head, free of bias'),
        template=volume('template, with or without skull'),
        template_mask=mask('brain of the template', of='template'),
    )
    output_spec = outputs(
        mask=volume('brain of the image'), xfm=transform('affine that resamples the image onto the template')
    )

    def compute(self, data: Data):
        template = (data['template'], data['template_affine'], data['template_mask'])
        return extract_brain(data['image'], data['image_affine'], *template)


class RegisterRigid(Step):
    """Align two images of one person rigidly."""

    input_spec = inputs(
        moving=head('image to align, e.g. combined GRE magnitude'),
        fixed=head('image to align it to, e.g. T1w'),
        fixed_mask=mask('where to compare: brain of the fixed image', of='fixed', optional=True),
        affine=traits.Bool(False, usedefault=True, desc='whether it may also scale and shear'),
    )
    output_spec = outputs(
        xfm=transform('rigid, resamples moving onto fixed'),
        inverse=transform('rigid, resamples fixed onto moving'),
    )

    def compute(self, data: Data):
        fixed = (data['fixed'], data['fixed_affine'], data['fixed_mask'])
        data['moving'] = correct_bias(data['moving'], data['moving_affine'])[0]
        matrix = rigid(data['moving'], data['moving_affine'], *fixed, affine=self.inputs.affine)
        return matrix, np.linalg.inv(matrix)


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
