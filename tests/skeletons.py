"""Tiny BIDS datasets for tests: real files with real headers, a few voxels each."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np

SHAPE = (8, 9, 7)
AFFINE = np.diag([2.0, 2.0, 2.5, 1.0])
ECHO_TIMES = (0.004, 0.008, 0.012)


def oblique(angle: float = 20.0):
    """Affine of a slab turned about its first axis by ``angle`` (degrees)."""
    c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    turn = np.eye(4)
    turn[1:3, 1:3] = [[c, -s], [s, c]]
    return turn @ AFFINE


def write_dataset(root, *, name='Skeleton'):
    """An empty raw dataset at ``root``; returns its path."""
    root = Path(root)
    write_json(
        root / 'dataset_description.json', {'Name': name, 'BIDSVersion': '1.10.0', 'DatasetType': 'raw'}
    )
    (root / 'README.md').write_text('A dataset of a few voxels, made by the tests of bids_qsm.\n' * 4)
    return root


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_image(path, shape=SHAPE, affine=AFFINE, data=None):
    """A NIfTI image with sform and qform set; random values unless ``data`` is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if data is None:
        data = np.random.default_rng(0).random(shape, np.float32)
    image = nib.Nifti1Image(data, affine)
    image.set_sform(affine, code=1)
    if np.isfinite(affine).all():
        image.set_qform(affine, code=1)
    image.header.set_xyzt_units('mm')
    image.to_filename(path)
    return path


def stem_of(sub, ses=None, entities=''):
    """('sub-01/ses-1/anat', 'sub-01_ses-1_acq-x')."""
    folder = f'sub-{sub}/ses-{ses}/anat' if ses else f'sub-{sub}/anat'
    words = [f'sub-{sub}', f'ses-{ses}' if ses else '', entities]
    return folder, '_'.join(filter(None, words))


def write_series(
    root,
    *,
    sub='01',
    ses=None,
    entities='',
    suffix='MEGRE',
    parts=('mag', 'phase'),
    echo_times=ECHO_TIMES,
    echoes=None,
    shape=SHAPE,
    affine=AFFINE,
    extension='.nii.gz',
    sidecar=None,
):
    """A gradient-echo series with one sidecar an image; returns its files.

    ``echoes`` are the numbers of the echo entity, 1, 2, ... by default.
    """
    folder, stem = stem_of(sub, ses, entities)
    if echoes is None:
        echoes = [None] if suffix != 'MEGRE' and len(echo_times) == 1 else range(1, len(echo_times) + 1)
    common = {
        'MagneticFieldStrength': 3.0,
        'RepetitionTime': 0.03,
        'FlipAngle': 12,
        'Manufacturer': 'Siemens',
    }
    if sidecar is not None:
        common = sidecar
    files = []
    for echo, time in zip(echoes, echo_times, strict=True):
        for part in parts:
            words = [stem, f'echo-{echo}' if echo else '', f'part-{part}' if part else '', suffix]
            base = root / folder / '_'.join(filter(None, words))
            files.append(write_image(base.with_name(base.name + extension), shape, affine))
            extra = {} if time is None else {'EchoTime': time}
            units = {'Units': 'arbitrary'} if part == 'phase' else {}
            write_json(base.with_name(base.name + '.json'), {**common, **extra, **units})
    return files


def write_t1w(root, *, sub='01', ses=None, entities='', shape=(10, 11, 12), affine=None):
    """A T1w image with its sidecar."""
    folder, stem = stem_of(sub, ses, entities)
    base = root / folder / f'{stem}_T1w'
    write_json(base.with_name(base.name + '.json'), {'MagneticFieldStrength': 3.0})
    return write_image(base.with_name(base.name + '.nii.gz'), shape, np.eye(4) if affine is None else affine)


def write_fmriprep(root, *, sub='01', ses=None, shape=(10, 11, 12), spaces=('MNI152NLin2009cAsym',)):
    """What fMRIPrep leaves of the anatomy: brain mask, preprocessed T1w, transforms (empty files)."""
    folder, stem = stem_of(sub, ses)
    write_json(root / 'dataset_description.json', {'Name': 'fMRIPrep', 'BIDSVersion': '1.10.0'})
    write_image(root / folder / f'{stem}_desc-brain_mask.nii.gz', shape, np.eye(4))
    write_image(root / folder / f'{stem}_desc-preproc_T1w.nii.gz', shape, np.eye(4))
    write_image(root / folder / f'{stem}_space-{spaces[0]}_desc-brain_mask.nii.gz', shape, np.eye(4))
    for space in spaces:
        for a, b in (('T1w', space), (space, 'T1w')):
            (root / folder / f'{stem}_from-{a}_to-{b}_mode-image_xfm.h5').touch()
    return root


def only_error(plan):
    """The reason why the only series of a plan is rejected."""
    assert not plan.series
    (rejected,) = plan.rejected
    assert rejected.is_error
    assert '\n' not in rejected.reason
    return rejected.reason
