"""The code blocks of pages, and a run of them.

python docs/ext/blocks.py FOLDER [PAGE ...]

runs the commands and the Python of pages from top to bottom in FOLDER; without pages, of all tutorials and of
the gallery.
"""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
FENCE = re.compile(r'^```([^\n`]*)\n(.*?)^```$', re.MULTILINE | re.DOTALL)
RUN = ('tutorial_subject', 'tutorial_parkinson', 'tutorial_nbia', 'tutorial_lesions', 'tutorial_veins')
RUN += ('tutorial_fmri', 'gallery')
"""Pages that run whole, in this order: lesions and veins go on with the data of the first."""


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Language and text of each fenced block."""
    for match in FENCE.finditer(text):
        yield match[1], match[2]


def commands(block: str) -> Iterator[str]:
    """Lines of a block of commands, with continued lines joined."""
    for line in block.replace('\\\n', ' ').splitlines():
        if line.strip() and not line.lstrip().startswith('#'):
            yield line.strip()


def prepare(folder: Path):
    """What the pages expect of the folder that they run in."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'figures').mkdir(exist_ok=True)
    if not (folder / 'examples').exists():
        (folder / 'examples').symlink_to(ROOT / 'examples')


def run(page: str, folder: Path):
    """Run the blocks of a page; raises CalledProcessError, or what its Python raises."""
    names: dict = {'__name__': page}
    for language, text in blocks((DOCS / f'{page}.md').read_text(encoding='utf-8')):
        if language not in ('sh', 'python'):
            continue
        print(f'--- {page}\n{text}', flush=True)
        if language == 'sh':
            places = os.pathsep.join((str(Path(sys.executable).parent), os.environ['PATH']))
            subprocess.run(['bash', '-euc', text], cwd=folder, check=True, env={**os.environ, 'PATH': places})
        else:
            before = os.getcwd()
            os.chdir(folder)
            try:
                exec(compile(text, f'{page}.md', 'exec'), names)
            finally:
                os.chdir(before)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('folder', type=Path)
    parser.add_argument('pages', nargs='*', metavar='PAGE', help=', '.join(RUN))
    given = parser.parse_args()
    folder = given.folder.resolve()
    prepare(folder)
    for page in given.pages or RUN:
        run(page, folder)


if __name__ == '__main__':
    main()
