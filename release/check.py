"""Check all before a release: what it states of itself, then sdist and wheel, each in an empty environment.

python release/check.py FOLDER [--data DATASET] [--demo]

FOLDER must not exist. Versions, metadata, licences and the container files are held against each other by the
tests of this Python, which needs the extra test. The wheel is built from the sdist. The sdist is only asked
for its version; the wheel runs the demo (--demo) and DATASET. It needs a package index.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import time
import venv
import zipfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = ('tests/test_release.py', 'tests/test_containers.py')
LICENCES = ('LICENSE', 'THIRD_PARTY.md', 'bids_qsm/data/niivue.LICENSE')
MADE = ('__pycache__', '.pyc', '.nbi', '.nbc', 'docs/_build/', 'docs/api/')
"""Parts of the names of files that are made, and belong into no archive."""


def run(title: str, *command: str | Path, log: Path) -> float:
    """Run a command without the checkout in sight; print its time, and end where it fails."""
    hidden = ('PYTHONPATH', 'VIRTUAL_ENV')
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    start = time.monotonic()
    with log.open('w') as stream:
        done = subprocess.run(
            list(map(str, command)),
            cwd=log.parent,
            env=environment,
            stdout=stream,
            stderr=stream,
            check=False,
        )
    seconds = time.monotonic() - start
    print(f'{title:<34} exit {done.returncode} {seconds:>6.0f} s')
    if done.returncode:
        sys.exit(log.read_text()[-3000:])
    return seconds


def check_archive(path: Path) -> None:
    """Print the size of an sdist or wheel, and end where it lacks a licence or holds what it should not."""
    if path.suffix == '.whl':
        with zipfile.ZipFile(path) as wheel:
            held = {one.filename: wheel.read(one) for one in wheel.infolist()}
    else:
        with tarfile.open(path) as sdist:
            held = {one.name: sdist.extractfile(one).read() for one in sdist if one.isfile()}
    size, digest = path.stat().st_size / 1e6, hashlib.sha256(path.read_bytes()).hexdigest()
    print(f'{path.name}: {size:.2f} MB, {len(held)} files, sha256 {digest}')
    pictures = Counter(text for name, text in held.items() if name.endswith('.png'))
    wrong = [f'no {one}' for one in LICENCES if not any(name.endswith(f'/{one}') for name in held)]
    wrong += [name for name in held if any(part in name for part in MADE)]
    wrong += [name for name, text in held.items() if pictures[text] > 1]
    if wrong:
        sys.exit(f'{path.name}: {", ".join(wrong)}')


def main():
    """Do it."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('folder', type=Path)
    parser.add_argument('--data', type=Path, help='a dataset to run with the wheel')
    parser.add_argument('--demo', action='store_true', help='run the demo with the wheel')
    given = parser.parse_args()
    folder = given.folder.resolve()
    if folder.exists():
        sys.exit(f'{folder} is there already: what an earlier check left would be installed.')
    folder.mkdir(parents=True)
    tests = (sys.executable, '-m', 'pytest', '-q', *(ROOT / name for name in TESTS))
    run('versions, metadata, licences', *tests, log=folder / 'tests.log')
    source = folder / 'source'
    # only what git knows, so that nothing of an earlier build gets in
    listed = subprocess.run(['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split('\0')):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name, follow_symlinks=False)
    venv.create(folder / 'tools', with_pip=True)
    tools = folder / 'tools/bin/python'
    run('install the builder', tools, '-m', 'pip', 'install', 'build', log=folder / 'tools.log')
    run('build', tools, '-m', 'build', '-o', folder / 'dist', source, log=folder / 'build.log')
    for path in sorted((folder / 'dist').iterdir()):
        check_archive(path)
        kind = 'wheel' if path.suffix == '.whl' else 'sdist'
        venv.create(folder / kind, with_pip=True)
        bin_ = folder / kind / 'bin'
        run(f'{kind}: install', bin_ / 'pip', 'install', path, log=folder / f'{kind}.log')
        run(f'{kind}: --version', bin_ / 'bids_qsm', '--version', log=folder / f'{kind}-version.log')
    app = folder / 'wheel/bin/bids_qsm'
    if given.demo:
        demo, out = folder / 'demo', folder / 'demo-out'
        run('wheel: demo data', app, 'demo', demo, log=folder / 'demo.log')
        run('wheel: demo, participants', app, demo, out, 'participant', log=folder / 'demo-run.log')
        run('wheel: demo, group', app, demo, out, 'group', log=folder / 'demo-group.log')
        print('tables', len(list(out.rglob('*_stats.tsv'))), 'pages', len(list(out.glob('*.html'))))
    if given.data:
        out = folder / 'data-out'
        run('wheel: dataset', app, given.data.resolve(), out, 'participant', log=folder / 'data-run.log')
        print('tables', len(list(out.rglob('*_stats.tsv'))), 'pages', len(list(out.glob('*.html'))))


if __name__ == '__main__':
    main()
