"""Diffusion images that were not fitted yet."""

import nibabel as nib
import numpy as np

from bids_qsm.anatomy.diffusion import Gradients, brain_of, fit_tensor
from bids_qsm.anatomy.fibres import UNUSABLE
from bids_qsm.errors import UserError
from bids_qsm.interfaces.io import Frames, read_numbers
from bids_qsm.interfaces.step import Data, Step, inputs, outputs, path, record, volume


class FitTensor(Step):
    """Fit a diffusion tensor to one shell of diffusion images.

    Nobody may have asked for these images: where they cannot be used, all images are 0, and the reason is in
    the facts, for whoever reads them.
    """

    input_spec = inputs(
        images=path('diffusion images, 4D'),
        bval=path('b-values (s/mm^2)'),
        bvec=path('directions, in the axes that FSL takes'),
    )
    output_spec = outputs(
        unweighted=volume('mean of the images without diffusion weighting'),
        fa=volume('fractional anisotropy, 0 outside the brain'),
        tensor=volume('diffusion tensor (mm^2/s), six volumes: xx, xy, xz, yy, yz, zz'),
        facts=record('sidecar of the tensor'),
    )

    def compute(self, _: Data):
        gradients = Gradients.of(read_numbers(self.inputs.bval), read_numbers(self.inputs.bvec))
        shape = nib.load(self.inputs.images).shape[:3]
        fa, tensor = np.zeros(shape, np.float32), np.zeros((*shape, 6), np.float32)
        try:
            mean, mask, signal = self._read(gradients)
        except UserError as error:
            return fa, fa, tensor, {UNUSABLE: str(error)}
        fa[mask], tensor[mask] = fit_tensor(signal, gradients)
        bvals = gradients.bvals[gradients.shell]
        left_out = int(gradients.undirected.sum())
        facts = {
            'OrientationEncoding': {'Reference': 'bvec'},
            'FittedHere': f'tensor fitted here by weighted least squares to {len(bvals)} images of '
            f'b = {_range(bvals)} s/mm^2 and {int(gradients.unweighted.sum())} without diffusion weighting'
            + (f', {left_out} with weighting and no direction left out' if left_out else '')
            + '; motion, eddy currents and distortion are not corrected here',
        }
        return mean, fa, tensor, facts

    def _read(self, gradients: Gradients):
        """Mean without diffusion weighting, brain, and signals of the brain (voxels, n)."""
        frames = Frames(self.inputs.images)
        plain = np.flatnonzero(gradients.unweighted)
        mean = np.nan_to_num(sum(frames[int(n)] for n in plain) / np.float32(len(plain)))
        mask = brain_of(mean)
        if not mask.any():
            raise UserError(
                f'{self.inputs.images} shows no brain without diffusion weighting; check these images and '
                'their b-values.'
            )
        used = np.flatnonzero(gradients.used)
        return mean, mask, np.stack([np.nan_to_num(frames[int(n)][mask]) for n in used], -1)


def _range(bvals: np.ndarray):
    least, most = round(bvals.min()), round(bvals.max())
    return f'{least}' if least == most else f'{least} to {most}'
