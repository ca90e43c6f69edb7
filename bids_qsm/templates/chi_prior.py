"""Susceptibility in template space: a file of the user, or a prior from the atlas and the literature."""

import hashlib
import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from bids_qsm.anatomy.contrast import NUCLEI, TISSUE, prior_chi
from bids_qsm.anatomy.register import DEEP_GREY, grid_of_box
from bids_qsm.anatomy.transform import resample
from bids_qsm.derivatives.files import sidecar_path
from bids_qsm.entities import entities_of
from bids_qsm.errors import UserError
from bids_qsm.templates.atlases import Atlas
from bids_qsm.templates.caches import write_once
from bids_qsm.templates.spaces import Template


def get_chi(given: Path | None, template: Template, atlas: Atlas, cache: Path) -> Path:
    """Return the susceptibility (ppm) of a template: the file ``given``, else a prior.

    The prior has the mean susceptibility of each tissue and nucleus in the literature, where the template and
    the atlas have them. It is made once and kept in ``cache``.

    Raises
    ------
    UserError
        The file given is not a volume, is in another space, or is constant in the deep grey matter.
    """
    if given is not None:
        _check(given, template)
        return given
    # another atlas of the same name, a corrected table or other values make another prior
    content = (atlas.dseg.read_bytes(), atlas.labels.read_bytes(), repr((TISSUE, NUCLEI)).encode())
    key = hashlib.sha256(b''.join(content)).hexdigest()[:8]
    name = f'tpl-{template.name}_res-01_atlas-{atlas.name}_desc-prior{key}_Chimap.nii.gz'
    return write_once(cache / f'tpl-{template.name}' / name, lambda path: _write_prior(template, atlas, path))


def _write_prior(template: Template, atlas: Atlas, path: Path) -> None:
    t1w, mask, dseg = (nib.load(p) for p in (template.t1w, template.mask, atlas.dseg))
    chi = prior_chi(
        np.asarray(t1w.dataobj, np.float32),
        t1w.affine,
        np.asarray(mask.dataobj) > 0.5,
        np.rint(np.asarray(dseg.dataobj)).astype(np.int32),
        dseg.affine,
        pd.read_csv(atlas.labels, sep='\t', keep_default_na=False),
    )
    nib.save(nib.Nifti1Image(chi, t1w.affine), path)


def _check(path: Path, template: Template) -> None:
    """Raise UserError where a file is not the susceptibility of this template."""
    space = _space_of(path)
    if space not in (None, template.name):
        raise UserError(
            f'--chi-template {path} is in the space {space}, but regions come from {template.name}; '
            'give one in that space.'
        )
    try:
        image = nib.load(path)
        chi = np.asarray(image.dataobj, np.float32)
    except (nib.filebasedimages.ImageFileError, OSError, ValueError) as error:
        raise UserError(f'--chi-template {path} cannot be read ({error}); give a NIfTI image.') from None
    if chi.ndim != 3:
        raise UserError(f'--chi-template {path} has shape {chi.shape}; give one 3D volume.')
    shape, grid = grid_of_box(DEEP_GREY, 2.0)
    if not np.ptp(resample(np.nan_to_num(chi), image.affine, shape, grid, [])) > 0:
        raise UserError(
            f'--chi-template {path} shows nothing where the deep grey matter of {template.name} lies; '
            'give one in that space.'
        )


def _space_of(path: Path) -> str | None:
    """The template space of an image, by its name or its sidecar; None where neither says it."""
    entities = entities_of(path)
    if 'space' in entities:
        return entities['space']
    try:
        stated = json.loads(sidecar_path(path).read_text(encoding='utf-8')).get('SpatialReference')
    except (OSError, ValueError, AttributeError):
        stated = None
    # a study template has a name of its own, and its sidecar names the space that it was made in
    if isinstance(stated, str) and re.fullmatch(r'\w+', stated):
        return stated
    return entities.get('tpl')
