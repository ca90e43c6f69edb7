"""What a release states of itself agrees; release/check.py builds and installs it."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

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
    for name in ('setup.cfg', 'pyproject.toml', 'README.md', 'LICENSE'):
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
