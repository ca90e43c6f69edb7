import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bids_qsm.errors import UserError
from bids_qsm.interfaces.phase import ConditionPhase, RemoveOffset
from tests.recon.simulated_gre import scan

# The second axis of the images points along B0 = (0.1, 0.2, 0.97) of the scan's grid.
AFFINE = np.eye(4) * [4.375, 4.375, 4.375, 1]
AFFINE[2, :3] = np.array(scan().grid.b0_dir) * 4.375


def _save(data, path):
    nib.Nifti1Image(data.astype(np.float32), AFFINE).to_filename(path)
    return str(path)


def _echoes(data, folder, part):
    return [_save(data[..., e], folder / f'{part}{e}.nii') for e in range(data.shape[3])]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_condition_writes_radians_and_notes(folder):
    s = scan()
    stored = np.round((-s.phase / np.pi + 1) * 2047.5)
    node = ConditionPhase(
        magnitude=_echoes(s.magnitude, folder, 'mag'),
        phase=_echoes(stored, folder, 'phase'),
        echo_times=list(s.echo_times),
        manufacturer='Siemens',
    )
    out = node.run(cwd=str(folder)).outputs
    phase = nib.load(out.phase)
    assert phase.shape == s.phase.shape
    np.testing.assert_allclose(phase.affine, AFFINE, atol=1e-5)
    np.testing.assert_allclose(nib.load(out.magnitude).get_fdata(), s.magnitude, rtol=1e-5)
    np.testing.assert_allclose(np.exp(1j * phase.get_fdata()), np.exp(1j * s.phase), atol=3e-3)
    findings = json.loads(Path(out.notes).read_text())['findings']
    assert {'what', 'found', 'action', 'evidence', 'level', 'numbers'} == set(findings[0])
    assert any('falls with the field' in f['found'] for f in findings)


def test_condition_takes_real_and_imaginary(folder):
    s = scan()
    signal = s.magnitude * np.exp(1j * s.phase)
    node = ConditionPhase(
        real=_echoes(signal.real, folder, 're'),
        imag=_echoes(signal.imag, folder, 'im'),
        echo_times=list(s.echo_times),
    )
    out = node.run(cwd=str(folder)).outputs
    phase = nib.load(out.phase).get_fdata()
    np.testing.assert_allclose(np.exp(1j * phase), np.exp(1j * s.phase), atol=1e-4)
    np.testing.assert_allclose(nib.load(out.magnitude).get_fdata(), s.magnitude, rtol=1e-4)


def test_condition_takes_one_4d_file_and_overrides(folder):
    s = scan()
    node = ConditionPhase(
        magnitude=[_save(s.magnitude, folder / 'mag.nii')],
        phase=[_save(s.phase, folder / 'phase.nii.gz')],
        echo_times=list(s.echo_times),
        sign='negative',
        slice_flip='no',
        bipolar='no',
        scaling='radians',
    )
    phase = nib.load(node.run(cwd=str(folder)).outputs.phase).get_fdata()
    np.testing.assert_allclose(phase, -s.phase, atol=1e-5)


def test_condition_refuses_what_does_not_match(folder):
    s = scan()
    magnitude, phase = _echoes(s.magnitude, folder, 'mag'), _echoes(s.phase, folder, 'phase')
    times = list(s.echo_times)
    with pytest.raises(UserError, match='one volume for each'):
        ConditionPhase(magnitude=magnitude, phase=phase[:3], echo_times=times).run(cwd=str(folder))
    with pytest.raises(UserError, match='Neither phase nor real'):
        ConditionPhase(magnitude=magnitude, echo_times=times).run(cwd=str(folder))
    phase[1] = _save(s.phase[:40, :, :, 1], folder / 'small.nii')
    with pytest.raises(UserError, match=r'small\.nii has the size'):
        ConditionPhase(magnitude=magnitude, phase=phase, echo_times=times).run(cwd=str(folder))


@pytest.mark.parametrize('masked', [True, False])
def test_remove_offset(folder, masked):
    s = scan()
    node = RemoveOffset(
        magnitude=_save(s.magnitude, folder / 'in_magnitude.nii'),
        phase=_save(s.phase, folder / 'in_phase.nii'),
        echo_times=list(s.echo_times),
    )
    if masked:
        node.inputs.mask = _save(s.brain, folder / 'mask.nii')
    out = node.run(cwd=str(folder)).outputs
    phase, offset = (nib.load(f).get_fdata() for f in (out.phase, out.offset))
    assert offset.shape == s.grid.shape
    turn = np.exp(1j * (offset - s.offset)[s.brain])
    assert np.median(np.abs(np.angle(turn / turn.mean()))) < 0.01
    np.testing.assert_allclose(np.exp(1j * (phase + offset[..., None])), np.exp(1j * s.phase), atol=1e-5)
