import errno
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest

import bids_qsm
from bids_qsm.app import cli, options, participant
from bids_qsm.app.arguments import build_parser, parse
from bids_qsm.app.methods import Method
from bids_qsm.app.options import STEPS, _gigabytes
from bids_qsm.errors import UserError
from tests.skeletons import write_json, write_series, write_t1w


def tv(field, *, alpha: float = 2e-4):
    """Invert by total variation."""


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    """Keep the threads of the tests as they are, and the registries small."""
    monkeypatch.setattr(cli, 'set_threads', lambda _: None)
    fields = options.Options.__dataclass_fields__
    known = {step: {'tv': tv, fields[step].default.name: tv} for step in STEPS}
    monkeypatch.setattr(options, 'registries', lambda: known)
    monkeypatch.setattr(bids_qsm.app.arguments, 'registries', lambda: known)


@pytest.fixture
def ran(monkeypatch):
    """A stand-in for bids_qsm.app.participant that records what it was called with."""
    calls = SimpleNamespace(status=0, error=None, calls=[])

    def record(*arguments):
        calls.calls.append(arguments)
        if calls.error:
            raise calls.error
        return calls.status

    text = 'Methods of {} by {}.'
    monkeypatch.setattr(participant, 'run_participant', record)
    monkeypatch.setattr(participant, 'log_nothing', record)
    monkeypatch.setattr(
        participant, 'boilerplate', lambda o, plan: text.format(len(plan.series), o.inversion)
    )
    group = ModuleType('bids_qsm.group.analyse')
    group.run_group = record
    monkeypatch.setitem(sys.modules, 'bids_qsm.group.analyse', group)
    return calls


@pytest.fixture
def arguments(data, tmp_path):
    write_series(data)
    return [str(data), str(tmp_path / 'out'), 'participant', '--skip-bids-validation']


def test_run(arguments, ran, data):
    more = ['--inversion', 'tv:alpha=1e-3', '--participant-label', 'sub-01', '--mem', '500M', '--nprocs', '1']
    assert cli.main([*arguments, *more]) == 0
    ((given, plan),) = ran.calls
    assert given.bids_dir == data
    assert given.inversion == Method('tv', (('alpha', 1e-3),))
    assert given.participant_label == ('01',)
    assert (given.mem_gb, given.nprocs, given.omp_nthreads) == (0.5, 1, None)
    assert [s.name for s in plan.series] == ['sub-01']


def test_options_between_the_positionals(arguments, ran):
    bids_dir, output_dir, *rest = arguments
    assert cli.main(['--nprocs', '1', bids_dir, '-vv', output_dir, '--mem=1', *rest]) == 0
    assert (ran.calls[0][0].nprocs, ran.calls[0][0].verbose) == (1, 2)


def test_every_option_reaches_options(arguments, ran, tmp_path):
    for name in ('plugin.yml', 'filter.json'):
        (tmp_path / name).write_text('{}')
    (tmp_path / 'fp-1').mkdir()
    flags = f"""
        --session-label 1 --bids-filter-file {tmp_path}/filter.json -d {tmp_path}/fp-1 b={tmp_path}/fp-1
        -w {tmp_path}/w --use-plugin {tmp_path}/plugin.yml --output-spaces A B --atlas CIT168 --reports-only
        --stop-on-first-crash --phase-scaling=-4096,4094 --phase-sign negative --slice-flip yes --bipolar no
        --mask tv --unwrap tv --background tv --inversion tv --reference tv --registration tv -v
        --field tv --r2star tv --swi tv --refinement tv --device cuda --candidates
    """
    settings = parse([*arguments, *flags.split()])
    given = options.Options.from_settings(settings)
    assert given.session_label == ('1',)
    assert given.derivatives == (('fp_1', tmp_path / 'fp-1'), ('b', tmp_path / 'fp-1'))
    assert given.work_dir == tmp_path / 'w'
    assert given.output_spaces == ('A', 'B')
    assert given.phase_scaling == '-4096,4094'
    assert (given.phase_sign, given.slice_flip, given.bipolar) == ('negative', 'yes', 'no')
    assert given.device == 'cuda'
    assert given.applications == (Method('candidates'),)
    assert (given.reports_only, given.stop_on_first_crash, given.verbose) == (True, True, 1)
    assert all(getattr(given, step) == Method('tv') for step in STEPS)
    assert ran.calls == []


def test_every_option_of_the_group_level_reaches_options(arguments):
    flags = """
        --model chi~group+age --correlate dystonia:GP parkinsonism:SN --controls HC --statistic median
        --relative-to CSF --voxelwise permutation --smoothing 4.5 --study-template 2
    """
    given = options.Options.from_settings(parse([*arguments[:2], 'group', *flags.split()]))
    assert (given.model, given.controls, given.relative_to) == ('chi~group+age', 'HC', 'CSF')
    assert given.correlate == ('dystonia:GP', 'parkinsonism:SN')
    assert (given.statistic, given.voxelwise, given.smoothing_mm) == ('median', 'permutation', 4.5)
    assert given.study_template == 2


@pytest.mark.parametrize(
    ('level', 'flags', 'says'),
    [
        ('group', ['--candidates'], '--candidates goes with the level participant, not with group'),
        ('participant', ['--model', 'chi~age'], '--model goes with the level group, not with participant'),
        ('group', ['--correlate', 'dystonia'], '--correlate dystonia: write COLUMN:REGION'),
        ('group', ['--smoothing', '99'], '--smoothing is 99 mm; it must be between 0 and 30'),
        ('group', ['--study-template', '9'], '--study-template is 9; it is a number of rounds'),
    ],
)
def test_settings_of_the_levels(arguments, ran, capsys, level, flags, says):
    assert cli.main([*arguments[:2], level, *flags]) == 2
    assert says in capsys.readouterr().err
    assert ran.calls == []


def test_a_configuration_may_hold_settings_of_both_levels(arguments, ran, tmp_path):
    (tmp_path / 'study.toml').write_text('candidates = true\nmodel = "chi ~ age"\n')
    for level in ('participant', 'group'):
        assert (
            cli.main([*arguments[:2], level, *arguments[3:], '--config', str(tmp_path / 'study.toml')]) == 0
        )
        assert ran.calls[-1][0].applications == (Method('candidates'),)


def test_parser_and_options_name_the_same_settings():
    parsed = {action.dest for action in build_parser()._actions} - {'help', 'version', 'config'}
    # who is in which task only a file says
    assert parsed == set(options.Options.__dataclass_fields__) - {'shares'}


def test_status_of_failed_subjects(arguments, ran):
    ran.status = 1
    assert cli.main(arguments) == 1


def test_input_errors_do_not_stop_others_but_are_a_failure(arguments, ran, data):
    write_series(data, sub='02', parts=('mag',))
    write_series(data, sub='03', suffix='T2starw', echo_times=(0.02,), parts=('',))
    assert cli.main(arguments) == 1
    plan = ran.calls[0][1]
    assert [s.name for s in plan.series] == ['sub-01']
    assert [(r.name, r.is_error) for r in plan.rejected] == [('sub-02', True), ('sub-03', False)]


def test_skipped_series_are_no_failure(arguments, ran, data, capsys):
    write_series(data, sub='03', suffix='T2starw', echo_times=(0.02,), parts=('',))
    assert cli.main(arguments) == 0
    assert 'sub-03 is skipped: sub-03_T2starw.nii.gz is a magnitude without phase' in capsys.readouterr().err
    assert len(ran.calls) == 1


def test_nothing_that_can_be_run(data, ran, tmp_path, capsys):
    write_series(data, parts=('mag',))
    assert cli.main([str(data), str(tmp_path / 'out'), 'participant', '--skip-bids-validation']) == 2
    error = capsys.readouterr().err
    assert error.startswith('bids_qsm: error: ')
    assert 'sub-01: sub-01_echo-1_part-mag_MEGRE.nii.gz has no phase' in error
    assert error.count('\n') == 1
    assert ran.calls == []


@pytest.mark.parametrize('verbosity', [[], ['-vv']])
def test_user_errors_are_one_line_unless_asked_for_more(arguments, ran, capsys, verbosity):
    ran.error = UserError('the file x is wrong.')
    assert cli.main([*arguments, *verbosity]) == 2
    error = capsys.readouterr().err
    assert error.endswith('bids_qsm: error: the file x is wrong.\n')
    assert ('Traceback' in error) == bool(verbosity)


def test_unexpected_errors_and_interrupts(arguments, ran, capsys):
    ran.error = KeyError('x')
    assert cli.main(arguments) == 1
    assert capsys.readouterr().err == "bids_qsm: error: unexpected KeyError: 'x' (-vv shows where)\n"
    ran.error = KeyboardInterrupt()
    assert cli.main(arguments) == 130


def test_end_of_a_job_is_an_interrupt():
    """In a process of its own, as pytest has signals of its own."""
    code = (
        'import os, signal, sys; from bids_qsm.app import cli; sys.argv = ["bids_qsm", "x"]\n'
        'cli.COMMANDS["x"] = lambda _: os.kill(os.getpid(), signal.SIGTERM)\n'
        'sys.exit(cli.main())'
    )
    ran = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert ran.stderr == 'bids_qsm: interrupted; the same command resumes the run.\n'
    assert ran.returncode == 130


def test_errors_of_the_disk_say_what_to_do(arguments, ran, capsys):
    ran.error = PermissionError(errno.EACCES, 'Permission denied', '/out/work')
    assert cli.main(arguments) == 2
    ran.error = OSError(errno.ENOSPC, 'No space left on device')
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err.splitlines() == [
        'bids_qsm: error: /out/work: Permission denied; get the right to it, or choose another folder.',
        'bids_qsm: error: the output or the working folder: No space left on device; free space, or choose '
        'another folder.',
    ]


@pytest.mark.parametrize(
    ('change', 'says'),
    [
        (lambda a: a[:2], 'the level is missing'),
        (lambda a: [a[0], a[0], *a[2:]], 'lies in the input dataset'),
        (lambda a: [a[0] + 'x', *a[1:]], 'is not a folder'),
        (lambda a: [*a[:2], 'session'], "the level is 'session'; it must be participant or group"),
        (lambda a: [*a, '--inversion', 'medi'], "--inversion: there is no method 'medi'; known are: tv"),
        (lambda a: [*a, '--config', '/nowhere.toml'], 'the configuration /nowhere.toml cannot be read'),
    ],
)
def test_wrong_use(arguments, ran, capsys, change, says):
    assert cli.main(change(arguments)) == 2
    assert says in capsys.readouterr().err
    assert ran.calls == []


@pytest.mark.parametrize(
    ('more', 'says'),
    [
        (['--colour'], 'unrecognized arguments: --colour'),
        (['--mem', 'much'], "'much' is no size; write 8, 8G or 8000M"),
        (['--nprocs', 'x'], 'invalid int value'),
        (['--bipolar', 'x'], 'invalid choice'),
    ],
)
def test_wrong_arguments(arguments, capsys, more, says):
    with pytest.raises(SystemExit) as exit_:
        cli.main([*arguments, *more])
    assert exit_.value.code == 2
    assert says in capsys.readouterr().err


def test_no_argument_says_what_to_do(capsys):
    assert cli.main([]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) <= 15
    for words in ('check DATA', 'DATA OUT participant --dry-run', 'DATA OUT participant ', 'status OUT'):
        assert f'bids_qsm {words}' in said


@pytest.mark.parametrize(
    ('words', 'says'),
    [
        (['statsu', 'out'], "there is no folder and no command 'statsu'. Did you mean status?"),
        (['{data}'], 'Give: bids_qsm check {data}, or bids_qsm {data} OUT participant.'),
        (['{data}', 'out'], 'the level is missing'),
        (['{data}', 'out', 'particpant'], 'Did you mean participant?'),
        (['{data}', 'out', 'participant', '--inversion', 'whnlvt'], 'Did you mean whnltv?'),
    ],
)
def test_slips_are_answered_by_what_is_near(ran, data, capsys, words, says):
    assert cli.main([word.format(data=data) for word in words]) == 2
    assert says.format(data=data) in capsys.readouterr().err
    assert ran.calls == []


@pytest.mark.parametrize(
    ('words', 'says'),
    [
        (['--invertion=tv', '--no-such-thing-x'], 'Did you mean --inversion?'),
        (['--bipolar', 'atuo'], 'Did you mean auto?'),
    ],
)
def test_slips_in_options(arguments, capsys, words, says):
    with pytest.raises(SystemExit):
        cli.main([*arguments, *words])
    assert capsys.readouterr().err.endswith(f' {says}\n')


def test_config_reruns_and_the_command_line_wins(arguments, ran, tmp_path):
    assert cli.main([*arguments, '--inversion', 'tv:alpha=1e-3', '--nprocs', '1', '--mem', '1']) == 0
    config = tmp_path / 'config.toml'
    config.write_text(ran.calls[0][0].to_toml())
    assert cli.main(['--config', str(config)]) == 0
    assert ran.calls[1][0] == ran.calls[0][0]
    assert cli.main(['--config', str(config), '--inversion', 'tv', '--atlas', 'x']) == 0
    assert ran.calls[2][0].inversion == Method('tv')
    assert ran.calls[2][0].atlas == 'x'


def test_group(arguments, ran):
    assert cli.main([*arguments[:2], 'group']) == 0
    ((given,),) = ran.calls
    assert given.level == 'group'


def test_boilerplate_only(arguments, ran, capsys):
    assert cli.main([*arguments, '--boilerplate-only']) == 0
    assert capsys.readouterr().out == 'Methods of 1 by whnltv.\n'
    assert ran.calls == []


def test_dry_run(arguments, ran, data, capsys, tmp_path):
    write_t1w(data)
    write_series(data, sub='02', parts=('mag',))
    assert cli.main([*arguments, '--dry-run']) == 1
    text = capsys.readouterr().out
    for line in (
        'Skeleton: 1 series to run, 1 not',
        'sub-01\n  echo times   4, 8, 12 ms',
        'estimate     phase 1 s, 0.1 GB; field',
        'CPUs and at least 1.',
        'B0           3 T along (0, 0, 1) of the voxel axes',
        'grid         8 x 9 x 7 voxels of 2 x 2 x 2.5 mm',
        f'anatomy      {data}/sub-01/anat/sub-01_T1w.nii.gz',
        f'file         {data}/sub-01/anat/sub-01_echo-3_part-phase_MEGRE.nii.gz',
        'sub-02: error\n  sub-02_echo-1_part-mag_MEGRE.nii.gz has no phase',
    ):
        assert line in text
    assert ran.calls == []
    assert not (tmp_path / 'out').exists()
    assert cli.main([*arguments, '--dry-run', '--participant-label', '01', '--voxel-size', '4']) == 0
    assert 'resampled to 4 x 4 x 4 voxels of 4 x 4 x 4 mm' in capsys.readouterr().out


def test_help_lists_methods(capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(['--help'])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert '--inversion NAME[:param=value,...]\n  tv         Invert by total variation.' in text
    assert 'alpha=0.0002' in text
    assert 'method, see below (linear)' in text


def test_version(capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(['--version'])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f'bids_qsm {bids_qsm.__version__}\n'


def test_demo(monkeypatch, tmp_path, capsys):
    def write(path, nprocs):
        assert nprocs >= 1
        (path / 'sub-01').mkdir(parents=True)
        if path.parent.name == 'stopped':
            raise KeyboardInterrupt

    module = ModuleType('bids_qsm.phantom.dataset')
    module.demo = write
    monkeypatch.setitem(sys.modules, 'bids_qsm.phantom.dataset', module)
    out = tmp_path / 'new' / 'demo'
    assert cli.main(['demo', str(out)]) == 0
    assert [p.name for p in out.parent.iterdir()] == ['demo'], 'whole, or not there'
    assert (out / 'sub-01').is_dir()
    assert cli.main(['demo', str(out)]) == 2
    assert 'is there already' in capsys.readouterr().err
    assert cli.main(['demo', str(tmp_path / 'stopped' / 'demo')]) == 130
    assert not [*(tmp_path / 'stopped').iterdir()]
    assert 'nothing was written' in capsys.readouterr().err


def test_a_dataset_named_demo(tmp_path, ran, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_json(tmp_path / 'demo' / 'dataset_description.json', {'Name': 'x', 'BIDSVersion': '1.10.0'})
    write_series(tmp_path / 'demo')
    assert cli.main(['demo', 'out', 'participant', '--skip-bids-validation']) == 0
    assert len(ran.calls) == 1


@pytest.mark.parametrize(
    ('settings', 'threads'),
    [
        ({'omp_nthreads': 6, 'nprocs': 8}, 6),
        ({'nprocs': 3}, 3),
        ({'nprocs': 9}, 8),
        ({}, 2),
    ],
)
def test_threads_of_a_step(monkeypatch, settings, threads):
    monkeypatch.setattr(cli, 'available_cpus', lambda: 2)
    assert cli._threads(settings) == threads


@pytest.mark.parametrize(
    ('text', 'gigabytes'), [('8', 8), ('8G', 8), ('8GB', 8), ('500M', 0.5), ('1.5gib', 1.5), ('1T', 1000)]
)
def test_sizes(text, gigabytes):
    assert _gigabytes(text) == gigabytes


def test_threads_are_set_before_the_numerics_are_imported():
    """In a process of its own: the command line imports no numerics, and the limit must reach numba."""
    code = (
        'import sys; from bids_qsm.app import cli; heavy = {"numpy", "numba", "nipype", "pandas", "bids"};'
        'assert not heavy & set(sys.modules), heavy & set(sys.modules);'
        'cli.set_threads(1); import os, numba;'
        'assert numba.config.NUMBA_NUM_THREADS == 1;'
        'assert os.environ["NO_ET"] == os.environ["NIPYPE_NO_ET"] == "1";'
        'cli.set_threads(8); assert numba.get_num_threads() == 1; assert os.environ["OMP_NUM_THREADS"] == "1"'
    )
    ran = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize('flag', ['-v', '-vv', '--verbose'])
def test_other_commands_take_verbose(flag, tmp_path, capsys):
    status = cli.main(['status', str(tmp_path)])
    said = capsys.readouterr()
    assert cli.main(['status', str(tmp_path), flag]) == status
    assert capsys.readouterr().out == said.out
    assert 'unrecognized' not in said.err
