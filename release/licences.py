"""Write THIRD_PARTY.md, the licences of what an image installs.

python release/licences.py, run in an environment that has what constraints.txt names.
"""

import re
from email.message import Message
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
LISTED = ROOT / 'THIRD_PARTY.md'
ABOUT = """\
# Licences of other software

bids_qsm is under the [Apache License 2.0](LICENSE). It contains nothing of others but what the section
after the table names. It uses the Python packages below, which pip installs beside it and which the images
hold. Each is under the licence that its own metadata state. None is under the GPL; those under the LGPL or
MPL are used as they are, as libraries. Versions of the images stand in `constraints.txt`, and their SBOM in
`/opt/bids_qsm/share/bids_qsm/sbom.json`.

| package | licence |
|---|---|
"""
TOOLS = ('setuptools', 'pip')
"""Packages that build an image and are not in it."""
READ = {'dcm2niix': 'BSD-2-Clause, with parts under BSD, MIT, zlib and JasPer licences'}
"""Licences of packages whose metadata hold the text of a licence, and not its name."""


def packages() -> list[str]:
    """Names of the packages of constraints.txt."""
    lines = (ROOT / 'constraints.txt').read_text().splitlines()
    names = [line.partition('==')[0] for line in lines if line and not line.startswith('#')]
    return [name for name in names if name not in TOOLS]


def licence(about: Message) -> str:
    """Licence by the metadata of a package: its expression, else its classifiers, else its first line."""
    if about['License-Expression']:
        return about['License-Expression']
    classified = [
        line.rpartition(' :: ')[2]
        for line in about.get_all('Classifier', [])
        if line.startswith('License ::') and line != 'License :: OSI Approved'
    ]
    return ', '.join(classified) or (about['License'] or '').strip().partition('\n')[0]


def text(own: str) -> str:
    """The file; ``own`` is its last section, which people write."""
    rows, missing = [], []
    for name in packages():
        try:
            stated = READ.get(name) or licence(metadata(name))
        except PackageNotFoundError:
            missing.append(name)
            continue
        if not stated:
            raise SystemExit(f'The metadata of {name} state no licence: look it up.')
        rows.append(f'| {name} | {stated} |\n')
    if missing:
        raise SystemExit(f'This environment has no {", ".join(missing)}: install -r constraints.txt.')
    return ABOUT + ''.join(rows) + own


if __name__ == '__main__':
    before = LISTED.read_text() if LISTED.exists() else ''
    LISTED.write_text(text(''.join(re.findall(r'\n## .*', before, re.DOTALL)[:1])))
