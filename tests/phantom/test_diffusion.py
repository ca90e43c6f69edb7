"""Diffusion images of a digital head: files, and the direction that they show."""

from dataclasses import replace

import nibabel as nib
import numpy as np

from bids_qsm.anatomy.diffusion import Gradients, fit_tensor
from bids_qsm.anatomy.fibres import fibres_of, to_scanner
from bids_qsm.phantom.dataset import Visit, write_dataset
from bids_qsm.phantom.diffusion import DiffusionProtocol, simulate_diffusion
from bids_qsm.phantom.fibres import Fibres
from bids_qsm.phantom.gre import Protocol

SMALL = DiffusionProtocol((8.0,) * 3, directions=12, snr=100)


def test_images_show_the_fibres_of_the_head(head):
    one = replace(head, fibres=Fibres(1))
    for protocol in (SMALL, replace(SMALL, radiological=False, rotation=(20.0, -10.0, 30.0))):
        scan = simulate_diffusion(one, protocol, 1)
        fractions, vectors = one.fibre_maps(protocol.grid.shape, scan.affine)
        deep = fractions > 0.4
        fa, tensor = np.zeros(deep.shape), np.zeros((*deep.shape, 6))
        fa[deep], tensor[deep] = fit_tensor(scan.images[deep], Gradients(scan.bvals, scan.bvecs))
        found = to_scanner(fibres_of(tensor, fa, 'tensor').vectors, scan.affine, 'fsl')
        cosine = np.abs((found * vectors).sum(-1))[deep]
        assert np.median(cosine) > 0.99
        assert abs(np.median(fa[deep] - fractions[deep])) < 0.08


def test_a_dataset_has_images_and_tables(head, tmp_path, monkeypatch):
    monkeypatch.setattr('bids_qsm.phantom.dataset.make_head', lambda *_, **__: head)
    gre = Protocol((8.0, 8.0, 8.0), echo_times=(0.01,))
    visit = Visit('01', None, 1, gre, t1w=None, fibres=Fibres(1), diffusion=SMALL)
    root = write_dataset(tmp_path / 'ds', [visit], spacing=2.0)
    stem = root / 'sub-01/dwi/sub-01_dwi'
    image = nib.load(f'{stem}.nii.gz')
    assert image.shape == (*SMALL.grid.shape, 14)
    assert np.loadtxt(f'{stem}.bval').shape == (14,)
    bvecs = np.loadtxt(f'{stem}.bvec')
    assert bvecs.shape == (3, 14)
    np.testing.assert_allclose(np.linalg.norm(bvecs[:, 2:], axis=0), 1, atol=1e-5)
