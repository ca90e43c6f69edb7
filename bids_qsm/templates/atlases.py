"""Atlases by name or path: built in, from a cache on disk, or downloaded."""

import hashlib
import re
import tempfile
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from bids_qsm.anatomy.atlas import labels as nuclei_labels
from bids_qsm.anatomy.atlas import nuclei_atlas
from bids_qsm.anatomy.segmentation import COLUMNS, SIDES, side_and_region
from bids_qsm.derivatives.files import atomic_write
from bids_qsm.derivatives.tables import read_labels
from bids_qsm.entities import entities_of
from bids_qsm.errors import UserError
from bids_qsm.interfaces.io import read
from bids_qsm.templates.caches import copy_whole, first_file, homes, is_whole, reason_of, writable, write_once
from bids_qsm.templates.spaces import EMBEDDED, embedded_template

BY_NAME = {'nuclei': '', 'CIT168': 'MNI152NLin2009cAsym'}
"""Atlas -> the template space that it asks for, '' where it is approximate in any."""


@dataclass(frozen=True)
class Atlas:
    """Labels in a standard space: label image, its table (index, name, hemisphere, region), what to cite."""

    name: str
    space: str
    dseg: Path
    labels: Path
    approximate: bool
    citation: str

    @property
    def needed(self) -> str:
        """The template space that it asks for, '' where it is approximate in any."""
        return '' if self.approximate else self.space


def space_needed(name_or_path: str | Path, cache: Path) -> str:
    """The template space that an atlas asks for, '' where it is approximate in any; nothing is downloaded.

    UserError as of `get_atlas` for an atlas that is a file.
    """
    name = str(name_or_path)
    return BY_NAME[name] if name in BY_NAME else get_atlas(name, cache).needed


def get_atlas(name_or_path: str | Path, cache: Path) -> Atlas:
    """Find an atlas by its name ('nuclei', 'CIT168') or by the path of a NIfTI label image.

    'nuclei' is built in: smoothed surfaces, approximate. 'CIT168' comes from nilearn's cache ($NILEARN_DATA)
    or is downloaded. A label image says its template space in the entity ``tpl-`` or ``space-``. Its TSV
    beside it has the columns index and name. Hemisphere and region are read from the name where they are
    missing. Of an image of probabilities (4D, a volume for each row of the TSV) the most likely label of
    each voxel is taken, or none.

    Raises
    ------
    UserError
        The atlas is unknown or incomplete, or is in no cache and cannot be downloaded.
    """
    if str(name_or_path) == 'nuclei':
        return _nuclei(cache)
    if str(name_or_path) == 'CIT168':
        return _cit168(cache)
    # links are kept: the name holds the space, and the target of a link may have another name
    path = Path(name_or_path).expanduser().absolute()
    if not path.is_file():
        raise UserError(
            f"No atlas {name_or_path!s}: give 'nuclei', 'CIT168' or the path of a dseg or probseg NIfTI file."
        )
    return _atlas_of_path(path, cache)


def _nuclei(cache: Path) -> Atlas:
    stem = cache / 'atlas-nuclei' / f'tpl-{EMBEDDED}_res-01_atlas-nuclei_dseg'

    def write(path: Path) -> None:
        image = nib.load(embedded_template(cache).t1w)
        dseg, _ = nuclei_atlas(image.shape, image.affine)
        nib.save(nib.Nifti1Image(dseg, image.affine), path)

    dseg = write_once(Path(f'{stem}.nii.gz'), write)
    table = write_once(
        Path(f'{stem}.tsv'), lambda p: nuclei_labels()[COLUMNS].to_csv(p, sep='\t', index=False)
    )
    return Atlas(
        'nuclei',
        EMBEDDED,
        dseg,
        table,
        True,
        'built-in surfaces after CIT168 (Pauli et al. 2018, doi:10.1038/sdata.2018.63)',
    )


def _cit168(cache: Path) -> Atlas:
    space = BY_NAME['CIT168']
    stem = cache / 'atlas-CIT168' / f'tpl-{space}_res-01_atlas-CIT168_dseg'
    dseg, table = Path(f'{stem}.nii.gz'), Path(f'{stem}.tsv')
    if not (is_whole(dseg) and is_whole(table)):
        maps, names = fetch_pauli(cache)
        write_once(table, lambda p: _cit168_labels(names).to_csv(p, sep='\t', index=False))
        write_once(dseg, lambda p: nib.save(_split_probabilities(nib.load(maps)), p))
    return Atlas('CIT168', space, dseg, table, False, 'CIT168 (Pauli et al. 2018, doi:10.1038/sdata.2018.63)')


def fetch_pauli(cache: Path) -> tuple[str, list[str]]:
    """Fetch the path of the probability maps of CIT168, and their names, by nilearn.

    The maps are in $NILEARN_DATA or ``cache``, or are downloaded there.

    Raises
    ------
    UserError
        The atlas is in no cache and cannot be downloaded.
    """
    places = homes('NILEARN_DATA', 'nilearn_data', cache)
    names = ('pauli_2017_prob.nii.gz', 'labels.txt')
    filled = [home for home in places if all(is_whole(home / 'pauli_2017' / name) for name in names)]
    home = filled[0] if filled else writable(places)
    try:
        if not filled:  # to a scratch folder first, as for templates
            with tempfile.TemporaryDirectory() as scratch:
                _pauli(scratch)
                for name in names:
                    copy_whole(Path(scratch, 'pauli_2017', name), home / 'pauli_2017' / name)
        atlas = _pauli(home)
    except Exception as error:
        raise UserError(
            f'The atlas CIT168 is not in the nilearn cache {home} and could not be downloaded '
            f'({reason_of(error)}): on a machine with network, run `bids_qsm fetch CIT168`, copy its '
            'nilearn_data/pauli_2017 here and set NILEARN_DATA to the folder that holds it.'
        ) from error
    return atlas['maps'], [name for name in atlas['labels'] if name.lower() != 'background']


def _pauli(home: str | Path) -> dict:
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        from nilearn.datasets import fetch_atlas_pauli_2017

        return fetch_atlas_pauli_2017(atlas_type='probabilistic', data_dir=home, verbose=0)


def _cit168_labels(names: list[str]) -> pd.DataFrame:
    """Two rows for each name, left then right, with our names of regions."""
    known = nuclei_labels()
    region = dict(zip(known['name'].str.replace(r'^[LR]_', '', regex=True), known['region'], strict=True))
    region['STH'] = region['STN']
    rows = [
        (2 * i + s + 1, f'{side}_{name}', side, region.get(name, name))
        for i, name in enumerate(names)
        for s, side in enumerate('LR')
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _split_probabilities(image: nib.Nifti1Image) -> nib.Nifti1Image:
    """The most likely label or background; odd indices left of the midline, even ones right of it."""
    label = _most_likely(np.asarray(image.dataobj[..., i], np.float32) for i in range(image.shape[3]))
    label = np.where(label > 0, 2 * label - 1, 0).astype(np.int16)
    index = [
        np.arange(n)[(None,) * a + (slice(None),) + (None,) * (2 - a)] for a, n in enumerate(label.shape)
    ]
    x = sum(image.affine[0, a] * index[a] for a in range(3)) + image.affine[0, 3]
    label += ((x > 0) & (label > 0)).astype(np.int16)
    return nib.Nifti1Image(label, image.affine)


def _most_likely(shares: Iterable[np.ndarray]) -> np.ndarray:
    """Number (from 1) of the most likely of some labels in each voxel, 0 where none of them is likelier."""
    best, total, label = np.zeros(1, np.float32), np.zeros(1, np.float32), np.zeros(1, np.int16)
    for n, share in enumerate(shares, 1):
        label = np.where(share > best, np.int16(n), label)
        best = np.maximum(best, share)
        total = total + share
    return np.where(best < 1 - total, np.int16(0), label)


def _of_probabilities(path: Path, index: list[int], cache: Path):
    """Label image of an image of probabilities, made once; ``index`` has the label of each volume."""
    with path.open('rb') as stream:
        key = hashlib.file_digest(stream, 'sha256')
    key.update(repr(index).encode())
    stem = re.sub(r'_probseg$', '', re.sub(r'\.nii(\.gz)?$', '', path.name))

    def write(target: Path) -> None:
        image = nib.load(path)
        if image.shape[3] != len(index):
            raise UserError(
                f'The atlas {path} has {image.shape[3]} volumes, but its table has {len(index)} labels; it '
                'needs one row for each volume, in their order.'
            )

        def shares() -> Iterable[np.ndarray]:
            # a volume at a time: all of them may not fit in memory
            for n in (n for n, i in enumerate(index) if i > 0):
                yield np.nan_to_num(np.asarray(image.dataobj[..., n], np.float32))

        ends = np.array([(share.min(), share.max()) for share in shares()])
        low, most = float(ends[:, 0].min()), float(ends[:, 1].max())
        if low < -0.05 or not 0 < most <= 101:
            raise UserError(
                f'The atlas {path} holds values from {low:g} to {most:g}, which are no probabilities: give '
                '0 to 1, or per cent.'
            )
        unit = np.float32(1 if most <= 1.5 else 100)
        number = _most_likely(np.clip(share / unit, 0, 1) for share in shares())
        label = np.array([0, *(i for i in index if i > 0)], np.int32)[number]
        if not label.any():
            raise UserError(f'In the atlas {path} no label is more likely than none anywhere.')
        nib.save(nib.Nifti1Image(label, image.affine), target)

    return write_once(cache / f'{stem}_desc-{key.hexdigest()[:8]}_dseg.nii.gz', write)


def _atlas_of_path(path: Path, cache: Path) -> Atlas:
    stem = re.sub(r'\.nii(\.gz)?$', '', path.name)
    if stem == path.name:
        raise UserError(f'The atlas {path} is not a NIfTI file: give a .nii or .nii.gz.')
    entities = entities_of(path)
    space = entities.get('space') or entities.get('tpl')
    if space is None:
        raise UserError(
            f'The template space of the atlas {path} is not stated: name it tpl-<space>_..._dseg.nii.gz.'
        )
    names = (f'{stem}.tsv', re.sub(r'_res-[^_]+', '', stem) + '.tsv')
    table = first_file(path.parent, names)
    if table is None:
        raise UserError(
            f'The atlas {path} has no label table: put {names[0]} (columns index, name) beside it.'
        )
    labels = read_labels(table, dtype=str)
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
    index = labels['index'].tolist()
    labels = labels.loc[labels['index'] > 0, COLUMNS]
    read(path)  # one error about a damaged atlas, not one for each subject
    shape = nib.load(path).shape
    shape = shape[:3] if set(shape[3:]) <= {1} else shape
    if len(shape) not in (3, 4):
        raise UserError(f'The atlas {path} has shape {shape}; give labels (3D) or probabilities (4D).')
    name = re.sub('[^0-9A-Za-z]', '', entities.get('atlas') or entities.get('seg') or stem)
    text = labels.to_csv(sep='\t', index=False)
    copy = cache / f'atlas-{name}' / f'{stem}.tsv'
    # the user may have corrected the table; a copy that is still right keeps its date
    if not copy.is_file() or copy.read_bytes() != text.encode():
        atomic_write(copy, lambda p: p.write_text(text, encoding='utf-8'))
    image = _of_probabilities(path, index, copy.parent) if len(shape) == 4 else path
    return Atlas(name, space, image, copy, False, path.name)
