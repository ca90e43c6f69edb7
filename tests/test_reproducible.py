"""Equal input gives equal files, byte for byte, and the files say how to make them again."""

import json
import os
import shlex
import sys

import pytest

import bids_qsm
from bids_qsm.app import cli
from bids_qsm.app.cli import parse
from bids_qsm.app.options import Options
from bids_qsm.derivatives.files import write_dataset_description
from tests.cohorts import write_cohort
from tests.skeletons import write_dataset

WATCH = """\
import os, socket, sys

NAMES = ('getaddrinfo', 'gethostbyname', 'gethostbyaddr')
SENDS = ('connect', 'sendto', 'sendmsg')

def note(*words):
    with open(os.environ['WATCHED'], 'a') as stream:
        print(*words, file=stream)

def watch(event, given):
    kind = event.removeprefix('socket.')
    if kind in NAMES or (kind in SENDS and given[0].family != socket.AF_UNIX):
        note(event, given)

note('process')
sys.addaudithook(watch)
"""
"""A sitecustomize that notes each Python process, and what it asks of a network."""


@pytest.fixture(scope='module')
def watched(tmp_path_factory):
    """Where the processes of the job note what they ask of a network."""
    folder = tmp_path_factory.mktemp('watch')
    (folder / 'sitecustomize.py').write_text(WATCH)
    return folder / 'watched'


@pytest.fixture(scope='module')
def job(reproducible, tmp_path_factory, watched):
    """A small job, and its outputs after two runs in two ways."""
    job = reproducible.disturb.make_job(tmp_path_factory.mktemp('job'))

    def command(out, n):
        places = {str(job.out): str(out), str(job.work): str(out / 'work')}
        own = job.arguments('--nprocs', n, '--omp-nthreads', n, '--candidates')
        return [sys.executable, '-m', 'bids_qsm', *(places.get(word, word) for word in own)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('TEMPLATEFLOW_HOME', str(job.root / 'templateflow'))
        patch.setenv('PYTHONPATH', str(watched.parent), prepend=os.pathsep)
        patch.setenv('WATCHED', str(watched))
        return job, reproducible.run_twice(job.root, command)


def finished_steps(work):
    """Files of results and when they were written; what checks the output runs each time."""
    found = [path for path in work.rglob('result_*.pklz') if 'save' not in path.name]
    assert len(found) > 30
    return {path: path.stat().st_mtime_ns for path in found}


def test_two_runs_give_the_same_files(reproducible, job):
    number, different = reproducible.compare(job[1])
    assert number > 40
    assert different == []


@pytest.mark.usefixtures('job')
def test_a_run_asks_nothing_of_a_network(watched):
    noted = watched.read_text().splitlines()
    assert noted.count('process') > 4, 'the workers were not watched'
    assert set(noted) == {'process'}


def test_configuration_of_a_run_repeats_it(reproducible, job, monkeypatch):
    one, other = job[1]
    (config,) = one.glob('logs/*/config.toml')
    removed = one / 'sub-01' / 'anat' / 'sub-01_Chimap.nii.gz'
    removed.unlink()
    before = finished_steps(one / 'work')
    monkeypatch.setenv('TEMPLATEFLOW_HOME', str(job[0].root / 'templateflow'))
    monkeypatch.chdir(one.parent / 'here')
    monkeypatch.setattr(sys, 'argv', ['bids_qsm', '--config', str(config)])  # the record of the run has it
    assert cli.main(sys.argv[1:]) == 0
    assert removed.exists()
    assert finished_steps(one / 'work') == before, 'it computed again what was there'
    assert reproducible.compare((one, other))[1] == []


def test_report_says_how_to_repeat_it(job):
    page = (job[1][0] / 'sub-01.html').read_text(encoding='utf-8')
    record = json.loads((job[1][0] / 'logs' / 'sub-01.json').read_text(encoding='utf-8'))
    assert record['command'] in page.replace('&#39;', "'")
    words = shlex.split(record['command'])
    assert words[:6] == ['bids_qsm', 'BIDS_DIR', 'OUTPUT_DIR', 'participant', '--participant-label', '01']
    # neither when nor where it was made
    for changing in (
        record['started'],
        record['called'],
        *(str(out) for out in job[1]),
        '--nprocs',
        '--omp-nthreads',
    ):
        assert changing not in page


def test_group_level_gives_the_same_files(reproducible, tmp_path):
    def command(out, n):
        data, _ = write_cohort(out.parent, n=16, repeated=3)
        asked = [
            '--model',
            'chi ~ group + age',
            '--correlate',
            'dystonia:GP',
            'parkinsonism:SN',
            '--nprocs',
            n,
        ]
        return [sys.executable, '-m', 'bids_qsm', str(data), str(out), 'group', *asked]

    outs = reproducible.run_twice(tmp_path, command)
    assert (outs[0] / 'group' / 'correlation_difference.tsv').exists()
    assert reproducible.compare(outs)[1] == []


def settings(tmp_path, **others):
    return Options.from_settings({'bids_dir': tmp_path / 'data', 'output_dir': tmp_path / 'out', **others})


def test_command_holds_what_results_depend_on(tmp_path):
    chosen = tmp_path / 'a filter.json'
    chosen.touch()
    asked = {
        'level': 'participant',
        'inversion': 'tv:strength=0.05',
        'mask': '/masks/{series}.nii.gz',
        'phase_scaling': '-4096,4094',
        'bids_filter_file': chosen,
        'derivatives': {'fmriprep': tmp_path / 'prep'},
        'output_spaces': ['MNI152NLin2009aSym', 'MNI152NLin2009cAsym'],
        'applications': ['candidates'],
    }
    elsewhere = {'nprocs': 1, 'mem_gb': 1, 'work_dir': tmp_path / 'w', 'array_task': '1/2', 'verbose': 2}
    at_another_level = {'model': 'chi ~ age'}
    said = settings(tmp_path, **asked).to_command(participants=('01',))
    assert (
        settings(tmp_path, **asked, **elsewhere, **at_another_level).to_command(participants=('01',)) == said
    )
    assert parse(shlex.split(said)[1:]) == {
        **asked,
        'bids_dir': 'BIDS_DIR',
        'output_dir': 'OUTPUT_DIR',
        'participant_label': ['01'],
        'mask': '{series}.nii.gz',
        'bids_filter_file': 'a filter.json',
        'derivatives': [('fmriprep', 'prep')],
    }
    at_both = {'model': 'chi ~ age', 'smoothing_mm': 4.0, 'applications': ['candidates']}
    group = settings(tmp_path, level='group', **at_both)
    assert parse(shlex.split(group.to_command(participants=()))[1:]) == {
        'bids_dir': 'BIDS_DIR',
        'output_dir': 'OUTPUT_DIR',
        'level': 'group',
        'model': 'chi ~ age',
        'smoothing_mm': 4.0,
    }


@pytest.mark.parametrize('engine', ['docker', 'apptainer', None])
def test_dataset_names_the_image_that_made_it(tmp_path, monkeypatch, engine):
    for name in ('BIDS_QSM_IMAGE', 'APPTAINER_CONTAINER', 'SINGULARITY_CONTAINER'):
        monkeypatch.delenv(name, raising=False)
    if engine:
        monkeypatch.setenv('BIDS_QSM_IMAGE', 'bids_qsm:1.2.3')
    if engine == 'apptainer':
        monkeypatch.setenv('APPTAINER_CONTAINER', '/images/bids_qsm.sif')
    write_dataset(tmp_path / 'data')
    options = settings(tmp_path, level='participant')
    path = write_dataset_description(options.output_dir, options)
    (maker,) = json.loads(path.read_text(encoding='utf-8'))['GeneratedBy']
    assert maker['Version'] == bids_qsm.__version__
    assert maker.get('Container') == (engine and {'Type': engine, 'Tag': 'bids_qsm:1.2.3'})
