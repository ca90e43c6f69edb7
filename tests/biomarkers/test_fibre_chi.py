"""The share of white matter that a tensor tells."""

import numpy as np

from bids_qsm.anatomy.diffusion import Gradients, fit_tensor
from bids_qsm.anatomy.fibres import Carried, fibres_of
from bids_qsm.biomarkers.fibre_chi import tensor_on
from bids_qsm.phantom.diffusion import DiffusionProtocol, diffusion_images
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.orientations.operators import COMPONENTS


def test_noise_of_a_tensor_is_no_white_matter():
    """A slab of white matter, and grey matter beside it, without anisotropy."""
    protocol = DiffusionProtocol((2.0,) * 3, (40.0,) * 3, (0, 0, 0), directions=30)
    shape = protocol.grid.shape
    white = (np.indices(shape)[2] < shape[2] // 2).astype(np.float32)
    tensor = np.zeros((6, *shape), np.float32)
    for n, (a, b) in enumerate(COMPONENTS):
        tensor[n] = (a == b) * (1.6e-3 if a == 0 else 0.3e-3)
    scan = diffusion_images([(white, tensor)], {'grey': 1 - white}, protocol, 5)
    fa, found = fit_tensor(scan.images.reshape(-1, 32), Gradients(scan.bvals, scan.bvecs))
    fibres = fibres_of(found.reshape(*shape, 6), fa.reshape(shape), 'tensor')
    carried = Carried(np.zeros_like(fibres.tensor), fibres.tensor, fa.reshape(shape))
    mask = np.ones(shape, bool)
    _, share = tensor_on(carried, mask, protocol.grid.affine, Grid.from_affine(shape, protocol.grid.affine))
    middle = shape[2] // 2
    assert share[:, :, middle + 3 :].mean() < 0.06
    assert share[:, :, : middle - 3].mean() > 0.98
