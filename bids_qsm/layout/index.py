"""The images of a dataset as pybids finds them, what their names say, and the sidecars that apply to them."""

import os
import re
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from bids.layout import BIDSLayout, BIDSLayoutIndexer, Entity, Query

from bids_qsm.entities import ENTITIES, NUMBERED, entity_set, is_label, is_number, suffix_of
from bids_qsm.errors import UserError
from bids_qsm.layout import checks
from bids_qsm.layout.bidsignore import BidsIgnore

EXTENSIONS = ('.nii', '.nii.gz')
DATABASE = 'layout_index.sqlite'
"""Name that pybids gives the file of an index."""

INHERITED = ('.json', '.bval', '.bvec', '.tsv')
"""Extensions of the files that apply to all images below their folder that have their entities."""

WANTED = {'func': ('bold',), 'swi': ('GRE', 'MEGRE', 'T2starw')}
"""Suffixes of the images that other folders than anat/ are searched for; swi/ is that of BIDS proposal 4."""

_CONFIG = 'bids_qsm'
_LABEL = '[0-9A-Za-z+]{1,100}'
_NAMED = {*ENTITIES.values(), 'suffix', 'extension', 'datatype', 'regex_search'}
"""What filters may ask of names (and how); all else is a key of sidecars."""
_PATTERNS = {
    **{
        long: f'[/_]{key}-({"[0-9]+" if key in NUMBERED else _LABEL})(?=[_.])[^/]*$'
        for key, long in ENTITIES.items()
    },
    'subject': f'.*/sub-({_LABEL})/',
    'suffix': r'[/_]([0-9A-Za-z]+)\.[^/]+$',
    'extension': r'[^./](\.[^/]+)$',
    'datatype': '/([0-9A-Za-z]+)/[^/]+$',
}
"""The table of `bids_qsm.entities` for pybids, whose own lacks some of them."""


class Files:
    """Images, transforms and tables in ``sub-<label>[/ses-<label>][/<datatype>]`` of a dataset, by pybids.

    ``problems`` holds the participants that could not be searched (label -> what is wrong). The patterns
    ``ignores`` leave files out.
    """

    def __init__(self, root: Path, layouts: list[BIDSLayout], problems: dict[str, str]):
        self.root, self.problems = root, problems
        self.ignores = BidsIgnore(root, [])
        self._layouts, self._paths, self._found = layouts, {}, {}

    @classmethod
    def search(cls, root: Path, subjects: Sequence[str]) -> 'Files':
        """Index the folders of participants; no other is entered, so that a loop of links cannot trap it.

        Where an odd file stops pybids, such as a link that may not be followed, they are indexed one by one.
        """
        layouts, problems = [], {}
        labels = '|'.join(map(re.escape, subjects))
        try:
            layouts.append(_index(root, f'/sub-({labels})'))
        except Exception:
            for folder in (root / f'sub-{subject}' for subject in subjects):
                try:
                    if folder.is_dir():
                        layouts.append(_index(folder, ''))
                except Exception as error:
                    what = f'{error.strerror}: {error.filename}' if isinstance(error, OSError) else error
                    problem = f'{folder} cannot be searched ({what}); mend or remove what is odd.'
                    problems[folder.name.removeprefix('sub-')] = problem
        return cls(root, layouts, problems)

    @classmethod
    def stored(cls, folder: Path, root: Path) -> 'Files':
        """Those of the index of the dataset ``root`` that ``folder`` holds."""
        try:
            layout = BIDSLayout(database_path=folder, validate=False)
            known = layout.root, list(layout.config)
        except Exception as error:  # of SQLite, SQLAlchemy and pybids
            raise UserError(
                f'--bids-database-dir {folder} holds no index that pybids can read '
                f'({str(error).partition(chr(10))[0]}); remove it or give another folder.'
            ) from None
        if known != (str(root), [_CONFIG]):
            raise UserError(
                f'--bids-database-dir {folder} holds an index of {known[0]} or of another program, not that '
                f'of {root}; give a folder of its own.'
            )
        return cls(root, [layout], {})

    def get(self, **filters: object) -> list[Path]:
        """Files that filters of pybids choose, sorted."""
        return sorted(path for paths in self._by_participant(filters).values() for path in paths)

    def of(self, subject: str, *, with_ignored: bool = False, **filters: object) -> list[Path]:
        """The same of one participant, by the folder; UserError where it could not be searched.

        Those that .bidsignore names are left out unless asked for.
        """
        if subject in self.problems:
            raise UserError(self.problems[subject])
        return sorted(self._by_participant(filters, with_ignored).get(f'sub-{subject}', ()))

    def _by_participant(self, filters: dict, with_ignored: bool = False) -> dict[str, list[Path]]:
        asked, start = repr((with_ignored, filters)), len(str(self.root)) + 1
        if asked not in self._found:
            self._found[asked] = defaultdict(list)
            for layout in self._layouts:
                for file in layout.get(return_type='object', invalid_filters='allow', **filters):
                    path = self._paths.setdefault(file.path, Path(file.path))
                    if with_ignored or not self.ignores(path):
                        self._found[asked][file.path[start:].partition('/')[0]].append(path)
        return self._found[asked]


def _index(root: Path, participants: str, database: Path | None = None) -> BIDSLayout:
    """Index of what lies in the folders that the pattern ``participants`` chooses, by names alone."""
    image = r'[^/\ud800-\udfff]+\.(nii|nii\.gz|h5|tsv)'  # SQLite holds no names that are not text
    wanted = rf'{participants}(/ses-{_LABEL})?(/[0-9A-Za-z]+)?(/{image})?'
    # a configuration of pybids that folders hold is not read
    indexer = BIDSLayoutIndexer(
        ignore=[re.compile(f'^(?!{wanted}$)')], index_metadata=False, config_filename='\0'
    )

    def index(layout: BIDSLayout):
        # pybids itself would commit each entity by itself, which takes longer than all else
        for name, pattern in _PATTERNS.items():
            kind = 'int' if name in NUMBERED else 'str'  # whose long names are their short ones
            layout.config[_CONFIG].entities[name] = Entity(name, pattern, dtype=kind)
        layout.session.commit()
        indexer(layout)

    config = {'name': _CONFIG, 'entities': []}
    return BIDSLayout(root, validate=False, config=config, indexer=index, database_path=database)


class Index:
    """Images of ``subjects`` in the folders anat/ of ``bids_dir``, and those of `WANTED`.

    Sidecars are read when they are needed.
    Names that no series can have, and folders that cannot be read, of which pybids says nothing, are listed
    here. The folder ``database`` holds the index of all participants from one run to the next; it is made
    again where other images are there now. What the dataset's .bidsignore names is left out, but in
    derivatives, where it hides from the validator what others are to read.
    """

    def __init__(self, bids_dir: Path, subjects: Sequence[str], database: Path | None = None):
        self.root, self.subjects, self.bad_sidecars = bids_dir, tuple(subjects), {}
        self._beside, self._content = {}, {}
        self._images, self._odd = {}, []
        self.ignores, self.left_out = BidsIgnore(bids_dir), []
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
        own = self._stored(database) if database else self._own(Files.search(bids_dir, subjects))
        self._files = {bids_dir: own}
        for subject, problem in own.problems.items():
            self._odd.append((bids_dir / f'sub-{subject}', subject, None, None, problem))
        self._lost = set(self._images) - self._known(own)  # folders with the name of an image

    def _list(self, folder: Path, subject: str, session: str | None):
        if session is not None and os.path.isdir(folder):
            self.sessions.add(session)
        try:
            self._beside_in(folder)  # without these, images would be read with half of their metadata
            names = [(kind, name) for kind in ('anat', *WANTED) for name in _names(folder / kind)]
        except UserError as error:
            self._odd.append((folder, subject, session, None, str(error)))
            return
        for kind, name in names:
            suffix = _stem(name).rpartition('_')[2]
            if suffix and '.' not in suffix and name[0] != '.' and suffix in WANTED.get(kind, (suffix,)):
                path, problem = folder / kind / name, name_problem(name, subject, session)
                if self.ignores(path):
                    self.left_out.append(path)
                elif problem:
                    self._odd.append((path, subject, session, suffix, problem))
                else:
                    self._images[path] = (session, suffix)

    def _stored(self, folder: Path) -> Files:
        if (folder / DATABASE).exists():
            files = self._own(Files.stored(folder, self.root))
            known = self._known(files)
            different = known - {path for path, *_ in self._odd} ^ set(self._images)
            if not any(path in known or path.is_file() for path in different):
                return files
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # tasks of an array may do this at once
            with tempfile.TemporaryDirectory(dir=folder) as part:
                _index(self.root, f'/sub-{_LABEL}', Path(part))
                os.replace(Path(part) / DATABASE, folder / DATABASE)
        except Exception as error:
            raise UserError(
                f'--bids-database-dir {folder}: the index of {self.root} cannot be made there ({error}); '
                'give another folder, or leave it out.'
            ) from None
        return self._own(Files.stored(folder, self.root))

    def _own(self, files: Files) -> Files:
        files.ignores = self.ignores
        return files

    def _known(self, files: Files) -> set[Path]:
        """Images in the folders anat/ of the participants that pybids has found, and those of `WANTED`."""
        searched = [one for one in self.subjects if one not in files.problems]
        asked = [
            {'datatype': 'anat'},
            *({'datatype': kind, 'suffix': [*suffixes]} for kind, suffixes in WANTED.items()),
        ]
        return {
            path
            for one in searched
            for wanted in asked
            for path in files.of(one, extension=[*EXTENSIONS], **wanted)
        }

    def files(self, root: Path) -> Files:
        """Files of the dataset ``root``, such as derivatives, that belong to the participants."""
        if root not in self._files:
            self._files[root] = Files.search(root, self.subjects)
        return self._files[root]

    def images(
        self,
        suffixes: Sequence[str],
        filters: dict | None = None,
        sessions: Sequence[str] = (),
        *,
        is_part: bool = False,
    ) -> list[Path]:
        """Images with one of ``suffixes``, sorted; UserError where ``filters`` name what none of them has.

        ``filters`` map long names of entities, or keys of sidecars, to a value or a list; None stands for
        images without it, '*' for any value, and so do 'Query.NONE' and 'Query.ANY'. Where this ``is_part``
        of a dataset, others may have what these lack.
        """
        filters = filters or {}
        asked = {key: _queried(key, wanted) for key, wanted in filters.items() if key in _NAMED}
        try:
            files = self._files[self.root].get(**{'suffix': list(suffixes), **asked})
        except Exception as error:  # of SQLite, as by what is no regular expression
            raise UserError(f'the BIDS filter file cannot be used ({error}); mend it.') from None
        found = []
        for path in sorted({*files, *self._lost}):
            session, suffix = self._images.get(path, (None, None))
            if suffix in suffixes and (not sessions or session in sessions):
                found.append(path)
        for key, wanted in filters.items():
            if key in _NAMED:
                continue
            told = [self.metadata(path) for path in found]
            is_known = any(key in own for own in told)
            if found and not is_known and wanted is not None and not is_part:
                raise UserError(
                    f'the BIDS filter file does not fit the dataset: {key!r} is neither an entity nor in a '
                    'sidecar of its images.'
                )
            found = [path for path, own in zip(found, told, strict=True) if _fits(own.get(key), wanted)]
        return found

    def odd_names(self, suffixes: Sequence[str], sessions: Sequence[str] = ()) -> list[tuple]:
        """Images with one of ``suffixes`` whose names cannot be used, and folders that cannot be read.

        Each is (path, subject, suffix, what is wrong); the suffix of a folder is None.
        """
        return [
            (path, subject, suffix, problem)
            for path, subject, session, suffix, problem in sorted(self._odd, key=lambda item: item[0])
            # what is wrong with the subject's own folder concerns all of its sessions
            if (suffix is None and session is None)
            or (suffix in (None, *suffixes) and (not sessions or session in sessions))
        ]

    def metadata(self, path: Path, root: Path | None = None) -> dict:
        """What the `sidecars` of an image say, without those that cannot be read, see `sidecar_problem`."""
        content = {}
        for sidecar in self.sidecars(path, root):
            content |= self._read(sidecar)
        return content

    def sidecar_problem(self, path: Path, root: Path | None = None) -> str | None:
        """Why the first of the `sidecars` of an image that cannot be read cannot."""
        self.metadata(path, root)
        return next(
            (self.bad_sidecars[one] for one in self.sidecars(path, root) if one in self.bad_sidecars), None
        )

    def sidecars(self, path: Path, root: Path | None = None) -> list[Path]:
        """Sidecars of an image, the nearest last; ``root`` is its dataset, where it is another one."""
        return self.inherited(path, '.json', root)

    def inherited(self, path: Path, extension: str, root: Path | None = None) -> list[Path]:
        """Files of ``extension`` that belong to a file by the inheritance principle, the nearest last.

        ``extension`` is one of `INHERITED`, and ``root`` the dataset of the file, where it is another one,
        of which .bidsignore leaves nothing out.
        """
        is_own = root in (None, self.root)
        own, suffix = entity_set(path), suffix_of(path)
        folders = reversed(path.parents[: len(path.relative_to(root or self.root).parts)])
        return [
            found
            for folder in folders
            for found, entities in self._beside_in(folder)[suffix, extension]
            if entities <= own and not (is_own and self.ignores(found))
        ]

    def root_of(self, path: Path) -> Path:
        """Dataset that a file was found in; of one that was named elsewhere, its folder."""
        holding = [root for root in self._files if path.is_relative_to(root)]
        return max(holding, key=lambda root: len(root.parts), default=path.parent)

    def _beside_in(self, folder: Path) -> dict:
        """Files of `INHERITED` in a folder by suffix and extension, those of fewer entities first: (path,
        entities).
        """
        if folder not in self._beside:
            found = defaultdict(list)
            for name in _names(folder):
                path, extension = folder / name, Path(name).suffix
                if extension in INHERITED and name[0] != '.':
                    found[suffix_of(path), extension].append((path, entity_set(path)))
            for paths in found.values():
                paths.sort(key=lambda item: (len(item[1]), item[0].name))
            self._beside[folder] = found
        return self._beside[folder]

    def _read(self, sidecar: Path) -> dict:
        if sidecar not in self._content:
            self._content[sidecar], problem = checks.read_json(sidecar)
            if problem:
                self.bad_sidecars[sidecar] = problem
        return self._content[sidecar]


def name_problem(name: str, subject: str, session: str | None) -> str | None:
    """Why the file ``name`` of a folder of ``subject`` and ``session`` has no name of BIDS."""
    *words, _ = _stem(name).split('_')
    pairs = [word.partition('-')[::2] for word in words]
    for key, value in pairs:
        if not (key.isascii() and key.isalpha() and is_label(value)):
            word = f'{key}-{value}' if value else key
            return f'{name} is no BIDS name: "{word}" is not key-label of letters and digits; rename it.'
        if key in NUMBERED and not is_number(value):
            return f'{name} has {key}-{value}, but {key}- must be a whole number; rename it.'
    labels = dict(pairs)
    if len(labels) < len(pairs):
        return f'{name} names an entity twice; rename it.'
    if labels.get('sub') != subject or labels.get('ses') != session:
        place = f'sub-{subject}' + (f'/ses-{session}' if session else '')
        return f'{name} lies in the folder {place}, but its name says otherwise; move or rename it.'
    return None


def _stem(name: str) -> str:
    """Name of an image without its extension; empty for other files."""
    return next((name.removesuffix(end) for end in EXTENSIONS if name.endswith(end)), '')


def _names(folder: Path) -> list[str]:
    """Names in a folder, sorted; none where it is not there."""
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f'{folder} cannot be read ({error.strerror}); mend it or its permissions.') from None


def _queried(key: str, wanted: object) -> object:
    """What a filter file asks of an entity, for pybids: values as names hold them, numbers as numbers."""
    if isinstance(wanted, list):
        return [_queried(key, one) for one in wanted]
    if key == 'regex_search':
        return wanted is True
    kind = _query_of(wanted)
    if kind is not None:
        return kind
    text = str(wanted).encode(errors='replace').decode()  # SQLite holds no halves of characters
    if key == 'extension':
        return f'.{text.lstrip(".")}'
    if key in NUMBERED:  # their long names are their short ones; labels are texts: ses-1 is not ses-01
        return int(text) if is_number(text) else -1
    return text


def _query_of(wanted: object) -> Query | None:
    """The member of pybids' Query that a value of a filter file stands for.

    >>> _query_of(None), _query_of('*'), _query_of('bids.layout.Query.OPTIONAL'), _query_of('01')
    (<Query.NONE: 1>, <Query.REQUIRED: 2>, <Query.OPTIONAL: 3>, None)
    """
    if wanted is None or wanted == '*':
        return Query.NONE if wanted is None else Query.ANY
    named = re.search(r'\bQuery\.(NONE|ANY|REQUIRED|OPTIONAL)\b', wanted) if isinstance(wanted, str) else None
    return Query[named[1]] if named else None


def _fits(value: object, wanted: object) -> bool:
    """Whether a value of a sidecar (None where it has none) is what a filter file asks for."""
    if isinstance(wanted, list):
        return any(_fits(value, one) for one in wanted)
    kind = _query_of(wanted)
    if kind is not None:
        return kind is Query.OPTIONAL or (value is None) == (kind is Query.NONE)
    texts = [str(v) for v in (value, wanted)]
    if all(map(is_number, texts)):
        return int(texts[0]) == int(texts[1])
    return value == wanted
