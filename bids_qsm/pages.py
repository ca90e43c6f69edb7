"""Reading what a run left, and rendering pages that need no other file."""

import base64
import json
import mimetypes
import re
from functools import cache
from importlib.resources import files
from pathlib import Path

import jinja2
import pandas as pd

from bids_qsm.derivatives import atomic_write


def render(template: str, path, **values) -> Path:
    """Fill a template of data/ and write it to ``path``; all values are escaped."""
    html = _environment().get_template(template).render(**values)
    return atomic_write(path, lambda temporary: temporary.write_text(html, encoding='utf-8'))


def packaged(name: str) -> str:
    """Text of a file of data/."""
    return files('bids_qsm.data').joinpath(name).read_text(encoding='utf-8')


def data_uri(content: bytes, extension: str) -> str:
    """A file as the address of an image, embedded."""
    return f'data:{mimetypes.types_map[extension]};base64,{base64.b64encode(content).decode()}'


def read_json(path, missing):
    """Content of a JSON file, or ``missing`` where there is none."""
    return json.loads(Path(path).read_text(encoding='utf-8')) if Path(path).exists() else missing


def read_table(path, dtype=None) -> pd.DataFrame:
    """A BIDS table: tabs, n/a where a value is missing."""
    return pd.read_csv(path, sep='\t', na_values=['n/a'], dtype=dtype)


def read_runs(output_dir) -> dict:
    """What the runs of all subjects left in ``logs/sub-<label>.json``, as one record.

    Failures of all subjects, methods without duplicates; all else as the newest run has it.
    """
    paths = sorted((Path(output_dir) / 'logs').glob('sub-*.json'), key=lambda path: natural(path.name))
    runs = [read_json(path, {}) for path in paths]
    if not runs:
        return {}
    return {
        **max(runs, key=lambda run: run.get('started', '')),
        'methods': list(dict.fromkeys(text for run in runs for text in run.get('methods', []))),
        'failures': [failure for run in runs for failure in run.get('failures', [])],
    }


def entities_of(name: str) -> dict:
    """Entities of a BIDS name.

    >>> entities_of('sub-01_run-2_stats.tsv')
    {'sub': '01', 'run': '2'}
    """
    return dict(re.findall(r'(?:^|_)([a-zA-Z]+)-([a-zA-Z0-9+]+)', name.split('.')[0]))


def natural(name: str) -> list:
    """Sorting key that puts run-2 before run-10.

    >>> sorted(['run-10', 'run-2'], key=natural)
    ['run-2', 'run-10']
    """
    return [int(part) if part.isdigit() else part for part in re.split(r'(\d+)', name)]


@cache
def _environment():
    return jinja2.Environment(
        loader=jinja2.FunctionLoader(packaged),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
