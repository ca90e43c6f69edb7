"""The images in the folders anat/ of a dataset, what their names say, and the sidecars that apply to them."""

import json
import os
import re
from collections import defaultdict
from pathlib import Path

from bids_qsm.errors import UserError
from bids_qsm.layout import checks
from bids_qsm.layout.names import LONG_NAMES, NUMBERED, entities_of, entity_set, suffix_of

EXTENSIONS = ('.nii', '.nii.gz')
ENTITIES = ('sub', 'ses', 'acq', 'ce', 'trc', 'stain', 'rec', 'dir', 'run', 'mod', 'echo', 'flip', 'inv')
ENTITIES += ('mt', 'part', 'proc', 'hemi', 'space', 'split', 'recording', 'chunk', 'seg', 'res', 'den')
ENTITIES += ('label', 'desc')
"""Entities of BIDS, in the order in which names have them."""


class Index:
    """Images of ``subjects`` in ``bids_dir``; folders are listed at once, sidecars read when they are needed.

    No folder but ``sub-<label>[/ses-<label>]/anat`` is entered, so that a loop of links cannot trap it.
    """

    def __init__(self, bids_dir: Path, subjects):
        self.root, self.bad_sidecars = bids_dir, {}
        self._sidecars, self._content = {}, {}
        self._images, self._odd = [], []
        self.sessions = set()
        for subject in subjects:
            top = bids_dir / f'sub-{subject}'
            try:
                below = [name for name in _names(top) if name.startswith('ses-')]
            except UserError as error:
                self._odd.append((top, subject, None, None, str(error)))
                continue
            self._list(top, subject, None)
            for name in below:
                self._list(top / name, subject, name.removeprefix('ses-'))

    def _list(self, folder, subject, session):
        if session is not None and os.path.isdir(folder):
            self.sessions.add(session)
        try:
            self._sidecars_of(folder)  # without these, images would be read with half of their metadata
            names = _names(folder / 'anat')
        except UserError as error:
            self._odd.append((folder, subject, session, None, str(error)))
            return
        for name in names:
            suffix = _stem(name).rpartition('_')[2]
            if suffix and '.' not in suffix and name[0] != '.':
                problem = name_problem(name, subject, session)
                kind = self._odd if problem else self._images
                kind.append((folder / 'anat' / name, subject, session, suffix, problem))

    def images(self, suffixes, filters=None, sessions=(), *, is_part=False) -> list[Path]:
        """Images with one of ``suffixes``, sorted; UserError where ``filters`` name what none of them has.

        ``filters`` map long names of entities, or keys of sidecars, to a value or a list; None stands for
        images without it, '*' for any value. Where this ``is_part`` of a dataset, others may have what these
        lack.
        """
        found = [
            path
            for path, _, session, suffix, _ in self._images
            if suffix in suffixes and (not sessions or session in sessions)
        ]
        for key, wanted in (filters or {}).items():
            labels = [self._labels(path, key) for path in found]
            is_unknown = key not in _LONG and not any(key in own for own in labels)
            if is_unknown and found and wanted is not None and not is_part:
                raise UserError(
                    f'the BIDS filter file does not fit the dataset: {key!r} is neither an entity nor in a '
                    'sidecar of its images.'
                )
            found = [
                path for path, own in zip(found, labels, strict=True) if _fits(key, own.get(key), wanted)
            ]
        return sorted(found)

    def odd_names(self, suffixes, sessions=()):
        """Images with one of ``suffixes`` whose names cannot be used, and folders that cannot be read.

        Each is (path, subject, suffix, what is wrong); the suffix of a folder is None.
        """
        return [
            (path, subject, suffix, problem)
            for path, subject, session, suffix, problem in sorted(self._odd)
            # what is wrong with the subject's own folder concerns all of its sessions
            if (suffix is None and session is None)
            or (suffix in (None, *suffixes) and (not sessions or session in sessions))
        ]

    def metadata(self, path: Path) -> dict:
        """What the sidecars of an image say by the inheritance principle; those that cannot be read are left
        to ``bad_sidecars`` (path -> what is wrong).
        """
        content = {}
        own, suffix = entity_set(path), suffix_of(path)
        for folder in reversed(path.parents[: len(path.relative_to(self.root).parts)]):
            for sidecar, entities in self._sidecars_of(folder)[suffix]:
                if entities <= own:
                    content |= self._read(sidecar)
        return content

    def _labels(self, path, key):
        own = {LONG_NAMES.get(k, k): v for k, v in entities_of(path)}
        own |= {'suffix': suffix_of(path), 'extension': path.name[path.name.index('.') :], 'datatype': 'anat'}
        return own if key in _LONG else {**self.metadata(path), **own}

    def _sidecars_of(self, folder):
        """Sidecars of a folder by suffix, those of fewer entities first: (path, entities)."""
        if folder not in self._sidecars:
            found = defaultdict(list)
            for name in _names(folder):
                if name.endswith('.json') and name[0] != '.':
                    path = folder / name
                    found[suffix_of(path)].append((path, entity_set(path)))
            for sidecars in found.values():
                sidecars.sort(key=lambda item: (len(item[1]), item[0].name))
            self._sidecars[folder] = found
        return self._sidecars[folder]

    def _read(self, sidecar):
        if sidecar not in self._content:
            problem = checks.json_problem(sidecar)
            if problem:
                self.bad_sidecars[sidecar] = problem
            self._content[sidecar] = {} if problem else json.loads(sidecar.read_text(encoding='utf-8-sig'))
        return self._content[sidecar]


_LONG = {LONG_NAMES.get(key, key) for key in ENTITIES} | {'suffix', 'extension', 'datatype'}


def is_label(text: str) -> bool:
    """Whether a text can be the label of an entity.

    >>> is_label('01'), is_label('a b'), is_label('..')
    (True, False, False)
    """
    return re.fullmatch('[0-9A-Za-z+]{1,100}', text) is not None


def name_problem(name: str, subject: str, session: str | None) -> str | None:
    """Why the file ``name`` of a folder of ``subject`` and ``session`` has no name of BIDS."""
    *words, _ = _stem(name).split('_')
    pairs = [word.partition('-')[::2] for word in words]
    for key, value in pairs:
        if not (key.isascii() and key.isalpha() and is_label(value)):
            word = f'{key}-{value}' if value else key
            return f'{name} is no BIDS name: "{word}" is not key-label of letters and digits; rename it.'
        if key in NUMBERED and not re.fullmatch('[0-9]{1,9}', value):
            return f'{name} has {key}-{value}, but {key}- must be a whole number; rename it.'
    labels = dict(pairs)
    if len(labels) < len(pairs):
        return f'{name} names an entity twice; rename it.'
    if labels.get('sub') != subject or labels.get('ses') != session:
        place = f'sub-{subject}' + (f'/ses-{session}' if session else '')
        return f'{name} lies in the folder {place}, but its name says otherwise; move or rename it.'
    return None


def _stem(name):
    """Name of an image without its extension; empty for other files."""
    return next((name.removesuffix(end) for end in EXTENSIONS if name.endswith(end)), '')


def _names(folder):
    """Names in a folder, sorted; none where it is not there."""
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f'{folder} cannot be read ({error.strerror}); mend it or its permissions.') from None


def _fits(key, value, wanted):
    if wanted == '*':
        return value is not None
    if isinstance(wanted, list):
        return any(_fits(key, value, one) for one in wanted)
    if wanted is None or value is None:
        return value is wanted
    texts = [str(v) for v in (value, wanted)]
    is_number = key in NUMBERED or key not in _LONG  # labels are texts: ses-1 is not ses-01
    if is_number and all(re.fullmatch('[0-9]{1,9}', text) for text in texts):
        return int(texts[0]) == int(texts[1])
    return value == wanted or (key in _LONG and texts[0] == texts[1])
