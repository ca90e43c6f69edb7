"""Templates and atlases by name or path: embedded ones first, then caches on disk, then a download."""

import filecmp
import hashlib
import json
import os
import re
import shutil
import tempfile
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from bids_qsm.anatomy.atlas import labels as nuclei_labels
from bids_qsm.anatomy.atlas import nuclei_atlas
from bids_qsm.anatomy.contrast import NUCLEI, TISSUE, prior_chi
from bids_qsm.anatomy.register import DEEP_GREY, grid_of_box
from bids_qsm.anatomy.segmentation import COLUMNS, SIDES, side_and_region, white_matter
from bids_qsm.anatomy.transform import resample
from bids_qsm.derivatives import atomic_write
from bids_qsm.errors import UserError
from bids_qsm.interfaces.io import read

EMBEDDED = 'MNI152NLin2009aSym'


@dataclass(frozen=True)
class Template:
    """A brain in a standard space: image, brain mask, and what to cite.

    ``white_matter`` (a mask of its deep parts) and ``chi`` (susceptibility, ppm) are there for the space that
    the regions come from; see `get_white_matter` and `get_chi`.
    """

    name: str
    t1w: Path
    mask: Path
    approximate: bool
    citation: str
    white_matter: Path | None = None
    chi: Path | None = None


@dataclass(frozen=True)
class Atlas:
    """Labels in a standard space: dseg, its table (index, name, hemisphere, region), and what to cite."""

    name: str
    space: str
    dseg: Path
    labels: Path
    approximate: bool
    citation: str


def get_template(name: str, cache: Path) -> Template:
    """Find a template by its TemplateFlow name.

    'MNI152NLin2009aSym' is embedded (nilearn's ICBM152 at 1 mm, without skull) and needs no network. Others
    are taken from $TEMPLATEFLOW_HOME (default ~/.cache/templateflow) or ``cache``, or downloaded to the first
    of these that can be written; a file that is damaged counts as absent.

    Raises
    ------
    UserError
        Where the template is neither in the cache nor to be had.
    """
    if name == EMBEDDED:
        return _embedded_template(Path(cache))
    homes = _homes('TEMPLATEFLOW_HOME', '.cache/templateflow', cache)
    stem = f'tpl-{name}/tpl-{name}_res-'
    damage = None
    for home in homes:
        t1w = _first(home, [f'{stem}{r}_T1w.nii.gz' for r in ('01', '1')])
        mask = _first(home, [f'{stem}{r}_desc-brain_mask.nii.gz' for r in ('01', '1')])
        if t1w and mask:
            try:
                for path in (t1w, mask):
                    read(path)
                break
            except UserError as error:  # as where a download was killed
                damage = error
    else:
        try:
            t1w, mask = _download_template(name, _writable(homes))
        except UserError as error:
            raise damage or error from error
    return Template(
        name, t1w, mask, False, f'TemplateFlow, {name} (Ciric et al. 2022, doi:10.1038/s41592-022-01681-2)'
    )


def keep_template(template: Template, cache: Path) -> Template:
    """Copy a template to where `get_template` finds it for this ``cache``, whatever caches a machine has."""
    cache = Path(cache)
    if template.t1w.is_relative_to(cache):
        return template
    folder = cache / 'templateflow' / f'tpl-{template.name}'
    t1w, mask = (_copy(path, folder / path.name) for path in (template.t1w, template.mask))
    return replace(template, t1w=t1w, mask=mask)


def get_atlas(name_or_path, cache: Path) -> Atlas:
    """Find an atlas by name ('nuclei', 'CIT168') or by the path of a dseg NIfTI that has its TSV beside it.

    'nuclei' is embedded: ellipsoids, approximate. 'CIT168' comes from nilearn's cache ($NILEARN_DATA) or is
    downloaded. The template space of a path is read from its ``tpl-`` or ``space-`` entity; its table needs
    columns index and name, and hemisphere and region are read from the name where they are missing.

    Raises
    ------
    UserError
        Where the atlas is unknown, incomplete, or neither in the cache nor to be had.
    """
    cache = Path(cache)
    if str(name_or_path) == 'nuclei':
        return _nuclei(cache)
    if str(name_or_path) == 'CIT168':
        return _cit168(cache)
    # Not resolved: the name holds the space, and what a link leads to may be named otherwise.
    path = Path(name_or_path).expanduser().absolute()
    if not path.is_file():
        raise UserError(
            f"No atlas {name_or_path!s}: give 'nuclei', 'CIT168' or the path of a dseg NIfTI file."
        )
    atlas = _atlas_of_path(path, cache)
    read(path)  # damage is better said once than by each subject
    return atlas


def get_white_matter(template: Template, cache: Path) -> Path:
    """Mask of the deep white matter of a template, made once."""

    def write(path):
        t1w, mask = nib.load(template.t1w), nib.load(template.mask)
        region = white_matter(np.asarray(t1w.dataobj, np.float32), np.asarray(mask.dataobj) > 0.5, t1w.affine)
        nib.save(nib.Nifti1Image(region.astype(np.uint8), t1w.affine), path)

    folder = Path(cache) / f'tpl-{template.name}'
    return _write(folder / f'tpl-{template.name}_res-01_label-deepWM_mask.nii.gz', write)


def get_chi(given, template: Template, atlas: Atlas, cache: Path) -> Path:
    """Susceptibility in the space of a template: the file ``given``, else a prior from atlas and literature.

    Raises
    ------
    UserError
        Where the file given is no volume or is named for another space.
    """
    if given is None:

        def write(path):
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

        # another atlas of the same name, a mended table or other values make another prior
        content = (atlas.dseg.read_bytes(), atlas.labels.read_bytes(), repr((TISSUE, NUCLEI)).encode())
        key = hashlib.sha256(b''.join(content)).hexdigest()[:8]
        name = f'tpl-{template.name}_res-01_atlas-{atlas.name}_desc-prior{key}_Chimap.nii.gz'
        return _write(Path(cache) / f'tpl-{template.name}' / name, write)
    path = Path(given)
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
    return path


def _space_of(path):
    """Template space of an image by its name or its sidecar; None where neither says it."""
    entities = dict(part.split('-', 1) for part in path.name.split('_') if '-' in part)
    if 'space' in entities:
        return entities['space']
    beside = path.with_name(path.name.partition('.')[0] + '.json')
    try:
        stated = json.loads(beside.read_text(encoding='utf-8')).get('SpatialReference')
    except (OSError, ValueError, AttributeError):
        stated = None
    # the template of a study has a name of its own beside the space that it was made in
    named = isinstance(stated, str) and re.fullmatch(r'\w+', stated)
    return stated if named else entities.get('tpl')


def _homes(variable, default, cache):
    """Where the files of a library may be: its variable's folder, else its default below HOME; and ours."""
    ours = Path(cache) / Path(default).name
    if os.environ.get(variable):
        return [Path(os.environ[variable]), ours]
    try:
        return [Path.home() / default, ours]
    except RuntimeError:  # neither HOME nor a known user
        return [ours]


def _writable(homes):
    """The first that can be written, which a container's own folder cannot; else the last."""
    for home in homes[:-1]:
        if os.access(next(p for p in (home, *home.absolute().parents) if p.exists()), os.W_OK):
            return home
    return homes[-1]


def _first(folder, names):
    """First file that is there and has content (TemplateFlow keeps empty stand-ins)."""
    for name in names:
        path = folder / name
        if path.is_file() and path.stat().st_size:
            return path
    return None


def _write(path, writer):
    """Write a file under its name once it is whole; keep one that is there and whole."""
    return path if _is_whole(path) else atomic_write(path, writer)


def _copy(source, path):
    """Copy a file, whole or not at all; one that is there and equal keeps its date."""
    if path.is_file() and filecmp.cmp(source, path, shallow=False):
        return path
    return atomic_write(path, lambda p: shutil.copyfile(source, p))


def _is_whole(path):
    if not path.name.endswith('.nii.gz'):
        return path.is_file() and path.stat().st_size > 0
    try:
        read(path)
    except UserError:
        return False
    return True


def _embedded_template(cache):
    from nilearn.datasets import load_mni152_brain_mask, load_mni152_template

    stem = cache / f'tpl-{EMBEDDED}' / f'tpl-{EMBEDDED}_res-01'

    def image(load, dtype):
        def write(path):
            loaded = load(resolution=1)
            nib.save(nib.Nifti1Image(np.asarray(loaded.dataobj).astype(dtype), loaded.affine), path)

        return write

    t1w = _write(Path(f'{stem}_desc-brain_T1w.nii.gz'), image(load_mni152_template, np.float32))
    mask = _write(Path(f'{stem}_desc-brain_mask.nii.gz'), image(load_mni152_brain_mask, np.uint8))
    return Template(
        EMBEDDED,
        t1w,
        mask,
        False,
        'ICBM152 2009a symmetric (Fonov et al. 2011, doi:10.1016/j.neuroimage.2010.07.033)',
    )


def _download_template(name, home):
    # elsewhere first, as tasks may do this at the same time, and may be killed
    try:
        with tempfile.TemporaryDirectory() as scratch:
            found = [
                path if isinstance(path, (str, Path)) else path[0] for path in _templateflow(name, scratch)
            ]
            return [_copy(path, home / f'tpl-{name}' / Path(path).name) for path in found]
    except Exception as error:
        raise UserError(
            f'The template {name} is not in the TemplateFlow cache {home} and could not be downloaded '
            f'({_reason(error)}): on a machine with network, run `bids_qsm fetch {name}`, copy its cache '
            'here and set TEMPLATEFLOW_HOME to it.'
        ) from error


def _templateflow(name, root):
    """What TemplateFlow's client downloads to ``root``: T1w image and brain mask."""
    with warnings.catch_warnings(), _environment(TEMPLATEFLOW_HOME=root):  # its import wants to write there
        warnings.simplefilter('ignore')
        from templateflow.client import TemplateFlowClient

        client = TemplateFlowClient(root=root)
        return [
            client.get(name, resolution=1, extension='.nii.gz', raise_empty=True, **entities)
            for entities in ({'suffix': 'T1w', 'desc': None}, {'suffix': 'mask', 'desc': 'brain'})
        ]


@contextmanager
def _environment(**values):
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _reason(error):
    """First words of what went wrong."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return text if len(text) < 100 else type(error).__name__


def _nuclei(cache):
    template = _embedded_template(cache)
    image = nib.load(template.t1w)
    stem = cache / 'atlas-nuclei' / f'tpl-{EMBEDDED}_res-01_atlas-nuclei_dseg'

    def write(path):
        dseg, _ = nuclei_atlas(image.shape, image.affine)
        nib.save(nib.Nifti1Image(dseg, image.affine), path)

    dseg = _write(Path(f'{stem}.nii.gz'), write)
    table = _write(Path(f'{stem}.tsv'), lambda p: nuclei_labels()[COLUMNS].to_csv(p, sep='\t', index=False))
    return Atlas(
        'nuclei',
        EMBEDDED,
        dseg,
        table,
        True,
        'built-in ellipsoids after CIT168 (Pauli et al. 2018, doi:10.1038/sdata.2018.63)',
    )


def _cit168(cache):
    space = 'MNI152NLin2009cAsym'
    stem = cache / 'atlas-CIT168' / f'tpl-{space}_res-01_atlas-CIT168_dseg'
    dseg, table = Path(f'{stem}.nii.gz'), Path(f'{stem}.tsv')
    if not (_is_whole(dseg) and _is_whole(table)):
        maps, names = fetch_pauli(cache)
        _write(table, lambda p: _cit168_labels(names).to_csv(p, sep='\t', index=False))
        _write(dseg, lambda p: nib.save(_split_probabilities(nib.load(maps)), p))
    return Atlas('CIT168', space, dseg, table, False, 'CIT168 (Pauli et al. 2018, doi:10.1038/sdata.2018.63)')


def fetch_pauli(cache: Path):
    """Probability maps and names of CIT168, as nilearn fetches them to $NILEARN_DATA or ``cache``.

    Raises
    ------
    UserError
        Where they are neither there nor to be had.
    """
    homes = _homes('NILEARN_DATA', 'nilearn_data', cache)
    names = ('pauli_2017_prob.nii.gz', 'labels.txt')
    filled = [home for home in homes if all(_is_whole(home / 'pauli_2017' / name) for name in names)]
    home = filled[0] if filled else _writable(homes)
    try:
        if not filled:  # elsewhere first, as for templates
            with tempfile.TemporaryDirectory() as scratch:
                _pauli(scratch)
                for name in names:
                    _copy(Path(scratch, 'pauli_2017', name), home / 'pauli_2017' / name)
        atlas = _pauli(home)
    except Exception as error:
        raise UserError(
            f'The atlas CIT168 is not in the nilearn cache {home} and could not be downloaded '
            f'({_reason(error)}): on a machine with network, run `bids_qsm fetch CIT168`, copy its '
            'nilearn_data/pauli_2017 here and set NILEARN_DATA to the folder that holds it.'
        ) from error
    return atlas['maps'], [name for name in atlas['labels'] if name.lower() != 'background']


def _pauli(home):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        from nilearn.datasets import fetch_atlas_pauli_2017

        return fetch_atlas_pauli_2017(atlas_type='probabilistic', data_dir=home, verbose=0)


def _cit168_labels(names):
    """Two rows a name, left then right, with our region names."""
    known = nuclei_labels()
    region = dict(zip(known['name'].str.replace(r'^[LR]_', '', regex=True), known['region'], strict=True))
    region['STH'] = region['STN']
    rows = [
        (2 * i + s + 1, f'{side}_{name}', side, region.get(name, name))
        for i, name in enumerate(names)
        for s, side in enumerate('LR')
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _split_probabilities(image):
    """Most likely label or background, odd indices left of the midline and even ones right of it."""
    shape = image.shape[:3]
    best, label = np.zeros(shape, np.float32), np.zeros(shape, np.int16)
    total = np.zeros(shape, np.float32)
    for i in range(image.shape[3]):
        share = np.asarray(image.dataobj[..., i], np.float32)
        label[share > best] = 2 * i + 1
        best = np.maximum(best, share)
        total += share
    label[best < 1 - total] = 0
    index = [np.arange(n)[(None,) * a + (slice(None),) + (None,) * (2 - a)] for a, n in enumerate(shape)]
    x = sum(image.affine[0, a] * index[a] for a in range(3)) + image.affine[0, 3]
    label += ((x > 0) & (label > 0)).astype(np.int16)
    return nib.Nifti1Image(label, image.affine)


def _atlas_of_path(path, cache):
    stem = re.sub(r'\.nii(\.gz)?$', '', path.name)
    if stem == path.name:
        raise UserError(f'The atlas {path} is not a NIfTI file: give a .nii or .nii.gz.')
    entities = dict(part.split('-', 1) for part in stem.split('_') if '-' in part)
    space = entities.get('space') or entities.get('tpl')
    if space is None:
        raise UserError(
            f'The template space of the atlas {path} is not stated: name it tpl-<space>_..._dseg.nii.gz.'
        )
    names = (f'{stem}.tsv', re.sub(r'_res-[^_]+', '', stem) + '.tsv')
    table = _first(path.parent, names)
    if table is None:
        raise UserError(
            f'The atlas {path} has no label table: put {names[0]} (columns index, name) beside it.'
        )
    labels = pd.read_csv(table, sep='\t', dtype=str, keep_default_na=False)
    lacking = [c for c in ('index', 'name') if c not in labels]
    if lacking:
        raise UserError(f'The label table {table} has no column {lacking[0]!r}; it needs index and name.')
    try:
        labels['index'] = labels['index'].astype(int)
    except ValueError as error:
        raise UserError(f'The label table {table} holds an index that is not a whole number.') from error
    parsed = [side_and_region(name) for name in labels['name']]
    for n, column in enumerate(('hemisphere', 'region')):
        if column not in labels:
            labels[column] = [p[n] for p in parsed]
    labels['hemisphere'] = [SIDES.get(side.strip().lower(), '') for side in labels['hemisphere']]
    labels = labels.loc[labels['index'] > 0, COLUMNS]
    name = re.sub('[^0-9A-Za-z]', '', entities.get('atlas') or entities.get('seg') or stem)
    text = labels.to_csv(sep='\t', index=False)
    copy = cache / f'atlas-{name}' / f'{stem}.tsv'
    # The user may have mended the table; a copy that still holds keeps its date.
    if not copy.is_file() or copy.read_bytes() != text.encode():
        atomic_write(copy, lambda p: p.write_text(text, encoding='utf-8'))
    return Atlas(name, space, path, copy, False, f'{path.name}')
