"""The whole job on a tiny phantom: killed, resumed, with one subject that fails, then group and reports."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from bids_qsm.app import cli, participant
from bids_qsm.app.options import Options
from bids_qsm.app.participant import _failures_of_others, _read_failures, _summarise, run_participant
from bids_qsm.execution.run_log import read_runs
from bids_qsm.layout import Plan
from bids_qsm.phantom.dataset import tiny

KILL_AFTER = 'anat_wf.bias done'


def words(data, out, level, *options):
    return [str(data), str(out), level, '--nprocs', '2', *options]


def command(*given):
    return [sys.executable, '-m', 'bids_qsm', *words(*given)]


def finished_nodes(out):
    """Result files and when they were written; what failed, and what checks the output, runs each time.

    A step that compiled kernels writes a result and is run again: only those count that a log calls ended.
    """
    logs = ''.join(log.read_text() for log in out.glob('logs/*/events.jsonl'))
    ended = re.findall(r'"event":"end".*"step":"(?:[^"]*\.)?([^".]+)"', logs)
    files = [p for p in (out / 'work').rglob('result_*.pklz') if 'sub_02_wf' not in str(p)]
    files = [p for p in files if p.parent.name in ended and 'save' not in p.name]
    return {path: path.stat().st_mtime_ns for path in files}


def drawn(folder, data):
    """What others drew: a segmentation and a lesion on the GRE, and an empty lesion mask on the T1w."""
    truth, anat = data / 'derivatives' / 'truth' / 'sub-01' / 'anat', folder / 'sub-01' / 'anat'
    anat.mkdir(parents=True)
    for extension in ('nii.gz', 'tsv'):
        shutil.copyfile(
            truth / f'sub-01_seg-nuclei_dseg.{extension}', anat / f'sub-01_seg-hand_dseg.{extension}'
        )
    image = nib.load(truth / 'sub-01_desc-brain_mask.nii.gz')
    lesion = np.zeros(image.shape, np.uint8)
    middle = [n // 2 for n in image.shape]
    lesion[tuple(slice(m - 1, m + 1) for m in middle)] = 1
    nib.Nifti1Image(lesion, image.affine).to_filename(anat / 'sub-01_label-lesion_mask.nii.gz')
    t1w = nib.load(data / 'sub-01' / 'anat' / 'sub-01_T1w.nii.gz')
    nib.Nifti1Image(np.zeros(t1w.shape, np.uint8), t1w.affine).to_filename(
        anat / 'sub-01_space-T1w_label-lesion_mask.nii.gz'
    )
    return folder


@pytest.fixture(scope='session')
def job(tmp_path_factory):
    """Dataset, output, nodes finished before the kill, and what the resumed run said."""
    root = tmp_path_factory.mktemp('job')
    data, out = tiny(root / 'data'), root / 'out'
    bad = data / 'sub-02' / 'anat'
    bad.mkdir(parents=True)
    for path in (data / 'sub-01' / 'anat').glob('*MEGRE*'):
        target = bad / path.name.replace('sub-01', 'sub-02')
        if 'part-phase' in path.name and path.name.endswith('.nii.gz'):
            image = nib.load(path)
            nib.Nifti1Image(np.zeros(image.shape, np.float32), image.affine).to_filename(target)
        else:
            shutil.copyfile(path, target)
    with (data / 'participants.tsv').open('a') as stream:
        stream.write('sub-02\n')
    more = ('--candidates', '-d', f'drawn={drawn(root / "drawn", data)}')
    more += ('--registration', 'dipy:whole_mm=4,box_mm=2')  # coarse, as the images are
    first = subprocess.Popen(
        command(data, out, 'participant', *more), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    said = []
    for line in first.stderr:
        said.append(line)
        if KILL_AFTER in line:
            break
    os.killpg(first.pid, signal.SIGKILL)
    first.stderr.close()
    assert first.wait() == -signal.SIGKILL, ''.join(said)
    before = finished_nodes(out)
    second = subprocess.run(
        command(data, out, 'participant', *more), capture_output=True, text=True, check=False, timeout=900
    )
    return data, out, before, second


def test_killed_run_resumes_and_repeats_nothing(job):
    _, out, before, _ = job
    assert any('bias' in str(path) for path in before)
    after = finished_nodes(out)
    assert {path: after.get(path) for path in before} == before
    # nothing half-written: temporary names begin with a dot, as do the locks of the working folder
    hidden = [p.name for p in out.rglob('.*') if 'work' not in p.parts]
    assert hidden == ['.bidsignore']


def test_failed_subject_does_not_stop_the_others(job):
    _, out, _, second = job
    assert second.returncode == 1, second.stderr
    assert 'Traceback' not in second.stderr
    failures = json.loads((out / 'logs' / 'sub-02.json').read_text())['failures']
    assert {f['subject'] for f in failures} == {'02'}
    assert 'constant' in failures[0]['message'] or 'phase' in failures[0]['message']
    assert failures[0]['message'] in second.stderr
    assert failures[0]['message'][:40] in (out / 'sub-02.html').read_text()
    assert (out / 'sub-01' / 'anat' / 'sub-01_Chimap.nii.gz').exists()


def test_susceptibility_is_right_where_it_matters(job):
    data, out, _, _ = job
    truth = data / 'derivatives' / 'truth' / 'sub-01' / 'anat'
    chi, true = (
        np.asanyarray(nib.load(folder / 'sub-01_Chimap.nii.gz').dataobj)
        for folder in (out / 'sub-01' / 'anat', truth)
    )
    mask = np.asanyarray(nib.load(out / 'sub-01' / 'anat' / 'sub-01_desc-brain_mask.nii.gz').dataobj) > 0
    # 4 mm voxels hold little, but the sign and the bulk of it must be there
    assert np.corrcoef(chi[mask], true[mask])[0, 1] > 0.6
    assert np.polyfit(true[mask], chi[mask], 1)[0] > 0.5


def test_table_has_the_regions_with_units(job):
    _, out, _, _ = job
    path = out / 'sub-01' / 'anat' / 'sub-01_seg-nuclei_stats.tsv'
    table = pd.read_csv(path, sep='\t', na_values='n/a')
    wanted = {'SN', 'SNc', 'SNr', 'GP', 'GPe', 'GPi', 'RN', 'STN'}
    wanted |= {'Putamen', 'Caudate', 'Thalamus', 'Dentate', 'Brain'}
    assert wanted <= set(table['region'])
    assert set(table['map']) == {'chi', 'R2star'}
    assert dict(zip(table['map'], table['units'], strict=True)) == {'chi': 'ppm', 'R2star': '1/s'}
    assert table.loc[table['map'] == 'chi', 'reference'].notna().all()
    dictionary = json.loads(path.with_suffix('.json').read_text())
    assert set(table.columns) <= set(dictionary)
    value = table.set_index(['region', 'hemisphere', 'map'])['mean']
    assert value['GP', 'both', 'chi'] > value['Thalamus', 'both', 'chi']


def test_what_others_drew_is_measured(job):
    anat = job[1] / 'sub-01' / 'anat'
    regions, lesions, candidates = (
        pd.read_csv(anat / f'sub-01_{what}_stats.tsv', sep='\t', na_values='n/a', keep_default_na=False)
        for what in ('seg-hand', 'label-lesion', 'label-candidate')
    )
    assert {'SN', 'GP', 'Brain', 'White matter'} <= set(regions['region'])
    assert {'mean_pv', 'se', 'note'} <= set(regions.columns)
    measured = lesions[lesions['reason'].isna()]
    assert measured['source'].tolist() == ['sub-01_label-lesion_mask.nii.gz']
    assert measured['n_voxels'].tolist() == [8]
    assert np.isfinite(measured[['chi_mean', 'template_x']]).all(axis=None)
    empty = lesions[lesions['source'] == 'sub-01_space-T1w_label-lesion_mask.nii.gz']
    assert len(empty) == 1
    assert 'empty' in empty['reason'].iloc[0]
    assert {'class', 'moment', 'mars_region', 'confidence', 'template_x'} <= set(candidates.columns)
    for name in ('seg-hand_dseg.tsv', 'desc-candidates_dseg.nii.gz', 'label-lesion_stats.json'):
        assert (anat / f'sub-01_{name}').exists()


def test_deep_grey_is_refined_and_said(job):
    _, out, _, _ = job
    spaces = 'from-MNI152NLin2009aSym_to-MNI152NLin2009aSym_mode-image'
    for name in ('refine', 'unrefine'):
        assert (out / 'sub-01' / 'anat' / f'sub-01_{spaces}_desc-{name}_xfm.nii.gz').exists()
    findings = json.loads((out / 'sub-01' / 'figures' / 'sub-01_desc-findings.json').read_text())['findings']
    assert any('deep grey' in finding['what'].lower() for finding in findings)


def test_output_is_valid_bids(job):
    validator = shutil.which('bids-validator-deno', path=Path(sys.executable).parent)
    if validator is None:
        pytest.skip('bids-validator-deno is not installed')
    for dataset in job[:2]:
        ran = subprocess.run(
            [validator, str(dataset), '--format', 'json', '--ignoreWarnings'],
            capture_output=True,
            text=True,
            check=False,
        )
        issues = json.loads(ran.stdout)['issues']['issues']
        assert [i for i in issues if i['severity'] == 'error'] == []


def test_group_and_reports(job):
    data, out, _, _ = job
    assert cli.main(words(data, out, 'group')) == 0
    table = pd.read_csv(out / 'group_regions.tsv', sep='\t', na_values='n/a')
    assert {'participant_id', 'region', 'mean', 'units'} <= set(table.columns)
    assert set(table['participant_id']) == {'sub-01'}
    page = out / 'sub-01.html'
    page.unlink()
    before = finished_nodes(out)
    assert cli.main(words(data, out, 'participant', '--reports-only')) == 1, 'the failure is still there'
    assert finished_nodes(out) == before
    text = page.read_text()
    assert 'src="http' not in text
    assert 'approximate' in text


def test_run_of_one_session_keeps_the_failures_of_others(tmp_path):
    plan = SimpleNamespace(
        series=[SimpleNamespace(name='sub-01_ses-B')], rejected=[SimpleNamespace(name='sub-01_ses-C')]
    )
    known = {'subject': '01', 'node': 'fit', 'message': 'm'}
    failures = [{'series': f'sub-01{part}', **known} for part in ('', '_ses-A', '_ses-B', '_ses-C')]
    some = SimpleNamespace(output_dir=tmp_path, session_label=('B', 'C'), bids_filter_file=None)
    assert _failures_of_others(some, plan, '01', []) == [], 'it has not been run yet'
    (tmp_path / 'logs').mkdir()
    (tmp_path / 'logs' / 'sub-01.json').write_text(json.dumps({'failures': failures}))
    assert _failures_of_others(some, plan, '01', []) == [{'series': 'sub-01_ses-A', **known}]
    # a record that cites what the bibliography lacks keeps its failures; one that cannot be read is a failure
    said = []
    record = {'failures': failures, 'methods': ['A [@nowhere].'], 'packages': 3}
    (tmp_path / 'logs' / 'sub-01.json').write_text(json.dumps(record))
    assert _failures_of_others(some, plan, '01', said) == [{'series': 'sub-01_ses-A', **known}]
    assert len(_read_failures(tmp_path, '01')) == 4
    assert [text.partition(' is ')[2][:27] for text in said] == ['damaged (packages, methods)']
    for damaged in ('{"fail', json.dumps({'failures': [failures[1], {'message': 3}]})):
        (tmp_path / 'logs' / 'sub-01.json').write_text(damaged)
        *kept, lost = _failures_of_others(some, plan, '01', said)
        assert kept == [{'series': 'sub-01_ses-A', **known}] * damaged.endswith('}')
        assert (lost['series'], lost['node']) == ('The run of sub-01', 'record')
        assert len(_read_failures(tmp_path, '01')) == 1 + len(kept)
    assert len(said) == 3
    every = SimpleNamespace(output_dir=tmp_path, session_label=(), bids_filter_file=None)
    assert _failures_of_others(every, plan, '01', []) == []


def test_warnings_stand_at_the_end_of_the_run(tmp_path, capsys):
    figures = tmp_path / 'sub-01' / 'figures'
    figures.mkdir(parents=True)
    blank = {'action': 'None.', 'evidence': 'In 9 %.'}
    found = [
        {'what': 'Slices', 'found': 'In order.', 'level': 'info', **blank},
        {'what': 'Field fit', 'found': 'Doubtful.', 'level': 'warning', **blank},
    ]
    for series in ('sub-01_run-1', 'sub-01_run-2'):
        path = figures / f'{series}_desc-findings.json'
        path.write_text(json.dumps({'series': series, 'findings': found, 'facts': {}}))
    # the other is of an earlier run
    _summarise(tmp_path, ['01'], [], {'sub-01_run-1'}, [])
    assert capsys.readouterr().err.splitlines() == [
        '1 warnings:',
        '  sub-01_run-1, Field fit: Doubtful. In 9 %.',
    ]


def test_damaged_files_of_a_participant_do_not_keep_the_others_from_their_pages(tmp_path, capsys):
    (tmp_path / 'logs').mkdir()
    for label in ('01', '02', '03'):
        record = {'version': '1', 'failures': []}
        (tmp_path / 'logs' / f'sub-{label}.json').write_text(json.dumps(record))
        anat = tmp_path / f'sub-{label}' / 'anat'
        anat.mkdir(parents=True)
        (anat / f'sub-{label}_seg-nuclei_stats.tsv').write_text('region\tmean\nSN\t0.1')
    (tmp_path / 'logs' / 'sub-02.json').write_text('{"failures": [')
    series = [SimpleNamespace(subject=label, name=f'sub-{label}') for label in ('01', '02', '03')]
    plan = SimpleNamespace(series=series, rejected=[])
    # a record that cannot be read may have held a failure
    assert run_participant(SimpleNamespace(reports_only=True, output_dir=tmp_path), plan) == 1
    assert [(tmp_path / f'sub-{one.subject}.html').exists() for one in series] == [True] * 3
    said = capsys.readouterr().err.splitlines()
    assert said[0] == '4 warnings:'
    assert [Path(line.strip().partition(' ')[0]).name for line in said[1:5]] == [
        'sub-01_seg-nuclei_stats.tsv',
        'sub-02.json',
        'sub-02_seg-nuclei_stats.tsv',
        'sub-03_seg-nuclei_stats.tsv',
    ]
    assert said[6].startswith('  The run of sub-02 (record): ')


def test_group_without_a_run_is_one_sentence(tmp_path, data, capsys):
    assert cli.main(words(data, tmp_path / 'none', 'group')) == 2
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) == 1, said


def test_run_that_begins_is_no_lost_log(tmp_path, monkeypatch):
    """Whoever looks while it writes its configuration finds a run."""
    write, found = participant.atomic_write, []

    def look(path, writer):
        found.append(([run['state'] for run in read_runs(tmp_path / 'logs', damage)], damage))
        return write(path, writer)

    damage = []
    monkeypatch.setattr(participant, 'atomic_write', look)
    options = Options(bids_dir=tmp_path / 'data', output_dir=tmp_path, level='participant')
    log = participant._begin_log(options, Plan((), (), 'Skeleton'), participant.datetime.now(participant.UTC))
    assert found == [(['running'], [])]
    assert (log.folder / 'config.toml').is_file()
    log.close(0)
