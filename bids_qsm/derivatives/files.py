"""The output dataset: names, sidecars, and files that are either whole or absent."""

import errno
import gzip
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bids_qsm
from bids_qsm.entities import OF_SERIES
from bids_qsm.errors import UserError, plain

if TYPE_CHECKING:
    from bids_qsm.app.options import Options

BIDS_VERSION = '1.10.0'

IGNORED = (
    '*.html',
    'config.toml',
    'figures',
    'group*',
    'logs',
    'slurm',
    'work',
    '*_Chisdmap.*',
    '*_checklist.*',
    '*_minIP.*',
    '*_profile.*',
    '*_stats.*',
    '*_swi.*',
    '*_timeseries.*',
    '*_xfm.*',
    # the standard does not allow these entities for parametric maps, but they distinguish series
    '*_dir-*',
    '*_flip-*',
    '*_inv-*',
    '*_mt-*',
    '*_task-*',
)
"""Files that the standard has no names for; the validator wants folders without a slash."""
STANDARD = ('mask', 'dseg', 'probseg', 'Chimap', 'R2map', 'R2starmap', 'S0map', 'T2starmap')
"""Suffixes of images that the standard knows."""


def output_path(
    root: str | Path,
    entities: Mapping[str, str] | Iterable[tuple[str, str]],
    *,
    suffix: str,
    desc: str | None = None,
    space: str | None = None,
    seg: str | None = None,
    label: str | None = None,
    extension: str = '.nii.gz',
    datatype: str = 'anat',
) -> Path:
    """Path of an output file under ``root``.

    ``entities`` are those of the series by their short names, as pairs or a dict; transforms add
    ``from``, ``to`` and ``mode``. Raises ValueError where no pattern of names fits.

    >>> output_path('out', {'sub': '01', 'ses': '1'}, suffix='Chimap').as_posix()
    'out/sub-01/ses-1/anat/sub-01_ses-1_Chimap.nii.gz'
    """
    # imported here, as pybids is slow to import
    from bids.layout.writing import build_path

    wanted = {
        **dict(entities),
        # these replace entities of the sources that describe their content
        'space': space,
        'seg': seg,
        'label': label,
        'desc': desc,
        'suffix': suffix,
        'extension': extension,
        'datatype': datatype,
    }
    wanted = {k: v for k, v in wanted.items() if v is not None}
    odd = [v for v in wanted.values() if not re.fullmatch('[0-9A-Za-z+.]+', str(v)) or '..' in str(v)]
    patterns = _patterns()
    if re.fullmatch('[0-9A-Za-z]+map', suffix):  # applications have parametric maps of their own
        patterns = [pattern.replace('<Chimap|', f'<{suffix}|Chimap|') for pattern in patterns]
    path = None if odd else build_path(wanted, patterns, strict=True)
    if path is None:
        raise ValueError(f'no output name fits {wanted}')
    return Path(root) / path


@cache
def _patterns() -> list[str]:
    text = files('bids_qsm.data').joinpath('derivatives.json').read_text()
    own = (f'[_{key}-{{{key}}}]' for key in OF_SERIES if key not in ('sub', 'chunk'))
    return json.loads(text.replace('<series>', ''.join(own)))['patterns']


def bids_uri(path: str | Path, roots: Mapping[str, str | Path]) -> str:
    """BIDS URI of a file. ``roots`` maps names of DatasetLinks ('' for the output itself) to folders.

    >>> bids_uri('/data/sub-01/anat/a.nii', {'raw': '/data'})
    'bids:raw:sub-01/anat/a.nii'
    """
    path = Path(path)
    inside = [(name, Path(root)) for name, root in roots.items() if path.is_relative_to(root)]
    if not inside:
        raise ValueError(f'{path} lies in none of the datasets {sorted(roots)}')
    name, root = max(inside, key=lambda item: len(item[1].parts))
    return f'bids:{name}:{path.relative_to(root).as_posix()}'


def sidecar(
    description: str,
    *,
    sources: tuple[str, ...] = (),
    units: str | None = None,
    skull_stripped: bool | None = None,
    mask_type: str | None = None,
    method: str | None = None,
    parameters: dict | None = None,
    reference: str | None = None,
    spatial_reference: str | None = None,
    **others: Any,
) -> dict:
    """Sidecar of an output file; fields that are None are left out.

    ``sources`` are BIDS URIs, ``mask_type`` is 'Brain', 'Lesion', 'Face' or 'ROI', ``reference`` names the
    region whose susceptibility is zero, ``spatial_reference`` the image or template whose space a file is in.
    """
    content = {
        'Description': description,
        'Sources': list(sources) or None,
        'Units': units,
        'SkullStripped': skull_stripped,
        'Type': mask_type,
        'Method': method,
        'Parameters': parameters,
        'ReferenceRegion': reference,
        'SpatialReference': spatial_reference,
        'SoftwareVersions': software_versions(),
        **others,
    }
    return {key: value for key, value in content.items() if value is not None}


@cache
def software_versions() -> str:
    """Versions of bids_qsm and of the packages that its results depend on, in one line."""
    packages = ('numpy', 'scipy', 'numba', 'dipy')
    return ', '.join([f'bids_qsm {bids_qsm.__version__}', *(f'{name} {version(name)}' for name in packages)])


def atomic_write(path: str | Path, writer: Callable[[Path], object]) -> Path:
    """Let ``writer(temporary path)`` write a file, then rename it to ``path``; return the path.

    A reader, and a run that resumes, sees the whole file or none. A full or read-only disk is a UserError.
    """
    path = Path(path)
    temporary = path.with_name(f'.{uuid.uuid4().hex[:8]}-{path.name}')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer(temporary)
        with temporary.open('rb') as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM):
            raise UserError(
                f'{path} cannot be written ({error.strerror}); free space or choose another.'
            ) from error
        raise
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path


def remove_partial(root: str | Path, subject: str) -> None:
    """Remove the temporary files of `atomic_write` that an earlier, killed run of ``subject`` left."""
    root, unnamed = Path(root), f'.{"[0-9a-f]" * 8}-'
    for where in (
        f'sub-{subject}/**/{unnamed}*',
        f'{unnamed}sub-{subject}.*',
        f'logs/{unnamed}sub-{subject}.*',
    ):
        for path in root.glob(where):
            path.unlink(missing_ok=True)


def write_json(path: str | Path, content: object) -> Path:
    """Write a JSON file atomically."""
    return atomic_write(path, lambda p: p.write_text(_json_text(content)))


def _json_text(content: object) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + '\n'


def write_common(path: Path, text: str) -> Path:
    """Write a text that every task of an array writes, unless it is there already; return the path."""
    with suppress(OSError):
        if path.read_bytes() == text.encode():
            return path
    return atomic_write(path, lambda p: p.write_text(text))


def save_derivative(source: str | Path, path: str | Path, sidecar: dict | None = None) -> Path:
    """Copy ``source`` to ``path``, compressing .nii to .nii.gz, and write its sidecar beside it."""
    source, path = Path(source), Path(path)
    if source.suffix == '.nii' and path.name.endswith('.nii.gz'):
        atomic_write(path, lambda p: _compress(source, p))
    elif source.suffix == path.suffix:
        atomic_write(path, lambda p: shutil.copyfile(source, p))
    else:
        raise ValueError(f'{source.name} cannot be written as {path.name}')
    if sidecar is not None:
        write_json(sidecar_path(path), sidecar)
    return path


def sidecar_path(path: str | Path) -> Path:
    """The JSON file beside ``path``."""
    return Path(path).with_name(Path(path).name.partition('.')[0] + '.json')


def _compress(source: Path, path: Path) -> None:
    # without name and time, so that equal data give equal files
    with (
        source.open('rb') as plain,
        path.open('wb') as raw,
        gzip.GzipFile('', 'wb', compresslevel=6, fileobj=raw, mtime=0) as packed,
    ):
        shutil.copyfileobj(plain, packed)


def write_dataset_description(root: str | Path, options: 'Options') -> Path:
    """Describe the output dataset; UserError where ``root`` holds the output of another program."""
    path = Path(root) / 'dataset_description.json'
    if path.exists():
        _require_own(path)
    raw = json.loads((options.bids_dir / 'dataset_description.json').read_text(encoding='utf-8-sig'))
    inputs = {'raw': options.bids_dir, **dict(options.derivatives)}
    sources = [{'URL': folder.as_uri()} for folder in inputs.values()]
    if raw.get('DatasetDOI'):
        sources[0]['DOI'] = raw['DatasetDOI']
    content = {
        'Name': f'bids_qsm: susceptibility maps of {plain(raw.get("Name") or options.bids_dir.name)}',
        'BIDSVersion': BIDS_VERSION,
        'DatasetType': 'derivative',
        'GeneratedBy': [
            {
                'Name': 'bids_qsm',
                'Version': bids_qsm.__version__,
                'Description': 'Quantitative susceptibility mapping of gradient-echo MRI',
                **_container(os.environ),
            }
        ],
        'SourceDatasets': sources,
        'DatasetLinks': {name: folder.as_uri() for name, folder in inputs.items()},
    }
    return write_common(path, _json_text(content))


def _container(environment: Mapping[str, str]) -> dict:
    """The container image, for GeneratedBy; empty outside a container."""
    if not environment.get('BIDS_QSM_IMAGE'):
        return {}
    is_apptainer = environment.keys() & {'APPTAINER_CONTAINER', 'SINGULARITY_CONTAINER'}
    kind = 'apptainer' if is_apptainer else 'docker'
    return {'Container': {'Type': kind, 'Tag': environment['BIDS_QSM_IMAGE']}}


def _require_own(path: Path) -> None:
    try:
        makers = [maker.get('Name') for maker in json.loads(path.read_text()).get('GeneratedBy', [])]
    except (ValueError, AttributeError):
        makers = []
    if 'bids_qsm' not in makers:
        raise UserError(f'{path.parent} holds another dataset; choose an output folder that is new or ours.')


def write_bidsignore(root: str | Path, suffixes: Iterable[str] = (), names: Iterable[str] = ()) -> Path:
    """List in .bidsignore what the standard has no names for: images of other ``suffixes``, and ``names``."""
    own = sorted(f'*_{suffix}.*' for suffix in set(suffixes) - set(STANDARD))
    return write_common(Path(root) / '.bidsignore', '\n'.join([*IGNORED, *own, *sorted(set(names))]) + '\n')
