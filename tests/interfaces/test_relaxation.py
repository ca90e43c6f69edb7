import nibabel as nib
import numpy as np

from bids_qsm.interfaces.relaxation import FitRelaxation


def test_fit_relaxation(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    times = [0.004, 0.009, 0.014, 0.019]
    decay = np.ones((6, 5, 4, 1)) * 700 * np.exp(-25 * np.array(times))
    nib.Nifti1Image(decay.astype(np.float32), np.eye(4)).to_filename('magnitude.nii')
    nib.Nifti1Image(np.ones((6, 5, 4), np.uint8), np.eye(4)).to_filename('mask.nii')
    nib.Nifti1Image(np.zeros((6, 5, 4), np.float32), np.eye(4)).to_filename('field.nii')
    files = {name: str(tmp_path / f'{name}.nii') for name in ('magnitude', 'mask', 'field')}
    node = FitRelaxation(**files, echo_times=times, field_strength=3.0)
    out = node.run(cwd=str(tmp_path)).outputs
    for name, value in {'r2star': 25, 't2star': 0.04, 's0': 700}.items():
        np.testing.assert_allclose(nib.load(getattr(out, name)).get_fdata(), value, rtol=2e-3)
