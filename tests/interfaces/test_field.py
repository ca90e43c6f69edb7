import nibabel as nib
import numpy as np
import pytest

from bids_qsm.interfaces.field import FitField
from bids_qsm.interfaces.io import read_record
from bids_qsm.recon.curvature import remove_curvature
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.phase import wrap
from bids_qsm.recon.units import ppm_per_radian
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


@pytest.mark.parametrize(
    ('curvature', 'is_head', 'level'), [(5e-4, True, 'info'), (3e-3, True, 'warning'), (5e-4, False, None)]
)
def test_the_offset_of_a_single_echo(tmp_path, monkeypatch, curvature, is_head, level):
    monkeypatch.chdir(tmp_path)
    s = scan()
    place = np.indices(s.brain.shape).reshape(3, -1) - np.array(s.brain.shape)[:, None] / 2
    bowl = curvature * (place**2).sum(0).reshape(s.brain.shape) / 6
    phase = (s.echo_times[0] * (s.field + bowl) / ppm_per_radian(FIELD_STRENGTH))[..., None]
    data = {'unwrapped': phase, 'phase': wrap(phase), 'magnitude': s.magnitude[..., :1]}
    data = {name: array.astype(np.float32) for name, array in data.items()}
    for name, array in {**data, 'mask': s.brain.astype(np.uint8)}.items():
        nib.Nifti1Image(array, np.eye(4)).to_filename(f'{name}_in.nii')
    files = {name: str(tmp_path / f'{name}_in.nii') for name in (*data, 'mask')}
    node = FitField(**files, echo_times=[s.echo_times[0]], field_strength=FIELD_STRENGTH, is_head=is_head)
    out = node.run(cwd=str(tmp_path)).outputs
    findings = read_record(out.notes)['findings']
    assert [one['level'] for one in findings] == ([level] if level else [])
    total = (s.field + bowl).astype(np.float32)
    if level == 'info':
        total, *_ = remove_curvature(total, s.brain, Grid(s.brain.shape), s.echo_times[0])
    found = nib.load(out.field).get_fdata()
    np.testing.assert_allclose(found[s.brain], total[s.brain], atol=1e-4)
