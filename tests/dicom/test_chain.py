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
