"""`bids_qsm check`: what it prints, what it writes, and its exit code."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from bids_qsm.app import cli, participant
from bids_qsm.app.options import Options
from bids_qsm.app.pages import PAGES, address
from bids_qsm.app.participant import build_graph
from bids_qsm.app.refusals import without_refused
from bids_qsm.biomarkers.consensus import CHECKS
from bids_qsm.execution.resources import MAIN_GB, WORKER_GB
from bids_qsm.execution.status import read_status
from bids_qsm.execution.subjects import expanded
from tests.bold_runs import ECHO_TIME, FRAMES, frame, head
from tests.skeletons import write_image, write_json, write_series, write_t1w

SHAPE, AFFINE = (32, 34, 30), np.diag([4.0, 4.0, 4.0, 1.0])
TIMES = (0.004, 0.010, 0.016)
UNVALIDATED = ('--skip-bids-validation', '--headers')


@pytest.fixture(autouse=True)
def _threads(monkeypatch):
    monkeypatch.setattr(cli, 'set_threads', lambda _: None)


def write_ball(root, sub='01', *, turn=4096.0, spoil=None):
    """A ball of three echoes, stored as a vendor stores phase."""
    files = write_series(root, sub=sub, shape=SHAPE, affine=AFFINE, echo_times=TIMES)
    at = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing='ij'))
    inside = (at**2).sum(0) < 0.7
    field = 150 * (at[0] ** 2 - at[1]) + 60 * at[2]
    noise = np.random.default_rng(0).standard_normal((2, len(TIMES), *SHAPE)) * 0.02
    for n, time in enumerate(TIMES):
        signal = inside * (1 + 0.2 * np.sin(9 * at[0])) * np.exp((1j * field - 15) * time)
        signal = signal + noise[0, n] + 1j * noise[1, n]
        if spoil is not None:
            signal = spoil(signal)
        images = {'mag': 1000 * np.abs(signal), 'phase': (np.angle(signal) / np.pi + 1) * turn / 2}
        for part in images:
            path = next(f for f in files if f'echo-{n + 1}_part-{part}' in f.name)
            nib.save(nib.Nifti1Image(np.round(images[part]).astype(np.int16), AFFINE), path)
    return files


def test_a_series_is_judged(data, tmp_path, capsys):
    write_ball(data)
    write_t1w(data)
    table = tmp_path / 'checks.tsv'
    assert cli.main(['check', str(data), '--tsv', str(table)]) == 0
    said = capsys.readouterr().out
    assert 'sub-01: 3 T, 3 echoes, 4 x 4 x 4 mm' in said
    assert 'FAIL medium  voxel_volume: 64' in said
    assert '1 of 1 series can be run, 0 would be refused' in said
    assert 'anatomy  T1w' in said
    assert '--candidates' in said.partition('can run')[2]
    assert '--cosmos (2 series or more' in said
    rows = pd.read_csv(table, sep='\t')
    assert len(rows) == len(CHECKS)
    assert set(rows['series']) == {'sub-01'}
    states = rows.set_index('check')['state']
    assert states[['moved', 'phase_scale', 'singularities', 'monopolar']].tolist() == ['pass'] * 4
    assert states[['three_dimensional', 'bandwidth']].tolist() == ['unknown'] * 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ['checks.tsv', 'data']


def test_options_of_a_run_are_judged_too(data, capsys):
    write_ball(data)
    flags = [
        '--json',
        '--skip-bids-validation',
        '--headers',
        '--inversion',
        'tkd',
        '--participant-label',
        '01',
    ]
    assert cli.main(['check', str(data), *flags]) == 0
    found = json.loads(capsys.readouterr().out)
    (series,) = found['series']
    states = {row['check']: (row['state'], row['value']) for row in series['checks']}
    assert states['inversion'] == ('warn', 'tkd')
    assert states['snr'] == ('unknown', 'n/a')  # headers alone
    assert series['refused'] is None
    assert sum(series['states'].values()) == len(CHECKS)


def test_what_a_run_would_refuse(data, capsys):
    """Input errors come as the layout and the conditioning of the phase give them."""
    files = write_ball(data, '01')
    for path in files:  # an echo is missing
        if 'echo-2' in path.name:
            path.unlink()
    rng = np.random.default_rng(0)
    write_ball(data, '02', spoil=lambda s: np.abs(s) * np.exp(2j * np.pi * rng.random(s.shape)))
    write_ball(data, '03')
    table = data.parent / 'checks.tsv'
    assert cli.main(['check', str(data), '--skip-bids-validation', '--tsv', str(table)]) == 1
    said = capsys.readouterr().out
    assert 'REFUSED  echo 2 is missing' in said
    assert 'REFUSED  The phase of neighbouring voxels is unrelated' in said
    assert '1 of 3 series can be run, 2 would be refused' in said
    assert set(pd.read_csv(table, sep='\t')['series']) == {'sub-02', 'sub-03'}


def write_run(root, sub, change=None):
    """An echo-planar run of eight frames of a small head, as a vendor stores phase."""
    frames = [np.stack(part, -1) for part in zip(*map(frame, range(FRAMES)), strict=True)]
    magnitude, phase = frames if change is None else change(*frames)
    images = {'mag': 4000 * magnitude, 'phase': phase * 4096 / np.pi}
    for part, image in images.items():
        stem = root / f'sub-{sub}' / 'func' / f'sub-{sub}_task-rest_part-{part}_bold'
        stem.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(np.rint(image).astype(np.int16), head().affine), f'{stem}.nii.gz')
        about = {'EchoTime': ECHO_TIME, 'MagneticFieldStrength': 3.0, 'RepetitionTime': 2.0}
        write_json(stem.with_suffix('.json'), {**about, 'TaskName': 'rest'})


def test_the_images_of_runs_are_read_as_the_run_reads_them(data, capsys):
    """Refused by the mean of the frames, or by the conditioning of that mean."""
    write_run(data, '01')
    write_run(data, '02', lambda magnitude, phase: (0 * magnitude, phase))
    rng = np.random.default_rng(0)
    write_run(data, '03', lambda magnitude, phase: (magnitude, rng.uniform(-np.pi, np.pi, phase.shape)))
    words = ['check', str(data), '--skip-bids-validation', '--json', '--start-from', 'bold']
    assert cli.main(words) == 1
    sound, empty, noise = json.loads(capsys.readouterr().out)['series']
    assert sound['refused'] is None
    states = {row['check']: row['state'] for row in sound['checks']}
    assert states['snr'] != 'unknown'
    assert empty['refused'].startswith('The magnitude of the run is 0 everywhere')
    assert noise['refused']
    assert cli.main([*words, '--headers']) == 0


def test_memory_of_applications_counts(data, capsys):
    """As in the run: of those that the options ask for."""
    write_series(data, shape=(96, 96, 96))
    enough = f'{MAIN_GB + WORKER_GB + 0.45:.2f}'
    words = ['check', str(data), *UNVALIDATED, '--json', '--refinement', 'none', '--mem', enough]
    assert cli.main(words) == 0
    capsys.readouterr()
    assert cli.main([*words, '--separation']) == 1
    (refused,) = json.loads(capsys.readouterr().out)['refused']
    assert refused.startswith('sub-01, separation, needs ')


def test_a_map_to_start_from_is_no_error(data, capsys):
    folder = data / 'sub-01' / 'anat'
    folder.mkdir(parents=True)
    chi = np.zeros(SHAPE, np.float32)
    chi[8:20, 8:20, 8:20] = np.random.default_rng(0).normal(0, 0.05, (12, 12, 12))
    nib.save(nib.Nifti1Image(chi, AFFINE), folder / 'sub-01_Chimap.nii.gz')
    write_json(folder / 'sub-01_Chimap.json', {'Units': 'ppm'})
    write_t1w(data)
    assert cli.main(['check', str(data), *UNVALIDATED, '--json']) == 0
    (series,) = json.loads(capsys.readouterr().out)['series']
    assert 'starts from chi' in series['about']
    # nothing tells how the map was made
    steps = ('unwrapping', 'echo_combination', 'phase_mask', 'background_removal', 'inversion', 'reference')
    states = {row['check']: row['state'] for row in series['checks']}
    assert {states[step] for step in steps} == {'unknown'}


def test_wrong_use(tmp_path, data, capsys):
    assert cli.main(['check', str(tmp_path / 'nothing')]) == 2
    assert cli.main(['check', str(data), str(tmp_path / 'out')]) == 2
    assert 'give one dataset' in capsys.readouterr().err
    assert cli.main(['check', str(data), '--tsv', str(tmp_path)]) == 2
    assert 'is a folder' in capsys.readouterr().err
    (tmp_path / 'file').touch()
    assert cli.main(['check', str(data), '--tsv', str(tmp_path / 'file' / 'checks.tsv')]) == 2
    assert 'file is a file' in capsys.readouterr().err


def test_the_configuration_of_a_run_is_taken(data, tmp_path, capsys):
    write_series(data, sub='01')
    config = tmp_path / 'config.toml'
    config.write_text(f'output_dir = "{tmp_path / "out"}"\nlevel = "participant"\ninversion = "tkd"\n')
    assert cli.main(['check', str(data), *UNVALIDATED, '--json', '--config', str(config)]) == 0
    (series,) = json.loads(capsys.readouterr().out)['series']
    assert {row['check']: row['value'] for row in series['checks']}['inversion'] == 'tkd'


def test_a_fault_of_one_application_leaves_the_others(data, capsys):
    write_series(data, sub='01')
    write_t1w(data)
    write_image(data / 'sub-01' / 'dwi' / 'sub-01_dwi.nii.gz', (8, 9, 7, 7))
    assert cli.main(['check', str(data), *UNVALIDATED, '--json']) == 0
    (series,) = json.loads(capsys.readouterr().out)['series']
    assert 'candidates' in series['can_run']
    assert 'has no .bval; add sub-01_dwi.bval' in series['cannot_run']['fibres']


def test_what_a_run_with_these_options_would_refuse_is_refused(data, tmp_path, capsys):
    write_ball(data, '01')
    write_image(data / 'sub-01' / 'dwi' / 'sub-01_dwi.nii.gz', (8, 9, 7, 7))
    atlas = tmp_path / 'atlas-own_dseg.nii.gz'
    write_image(atlas, (4, 4, 4))
    words = ['check', str(data), '--headers']
    assert cli.main([*words, '--atlas', str(atlas), '--mem', '1.05G']) == 1
    said = capsys.readouterr().out
    assert 'REFUSED  ' + str(data) + ' is not valid BIDS: ' in said
    assert f'REFUSED  The template space of the atlas {atlas} is not stated' in said
    assert 'but --mem is 1.05 GB; give --mem' in said
    assert 'Nothing would be run' in said
    words += ['--skip-bids-validation', '--array-task', '1/2']
    write_ball(data, '02')
    assert cli.main([*words, '--json']) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found['refused'], len(found['series'])) == ([], 1)


@pytest.mark.parametrize(
    ('words', 'refused'),
    [
        (
            '--atlas CIT168 --output-spaces MNI152NLin6Asym',
            'The atlas CIT168 is in the space MNI152NLin2009cAsym',
        ),
        ('--output-spaces MNI152NLin6Asmy', ' newer than bids_qsm. Did you mean MNI152NLin6Asym?'),
        (
            '--output-spaces fsLR',
            'TemplateFlow has no such template with a T1w image and a brain mask at 1 mm',
        ),
        ('--atlas CIT168 --output-spaces MNI152NLin2009cAsym', ''),
    ],
)
def test_spaces_are_compared_by_name(data, words, refused, capsys):
    write_series(data, sub='01')
    assert cli.main(['check', str(data), *UNVALIDATED, '--json', *words.split()]) == bool(refused)
    assert refused in ''.join(json.loads(capsys.readouterr().out)['refused'])
    if refused:  # and the run says so before it writes
        out = data.parent / 'out'
        assert cli.main([str(data), str(out), 'participant', UNVALIDATED[0], *words.split()]) == 2
        assert not out.exists()


def test_what_stops_everyone_stands_at_the_top(data, capsys, monkeypatch):
    """As in the run: faults of any participant, too little memory, nothing but skipped input."""
    asked = []

    def validate(*given):
        asked.append(given[3])
        return ('The validator is not here.',)

    monkeypatch.setattr('bids_qsm.app.check.validate', validate)
    write_t1w(data, sub='02')
    write_series(data, sub='01', parts=('mag',))
    assert cli.main(['check', str(data), '--headers']) == 1
    said = capsys.readouterr().out
    assert asked == [('01', '02')]
    assert 'REFUSED  ' + str(data) + ' has no series that can be run. sub-01: ' in said
    assert 'The validator is not here.' in said
    write_series(data, sub='01')
    write_series(data, sub='03')
    assert cli.main(['check', str(data), *UNVALIDATED, '--json', '--mem', '1.05', '--veins']) == 1
    found = json.loads(capsys.readouterr().out)
    (refused,) = found['refused']
    assert refused.startswith('sub-01, labels, needs ')
    assert [one['refused'] for one in found['series']] == [None, None]
    assert found['notes'] == []


def test_larger_voxels_are_judged_as_in_a_run(data, capsys):
    write_ball(data, '01')
    words = ['check', str(data), '--skip-bids-validation', '--json']
    values = []
    for more in ([], ['--voxel-size', '5']):
        assert cli.main([*words, *more]) == 0
        (series,) = json.loads(capsys.readouterr().out)['series']
        values.append({row['check']: row['value'] for row in series['checks']})
    assert (values[0]['voxel_volume'], values[1]['voxel_volume']) == ('64 mm^3', '125 mm^3')
    assert 'brought to 5 x 5 x 5 mm' in series['about']
    assert cli.main([*words, '--voxel-size', '2']) == 1
    assert 'larger than those of --voxel-size 2' in capsys.readouterr().out


def spoiled(signal):
    return np.abs(signal) * np.exp(2j * np.pi * np.random.default_rng(0).random(signal.shape))


def test_a_run_that_would_fail_on_every_series_says_so_at_once_and_in_its_records(
    data,
    tmp_path,
    capsys,
    templates,
    templates_once,  # noqa: ARG001
):
    write_ball(data, '01', spoil=spoiled)
    write_series(data, sub='02', parts=('mag',))
    out = tmp_path / 'out'
    words = [str(data), str(out), 'participant', '--skip-bids-validation', '-w', str(templates)]
    assert cli.main(words) == 1
    said = capsys.readouterr().err
    first = said.splitlines()[0]
    assert 'the phase of every series is refused, so nothing is computed. sub-01: The phase of neigh' in first
    assert first.endswith(f'Not run for other reasons: sub-02. {address(PAGES["app.refusals"])}')
    assert 'sub-02 (input): ' in said
    (failure,) = json.loads((out / 'logs' / 'sub-01.json').read_text())['failures']
    assert failure['message'].startswith('The phase of neigh')
    assert 'The phase of neigh' in (out / 'sub-01.html').read_text()
    state = read_status(out)
    assert state['counts']['failed'] == 2
    assert state['series']['sub-01']['failures'][0]['reason'] == failure['message']


def test_a_series_that_is_refused_beside_a_right_one_is_no_reason_to_stop(
    data, tmp_path, capsys, monkeypatch
):
    ran = []
    monkeypatch.setattr(participant, '_run', lambda *given: ran.append(given[1].series) or [])
    files = write_ball(data, '01', spoil=spoiled)
    words = [str(data), str(tmp_path / 'out'), 'participant', '--skip-bids-validation']
    for sub in ('02', '03', '04', '05'):
        for path in files:
            for one in (path, path.with_name(path.name.replace('.nii.gz', '.json'))):
                copy = data / f'sub-{sub}' / 'anat' / one.name.replace('sub-01', f'sub-{sub}')
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(one, copy)
    assert cli.main(words) == 0
    assert 'the phase of the first 3 of 5 series will be refused' in capsys.readouterr().err
    write_ball(data, '02')
    assert cli.main(words) == 0
    assert 'refused' not in capsys.readouterr().err
    assert [len(series) for series in ran] == [5, 5]


def test_no_series_is_tried_that_passed_or_is_too_large(data, find, templates, templates_once, tmp_path):  # noqa: ARG001
    write_ball(data, '01', spoil=spoiled)
    plan = find()
    options = Options(bids_dir=data, output_dir=tmp_path / 'out', level='participant', mem_gb=4)
    assert without_refused(options, plan).series == ()
    (one,) = plan.series
    assert without_refused(replace(options, mem_gb=0.61), plan) is plan
    coils = replace(plan, series=(replace(one, coils=2),))
    assert without_refused(options, coils) is coils
    # the step as it is in the working folder of the graph
    graph = expanded(build_graph(replace(options, work_dir=templates), plan)[0])
    (step,) = (node for node in graph if node.name == 'condition')
    folder = options.work_dir / Path(step.output_dir()).relative_to(templates)
    folder.mkdir(parents=True)
    assert without_refused(options, plan).series == ()
    (folder / '_seal.json').touch()
    assert without_refused(options, plan) is plan
    (folder / '_seal.json').unlink()
    made = options.output_dir / 'sub-01' / 'anat' / 'sub-01_Chimap.nii.gz'
    made.parent.mkdir(parents=True)
    made.touch()
    assert without_refused(options, plan) is plan
