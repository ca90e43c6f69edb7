"""A run of fMRIPrep beside a small job: what the head's T1w image gives, with noise and a response."""

import json

import nibabel as nib
import numpy as np
import pandas as pd

FRAMES, REPETITION_TIME, SHIFT = 40, 2.0, 5.0
STEM = 'sub-01_task-stimulus'


def add_run(job):
    """Write the run into the derivatives of the job; its own space is 5 mm off that of the T1w image."""
    t1w = nib.load(job.anat / 'sub-01_T1w.nii.gz')
    brain = np.asarray(nib.load(job.root / 'fmriprep/sub-01/anat/sub-01_desc-brain_mask.nii.gz').dataobj)
    affine = t1w.affine.copy()
    affine[0, 3] += SHIFT
    rng = np.random.default_rng(0)
    events = pd.DataFrame({'onset': [10.0, 40.0], 'duration': 10.0, 'trial_type': 'stimulus'})
    time = REPETITION_TIME * np.arange(FRAMES)
    task = sum(((time >= t) & (time < t + 12)).astype(float) for t in (14, 44))
    base = 500 + np.asarray(t1w.dataobj, np.float32)[..., None]
    data = base * (1 + 0.01 * rng.standard_normal((*t1w.shape, FRAMES), np.float32))
    middle = t1w.shape[0] // 2
    data[:middle] += 20 * brain[:middle, ..., None] * task
    data[..., 0] *= 1.3
    func = job.root / 'fmriprep' / 'sub-01' / 'func'
    func.mkdir()
    image = nib.Nifti1Image(data.astype(np.float32), affine)
    image.header.set_xyzt_units('mm', 'sec')
    image.header.set_zooms((*image.header.get_zooms()[:3], REPETITION_TIME))
    image.to_filename(func / f'{STEM}_desc-preproc_bold.nii.gz')
    about = {'RepetitionTime': REPETITION_TIME, 'TaskName': 'stimulus'}
    (func / f'{STEM}_desc-preproc_bold.json').write_text(json.dumps(about))
    for name, volume in (('desc-brain_mask', brain), ('desc-coreg_boldref', base[..., 0])):
        nib.Nifti1Image(volume, affine).to_filename(func / f'{STEM}_{name}.nii.gz')
    # the T1w's x of 0 is 5 in the run, and ITK turns x around
    (func / f'{STEM}_from-boldref_to-T1w_mode-image_desc-coreg_xfm.txt').write_text(
        '#Insight Transform File V1.0\nTransform: AffineTransform_double_3_3\n'
        f'Parameters: 1 0 0 0 1 0 0 0 1 {-SHIFT} 0 0\nFixedParameters: 0 0 0\n'
    )
    grey = np.where(brain > 0, 0.8, 0).astype(np.float32)
    nib.Nifti1Image(grey, t1w.affine).to_filename(
        job.root / 'fmriprep/sub-01/anat/sub-01_label-GM_probseg.nii.gz'
    )
    wave = np.cos(np.pi * (np.arange(FRAMES - 1) + 0.5) / (FRAMES - 1))
    motion = {
        f'{kind}_{axis}': 0.01 * rng.standard_normal(FRAMES) for kind in ('trans', 'rot') for axis in 'xyz'
    }
    noise = {name: rng.standard_normal(FRAMES) for name in ('csf', 'white_matter', 'global_signal')}
    spike = {'non_steady_state_outlier00': (np.arange(FRAMES) == 0).astype(int)}
    pd.DataFrame({**motion, **noise, 'cosine00': np.r_[0, wave], **spike}).to_csv(
        func / f'{STEM}_desc-confounds_timeseries.tsv', sep='\t', index=False
    )
    (func / f'{STEM}_desc-confounds_timeseries.json').write_text('{}')
    raw = job.data / 'sub-01' / 'func'
    raw.mkdir()
    events.to_csv(raw / f'{STEM}_events.tsv', sep='\t', index=False)
    # a short run that fMRIPrep knows nothing of
    image = nib.Nifti1Image(data[..., :6], affine)
    image.to_filename(raw / 'sub-01_task-raw_bold.nii.gz')
    (raw / 'sub-01_task-raw_bold.json').write_text(json.dumps({**about, 'TaskName': 'raw'}))
