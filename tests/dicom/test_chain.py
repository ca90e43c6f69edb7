"""The benchmark that takes heads through DICOM and back, with small images."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.dicom.scanners import Measured


@pytest.fixture(scope='module')
def chain():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / 'benchmarks')
        import dicom

    return dicom


@pytest.mark.parametrize('name', ['GE, complex', 'Philips, enhanced'])
def test_what_comes_back_is_what_went_in_and_faults_are_found(name, chain, tmp_path):
    kind, shape, times = chain.KINDS[name], (28, 24, 6), (5.0, 12.0)
    x, y, z = np.indices(shape)
    turn = np.random.default_rng(0).normal(0, 0.3, shape) + 0.9 * x + 0.4 * y - 0.6 * z
    size = 300 + 20 * x - 9 * y
    signals = {time: (size * np.exp(1j * time / 5 * turn)).astype(np.complex64) for time in times}
    place = np.array([[0, 0, 2.0, -5], [1.5, 0, 0, 3], [0, -1.5, 0, 9], [0, 0, 0, 1]])
    scan = Measured(kind.vendor, 5, echo_times=times, parts=kind.parts, signals=signals, place=place)
    maps = turn / 50, size.astype(float), chain.TO_LPS @ place
    faults, back, worst = chain.put_through(scan, kind.write, tmp_path, maps)
    assert (faults, back) == ({}, {})
    assert 0.4 < float(worst) <= 0.51
    # a phase or a part that were mirrored
    path = sorted((tmp_path / 'bids' / 'sub-01').rglob('*.nii.gz'))[-1]
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj)[::-1], image.affine, image.header), path)
    faults = chain.compare_import(scan, tmp_path / 'bids', '01')
    assert sum(faults.values()) == 1


@pytest.mark.parametrize(('sign', 'is_wrong'), [(1, False), (-1, True)])
def test_a_susceptibility_of_the_wrong_sign_is_found(sign, is_wrong, chain, tmp_path):
    rng = np.random.default_rng(0)
    chi, affine = rng.normal(0, 0.05, (20, 20, 20)), np.diag([3.0, 3, 3, 1])
    chain.make_maps(tmp_path, '01', sign * 0.7 * chi + rng.normal(0, 0.01, chi.shape), chi, affine)
    brain = nib.Nifti1Image(np.ones(chi.shape, np.uint8), affine)
    nib.save(brain, tmp_path / 'sub-01' / 'anat' / 'sub-01_desc-brain_mask.nii.gz')
    slope, r, spread = chain.agreement(tmp_path, nib.Nifti1Image(chi, affine), brain)
    assert slope == pytest.approx(sign * 0.7, abs=0.02)
    assert (spread < 25) != is_wrong
    assert chain.is_wrong_map(slope, r) == is_wrong
