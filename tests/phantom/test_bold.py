"""The simulated BOLD run: where its signals are, when they come, and the files around it."""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from bids_qsm.biomarkers.vein_signal import responses
from bids_qsm.interfaces.xfm import load_xfm
from bids_qsm.phantom.bold import BoldProtocol, simulate_bold
from bids_qsm.phantom.bold_dataset import write_bold

QUIET = {'resting': 0.0, 'venous': 0.0, 'tsnr': 1e5, 'unsteady': 0, 'distortion_mm': 0.0}
COARSE = BoldProtocol((4.0, 4.0, 4.0), frames=60)


def coarse(**changes):
    return BoldProtocol((4.0, 4.0, 4.0), frames=60, **changes)


def detrended(data):
    time = np.linspace(-1, 1, data.shape[-1])
    basis = np.linalg.qr(np.stack([np.ones_like(time), time, np.cos(np.pi * (time + 1) / 2)], 1))[0]
    return data - (data @ basis) @ basis.T


@pytest.fixture(scope='module')
def quiet(head):
    return simulate_bold(head, coarse(**QUIET), 1)


def test_the_patch_follows_the_task_and_the_vein_comes_later_and_larger(quiet):
    truth, task = quiet.truth, responses(quiet.events, 60, 2.0)['stimulus'].to_numpy()
    np.testing.assert_allclose(quiet.task, task, atol=1e-6)
    percent = quiet.data / quiet.data.mean(-1, keepdims=True) - 1
    patch = (truth['neural'] > 0.3) & (truth['downstream'] == 0)
    # of the vein the five voxels that have most of it, away from the patch
    outside = np.where(truth['neural'] < 0.05, truth['downstream'], 0)
    downstream = outside >= np.sort(outside.ravel())[-5]
    assert patch.sum() >= 5
    assert outside[downstream].min() > 0.02
    own, vein = (detrended(percent[where]).mean(0) for where in (patch, downstream))
    target = detrended(task[None])[0]
    gain = own @ target / (target @ target)
    assert gain == pytest.approx(0.02 * truth['neural'][patch].mean(), rel=0.15)
    assert vein.std() / truth['downstream'][downstream].mean() > 3 * own.std() / truth['neural'][patch].mean()
    # the course of the vein fits best where the task is 1 to 2 s late
    late = [responses(quiet.events.assign(onset=quiet.events['onset'] + s), 60, 2.0) for s in range(4)]
    fit = [np.corrcoef(vein, detrended(one['stimulus'].to_numpy()[None])[0])[0, 1] for one in late]
    assert int(np.argmax(fit)) in (1, 2)


def test_the_centre_is_that_of_the_neural_response(quiet):
    at = np.stack(np.indices(quiet.truth['neural'].shape), -1) @ quiet.affine[:3, :3].T + quiet.affine[:3, 3]
    weight = quiet.truth['neural']
    middle = (at * weight[..., None]).sum((0, 1, 2)) / weight.sum()
    np.testing.assert_allclose(middle, quiet.centre, atol=0.5)


def test_only_veins_have_their_fluctuation_and_first_frames_are_brighter(head):
    run = simulate_bold(head, coarse(**{**QUIET, 'venous': 0.04, 'unsteady': 2, 'response': 0.0}), 1)
    first, third, later = (run.data[..., t].mean() for t in (0, 2, 5))
    assert first > 1.2 * later > 1.15 * third
    steady = run.data[..., 2:]
    spread = detrended(steady / steady.mean(-1, keepdims=True)).std(-1)
    veins, grey = run.truth['veins'] > 0.4, (run.truth['grey'] > 0.8) & (run.truth['veins'] == 0)
    assert spread[veins].mean() > 10 * spread[grey].mean()


def test_distortion_moves_tissue_near_air(head, quiet):
    plain = quiet.data[..., 5]
    moved = simulate_bold(head, coarse(**{**QUIET, 'distortion_mm': 8.0}), 1).data[..., 5]
    changed = np.abs(moved - plain) > 0.2 * np.percentile(plain, 90)
    front = np.zeros_like(changed)
    front[:, changed.shape[1] // 2 :, : changed.shape[2] // 2] = True
    assert changed[front].mean() > 10 * changed[:, :, -changed.shape[2] // 4 :].mean()


def test_the_files_are_laid_out_as_by_fmriprep(head, tmp_path):
    later = head.moved((2, 0, 0), (1, -2, 0.5))
    t1w = np.zeros((48, 60, 52), np.float32)
    affine = np.diag([4.0, 4, 4, 1])
    affine[:3, 3] = (-94, -118, -118)
    run = write_bold(tmp_path, 'sub-01', later, head, t1w, affine, COARSE, 1)
    func = tmp_path / 'derivatives' / 'fmriprep' / 'sub-01' / 'func'
    stem = 'sub-01_task-stimulus'
    table = pd.read_csv(func / f'{stem}_desc-confounds_timeseries.tsv', sep='\t')
    image = nib.load(func / f'{stem}_desc-preproc_bold.nii.gz')
    assert len(table) == image.shape[3] == 60
    assert image.header.get_zooms()[3] == 2.0
    assert {'cosine00', 'non_steady_state_outlier01', 'trans_x', 'csf', 'global_signal'} <= set(table)
    assert (table['cosine00'][:2] == 0).all()
    about = json.loads((tmp_path / 'sub-01' / 'func' / f'{stem}_bold.json').read_text())
    assert about['RepetitionTime'] == 2.0
    # the transform takes points of the T1w image to those of the run
    (matrix,) = load_xfm(func / f'{stem}_from-boldref_to-T1w_mode-image_desc-coreg_xfm.txt')
    grey = nib.load(tmp_path / 'derivatives/fmriprep/sub-01/anat/sub-01_label-GM_probseg.nii.gz')
    share = np.asarray(grey.dataobj)
    here = np.average(np.argwhere(share > 0), axis=0, weights=share[share > 0])
    point = matrix[:3, :3] @ (affine[:3, :3] @ here + affine[:3, 3]) + matrix[:3, 3]
    at = np.argwhere(run.truth['grey'] > 0) @ run.affine[:3, :3].T + run.affine[:3, 3]
    np.testing.assert_allclose(
        point, np.average(at, axis=0, weights=run.truth['grey'][run.truth['grey'] > 0]), atol=1.5
    )
