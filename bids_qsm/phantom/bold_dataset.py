"""A simulated BOLD run on disk: raw, and as fMRIPrep would have prepared it."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from bids_qsm import __version__
from bids_qsm.phantom.bold import BoldProtocol, BoldRun, simulate_bold
from bids_qsm.phantom.files import save_image, save_json
from bids_qsm.phantom.head import Head

TASK = 'stimulus'


def write_bold(
    dataset: Path,
    stem: str,
    head: Head,
    anatomy: Head,
    t1w: np.ndarray,
    t1w_affine: np.ndarray,
    protocol: BoldProtocol,
    seed: int,
):
    """Write a run below ``dataset``: func/ with events, and derivatives/fmriprep; return the `BoldRun`.

    Parameters
    ----------
    dataset : Path
    stem : str
        First part of the file names, as 'sub-01_ses-1'.
    head, anatomy : Head
        In the pose of the run, and in that of the T1w image.
    t1w, t1w_affine : ndarray
        The T1w image.
    protocol, seed
        As for `simulate_bold`.
    """
    run = simulate_bold(head, protocol, seed)
    folder = '/'.join(stem.split('_'))
    raw = dataset / folder / 'func'
    prepared = dataset / 'derivatives' / 'fmriprep'
    anat, func = prepared / folder / 'anat', prepared / folder / 'func'
    for path in (raw, anat, func):
        path.mkdir(parents=True, exist_ok=True)
    name = f'{stem}_task-{TASK}'
    data = np.rint(run.data).astype(np.int16)
    about = {
        'TaskName': TASK,
        'RepetitionTime': protocol.repetition_time,
        'EchoTime': protocol.echo_time,
        'MagneticFieldStrength': 3.0,
    }
    save_image(data, run.affine, raw / f'{name}_bold', repetition_time=protocol.repetition_time)
    save_json(raw / f'{name}_bold', about)
    run.events.to_csv(raw / f'{name}_events.tsv', sep='\t', index=False)
    _describe(prepared)
    _write_anatomy(anat / stem, anatomy, t1w, t1w_affine)
    save_image(data, run.affine, func / f'{name}_desc-preproc_bold', repetition_time=protocol.repetition_time)
    save_json(func / f'{name}_desc-preproc_bold', {**about, 'StartTime': 0.0, 'SkullStripped': False})
    brain = run.truth['brain'] + run.truth['veins'] > 0.5
    save_image(run.data[..., protocol.unsteady :].mean(-1), run.affine, func / f'{name}_desc-coreg_boldref')
    save_image(brain.astype(np.uint8), run.affine, func / f'{name}_desc-brain_mask')
    to_bold = np.linalg.inv(head.pose) @ anatomy.pose  # of points of the T1w image
    _write_xfm(func / f'{name}_from-boldref_to-T1w_mode-image_desc-coreg_xfm.txt', to_bold)
    table = _confounds(run, brain, np.random.default_rng([seed, 8]))
    stem_of_table = func / f'{name}_desc-confounds_timeseries'
    table.to_csv(f'{stem_of_table}.tsv', sep='\t', index=False, na_rep='n/a')
    save_json(stem_of_table, {column: {'Method': 'Simulated'} for column in table})
    return run


def _write_anatomy(stem: Path, head: Head, t1w: np.ndarray, affine: np.ndarray):
    save_image(t1w.astype(np.float32), affine, f'{stem}_desc-preproc_T1w')
    part = head.sample(t1w.shape, affine, ('brain', 'csf', 'white'))
    grey = np.clip(part['brain'] - part['csf'] - part['white'], 0, 1)
    save_image((part['brain'] > 0.5).astype(np.uint8), affine, f'{stem}_desc-brain_mask')
    for label, share in (('GM', grey), ('WM', part['white']), ('CSF', part['csf'])):
        save_image(share.astype(np.float32), affine, f'{stem}_label-{label}_probseg')


def _confounds(run: BoldRun, brain: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    """Columns as in a table of fMRIPrep."""
    frames, skip = run.protocol.frames, run.protocol.unsteady
    series = run.data[brain].T
    found = {'global_signal': series.mean(1)}
    for name, share in (('csf', 'csf'), ('white_matter', 'white')):
        found[name] = series[:, run.truth[share][brain] > 0.9].mean(1)
    far = np.zeros(frames)
    for axis in ('trans_x', 'trans_y', 'trans_z', 'rot_x', 'rot_y', 'rot_z'):
        radius = 1.0 if axis.startswith('trans') else 50.0
        walk = np.cumsum(rng.standard_normal(frames)) * 0.02 / np.sqrt(frames)
        found[axis] = walk / radius
        far += np.abs(np.diff(walk, prepend=walk[0]))
    found['framewise_displacement'] = np.r_[np.nan, far[1:]]
    found['std_dvars'] = np.r_[np.nan, np.ones(frames - 1)]
    steady = frames - skip
    order = np.arange(1, int(2 * steady * run.protocol.repetition_time / 128) + 1)
    for number, one in enumerate(order):
        wave = np.cos(np.pi * (np.arange(steady) + 0.5) * one / steady) * np.sqrt(2 / steady)
        found[f'cosine{number:02d}'] = np.r_[np.zeros(skip), wave]
    for frame in range(skip):
        found[f'non_steady_state_outlier{frame:02d}'] = (np.arange(frames) == frame).astype(int)
    return pd.DataFrame(found)


def _write_xfm(path: Path, matrix: np.ndarray):
    """Write an affine of points (RAS) as ITK's text, whose world is LPS."""
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    lps = flip @ matrix @ flip
    numbers = ' '.join(repr(float(v)) for v in (*lps[:3, :3].ravel(), *lps[:3, 3]))
    path.write_text(
        '#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\n'
        f'Parameters: {numbers}\nFixedParameters: 0 0 0\n'
    )


def _describe(path: Path):
    content = {
        'Name': 'Simulated run, laid out as by fMRIPrep',
        'BIDSVersion': '1.10.0',
        'DatasetType': 'derivative',
        'DatasetLinks': {'raw': '../..'},
        'GeneratedBy': [{'Name': 'bids_qsm phantom', 'Version': __version__}],
    }
    (path / 'dataset_description.json').write_text(json.dumps(content, indent=2) + '\n')
