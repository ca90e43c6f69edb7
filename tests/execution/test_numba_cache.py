import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from nipype.interfaces.base import BaseInterfaceInputSpec, SimpleInterface, TraitedSpec, traits
from nipype.pipeline import engine as pe

from bids_qsm.app import cli
from bids_qsm.errors import UserError
from bids_qsm.execution import numba_cache as kernels
from bids_qsm.interfaces.anatomy import RegisterRigid
from bids_qsm.interfaces.background import RemoveBackground
from bids_qsm.interfaces.inversion import Invert
from bids_qsm.interfaces.step import methods
from bids_qsm.recon import fused_kernels
from bids_qsm.recon.background import BACKGROUND
from bids_qsm.recon.inversion import INVERSION

VARIABLES = ('NUMBA_CACHE_DIR', 'MPLCONFIGDIR', 'DENO_DIR', 'NUMBA_CPU_NAME', 'NUMBA_CPU_FEATURES')
WRAP = """
import os, sys
from pathlib import Path
from bids_qsm.execution.numba_cache import target, use_kernels
if sys.argv[1] == 'build':
    os.environ.update(target(), NUMBA_CACHE_DIR=sys.argv[2] + '/numba')
else:
    use_kernels(Path(sys.argv[2]))
import numpy as np
from bids_qsm.recon.phase import wrap
print(*(f'{x:.3f}' for x in wrap(np.float32([0, 4, 8]))), os.environ['NUMBA_CACHE_DIR'])
"""
MODERN = 'flags : fpu avx avx2 bmi1 bmi2 f16c fma abm movbe'


@pytest.fixture(autouse=True)
def _environment(tmp_path, monkeypatch):
    """No cache is chosen, temporary folders are made in ``tmp``, and what is set or registered is undone."""
    for name in VARIABLES:
        monkeypatch.setenv(name, '')
        monkeypatch.delenv(name)
    (tmp_path / 'tmp').mkdir()
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'tmp'))
    monkeypatch.setattr(kernels.atexit, 'register', lambda *_args, **_more: None)


@pytest.fixture
def caches(tmp_path):
    """Caches as an image has them, empty of sense."""
    for name in ('numba/recon_1/a.nbi', 'matplotlib/fontlist.json'):
        path = tmp_path / 'caches' / name
        path.parent.mkdir(parents=True)
        path.write_text(name)
    return tmp_path / 'caches'


def test_kernels_are_missing_until_they_are_stored(tmp_path, monkeypatch):
    stored = tmp_path / 'stored'
    stored.mkdir()
    monkeypatch.setattr(fused_kernels, 'add_up', SimpleNamespace(stats=SimpleNamespace(cache_path=stored)))
    assert kernels.lacks_kernels()
    (stored / 'fused_kernels.add_up-14.py311.nbi').touch()
    assert not kernels.lacks_kernels()


def listing(folder):
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob('*') if p.is_file()}


@pytest.mark.parametrize(
    ('step', 'registry'), [(Invert, INVERSION), (RemoveBackground, BACKGROUND), (RegisterRigid, {})]
)
def test_the_methods_of_each_step_are_known(step, registry):
    """As an image compiles the kernels of all; steps that take plug-ins have their registry too."""
    assert kernels.choices(step) == tuple(registry)


def test_kernels_of_an_image_are_used_and_nothing_is_compiled(tmp_path):
    caches, private = tmp_path / 'caches', tmp_path / 'private'
    private.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith('NUMBA')}

    def run(what):
        command = [sys.executable, '-c', WRAP, what, str(caches)]
        more = {'TMPDIR': str(private), 'NUMBA_DEBUG_CACHE': '1'}
        ran = subprocess.run(command, env={**environment, **more}, capture_output=True, text=True, check=True)
        return ran.stdout

    assert 'data saved to' in run('build')
    built = listing(caches)
    assert {name.rpartition('.')[2] for name in built} == {'nbi', 'nbc'}
    said = run('use')
    assert 'data loaded from' in said
    assert 'saved to' not in said
    assert f'0.000 -2.283 1.717 {private}/bids_qsm-' in said
    assert listing(caches) == built
    assert not list(private.iterdir())


def test_each_run_has_links_that_nobody_else_can_change(caches, tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, 'lacking_flags', lambda _: [])
    kernels.use_kernels(caches)
    (private,) = (tmp_path / 'tmp').iterdir()
    assert private.stat().st_mode & 0o777 == 0o700
    assert os.environ['NUMBA_CACHE_DIR'] == f'{private}/numba'
    assert os.environ['MPLCONFIGDIR'] == f'{private}/matplotlib'
    assert os.environ['DENO_DIR'] == f'{private}/deno'
    assert os.environ['NUMBA_CPU_NAME'] == kernels.target()['NUMBA_CPU_NAME']
    assert (private / 'numba/recon_1/a.nbi').readlink() == caches / 'numba/recon_1/a.nbi'
    assert (private / 'matplotlib/fontlist.json').read_text() == 'matplotlib/fontlist.json'


def test_a_cpu_that_lacks_something_compiles_for_itself(caches, monkeypatch, capsys):
    monkeypatch.setattr(kernels, 'lacking_flags', lambda _: ['avx2', 'fma'])
    kernels.use_kernels(caches)
    assert 'NUMBA_CPU_NAME' not in os.environ
    assert os.environ['NUMBA_CACHE_DIR']
    assert 'lacks avx2, fma, so the kernels are compiled' in capsys.readouterr().err


def test_a_user_without_a_home_gets_one(caches, tmp_path, monkeypatch):
    def unknown():
        raise RuntimeError('Could not determine home directory.')

    monkeypatch.setenv('HOME', '')
    monkeypatch.setattr(kernels.Path, 'home', unknown)
    kernels.use_kernels(caches)
    assert Path(os.environ['HOME']).parent == tmp_path / 'tmp'


def test_flags_of_a_cpu(monkeypatch):
    monkeypatch.setattr(kernels.platform, 'machine', lambda: 'x86_64')
    assert kernels.lacking_flags(f'processor : 0\n{MODERN}\n\nprocessor : 1\n') == []
    assert kernels.lacking_flags(MODERN.replace(' avx2', '').replace(' fma', '')) == ['avx2', 'fma']
    assert kernels.lacking_flags('') == list(kernels.FLAGS)
    monkeypatch.setattr(kernels.platform, 'machine', lambda: 'aarch64')
    assert kernels.lacking_flags('Features : fp asimd') == []


def test_without_kernels_or_with_a_cache_of_the_users_all_stays_as_it_is(caches, tmp_path, monkeypatch):
    kernels.use_kernels(tmp_path / 'none')
    assert not set(VARIABLES) & set(os.environ)
    monkeypatch.setenv('NUMBA_CACHE_DIR', '/mine')
    kernels.use_kernels(caches)
    assert {name: os.environ.get(name) for name in VARIABLES if name in os.environ} == {
        'NUMBA_CACHE_DIR': '/mine'
    }
    assert not list((tmp_path / 'tmp').iterdir())


def test_no_temporary_folder(caches, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'missing'))
    with pytest.raises(UserError, match='set TMPDIR'):
        kernels.use_kernels(caches)


class _ChooseInputSpec(BaseInterfaceInputSpec):
    record = traits.Str(mandatory=True)
    method, params = methods(dict.fromkeys(('first', 'second', 'greedy', 'picky', 'third'))).values()


class _ChooseOutputSpec(TraitedSpec):
    chosen = traits.Str()


class Choose(SimpleInterface):
    """Note the method and its parameters in a file."""

    input_spec, output_spec = _ChooseInputSpec, _ChooseOutputSpec

    def _run_interface(self, runtime):
        if self.inputs.method == 'picky':
            raise UserError('It needs another echo.')
        with Path(self.inputs.record).open('a') as file:
            file.write(f'{self.inputs.method} {self.inputs.params}\n')
        self._results['chosen'] = self.inputs.method
        return runtime


def test_every_other_method_of_a_step_is_run(tmp_path):
    record = tmp_path / 'record'
    work = tmp_path / 'work'
    chosen = Choose(record=str(record), method='second', params={'a': 1})
    pe.Node(chosen, name='choose', base_dir=str(work)).run()
    kernels._run_methods(work, tmp_path / 'tmp')
    assert record.read_text().splitlines() == ["second {'a': 1}", 'first {}', 'third {}']


def test_the_simulated_dataset_can_be_run(tmp_path, monkeypatch):
    monkeypatch.setattr(cli, 'set_threads', lambda _: None)
    kernels._simulate(tmp_path / 'data')
    calls = []
    monkeypatch.setattr(kernels, '_simulate', lambda _: None)
    monkeypatch.setattr(kernels, '_run', lambda *arguments: calls.append([str(a) for a in arguments]))
    kernels.compile_kernels(tmp_path / 'caches')
    (participant, group) = calls
    assert (participant[2], group[2]) == ('participant', 'group')
    dry = [str(tmp_path / 'data'), str(tmp_path / 'out'), *participant[2:]]
    assert cli.main([*dry, '--dry-run', '--skip-bids-validation']) == 0
