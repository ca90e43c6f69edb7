"""Compiled kernels in a read-only installation, such as an image, for all its users.

``python -m bids_qsm.execution.numba_cache`` fills the caches of Numba and Matplotlib once, when an image is
built. Numba refuses a cache that it cannot write, and trusts one completely (it holds pickled code): so
each run has a folder of its own, which nobody else can write, with links to the files of the installation.
"""

import atexit
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from bids_qsm.errors import UserError

CACHES = Path(sys.prefix, 'share', 'bids_qsm', 'caches')
FLAGS = ('avx2', 'bmi1', 'bmi2', 'f16c', 'fma', 'abm', 'movbe')
"""CPU flags of x86-64-v3 (since 2013) that v2 lacks, as in /proc/cpuinfo; abm is lzcnt."""


def target() -> dict[str, str]:
    """Numba's settings of the CPU to compile for: a common type, as machines of a cluster differ."""
    name = 'x86-64-v3' if platform.machine() == 'x86_64' else 'generic'
    return {'NUMBA_CPU_NAME': name, 'NUMBA_CPU_FEATURES': ''}


def lacking_flags(cpuinfo: str) -> list[str]:
    """Flags of the target that the CPU in the text of /proc/cpuinfo lacks."""
    if target()['NUMBA_CPU_NAME'] == 'generic':
        return []
    line = next((line for line in cpuinfo.splitlines() if line.startswith('flags')), '')
    return [flag for flag in FLAGS if flag not in line.split()]


def use_kernels(caches: Path = CACHES):
    """Let this process and its workers use the kernels in ``caches``, if any; before Numba is imported.

    If the user has set $NUMBA_CACHE_DIR, nothing is done. The private folder is deleted at exit.

    Raises
    ------
    UserError
        Where no temporary folder can be made.
    """
    if not caches.is_dir() or 'NUMBA_CACHE_DIR' in os.environ:
        return
    try:
        private = Path(tempfile.mkdtemp(prefix='bids_qsm-'))
    except OSError as error:
        raise UserError(
            f'No temporary folder can be made ({error.strerror}); set TMPDIR to one that can be written '
            '(with Docker: --tmpfs /tmp).'
        ) from None
    atexit.register(shutil.rmtree, private, ignore_errors=True)
    os.environ['NUMBA_CACHE_DIR'] = str(private / 'numba')
    for name, folder in (('MPLCONFIGDIR', 'matplotlib'), ('DENO_DIR', 'deno')):  # else below HOME
        os.environ.setdefault(name, str(private / folder))
    try:
        Path.home()
    except RuntimeError:  # no HOME and no known user: libraries fail
        os.environ['HOME'] = str(private)
    lacking = lacking_flags(Path('/proc/cpuinfo').read_text())
    if lacking:
        print(
            f'bids_qsm: this CPU lacks {", ".join(lacking)}, so the kernels are compiled for it first; '
            'that takes some minutes in each run.',
            file=sys.stderr,
        )
    else:
        os.environ.update(target())
    for path in caches.rglob('*'):
        link = private / path.relative_to(caches)
        if path.is_file():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)


def lacks_kernels() -> bool:
    """Whether the kernels of a reconstruction have not been compiled and stored here yet."""
    from bids_qsm.recon import fused_kernels

    folder = fused_kernels.add_up.stats.cache_path
    name = f'{Path(fused_kernels.__file__).stem}.*.py{sys.version_info.major}{sys.version_info.minor}.nbi'
    return folder is not None and not any(Path(folder).glob(name))


def compile_kernels(caches: Path = CACHES):
    """Fill ``caches`` by running a small dataset, then every method on the inputs of its steps.

    Call it in a process that has not imported Numba yet.
    """
    caches.mkdir(parents=True, exist_ok=True)
    os.environ.update(
        target(), NUMBA_CACHE_DIR=str(caches / 'numba'), MPLCONFIGDIR=str(caches / 'matplotlib')
    )
    with tempfile.TemporaryDirectory() as scratch:
        data, out, work = (Path(scratch, name) for name in ('data', 'out', 'work'))
        _simulate(data)
        _run(data, out, 'participant', '--candidates', '--swi', 'trueswi', '--work-dir', work)
        _run(data, out, 'group')
        _classify()
        _run_methods(work, Path(scratch))


def _simulate(data: Path):
    """A subject with several echoes in one session and a single one in another."""
    from bids_qsm.phantom.dataset import Visit, write_dataset
    from bids_qsm.phantom.gre import Protocol

    several, single = (
        Protocol((4.0, 4.0, 4.0), echo_times=times, rotation=(12, 0, 0))
        for times in ((0.004, 0.009, 0.014), (0.014,))
    )
    write_dataset(data, [Visit('01', '1', 0, several, 2.0), Visit('01', '2', 0, single, None)], spacing=2.0)


def _run(*arguments):
    subprocess.run([sys.executable, '-m', 'bids_qsm', *arguments, '--skip-bids-validation'], check=True)


def _classify():
    """Classify made-up units, as a classifier needs more participants than the dataset has."""
    from bids_qsm.cohort.classify import classify
    from bids_qsm.cohort.units import make_units
    from bids_qsm.phantom.classes import Population

    units, *_ = make_units(Population().draw(0, people=(10, 10)), 'label ~ base_0')
    classify(units, repeats=2, permutations=1, n_boot=2)


def choices(interface: type) -> tuple[str, ...]:
    """Methods of the registry of a step; none of one without a choice."""
    trait = interface.input_spec().trait('method')
    return (trait and trait.choices) or ()


def _run_methods(work: Path, scratch: Path):
    """Run each step with its other methods, on its inputs in the finished run."""
    from nipype.utils.filemanip import loadpkl

    for path in sorted(work.rglob('result_*.pklz')):
        result = loadpkl(path)
        for method in choices(result.interface):
            if method in ('greedy', result.inputs.get('method')):  # greedy needs a package of its own
                continue
            folder = tempfile.mkdtemp(dir=scratch)
            with suppress(UserError):  # not every method takes a single echo
                result.interface(**{**result.inputs, 'method': method, 'params': {}}).run(cwd=folder)


if __name__ == '__main__':
    compile_kernels()
