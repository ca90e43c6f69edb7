"""Trains of spin echoes of a digital head."""

import json

import nibabel as nib
import numpy as np
import pytest

from bids_qsm.phantom.dataset import Visit, write_dataset
from bids_qsm.phantom.gre import Protocol
from bids_qsm.phantom.sources import Relaxivity, add_sources
from bids_qsm.phantom.spin_echo import SpinEchoes, simulate_spin_echoes
from bids_qsm.recon.spin_echo import Train

PROTOCOL = SpinEchoes((5.0, 5.0, 6.0), train=Train(0.012, 6), rotation=(5, 0, 3), snr=200)


@pytest.fixture(scope='module')
def sources(head):
    return add_sources(head, Relaxivity(), 5)


@pytest.fixture(scope='module')
def scanned(sources):
    return simulate_spin_echoes(sources, 3, PROTOCOL)


def test_echoes_are_those_of_the_tissue(sources, scanned):
    shape, affine = PROTOCOL.shape, PROTOCOL.affine
    white = sources.head.sample(shape, affine, ('white',))['white'] > 0.98
    rate, b1 = sources.sample(shape, affine)['r2'][white], scanned.b1[white]
    expected = PROTOCOL.train.signal(rate, b1)
    seen = scanned.magnitude[white]
    assert white.sum() > 100
    assert np.allclose(seen.mean(0) / seen[:, 0].mean(), expected.mean(0) / expected[:, 0].mean(), atol=0.015)
    brain = sources.head.sample(shape, affine, ('brain',))['brain'] > 0.5
    assert np.percentile(scanned.b1[brain], (1, 99)) == pytest.approx(PROTOCOL.b1, abs=0.04)


def test_slices_weaken_refocusing(sources, scanned):
    sliced = SpinEchoes(PROTOCOL.voxel_size, train=PROTOCOL.train, snr=200, profile=(0.4, 0.8, 1.0))
    other = simulate_spin_echoes(sources, 3, sliced)
    white = sources.head.sample(sliced.shape, sliced.affine, ('white',))['white'] > 0.98
    own = sources.head.sample(PROTOCOL.shape, PROTOCOL.affine, ('white',))['white'] > 0.98
    first = [m[..., 0].mean() / m[..., 1].mean() for m in (other.magnitude[white], scanned.magnitude[own])]
    # stimulated echoes come from the second echo on
    assert first[0] < 0.95 * first[1]


def test_a_dataset_holds_a_train_and_its_truth(head, tmp_path, monkeypatch):
    monkeypatch.setattr('bids_qsm.phantom.dataset.make_head', lambda *_, **__: head)
    protocol = Protocol((6.0, 6.0, 6.0), echo_times=(0.006, 0.014))
    train = SpinEchoes((6.0, 6.0, 8.0), train=Train(0.01, 3))
    visit = Visit('01', None, 4, protocol, None, spin_echoes=train, has_b1=True)
    anat = write_dataset(tmp_path / 'ds', [visit], spacing=2.0) / 'sub-01' / 'anat'
    times = []
    for n in (1, 2, 3):
        image = nib.load(anat / f'sub-01_echo-{n}_MESE.nii.gz')
        assert image.shape == train.shape
        times.append(json.loads((anat / f'sub-01_echo-{n}_MESE.json').read_text())['EchoTime'])
    assert times == [0.01, 0.02, 0.03]
    b1 = np.asarray(nib.load(anat.parent / 'fmap' / 'sub-01_TB1map.nii.gz').dataobj)
    assert 40 < b1.min() < b1.max() < 125
    truth = tmp_path / 'ds' / 'derivatives' / 'truth'
    # of a name that no map of a user has, and that the validator need not know
    r2, r2star = (
        np.asarray(nib.load(truth / 'sub-01' / 'anat' / f'sub-01_{name}.nii.gz').dataobj)
        for name in ('R2truemap', 'R2starmap')
    )
    assert (truth / '.bidsignore').read_text() == '*_R2truemap.*\n'
    mask = np.asarray(nib.load(truth / 'sub-01' / 'anat' / 'sub-01_desc-brain_mask.nii.gz').dataobj) > 0
    assert 8 < np.median(r2[mask]) < 14
    assert ((r2star - r2)[mask] > 0).mean() > 0.98
