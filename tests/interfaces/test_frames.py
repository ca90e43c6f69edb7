"""Runs of frames from files: one frame at a time, and the susceptibility of their mean."""

import gzip
import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from bids_qsm.errors import UserError
from bids_qsm.interfaces.frames import AverageFrames
from bids_qsm.interfaces.io import Frames
from bids_qsm.interfaces.phase import ConditionPhase
from bids_qsm.recon.background import BACKGROUND
from bids_qsm.recon.field import FIELD
from bids_qsm.recon.inversion import INVERSION
from bids_qsm.recon.unwrap import UNWRAP
from tests.bold_runs import ECHO_TIME, FRAMES, frame, head
from tests.skeletons import write_image


@pytest.mark.parametrize('extension', ['nii', 'nii.gz'])
def test_frames_are_read_one_at_a_time(tmp_path, extension):
    data = np.arange(2 * 3 * 4 * 5, dtype=np.int16).reshape(2, 3, 4, 5)
    image = nib.Nifti1Image(data, np.diag([2, 2, 3, 1]))
    image.header.set_slope_inter(0.5, -3)
    image.to_filename(tmp_path / f'run.{extension}')
    frames = Frames(tmp_path / f'run.{extension}')
    assert len(frames) == 5
    assert frames.affine[2, 2] == 3
    stored = np.asarray(nib.load(tmp_path / f'run.{extension}').dataobj)
    for t in (0, 3, 4, 1):
        assert frames[t].dtype == np.float32
        assert np.array_equal(frames[t], stored[..., t])


@pytest.mark.parametrize('extension', ['nii', 'nii.gz'])
def test_a_damaged_run_is_told_of(tmp_path, extension):
    path = write_image(tmp_path / f'run.{extension}', (8, 9, 7, 4))
    os.truncate(path, path.stat().st_size - 100)
    with pytest.raises(UserError, match=r'run\.nii.* cannot be read'):
        list(Frames(path))


def test_a_wrong_checksum_is_told_of(tmp_path):
    path = write_image(tmp_path / 'run.nii.gz', (8, 9, 7, 4))
    content = bytearray(path.read_bytes())
    content[-6] ^= 1  # of the checksum
    path.write_bytes(content)
    with pytest.raises(UserError, match='cannot be read'):
        Frames(path)


@pytest.fixture(scope='module')
def ran(tmp_path_factory):
    """Outputs of the mean, and of its conditioning, of a run with a Siemens scale."""
    folder = tmp_path_factory.mktemp('run')
    images = [np.stack(part, -1) for part in zip(*map(frame, range(FRAMES)), strict=True)]
    stored = {'magnitude': np.rint(4000 * images[0]), 'phase': np.rint(images[1] * 4096 / np.pi)}
    files = {}
    for part, data in stored.items():
        files[part] = [str(folder / f'{part}.nii.gz')]
        image = nib.Nifti1Image(data.astype(np.int16), head().affine).to_bytes()
        Path(files[part][0]).write_bytes(gzip.compress(image, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        mean = AverageFrames(**files).run(cwd=str(folder)).outputs
        condition = ConditionPhase(
            magnitude=[mean.magnitude],
            phase=[mean.phase],
            scaling='radians',
            sign='positive',
            earlier=mean.findings,
            echo_times=[ECHO_TIME],
        )
        (folder / 'condition').mkdir()
        return mean, condition.run(cwd=str(folder / 'condition')).outputs


def susceptibility(magnitude, phase):
    """Map (ppm) by ROMEO, V-SHARP and TV."""
    grid = head().grid
    brain = ndimage.binary_erosion(head().brain, iterations=2) & (head().magnitude > 0.3)
    unwrapped = UNWRAP['romeo'](phase, magnitude, brain, [ECHO_TIME])
    field, noise, *_ = FIELD['linear'](unwrapped, magnitude, brain, [ECHO_TIME], 3.0)
    local, inside = BACKGROUND['vsharp'](field, brain, grid)
    return INVERSION['tv'](local, inside, noise, grid), ndimage.binary_erosion(inside)


def test_susceptibility_of_the_mean_is_the_truth(ran):
    _, conditioned = ran
    naive = np.mean([np.multiply(m, np.exp(1j * p)) for m, p in map(frame, range(FRAMES))], 0)[..., None]
    clean = head().signal[..., None]
    mean = [np.asarray(nib.load(path).dataobj) for path in (conditioned.magnitude, conditioned.phase)]
    fits = {}
    for name, (magnitude, phase) in {
        'mean': mean,
        'naive': (np.abs(naive), np.angle(naive)),
        'clean': (np.abs(clean), np.angle(clean)),
    }.items():
        images = (np.asfortranarray(image, np.float32) for image in (magnitude, phase))
        chi, inside = susceptibility(*images)
        slope = np.polyfit(head().chi[inside], chi[inside], 1)[0]
        fits[name] = np.corrcoef(chi[inside], head().chi[inside])[0, 1], slope
    assert fits['mean'] == pytest.approx(fits['clean'], abs=0.08)
    assert fits['mean'][0] > 0.77
    assert 0.8 < fits['mean'][1] < 1.0
    assert abs(fits['naive'][0]) < 0.3


def test_what_was_found_is_kept(ran):
    mean, conditioned = ran
    assert nib.load(mean.phase).shape == nib.load(conditioned.phase).shape == (*head().grid.shape, 1)
    findings = json.loads(Path(conditioned.notes).read_text())['findings']
    titles = [one['what'] for one in findings]
    assert titles[:3] == ['Phase scaling', 'Frames', 'Odd and even slices']
    assert titles.count('Phase scaling') == 1
    assert '8192' in findings[0]['found']
