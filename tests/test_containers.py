"""The container files agree with the package and each other; benchmarks/container.py builds and runs them."""

import configparser
import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

import bids_qsm

ROOT = Path(bids_qsm.__file__).parents[1]
if not (ROOT / 'Dockerfile').exists():
    pytest.skip('not a checkout', allow_module_level=True)
DOCKERFILE, DEFINITION = ((ROOT / name).read_text() for name in ('Dockerfile', 'bids_qsm.def'))


def canonical(name):
    return re.sub('[-_.]+', '-', name).lower()


def pins():
    lines = (ROOT / 'constraints.txt').read_text().splitlines()
    return dict(line.split('==') for line in lines if not line.startswith('#'))


def version_tuple(text):
    return tuple(int(n) for n in re.findall(r'\d+', text))


def section(name):
    """Lines of a section of the Apptainer definition."""
    text = re.search(rf'^%{name}\n(.*?)(?=^%|\Z)', DEFINITION, re.DOTALL | re.MULTILINE)[1]
    return [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith('#')]


def test_constraints_cover_what_is_required():
    config = configparser.ConfigParser()
    config.read(ROOT / 'setup.cfg')
    pinned = {canonical(name): version for name, version in pins().items()}
    extra = ' '.join(config['options.extras_require'][name] for name in ('ai', 'dicom')).split()
    for line in [
        *config['options']['install_requires'].split(),
        *extra,
        'bids-validator-deno',
        'setuptools>=69',
    ]:
        name, _, least = line.partition('>=')
        assert canonical(name) in pinned, f'{name} is not in constraints.txt'
        assert version_tuple(pinned[canonical(name)]) >= version_tuple(least)


def test_constraints_pin_exactly():
    assert all(re.fullmatch(r'[\d.]+(post\d+)?', version) for version in pins().values())


def test_version_is_stated_once_for_all():
    for text in (DOCKERFILE, DEFINITION):
        assert re.findall(r'VERSION=(\S+)', text) == [bids_qsm.__version__]


def test_both_images_are_made_by_the_same_steps():
    runs = re.findall(r'^RUN ((?:.*\\\n)*.*)$', DOCKERFILE, re.MULTILINE)
    chain = ' && '.join(runs).replace('\\\n', ' ')
    steps = [re.sub(r'\s+', ' ', step).strip('{}; ') for step in chain.split('&&')]
    # what one of them alone needs: settings, and what the other leaves in the layer of its build
    alone = r'(set -e|export |[A-Z]+=|rm -rf /(opt/sbom|src)$)'
    assert len(steps) > 16
    assert [step for step in section('post') if not re.match(alone, step)] == [
        step for step in steps if not re.match(alone, step)
    ]
    assert 'From: {{ BASE }}' in DEFINITION
    (base,) = re.findall(r'^ARG BASE=(.+)$', DOCKERFILE, re.MULTILINE)
    assert f'BASE={base}' in section('arguments')
    for name, value in re.findall(r'(\w+_(?:HOME|DATA))=(\S+)', DOCKERFILE):
        assert f'export {name}={value}' in section('environment')
        assert f'export {name}={value}' in section('post')
    assert section('runscript') == ['exec bids_qsm "$@"']
    assert section('test') == ['bids_qsm --version']


def test_the_image_has_no_root_and_says_what_it_is():
    last = DOCKERFILE.rpartition('\nFROM ')[2]
    assert re.search(r'^USER (\d+):(\d+)$', last, re.MULTILINE).groups() == ('1000', '1000')
    assert 'ENTRYPOINT ["bids_qsm"]' in last
    labels = set(re.findall(r'org\.opencontainers\.image\.([\w.]+)', last))
    assert labels == {'title', 'description', 'licenses', 'version', 'revision', 'created', 'base.name'}
    assert 'BIDS_QSM_IMAGE=bids_qsm:${VERSION}' in last


def test_the_legacy_builder_can_build_it():
    assert '--mount' not in DOCKERFILE
    assert '<<' not in DOCKERFILE


def test_only_what_is_installed_goes_into_an_image():
    ignored = (ROOT / '.dockerignore').read_text().splitlines()
    kept = [line.removeprefix('!') for line in ignored if line.startswith('!')]
    assert ignored[1] == '*'
    assert all((ROOT / name).exists() for name in kept)
    assert sorted(kept) == sorted(line.split()[0] for line in section('files'))
    assert any(fnmatch('bids_qsm/__pycache__', line) for line in ignored)
