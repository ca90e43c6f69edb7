"""Diffusion images that were not fitted yet."""

import numpy as np

from bids_qsm.anatomy.diffusion import Gradients, brain_of, fit_tensor, vectors_of
from bids_qsm.errors import UserError
from bids_qsm.interfaces.io import Frames, read_numbers
from bids_qsm.interfaces.step import Data, Step, inputs, outputs, path, record, volume


class FitTensor(Step):
    """Fit a diffusion tensor to one shell of diffusion images."""

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
        gradients = Gradients(
            read_numbers(self.inputs.bval).ravel(), vectors_of(read_numbers(self.inputs.bvec))
        )
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
        signal = np.stack([np.nan_to_num(frames[int(n)][mask]) for n in used], -1)
        fa = np.zeros(mask.shape, np.float32)
        tensor = np.zeros((*mask.shape, 6), np.float32)
        fa[mask], tensor[mask] = fit_tensor(signal, gradients)
        shell = gradients.shell
        facts = {
            'OrientationEncoding': {'Reference': 'bvec'},
            'FittedHere': f'tensor fitted here by weighted least squares to {int(shell.sum())} images of '
            f'b = {gradients.bvals[shell].mean():.0f} s/mm^2 and {len(plain)} without diffusion weighting; '
            'motion, eddy currents and distortion are not corrected here',
        }
        return mean, fa, tensor, facts
