"""Images for the tests of templates and atlases."""

import nibabel as nib
import numpy as np


def write(path, data, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, np.eye(4) if affine is None else affine), path)
    return path
