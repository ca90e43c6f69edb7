"""Images and sidecars of simulated datasets: the same data give the same bytes."""

import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np


def save_json(stem: Path | str, content: dict):
    """Write ``stem``.json."""
    Path(f'{stem}.json').write_text(json.dumps(content, indent=2) + '\n')


def save_image(
    data: np.ndarray, affine: np.ndarray, stem: Path | str, *, repetition_time: float | None = None
):
    """Write ``stem``.nii.gz, quickly compressed, with no time stamp; with a repetition time (s) for runs."""
    image = nib.Nifti1Image(data, affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    image.header.set_xyzt_units('mm', None if repetition_time is None else 'sec')
    if repetition_time is not None:
        image.header.set_zooms((*image.header.get_zooms()[:3], repetition_time))
    Path(f'{stem}.nii.gz').write_bytes(gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))
