"""Complete the SBOM of an image: cyclonedx-py lists the packages of its environment, this all else in it.

/opt/sbom/bin/python release/sbom.py SBOM BASE FOLDER

SBOM is a file of cyclonedx-py and is written again, BASE names the base image, by its digest where that is
known, and FOLDER holds the image's /etc/os-release, /var/lib/dpkg and /usr/share/doc. Added are the packages
of the operating system, Python itself and what lies beside it, and what is built into the viewer of reports.
"""

import json
import platform
import re
import sys
from email.message import Message
from email.parser import HeaderParser
from importlib.metadata import distributions
from pathlib import Path
from urllib.parse import quote

VIEWER = Path(__file__).parents[1] / 'bids_qsm/data/niivue.LICENSE'


def paragraphs(text: str) -> list[Message]:
    """Paragraphs of fields, as Debian writes them."""
    return [HeaderParser().parsestr(part) for part in re.split(r'\n[ \t]*\n', text.strip()) if part]


def system(root: Path) -> list[dict]:
    """Debian and its installed packages, as components of CycloneDX."""
    lines = re.findall(r'^(\w+)="?([^"\n]*)', (root / 'etc/os-release').read_text(), re.MULTILINE)
    about = dict(lines)
    distribution = f'{about["ID"]}-{about["VERSION_ID"]}'
    found: list[dict] = [
        {
            'bom-ref': distribution,
            'type': 'operating-system',
            'name': about['ID'],
            'version': about['VERSION_ID'],
        }
    ]
    for package in paragraphs((root / 'var/lib/dpkg/status').read_text()):
        if package['Status'].split()[-1] == 'installed':
            found.append(debian(package, distribution, root))
    return found


def debian(package: Message, distribution: str, root: Path) -> dict:
    """A paragraph of dpkg's status."""
    name, version, kind = package['Package'], package['Version'], package['Architecture']
    # Source is left out where it is named as the package is, and its version where that is the same
    source, other = re.fullmatch(r'(\S+)(?: \((\S+)\))?', package['Source'] or name).groups()
    source_version = other or version
    upstream = quote(f'{source}@{source_version}', safe='')
    address = f'pkg:deb/debian/{quote(name)}@{quote(version, safe="")}?arch={kind}&distro={distribution}'
    one = {
        'bom-ref': f'{name}:{kind}={version}',
        'type': 'library',
        'name': name,
        'version': version,
        'purl': f'{address}&upstream={upstream}',
        'properties': [{'name': 'dpkg:source', 'value': f'{source} {source_version}'}],
    }
    terms = root / f'usr/share/doc/{name}/copyright'
    if terms.exists():
        one['properties'].append({'name': 'dpkg:copyright', 'value': f'/{terms.relative_to(root)}'})
        names = licences(terms.read_text(errors='replace'))
        one |= {'licenses': [{'license': {'name': text}} for text in names]} if names else {}
    return one


def licences(text: str) -> list[str]:
    """Names of licences in a copyright file of Debian; none where it is not written for machines."""
    if not text.startswith('Format'):
        return []
    named = [part['License'].partition('\n')[0].strip() for part in paragraphs(text) if part['License']]
    return sorted(set(filter(None, named)))


def python() -> list[dict]:
    """The interpreter, which is no package of the system, and the packages that lie beside it."""
    version = platform.python_version()
    beside = f'{sys.base_prefix}/lib/python{version.rpartition(".")[0]}/site-packages'
    one = {
        'bom-ref': f'cpython={version}',
        'type': 'application',
        'name': 'cpython',
        'version': version,
        'cpe': f'cpe:2.3:a:python:python:{version}:*:*:*:*:*:*:*',
        'licenses': [{'license': {'id': 'PSF-2.0'}}],
    }
    found = {part.metadata['Name']: part.version for part in distributions(path=[beside])}
    return [one, *(package('pypi', *item, place=beside) for item in sorted(found.items()))]


def viewer() -> list[dict]:
    """What niivue.min.js is built of, by the headings of its licences."""
    headings = re.findall(r'^== (\S+) (\d[\d.]*)$', VIEWER.read_text(), re.MULTILINE)
    return [package('npm', *heading, place='bids_qsm/data/niivue.min.js') for heading in headings]


def package(registry: str, name: str, version: str, place: str) -> dict:
    """A package of PyPI or npm that lies at ``place``."""
    return {
        'bom-ref': f'{place}: {name}=={version}',
        'type': 'library',
        'name': name,
        'version': version,
        'purl': f'pkg:{registry}/{quote(name)}@{quote(version)}',
        'properties': [{'name': 'place', 'value': place}],
    }


def image(base: str, version: str) -> dict:
    """The image that all is about, and the one that it was made from."""
    named, _, digest = base.partition('@sha256:')
    name, _, tag = re.fullmatch(r'(.*?)(:([^/:]+))?', named).groups()
    before = {'type': 'container', 'name': name}
    before |= {'version': tag} if tag else {}
    before |= {'hashes': [{'alg': 'SHA-256', 'content': digest}]} if digest else {}
    return {
        'bom-ref': 'image',
        'type': 'container',
        'name': 'bids_qsm',
        'version': version,
        'pedigree': {'ancestors': [before]},
    }


def complete(listed: dict, base: str, root: Path) -> dict:
    """The SBOM ``listed`` of cyclonedx-py with all that is not in its environment."""
    (version,) = (one['version'] for one in listed['components'] if one['name'] == 'bids_qsm')
    more = [*python(), *viewer(), *system(root)]
    metadata = listed['metadata'] | {'component': image(base, version)}
    return listed | {'metadata': metadata, 'components': listed['components'] + more}


def main():
    """Do it, and hold the result against the schema."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    path, base, root = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    text = json.dumps(complete(json.loads(path.read_text()), base, root), indent=1, ensure_ascii=False)
    wrong = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if wrong:
        sys.exit(f'{path} is no valid CycloneDX: {wrong}')
    path.write_text(text + '\n')


if __name__ == '__main__':
    main()
