"""Scripts for SLURM: what they ask for, what they run; and Nipype's plugin, step by step."""

import math
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from nipype import Function, Node, Workflow

from bids_qsm.app.arguments import parse
from bids_qsm.app.cli import main
from bids_qsm.app.options import Options
from bids_qsm.app.participant import build_graph, make_plan
from bids_qsm.app.slurm import write_array
from bids_qsm.errors import UserError
from bids_qsm.execution.slurm_scripts import _binds, _memory
from bids_qsm.execution.step_jobs import SlurmPlugin, request_resources
from bids_qsm.interfaces.xfm import load_xfm
from bids_qsm.templates.spaces import get_template
from tests.skeletons import write_dataset, write_series, write_t1w

BENCHMARKS = Path(__file__).parents[2] / 'benchmarks'
# the memory of segmentation would hide that of other steps
QUICK = ('--skip-bids-validation', '--refinement', 'none')


def program(path, text):
    """A shell script that can be run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/bash\n{text}\n')
    path.chmod(0o755)
    return path


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    """Three participants: a small and a large one, and one whose series cannot be used."""
    root = write_dataset(tmp_path_factory.mktemp('slurm') / 'a data')
    write_series(root, sub='01')
    write_series(root, sub='02', shape=(60, 50, 40), echo_times=(0.004, 0.008, 0.012, 0.016))
    write_t1w(root, sub='02')
    write_series(root, sub='03', parts=('mag',))
    return root


@pytest.fixture(scope='module')
def venv(dataset):
    """An environment whose Python tells what it is called with."""
    return program(dataset.parent / 'an env' / 'bin' / 'python', 'printf "%s\\n" "$@"').parent.parent


@pytest.fixture(scope='module')
def written(dataset, venv):
    """Folder of scripts whose paths hold what shells and sbatch take for their own; what was said of them."""
    out = dataset.parent / "o %A 'x'"
    words = [dataset, out, '-w', dataset.parent / 'work', *QUICK, '--model', 'chi ~ age', '--candidates']
    own = {'tasks': 5, 'cpus': 2, 'venv': venv, 'sbatch': '--partition=long --time=2-0'}
    said = write_array(parse(list(map(str, words))), **own)
    return out / 'slurm', said


def asked(script):
    """Options of sbatch in a script, as it reads them: the last of each counts."""
    lines = script.read_text().splitlines()
    words = [word for line in lines if line.startswith('#SBATCH ') for word in shlex.split(line[8:])]
    return dict(word.removeprefix('--').split('=', 1) for word in words)


def run(script, *words, **environ):
    ran = subprocess.run(
        ['bash', script, *words], capture_output=True, text=True, check=True, env={**os.environ, **environ}
    )
    return ran.stdout.splitlines()


def task_settings(folder, task):
    words = run(folder / 'participant.sh', SLURM_ARRAY_TASK_ID=str(task))
    assert words[:2] == ['-m', 'bids_qsm']
    return parse(words[2:])


def test_tasks_are_no_more_than_participants(written):
    folder, said = written
    request = asked(folder / 'participant.sh')
    assert request['array'] == '1-2'
    assert request['cpus-per-task'] == '2'
    assert request['output'] == f'{folder}/logs/participant-%A_%a.log'.replace('o %A', 'o %%A')
    assert (folder / 'logs').is_dir()
    assert 'array' not in asked(folder / 'group.sh')
    assert '2 participants with 2 series in 2 tasks; the largest is sub-02: 60 x 50 x 40 voxels' in said
    assert 'sub-03 is left out' in said
    assert 'sbatch --array=2 ' in said
    assert 'sbatch --array=2 ' in (folder / 'participant.sh').read_text()


def test_what_is_given_for_sbatch_wins(written):
    for name in ('participant.sh', 'group.sh'):
        request = asked(written[0] / name)
        assert (request['partition'], request['time']) == ('long', '2-0')


def test_a_task_runs_its_share_with_all_settings(written, dataset):
    folder, _ = written
    settings = task_settings(folder, 2)
    assert settings['array_task'] == '2/2'
    options = Options.from_settings(settings)
    assert (options.bids_dir, options.level) == (dataset, 'participant')
    assert [one.name for one in options.applications] == ['candidates']
    assert options.skip_bids_validation
    # what SLURM grants is read where the task runs
    assert {'nprocs', 'mem_gb'}.isdisjoint(settings)


def test_shares_stay_as_they_are_written(dataset, venv, tmp_path):
    data = write_dataset(tmp_path / 'data')
    for n in range(1, 6):
        write_series(data, sub=f'0{n}', shape=(8 + n,) * 3)
    words = [data, tmp_path / 'out', '-w', dataset.parent / 'work', *QUICK]
    write_array(parse(list(map(str, words))), tasks=3, cpus=1, venv=venv)

    def subjects(task):
        settings = task_settings(tmp_path / 'out' / 'slurm', task)
        plan = make_plan(Options.from_settings(settings))
        return [one.subject for one in plan.series]

    before = [subjects(task) for task in (1, 2, 3)]
    assert sorted(one for share in before for one in share) == ['01', '02', '03', '04', '05']
    # as datalad get does, and a participant that came later
    write_series(data, sub='01', shape=(40, 40, 40))
    write_series(data, sub='06')
    assert [subjects(task) for task in (1, 2, 3)] == before
    shutil.rmtree(data / 'sub-01')
    with pytest.raises(UserError, match=r"participant '01', whom .* no longer has; write the scripts"):
        [subjects(task) for task in (1, 2, 3)]


def test_tasks_that_wait_keep_their_settings(dataset, tmp_path):
    words = list(map(str, [dataset, tmp_path / 'out', '-w', dataset.parent / 'work', *QUICK]))
    seen = []
    for more in ([], ['--inversion', 'tkd'], []):
        write_array(parse([*words, *more]), tasks=2, cpus=1)
        seen.append((tmp_path / 'out' / 'slurm' / 'participant.sh').read_text())
    assert seen[0] == seen[2] != seen[1]
    methods = set()
    for script in seen[:2]:
        (config,) = re.findall(r'--config (\S+)', script)
        methods.add(Options.from_toml(Path(config).read_text()).inversion.name)
    assert methods == {'whnltv', 'tkd'}


def test_templates_are_where_the_tasks_look(dataset, tmp_path, monkeypatch):
    space = 'MNI152NLin2009cAsym'
    built_in = get_template('MNI152NLin2009aSym', dataset.parent / 'work' / 'templates')
    home = tmp_path / 'templateflow' / f'tpl-{space}'
    home.mkdir(parents=True)
    shutil.copy(built_in.t1w, home / f'tpl-{space}_res-01_T1w.nii.gz')
    shutil.copy(built_in.mask, home / f'tpl-{space}_res-01_desc-brain_mask.nii.gz')
    monkeypatch.setenv('TEMPLATEFLOW_HOME', str(home.parent))
    words = [dataset, tmp_path / 'out', '-w', dataset.parent / 'work', *QUICK, '--output-spaces', space]
    write_array(parse(list(map(str, words))), tasks=1, cpus=1)
    # the image, and a node without the home folder, have caches of their own
    monkeypatch.setenv('TEMPLATEFLOW_HOME', str(tmp_path / 'nothing'))
    found = get_template(space, built_in.t1w.parents[1])
    assert found.t1w.is_relative_to(dataset.parent / 'work')
    assert found.t1w.read_bytes() == built_in.t1w.read_bytes()


def test_the_group_has_the_same_settings(written):
    settings = parse(run(written[0] / 'group.sh')[2:])
    options = Options.from_settings(settings)
    assert (options.level, options.model, options.output_dir) == ('group', 'chi ~ age', written[0].parent)


def test_group_is_submitted_to_follow_the_tasks(written, tmp_path):
    folder, _ = written
    log = tmp_path / 'said'
    program(tmp_path / 'sbatch', f'printf "%s|" "$@" >> {log}; echo >> {log}; echo "41;cluster"')
    said = run(folder / 'submit.sh', '--account=x', PATH=f'{tmp_path}:{os.environ["PATH"]}')
    assert said == ['participants: job 41, group: job 41']
    assert log.read_text().splitlines() == [
        '--parsable|--account=x|participant.sh|',
        '--parsable|--account=x|--dependency=afterany:41|group.sh|',
    ]


def test_requests_grow_with_the_data(dataset, tmp_path, monkeypatch):
    def request(shape, n_echoes, *, mem_gb=None):
        times = tuple(0.004 * n for n in range(1, n_echoes + 1))
        own = replace(plan.series[0], shape=(shape,) * 3, echo_times=times)
        monkeypatch.setattr('bids_qsm.app.slurm.make_plan', lambda _: replace(plan, series=(own,)))
        write_array({**settings, 'mem_gb': mem_gb}, tasks=None, cpus=4)
        return asked(tmp_path / 'out' / 'slurm' / 'participant.sh')

    settings = parse([str(dataset), str(tmp_path / 'out'), '-w', str(dataset.parent / 'work'), *QUICK])
    plan = make_plan(Options.from_settings({**settings, 'level': 'participant'}))
    requests = [request(shape, n_echoes) for shape, n_echoes in ((40, 2), (400, 2), (400, 12))]
    memory = [int(request['mem'].removesuffix('M')) for request in requests]
    assert memory == sorted(set(memory))
    times = [request['time'] for request in requests]
    assert times == sorted(times)
    assert times[0] < times[2]
    assert all(re.fullmatch(r'\d+-\d\d:\d\d:00', time) for time in times)
    # what the user says is what is asked for
    assert request(400, 12, mem_gb=64.0)['mem'] == '61100M'


def test_memory_is_that_of_the_largest_anatomy_and_of_coils(dataset, tmp_path):
    words = [str(dataset), str(tmp_path / 'out'), '-w', str(dataset.parent / 'work'), *QUICK]
    options = Options.from_settings({**parse(words), 'level': 'participant', 'nprocs': 2})
    plan = make_plan(options)
    # with the regions of a head, though the small one shows none
    heads = (replace(one, is_head=True, has_regions=True) for one in plan.series)
    small, large = sorted(heads, key=lambda one: math.prod(one.shape))

    def need(*series):
        return _memory(options, replace(plan, series=series), lambda part: build_graph(options, part)[0])[0]

    t1w = small.magnitude[0]
    fine = replace(small, t1w=t1w, anat_shape=(500, 500, 500))
    assert need(fine, large) > 1.5 * need(large)
    assert need(fine, large) >= need(fine)
    coils = replace(
        small, shape=(50, 50, 40), coils=32, magnitude=small.magnitude * 32, phase=small.phase * 32
    )
    assert need(coils, large) >= need(coils) > need(large)


def test_an_image_is_given_the_folders_and_what_slurm_granted(dataset, tmp_path):
    image = tmp_path / 'an image.sif'
    image.touch()
    out = tmp_path / 'out'
    words = [dataset, out, '-w', dataset.parent / 'work', *QUICK, '-d', f'old={tmp_path}', '--device', 'cuda']
    said = write_array(parse(list(map(str, words))), tasks=1, cpus=1, image=str(image))
    program(tmp_path / 'bin' / 'apptainer', 'printf "%s\\n" "$@"')
    granted = {'SLURM_CPUS_PER_TASK': '3', 'CUDA_VISIBLE_DEVICES': '0,1', 'SLURM_ARRAY_TASK_ID': '1'}
    words = run(out / 'slurm' / 'participant.sh', PATH=f'{tmp_path / "bin"}:{os.environ["PATH"]}', **granted)
    given = ['--env', 'SLURM_CPUS_PER_TASK=3', '--env', 'CUDA_VISIBLE_DEVICES=0,1']
    assert words[:6] == ['run', '--cleanenv', *given]
    at = words.index(str(image))
    assert '--nv' in words[6:at]
    assert 'needs PyTorch in the image' in said
    binds = [word for word in words[6:at] if word not in ('--bind', '--nv')]
    places = {tmp_path: 'ro', dataset: 'ro', out: 'rw', dataset.parent / 'work': 'rw'}
    assert sorted(binds) == sorted(f'{path}:{path}:{mode}' for path, mode in places.items())
    (config,) = (out / 'slurm').glob('config-*.toml')
    assert words[at + 1 :] == ['--config', str(config), '--array-task', '1/1']


def test_an_image_is_given_what_links_lead_to(tmp_path):
    image = tmp_path / 'image.sif'
    image.touch()
    data, archive, store = write_dataset(tmp_path / 'data'), tmp_path / 'archive', tmp_path / 'store'
    for sub in ('01', '02'):
        write_series(archive, sub=sub)
        (data / f'sub-{sub}').symlink_to(archive / f'sub-{sub}')
    # a file, by way of another link, and what is not fetched
    file = write_series(data, sub='03')[0]
    store.mkdir()
    file.rename(store / 'file.nii.gz')
    (tmp_path / 'way').symlink_to('store')
    file.symlink_to('../../../way/file.nii.gz')
    (data / 'sub-03' / 'anat' / 'sub-03_T2w.nii.gz').symlink_to('/nowhere/file')
    words = [data, tmp_path / 'out', *QUICK, '--participant-label', '01', '03']
    options = Options.from_settings({**parse(list(map(str, words))), 'level': 'participant'})
    binds = _binds(options, make_plan(options))[1::2]
    # one folder for all that lies below it, before those that are in it
    out = tmp_path / 'out'
    places = {tmp_path: 'ro', data: 'ro', out: 'rw', out / 'work': 'rw'}
    assert binds == [f'{path}:{path}:{mode}' for path, mode in places.items()]


@pytest.mark.parametrize(
    ('words', 'says'),
    [
        (['--tasks', '0'], '--tasks is 0'),
        (['--nprocs', '2'], 'give --cpus'),
        (['--array-task', '1/2'], '--array-task does not go with'),
        (['--image', 'none.sif'], 'is not a file'),
        (['--venv', 'none'], 'is no Python environment'),
        (['--venv', 'none', '--image', 'x.sif'], 'give one'),
        (['--sbatch', '-p a\n-A b'], 'more than one line'),
        (['--participant-label', '03'], 'has no series that can be run'),
    ],
)
def test_wrong_use_is_one_sentence(dataset, templates, tmp_path, capsys, words, says):
    places = [str(dataset), str(tmp_path / 'out'), '-w', str(templates)]
    assert main(['slurm', *places, *QUICK, *words]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count('\n') == 1
    assert not (tmp_path / 'out' / 'slurm' / 'submit.sh').exists()


def test_colons_cannot_be_bound(dataset, templates, tmp_path):
    image = tmp_path / 'image.sif'
    image.touch()
    settings = parse([str(dataset), str(tmp_path / 'a:b'), '-w', str(templates), *QUICK])
    with pytest.raises(UserError, match='Apptainer cannot bind'):
        write_array(settings, tasks=1, cpus=1, image=str(image))


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Commands named as SLURM's, whose log it is: jobs run at once, but those of steps named lost never."""
    log = tmp_path / 'sbatch.log'
    program(
        tmp_path / 'bin' / 'sbatch',
        f'printf "%s\\n" "$*" >> "{log}"\n'
        'for last; do :; done\n'
        'case "$*" in *--job-name=lost*) ;; *) bash "$last" > /dev/null 2>&1 ;; esac\n'
        f'wc -l < "{log}"',
    )
    program(tmp_path / 'bin' / 'squeue', 'true')
    monkeypatch.setenv('PATH', f'{tmp_path / "bin"}:{os.environ["PATH"]}')
    monkeypatch.delenv('LOGNAME', raising=False)
    return log


def run_jobs(workflow, **plugin_args):
    """Run each step of ``workflow`` as a job."""
    plugin = SlurmPlugin(plugin_args)
    request_resources(workflow, plugin, plugin_args)
    return workflow.run(plugin=plugin)


def add(a, b):
    return a + b


def chain(folder, names=('one', 'two')):
    """Two steps, the second of which needs more."""
    first, second = (
        Node(Function(input_names=['a', 'b'], output_names=['sum'], function=add), name=name)
        for name in names
    )
    first.inputs.a, first.inputs.b, second.inputs.b = 1, 2, 3
    first._mem_gb, second._mem_gb, second._n_procs = 0.2, 3, 2
    workflow = Workflow(name='wf', base_dir=str(folder))
    workflow.connect(first, 'sum', second, 'a')
    workflow.config['execution'] = {
        'poll_sleep_duration': '0.1',
        'job_finished_timeout': '1',
        'crashdump_dir': str(folder),
    }
    return workflow


def test_each_step_asks_for_its_memory_and_cpus(cluster, tmp_path):
    folder = tmp_path / 'a work dir'
    folder.mkdir()
    graph = run_jobs(chain(folder), sbatch_args='--partition=long')
    results = {node.name: node.result.outputs.sum for node in graph.nodes()}
    assert results == {'one': 3, 'two': 6}
    one, two = cluster.read_text().splitlines()
    assert '--cpus-per-task=1 ' in one
    assert '--cpus-per-task=2 ' in two
    assert 'NUMBA_NUM_THREADS=2' in two
    memory = [int(re.search(r'--mem=(\d+)M', line)[1]) for line in (one, two)]
    assert memory[1] - memory[0] == pytest.approx(2.8e9 / 0.95 / 2**20, abs=2)
    assert memory[0] > 0.2e9 / 2**20
    # a job that an earlier run left, or that sbatch did not tell of, has ended before
    assert all('--partition=long' in line and '--dependency=singleton' in line for line in (one, two))


def test_an_old_result_is_not_that_of_a_job_that_was_lost(cluster, tmp_path):
    run_jobs(chain(tmp_path))
    again = chain(tmp_path)
    again.get_node('one').inputs.a = 7
    bad = (tmp_path / 'bin' / 'sbatch').read_text().replace('--job-name=lost', '--job-name=wf.one')
    program(tmp_path / 'bin' / 'sbatch', bad.partition('\n')[2])
    with pytest.raises(RuntimeError, match='job 3 left no result'):
        run_jobs(again)
    assert len(cluster.read_text().splitlines()) == 3


@pytest.mark.usefixtures('cluster')
def test_a_refusal_of_sbatch_is_told(tmp_path):
    program(tmp_path / 'bin' / 'sbatch', 'echo "invalid partition" >&2; exit 1')
    with pytest.raises(UserError, match=r'sbatch refused the step wf\.one: invalid partition'):
        run_jobs(chain(tmp_path), retry_timeout=0)


def test_jobs_that_are_left_are_cancelled(cluster, tmp_path):
    """A refusal, as any other end, leaves no job that a run which goes on later would meet."""
    bad = (
        (tmp_path / 'bin' / 'sbatch')
        .read_text()
        .replace('for last', 'case "$*" in *=wf.no*) exit 1 ;; esac\nfor last')
    )
    program(tmp_path / 'bin' / 'sbatch', bad.partition('\n')[2])
    program(tmp_path / 'bin' / 'scancel', f'echo "$*" >> {tmp_path}/cancelled')
    workflow = chain(tmp_path)
    other = workflow.get_node('one').clone('no')
    workflow.add_nodes([other])
    with pytest.raises(UserError, match='sbatch refused'):
        run_jobs(workflow, retry_timeout=0, max_tries=1)
    submitted = sum('=wf.one' in line for line in cluster.read_text().splitlines())
    assert (tmp_path / 'cancelled').exists() == bool(submitted)


@pytest.mark.usefixtures('cluster')
def test_jobs_are_in_the_queue_while_the_controller_does_not_answer(tmp_path):
    plugin = SlurmPlugin({})
    plugin._queued = {7}
    program(tmp_path / 'bin' / 'squeue', 'echo "Unable to contact slurm controller" >&2; exit 1')
    assert plugin._is_pending(7)


@pytest.mark.usefixtures('cluster')
def test_other_batch_systems_are_asked_in_their_own_words(tmp_path):
    workflow = chain(tmp_path)
    request_resources(workflow, 'PBS', {'qsub_args': '-q long -l select=1:ncpus={cpus}:mem={mem_mb}mb'})
    asked = [workflow.get_node(name).plugin_args['qsub_args'] for name in ('one', 'two')]
    assert re.fullmatch(r'-q long -l select=1:ncpus=1:mem=\d+mb', asked[0])
    assert 'ncpus=2' in asked[1]


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import cluster

    return cluster


def test_benchmark_tells_what_differs(bench, tmp_path):
    one, other = (tmp_path / name for name in ('one', 'other'))
    for name, folder, text in (
        ('same', '.', ('a', 'a')),
        ('changed', 'sub-01', ('a', 'b')),
        ('lacks', 'sub-01', ('a', None)),
        ('run', 'logs', ('a', 'b')),
    ):
        for root, content in zip((one, other), text, strict=True):
            (root / folder).mkdir(parents=True, exist_ok=True)
            if content is not None:
                (root / folder / name).write_text(content)
    assert bench.differences(one, other) == (
        [Path('same')],
        [Path('sub-01/changed'), Path('sub-01/lacks')],
    )


def test_benchmark_gives_transforms_that_move_nothing(bench, tmp_path):
    bench.write_identity(tmp_path / 'xfm.h5')
    (matrix,) = load_xfm(tmp_path / 'xfm.h5')
    assert np.array_equal(matrix, np.eye(4))


@pytest.mark.skipif(shutil.which('sbatch') is None, reason='there is no SLURM')
def test_array_with_a_task_killed_equals_a_local_run(bench, tmp_path):
    if subprocess.run(['sinfo'], capture_output=True, check=False).returncode:
        pytest.skip('no SLURM controller answers')
    assert bench.main([str(tmp_path), '--', '--refinement', 'none']) == 0
