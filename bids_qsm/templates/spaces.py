"""Templates by name: built in, from a cache on disk, or downloaded."""

import tempfile
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np

from bids_qsm.anatomy.segmentation import white_matter
from bids_qsm.errors import UserError, nearest
from bids_qsm.interfaces.io import read
from bids_qsm.templates.caches import (
    copy_whole,
    environment,
    first_file,
    homes,
    reason_of,
    writable,
    write_once,
)

EMBEDDED = 'MNI152NLin2009aSym'
CACHE = ('TEMPLATEFLOW_HOME', '.cache/templateflow')
IMAGES = ('T1w', 'desc-brain_mask')


@dataclass(frozen=True)
class Template:
    """A brain in a standard space: image, brain mask, and what to cite.

    Only the template that the atlas is in has ``white_matter`` (mask of the deep white matter); see
    `get_white_matter`.
    """

    name: str
    t1w: Path
    mask: Path
    approximate: bool
    citation: str
    white_matter: Path | None = None


def get_template(name: str, cache: Path) -> Template:
    """Find a template by its TemplateFlow name.

    'MNI152NLin2009aSym' is built in (nilearn's ICBM152 at 1 mm, without skull) and needs no network. Others
    are taken from $TEMPLATEFLOW_HOME (default ~/.cache/templateflow) or ``cache``, or downloaded to the first
    of these that can be written. A damaged file counts as absent.

    Raises
    ------
    UserError
        The template is in no cache and cannot be downloaded.
    """
    if name == EMBEDDED:
        return embedded_template(cache)
    places = homes(*CACHE, cache)
    damage = None
    for home in places:
        t1w, mask = (first_file(home, _names(name, image)) for image in IMAGES)
        if t1w and mask:
            try:
                for path in (t1w, mask):
                    read(path)
                break
            except UserError as error:  # such as a download that was killed
                damage = error
    else:
        try:
            t1w, mask = _download_template(name, writable(places))
        except UserError as error:
            raise damage or error from error
    return Template(
        name, t1w, mask, False, f'TemplateFlow, {name} (Ciric et al. 2022, doi:10.1038/s41592-022-01681-2)'
    )


def require_known(name: str, cache: Path):
    """Raise UserError where a template is neither in a cache nor one that TemplateFlow has images of.

    Nothing is downloaded: TemplateFlow's client brings the list of its files.
    """
    places = homes(*CACHE, cache)
    if name == EMBEDDED or any(
        all(first_file(home, _names(name, image)) for image in IMAGES) for home in places
    ):
        return
    known = _known_files()
    usable = [
        one
        for one in sorted({path.partition('/')[0].removeprefix('tpl-') for path in known})
        if all(known.intersection(_names(one, image)) for image in IMAGES)
    ]
    if known and name not in usable:
        raise UserError(
            f'--output-spaces {name}: TemplateFlow has no such template with a T1w image and a brain mask at '
            f'1 mm; give one of {", ".join(usable)}, or run `bids_qsm fetch {name}` first where it is newer '
            f'than bids_qsm.{nearest(name, usable)}'
        )


def _known_files() -> set[str]:
    """Files of the templates that the installed client of TemplateFlow lists; none where it has no list."""
    spec = find_spec('templateflow')  # its import wants to write to the cache
    for place in (spec.submodule_search_locations or ()) if spec else ():
        listed = Path(place) / 'conf' / 'templateflow-skel.zip'
        if listed.is_file():
            with zipfile.ZipFile(listed) as archive:
                return {*archive.namelist()}
    return set()


def _names(name: str, image: str) -> list[str]:
    return [f'tpl-{name}/tpl-{name}_res-{number}_{image}.nii.gz' for number in ('01', '1')]


def keep_template(template: Template, cache: Path) -> Template:
    """Copy a template into ``cache``, so that `get_template` finds it on any machine that sees it."""
    if template.t1w.is_relative_to(cache):
        return template
    folder = cache / 'templateflow' / f'tpl-{template.name}'
    t1w, mask = (copy_whole(path, folder / path.name) for path in (template.t1w, template.mask))
    return replace(template, t1w=t1w, mask=mask)


def get_white_matter(template: Template, cache: Path) -> Path:
    """The mask of the deep white matter of a template; it is made once and kept in ``cache``."""

    def write(path: Path) -> None:
        t1w, mask = nib.load(template.t1w), nib.load(template.mask)
        region = white_matter(np.asarray(t1w.dataobj, np.float32), np.asarray(mask.dataobj) > 0.5, t1w.affine)
        nib.save(nib.Nifti1Image(region.astype(np.uint8), t1w.affine), path)

    name = f'tpl-{template.name}'
    return write_once(cache / name / f'{name}_res-01_label-deepWM_mask.nii.gz', write)


def embedded_template(cache: Path) -> Template:
    """The template that nilearn bundles, written to ``cache``."""
    stem = cache / f'tpl-{EMBEDDED}' / f'tpl-{EMBEDDED}_res-01'

    def image(load: str, dtype: type) -> Callable[[Path], None]:
        def write(path: Path) -> None:
            from nilearn import datasets  # slow to import, and needed once

            loaded = getattr(datasets, load)(resolution=1)
            nib.save(nib.Nifti1Image(np.asarray(loaded.dataobj).astype(dtype), loaded.affine), path)

        return write

    t1w = write_once(Path(f'{stem}_desc-brain_T1w.nii.gz'), image('load_mni152_template', np.float32))
    mask = write_once(Path(f'{stem}_desc-brain_mask.nii.gz'), image('load_mni152_brain_mask', np.uint8))
    return Template(
        EMBEDDED,
        t1w,
        mask,
        False,
        'ICBM152 2009a symmetric (Fonov et al. 2011, doi:10.1016/j.neuroimage.2010.07.033)',
    )


def _download_template(name: str, home: Path) -> list[Path]:
    """Download the T1w image and the brain mask of a template to the cache ``home``.

    They go to a scratch folder first: several tasks may do this at the same time, and may be killed.
    """
    try:
        with tempfile.TemporaryDirectory() as scratch:
            found = [
                path if isinstance(path, (str, Path)) else path[0] for path in _templateflow(name, scratch)
            ]
            return [copy_whole(path, home / f'tpl-{name}' / Path(path).name) for path in found]
    except Exception as error:
        raise UserError(
            f'The template {name} is not in the TemplateFlow cache {home} and could not be downloaded '
            f'({reason_of(error)}): on a machine with network, run `bids_qsm fetch {name}`, copy its cache '
            'here and set TEMPLATEFLOW_HOME to it.'
        ) from error


def _templateflow(name: str, root: str) -> list:
    """Download the T1w image and the brain mask by TemplateFlow's client; each a path or a list of one."""
    with warnings.catch_warnings(), environment(TEMPLATEFLOW_HOME=root):  # its import wants to write there
        warnings.simplefilter('ignore')
        from templateflow.client import TemplateFlowClient

        client = TemplateFlowClient(root=root)
        return [
            client.get(name, resolution=1, extension='.nii.gz', raise_empty=True, **entities)
            for entities in ({'suffix': 'T1w', 'desc': None}, {'suffix': 'mask', 'desc': 'brain'})
        ]
