"""A run that is disturbed goes on to what an undisturbed one gives; benchmarks/faults.py has all faults."""

import os
import shutil
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / 'benchmarks'
STEPS = 3
"""Steps, evenly spread over the graph, at which the run is killed here; the benchmark takes each of them."""


@pytest.fixture(scope='module')
def faults():
    """The benchmark, imported as its parts import each other."""
    sys.path.insert(0, str(BENCHMARKS))
    import faults

    yield faults
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope='module')
def done(faults, tmp_path_factory):
    """A job with the output of an undisturbed run, and its steps in order."""
    return faults.undisturbed(tmp_path_factory.mktemp('faults') / 'job')


def test_damaged_input_then_spoiled_files_and_kills(faults, done):
    job, order = done
    name = 'sub-01_echo-2_part-phase_MEGRE.nii.gz'
    said = faults.input_spoiled(job, order, name=name, how=faults.flipped, words=(name,))
    assert 'cannot be read' in said
    assert 'copy or convert it again' in said
    assert faults.spoil_work(job, order, faults.cut) > 20
    chosen = order[1 :: len(order) // STEPS]
    assert faults.killed_at_each_step(job, chosen).startswith(f'{len(chosen)} kills')
    assert faults.spoil_output(job, faults.zeroed) > 20
    faults.finish(job)
    faults.check(job)


@pytest.mark.skipif(os.getuid() == 0 and not shutil.which('setpriv'), reason='root may write anywhere')
def test_folder_without_rights_is_one_sentence(faults, done):
    job, order = done
    job.clear()
    said = faults.no_permission(job, order, of='out', mode=0o555, words=('out', 'ermission'))
    assert 'Errno' not in said


def test_half_written_files_are_told(faults, done):
    job, _ = done
    job.restore()
    assert faults.half_written(job.out) == []
    found = [p for p in faults.results(job.out) if p.name not in ('.bidsignore', 'dataset_description.json')]
    assert {p.suffix for p in found} == {'.gz', '.json', '.png', '.svg', '.html', '.tsv', '.txt', '.h5'}
    for path in found:
        content = (job.out / path).read_bytes()
        (job.out / path).write_bytes(content[: len(content) // 2])
    told = {str(Path(name).relative_to(job.out)) for name in faults.half_written(job.out)}
    assert told == {str(p) for p in found if p.suffix != '.h5'}
