import nibabel as nib
import numpy as np
import pytest

from bids_qsm.errors import UserError
from bids_qsm.interfaces.unwrap import PhaseQuality, Unwrap
from bids_qsm.recon.unwrap import UNWRAP
from tests.recon.simulated_gre import scan


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    s = scan(with_offset=False)
    data = {'phase': s.phase, 'magnitude': s.magnitude, 'mask': s.brain.astype(np.uint8)}
    for name, array in data.items():
        nib.Nifti1Image(array, np.diag([4.375, 4.375, 4.375, 1])).to_filename(f'in_{name}.nii')
    return {name: str(tmp_path / f'in_{name}.nii') for name in data}


@pytest.mark.parametrize('method', UNWRAP)
def test_unwrap(files, method, tmp_path):
    s = scan(with_offset=False)
    node = Unwrap(**files, echo_times=list(s.echo_times), method=method)
    unwrapped = nib.load(node.run(cwd=str(tmp_path)).outputs.unwrapped).get_fdata()
    assert unwrapped.shape == s.phase.shape
    assert not unwrapped[~s.brain].any()
    assert np.ptp(unwrapped) > 2 * np.pi


def test_unknown_parameter_is_refused(files, tmp_path):
    node = Unwrap(**files, echo_times=[0.01, 0.02, 0.03, 0.04], params={'speed': 3})
    with pytest.raises(UserError, match="no parameter 'speed'"):
        node.run(cwd=str(tmp_path))


def test_quality(files, tmp_path):
    s = scan(with_offset=False)
    node = PhaseQuality(phase=files['phase'], magnitude=files['magnitude'], echo_times=list(s.echo_times))
    quality = nib.load(node.run(cwd=str(tmp_path)).outputs.quality).get_fdata()
    assert quality.shape == s.grid.shape
    assert np.median(quality[s.brain]) > 2 * np.median(quality[s.magnitude[..., 0] < 0.04])
