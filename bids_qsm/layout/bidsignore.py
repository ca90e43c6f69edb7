"""Files that the .bidsignore of a dataset leaves out."""

import re
from pathlib import Path


class BidsIgnore:
    """The patterns of ``root/.bidsignore``, written as for .gitignore; without the file, nothing is left out.

    >>> ignores = BidsIgnore(Path('/data'), ['*_PDw.nii.gz', 'sub-02/', '!sub-01_PDw.nii.gz'])
    >>> ignores(Path('/data/sub-02/anat/sub-02_T1w.nii.gz')), ignores(Path('/data/sub-01_PDw.nii.gz'))
    (True, False)
    """

    def __init__(self, root: Path, lines: list[str] | None = None):
        self.root = root
        if lines is None:
            try:
                lines = (root / '.bidsignore').read_text(encoding='utf-8-sig', errors='replace').splitlines()
            except OSError:
                lines = []
        self._rules = [rule for rule in map(_rule, lines) if rule]

    def __call__(self, path: Path) -> bool:
        """Whether a file below ``root`` is left out; the last pattern that matches decides."""
        if not self._rules or not path.is_relative_to(self.root):
            return False
        name = path.relative_to(self.root).as_posix()
        decided = [is_left_out for pattern, is_left_out in self._rules if pattern.fullmatch(name)]
        return bool(decided) and decided[-1]

    def whole(self, folder: Path) -> bool:
        """Whether all of a folder is left out."""
        return self(folder / '\N{NULL}')


def _rule(line: str) -> tuple[re.Pattern, bool] | None:
    """Pattern of paths, and whether it leaves them out or takes them in again."""
    line = line.strip()
    if not line or line.startswith('#'):
        return None
    is_left_out, line = not line.startswith('!'), line.removeprefix('!')
    body = line.rstrip('/')
    start = '' if '/' in body else '(?:.*/)?'
    end = '/.*' if line.endswith('/') else '(?:/.*)?'
    words = re.findall(r'(?:\*\*/)+|/\*\*$|\*+|\?|\[[^]]+\]|.', body.removeprefix('/'))
    parts = []
    for word in words:
        if word in ('/**', '?'):
            parts.append({'/**': '/.*', '?': '[^/]'}[word])
        elif word.startswith('**/'):
            parts.append('(?:.*/)?')
        elif word[0] == '*':
            parts.append('[^/]*')
        elif word[0] == '[' and len(word) > 1:
            parts.append('[' + word[1:-1].replace('\\', r'\\').replace('!', '^', word[1] == '!') + ']')
        else:
            parts.append(re.escape(word))
    try:
        return re.compile(start + ''.join(parts) + end, re.DOTALL), is_left_out
    except re.error:  # a range that is none
        return None
