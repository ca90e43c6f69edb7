"""What a release states of itself agrees; release/check.py builds and installs it."""

import importlib
import json
import platform
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

import bids_qsm
from bids_qsm.app.arguments import parse

ROOT = Path(bids_qsm.__file__).parents[1]
if not (ROOT / 'release').exists():
    pytest.skip('not a checkout', allow_module_level=True)
VERSION = bids_qsm.__version__


def test_one_version_everywhere():
    cited = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    archived = json.loads((ROOT / '.zenodo.json').read_text())
    assert cited['version'] == archived['version'] == VERSION
    assert cited['title'] == archived['title']
    assert cited['license'] == archived['license'] == 'Apache-2.0'
    assert cited['keywords'] == archived['keywords']
    newest = re.search(r'^## (\S+)', (ROOT / 'CHANGES.md').read_text(), re.MULTILINE)[1]
    assert newest == VERSION


def test_the_descriptor_is_that_of_the_command_line():
    run = subprocess.run(
        [sys.executable, '-c', 'import descriptor; print(descriptor.text(), end="")'],
        cwd=ROOT / 'release',
        env={'PYTHONPATH': str(ROOT), 'PATH': ''},
        capture_output=True,
        text=True,
        check=True,
    )
    written = (ROOT / 'boutiques.json').read_text()
    assert run.stdout == written, 'run python release/descriptor.py'
    inputs = json.loads(written)['inputs']
    assert [one['id'] for one in inputs if not one['optional']] == ['bids_dir', 'output_dir', 'level']
    flags = {one['command-line-flag']: one['type'] for one in inputs if 'command-line-flag' in one}
    assert flags['--participant-label'] == 'String'
    assert flags['--regions'] == flags['--dry-run'] == 'Flag'
    assert flags['--nprocs'] == 'Number'
    assert not any(one['description'] == '==SUPPRESS==' for one in inputs)
    assert json.loads(written)['output-files'][0]['optional'], '--dry-run writes nothing'


def test_the_descriptor_can_say_parameters_of_applications(tmp_path):
    bosh = Path(sys.executable).with_name('bosh')
    said = {'bids_dir': str(tmp_path), 'output_dir': str(tmp_path / 'out'), 'level': 'participant'}
    said['applications'] = ['oximetry:hematocrit=.40', 'separation']
    invocation = tmp_path / 'invocation.json'
    invocation.write_text(json.dumps(said))
    run = subprocess.run(
        [bosh, 'exec', 'simulate', ROOT / 'boutiques.json', '-i', invocation],
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = (one for one in run.stdout.splitlines() if one.startswith('bids_qsm '))
    settings = parse(shlex.split(line)[1:])
    assert settings['applications'] == said['applications']
    assert parse([*shlex.split(line)[1:], '--oximetry'])['applications'][-1] == 'oximetry'


def test_boutiques_accepts_the_descriptor():
    bosh = Path(sys.executable).with_name('bosh')
    run = subprocess.run(
        [bosh, 'validate', ROOT / 'boutiques.json'], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_licences_of_all_that_images_hold_are_listed():
    listed = dict(re.findall(r'^\| (\S+) \| (.+) \|$', (ROOT / 'THIRD_PARTY.md').read_text(), re.MULTILINE))
    pins = re.findall(r'^([^#=\s]+)==', (ROOT / 'constraints.txt').read_text(), re.MULTILINE)
    assert set(pins) - {'setuptools', 'pip'} <= set(listed), 'run python release/licences.py'
    for name, licence in listed.items():
        assert not re.search(r'(?<!L)GPL|Affero|(?<!Lesser )General Public', licence), name


def test_a_wheel_holds_the_whole_package(tmp_path):
    # what an earlier build left in the checkout would go into the wheel
    source = tmp_path / 'source'
    source.mkdir()
    for name in ('bids_qsm', 'workflows'):
        shutil.copytree(
            ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns('__pycache__')
        )
    for name in ('setup.cfg', 'pyproject.toml', 'README.md', 'LICENSE', 'THIRD_PARTY.md'):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps', '--wheel-dir', str(tmp_path)]
    subprocess.run([*pip, str(source)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob('*.whl')
    assert wheel.name == f'bids_qsm-{VERSION}-py3-none-any.whl'
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    sources = [path for path in (ROOT / 'bids_qsm').rglob('*') if path.is_file()]
    sources += [ROOT / 'bids_qsm/workflows' / path.name for path in (ROOT / 'workflows').glob('*.py')]
    wanted = {
        path.relative_to(ROOT).as_posix()
        for path in sources
        if not {'__pycache__', '.DS_Store'} & set(path.parts) and path.suffix not in ('.nbi', '.nbc', '.pyc')
    }
    assert wanted <= held
    licences = f'bids_qsm-{VERSION}.dist-info/licenses/'
    named = ('LICENSE', 'THIRD_PARTY.md', 'bids_qsm/data/niivue.LICENSE')
    assert {licences + name for name in named} <= held


STATUS = """\
Package: libgomp1
Status: install ok installed
Source: gcc-12
Version: 12.2.0-14+deb12u1
Architecture: amd64
Description: GCC OpenMP (GOMP) support library
 Of several
 .
 paragraphs

Package: zlib1g
Status: install ok installed
Source: zlib (1:1.2.13.dfsg-1)
Version: 1:1.2.13.dfsg-1+b1
Architecture: amd64

Package: gone
Status: deinstall ok config-files
Version: 1
Architecture: all
"""
COPYRIGHT = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
License: Zlib
 This software is provided 'as-is'
 .
 License: no field of this file

Files: contrib/*
License: GPL-2+ or Expat
"""


@pytest.fixture
def sbom(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'release')
    return importlib.import_module('sbom')


def test_an_sbom_holds_the_system_the_interpreter_the_viewer_and_the_base(sbom, tmp_path):
    for name, text in (
        ('etc/os-release', 'NAME="Debian GNU/Linux"\nVERSION_ID="12"\nID=debian\n'),
        ('var/lib/dpkg/status', STATUS),
        ('usr/share/doc/zlib1g/copyright', COPYRIGHT),
        ('usr/share/doc/libgomp1/copyright', 'This is the Debian GNU/Linux prepackaged version of GCC.\n'),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    listed = {
        '$schema': 'http://cyclonedx.org/schema/bom-1.6.schema.json',
        'bomFormat': 'CycloneDX',
        'specVersion': '1.6',
        'version': 1,
        'metadata': {'properties': [{'name': 'cdx:reproducible', 'value': 'true'}]},
        'components': [{'bom-ref': 'b', 'type': 'library', 'name': 'bids_qsm', 'version': VERSION}],
    }
    digest = 64 * 'a'
    whole = sbom.complete(listed, f'registry:5000/python:3.11-slim@sha256:{digest}', tmp_path)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(whole)) is None

    assert whole['metadata']['properties'] == listed['metadata']['properties']
    about = whole['metadata']['component']
    assert (about['name'], about['version'], about['type']) == ('bids_qsm', VERSION, 'container')
    (base,) = about['pedigree']['ancestors']
    assert base == {
        'type': 'container',
        'name': 'registry:5000/python',
        'version': '3.11-slim',
        'hashes': [{'alg': 'SHA-256', 'content': digest}],
    }
    held = {one['name']: one for one in whole['components']}
    assert held['debian']['type'] == 'operating-system'
    assert held['cpython']['version'] == platform.python_version()
    assert held['@niivue/niivue']['purl'] == 'pkg:npm/%40niivue/niivue@0.69.0'
    assert 'gone' not in held
    assert held['libgomp1']['properties'] == [
        {'name': 'dpkg:source', 'value': 'gcc-12 12.2.0-14+deb12u1'},
        {'name': 'dpkg:copyright', 'value': '/usr/share/doc/libgomp1/copyright'},
    ]
    assert 'licenses' not in held['libgomp1'], 'its file is prose'
    assert held['zlib1g']['properties'][0]['value'] == 'zlib 1:1.2.13.dfsg-1'
    assert [one['license']['name'] for one in held['zlib1g']['licenses']] == ['GPL-2+ or Expat', 'Zlib']
    assert held['zlib1g']['purl'] == (
        'pkg:deb/debian/zlib1g@1%3A1.2.13.dfsg-1%2Bb1?arch=amd64&distro=debian-12'
        '&upstream=zlib%401%3A1.2.13.dfsg-1'
    )


def test_an_sbom_says_no_digest_that_is_not_known(sbom):
    for name, version in (('python', '3.11'), ('registry:5000/python', None)):
        before = sbom.image(f'{name}:{version}' if version else name, VERSION)['pedigree']['ancestors'][0]
        assert (before['name'], before.get('version')) == (name, version)
        assert 'hashes' not in before
