"""Read the records of a run, and render self-contained pages."""

import base64
import hashlib
import json
import mimetypes
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from bids_qsm.derivatives.files import atomic_write
from bids_qsm.errors import UserError
from bids_qsm.reports.citations import cite

LEVELS = ('error', 'warning')
"""Levels of findings that need attention, the worst first."""

_UNSETTLED = 'The data do not settle it'


def render(template: str, path: str | Path, *, scripts: Sequence[str] = (), **values: object) -> Path:
    """Fill a template of data/ and write it to ``path``; all values are escaped.

    ``scripts`` are files of data/. The page lets no other script run and loads nothing from elsewhere.
    """
    texts = [packaged(name) for name in scripts]
    values |= {'scripts': texts, 'policy': _policy(texts)}
    html = _environment().get_template(template).render(**values)
    return atomic_write(path, lambda temporary: temporary.write_text(html, encoding='utf-8'))


def _policy(scripts: Iterable[str]) -> str:
    """Content security policy of a page: what is in it, and of scripts those given and what they unpack."""
    digests = (hashlib.sha256(text.encode()).digest() for text in scripts)
    allowed = [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]
    sources = ' '.join([*allowed, 'blob:']) if allowed else "'none'"
    rest = "style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
    return f"default-src 'none'; script-src {sources}; {rest}"


def packaged(name: str) -> str:
    """Text of a file of data/."""
    return files('bids_qsm.data').joinpath(name).read_text(encoding='utf-8')


def data_uri(content: bytes, extension: str) -> str:
    """A file as a data URI, to embed it in a page."""
    return f'data:{mimetypes.types_map[extension]};base64,{base64.b64encode(content).decode()}'


def read_json(path: str | Path, missing: dict) -> dict:
    """Object of a JSON file, or ``missing`` if there is no file. UserError if it cannot be read."""
    if not Path(path).exists():
        return missing
    try:
        found = json.loads(Path(path).read_text(encoding='utf-8-sig'))
    except ValueError as error:  # of the JSON or of its encoding
        raise UserError(f'{path} is not a JSON file ({error}); mend or remove it.') from None
    if not isinstance(found, dict):
        raise UserError(f'{path} holds no JSON object ({{"name": value}}); mend or remove it.')
    return found


def read_run(path: Path, troubles: list[str]) -> dict:
    """The record of a run of a subject; empty where there is none.

    Of a damaged record, what is sound is kept, and a sentence on the damage is added to ``troubles``. Where
    its failures cannot be read, that is a failure too: a run that failed must not be taken for a sound one.
    """
    subject = path.stem.removeprefix('sub-')
    lost = 'the record of the run is damaged, so its failures are not known; run the participant level again'
    # the name of the subject would stand for its anatomy, which a run of one session does again
    unknown = {'subject': subject, 'series': f'The run of {path.stem}', 'node': 'record', 'message': lost}
    try:
        run = read_json(path, {})
    except UserError as error:
        troubles.append(str(error))
        return {'failures': [unknown]}
    odd = [key for key, is_sound in _OF_RUN.items() if key in run and not is_sound(run[key])]
    failures = run.get('failures', [])
    if 'failures' in odd:
        failures = [*filter(_is_failure, failures if isinstance(failures, list) else []), unknown]
    if odd:
        troubles.append(f'{path} is damaged ({", ".join(odd)}); run the participant level again.')
    sound = {key: value for key, value in run.items() if key not in odd}
    return {**sound, 'failures': failures} if run else {}


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_failure(one: object) -> bool:
    """Whether this is a failure as a record holds it."""
    return (
        isinstance(one, dict)
        and all(_is_text(one.get(key)) for key in ('subject', 'message'))
        and all(_is_text(one.get(key) or '') for key in ('series', 'node'))
    )


def _is_methods(texts: object) -> bool:
    """Whether these are paragraphs that cite what the bibliography has."""
    if not (isinstance(texts, list) and all(map(_is_text, texts))):
        return False
    try:
        cite(texts)
    except KeyError:
        return False
    return True


_OF_RUN: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(('version', 'command', 'called', 'started', 'python'), _is_text),
    'packages': lambda found: isinstance(found, dict) and all(map(_is_text, found.values())),
    'methods': _is_methods,
    'failures': lambda found: isinstance(found, list) and all(map(_is_failure, found)),
}
"""What a record may hold -> whether that is sound."""


def read_runs(output_dir: str | Path, troubles: list[str]) -> dict:
    """Merge the records of all subjects, ``logs/sub-<label>.json``.

    Failures are collected over subjects, methods without duplicates; the rest is that of the newest run. Of
    damaged records, sentences are added to ``troubles``.
    """
    paths = sorted((Path(output_dir) / 'logs').glob('sub-*.json'), key=lambda path: natural(path.name))
    runs: list[dict[str, Any]] = [*filter(None, (read_run(path, troubles) for path in paths))]
    if not runs:
        return {}
    newest = max(runs, key=lambda run: run.get('started', ''))
    return {
        **newest,
        'methods': list(dict.fromkeys(text for run in runs for text in run.get('methods', []))),
        'failures': [failure for run in runs for failure in run.get('failures', [])],
    }


def read_findings(directory: Path, troubles: list[str]) -> list[dict]:
    """Facts and findings of each series. Missing fields are empty; an undecided finding is a warning.

    Files that are damaged are left out, and sentences on them are added to ``troubles``.
    """
    found = []
    for path in sorted(directory.glob('sub-*_desc-findings.json')):
        blank = {'what': '', 'found': '', 'action': '', 'evidence': '', 'level': 'info'}
        try:
            content = read_json(path, {})
            findings = [
                blank | {key: text for key, text in finding.items() if text is not None}
                for finding in content.get('findings', [])
            ]
            facts = content.get('facts', {})
            texts = [one[key] for one in findings for key in blank]
            if not (isinstance(facts, dict) and all(isinstance(text, str) for text in texts)):
                raise TypeError
        except UserError as error:
            troubles.append(str(error))
            continue
        except (AttributeError, TypeError):
            troubles.append(f'{path} holds no findings; run the participant level again.')
            continue
        series = path.name.removesuffix('_desc-findings.json')
        found.append({'series': series, 'facts': facts, 'findings': [*map(_weighed, findings)]})
    return found


def _weighed(finding: dict):
    unsettled = any(finding[key].startswith(_UNSETTLED) for key in ('found', 'evidence'))
    return {**finding, 'level': 'warning'} if unsettled and finding['level'] not in LEVELS else finding


def damage_alerts(output_dir: Path, troubles: Iterable[str]) -> list[dict]:
    """An alert for each damaged file of the output."""
    more = 'This page leaves it out; all else on it stands.'
    return [
        alert('warning', 'Damaged file', text.replace(f'{output_dir}/', ''), more)
        for text in dict.fromkeys(troubles)
    ]


def alert(level: str, where: str, what: str, more: str = '') -> dict:
    """An entry of the list of what needs attention."""
    return {'level': level, 'where': where, 'what': what, 'more': more}


def failure_alerts(failures: Iterable[dict]) -> list[dict]:
    """An alert for each failure that a run recorded."""
    return [
        alert(
            'error',
            f'{failure.get("series") or failure["subject"] or "The run"} failed',
            # names of crash files hold time and process, which would make equal pages differ
            re.sub(r'\(see crash-[^()]*\)$', '(its crash file is in logs/)', failure['message']),
            f'Step: {failure["node"]}' if failure.get('node') else '',
        )
        for failure in failures
    ]


def natural(name: str) -> list:
    """Key for natural sorting: run-2 before run-10.

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
