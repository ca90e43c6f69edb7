import nibabel as nib
import numpy as np

from bids_qsm.interfaces.field import FitField
from tests.recon.simulated_gre import FIELD_STRENGTH, scan


def test_fit_field(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    s = scan()
    data = {
        'unwrapped': s.true_phase,
        'phase': s.phase,
        'magnitude': s.magnitude,
        'mask': s.brain.astype(np.uint8),
    }
    for name, array in data.items():
        nib.Nifti1Image(array, np.eye(4)).to_filename(f'{name}_in.nii')
    files = {name: str(tmp_path / f'{name}_in.nii') for name in data}
    node = FitField(**files, echo_times=list(s.echo_times), field_strength=FIELD_STRENGTH)
    out = node.run(cwd=str(tmp_path)).outputs
    field, noise, residual = (nib.load(f).get_fdata() for f in (out.field, out.noise, out.residual))
    np.testing.assert_allclose(field[s.brain], s.field[s.brain], atol=1e-4)
    assert (noise[s.brain] > 0).all()
    assert residual.max() < 1e-3
