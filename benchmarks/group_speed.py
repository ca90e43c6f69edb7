"""Seconds and peak memory of every statistic of the group level, on made-up tables like real ones.

python benchmarks/group_speed.py [--subjects 500] [--sessions 2] [--parts model correlate ...]

Each part runs in a process of its own on one core, so that its peak memory is its own; seconds are of the
processor, wall is what the clock says. The tables have 17 regions, 3 hemispheres and 2 maps; half of the
participants are controls, and some regions are missing. The part "command" is the group level as it is
called: it reads the tables of all series from a folder and writes tables and page; "harmonised" is the same
with three sites.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REGIONS = ('Brain', 'SN', 'SNc', 'SNr', 'GP', 'GPe', 'GPi', 'RN', 'STN', 'Putamen', 'Caudate', 'Thalamus')
REGIONS += ('Dentate', 'CSF', 'White matter', 'Accumbens', 'Hippocampus')
SIDES, MAPS = ('L', 'R', 'both'), {'chi': ('ppm', 0.1, 0.02), 'R2star': ('1/s', 30.0, 4.0)}
PARTS = (
    'gather',
    'observe',
    'relative',
    'model',
    'correlate',
    'compare',
    'change',
    'normative',
    'all',
    'command',
    'harmonised',
)
MODEL = 'chi ~ group + age + sex'


def tables(subjects, sessions):
    """(entities, table) of every series, and participants.tsv."""
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(0)
    rows = [(r, h, m) for r in REGIONS for h in SIDES for m in MAPS]
    frame = pd.DataFrame(rows, columns=['region', 'hemisphere', 'map'])
    unit, centre, spread = (frame['map'].map({m: v[i] for m, v in MAPS.items()}).to_numpy() for i in range(3))
    frame = frame.assign(
        index=pd.array([None] * len(frame), 'Int64'), n_voxels=100, volume_mm3=200.0, coverage=1.0,
        core='eroded', units=unit, reference=np.where(frame['map'] == 'chi', 'CSF', 'n/a'),
    )  # fmt: skip
    people = pd.DataFrame(
        {
            'participant_id': [f'sub-{i:04d}' for i in range(subjects)],
            'group': np.where(np.arange(subjects) % 2, 'patient', 'control'),
            'age': rng.uniform(8, 75, subjects).round(1),
            'sex': rng.choice(['F', 'M'], subjects),
            'site': np.arange(subjects) // 2 % 3 + 1,
            'dystonia': rng.gamma(2, 5, subjects).round(),
            'parkinsonism': rng.gamma(2, 5, subjects).round(),
        }
    )
    series = []
    for i, own in enumerate(rng.normal(size=(subjects, len(frame)))):
        for session in range(sessions):
            mean = centre + spread * (own + 0.3 * rng.normal(size=len(frame)))
            mean[rng.random(len(frame)) < 0.001] = np.nan
            table = frame.assign(
                mean=mean, sd=spread, median=mean, p5=mean - spread, p95=mean + spread, mean_positive=mean,
                se=spread / 10, mean_weighted=mean, se_weighted=spread / 10, core_voxels=60, core_mean=mean,
                core_sd=spread, core_se=spread / 10, core_median=mean, mean_pv=mean, se_pv=spread / 10,
                against_csf=mean, se_against_csf=spread / 9, source='own', confidence=0.9, border_mm=0.25,
            )  # fmt: skip
            entities = {'sub': f'{i:04d}', 'ses': str(session + 1), 'seg': 'atlas'}
            if sessions == 1:
                del entities['ses']
            series.append((entities, table))
    return series, people


def write(root, subjects, sessions):
    """Write a dataset's participants.tsv and the tables of all series; return both folders."""
    import numpy as np

    from bids_qsm.biomarkers.region_columns import dictionary

    data, out = root / 'data', root / 'out'
    described = dictionary('nuclei')
    # the columns of one table as text, into which each series writes its means
    (_, first), *_ = tables(1, 1)[0]
    frame = first.reindex(columns=list(described)).round(6).astype(object)
    means = ['mean', 'median', 'mean_positive', 'mean_weighted', 'core_mean', 'core_median', 'mean_pv']
    frame[[c for c in (*means, 'against_csf') if c in frame]] = '{0:.6f}'
    frame['p5'], frame['p95'] = '{1:.6f}', '{2:.6f}'
    text = frame.to_csv(sep='\t', index=False, na_rep='n/a')
    head, *lines = text.splitlines()
    people = tables(subjects, 0)[1]
    rng = np.random.default_rng(0)
    centre, spread = (first['map'].map({m: v[i] for m, v in MAPS.items()}).to_numpy() for i in (1, 2))
    for i in range(subjects):
        own = rng.normal(size=len(first))
        for session in range(sessions):
            name = f'sub-{i:04d}' + (f'_ses-{session + 1}' if sessions > 1 else '')
            mean = centre + spread * (own + 0.3 * rng.normal(size=len(first)))
            folder = out / '/'.join(name.split('_')) / 'anat'
            folder.mkdir(parents=True)
            path = folder / f'{name}_seg-nuclei_stats.tsv'
            rows = zip(lines, mean, mean - spread, mean + spread, strict=True)
            path.write_text('\n'.join([head, *(line.format(*values) for line, *values in rows)]) + '\n')
            path.with_suffix('.json').write_text(json.dumps(described))
    data.mkdir()
    people.to_csv(data / 'participants.tsv', sep='\t', index=False)
    (data / 'dataset_description.json').write_text('{"Name": "Made up", "BIDSVersion": "1.10.0"}')
    return data, out


def called(part, subjects, sessions):
    """Rows, seconds and peak memory of the group level by the command line; of three sites if harmonised."""
    with tempfile.TemporaryDirectory() as folder:
        data, out = write(Path(folder), subjects, sessions)
        words = [sys.executable, '-m', 'bids_qsm', str(data), str(out), 'group', '--model', MODEL]
        words += ['--correlate', 'dystonia:GP', 'parkinsonism:SN']
        words += ['--harmonise', 'site'] if part == 'harmonised' else []
        start = time.perf_counter()
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        wall = time.perf_counter() - start
        if not (out / 'group.html').exists():
            raise RuntimeError('The group level left no page.')
        with open(out / 'group_regions.tsv') as lines:
            rows = sum(1 for _ in lines) - 1
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return _figures(part, rows, wall, used.ru_utime + used.ru_stime, used)


def _figures(part, rows, wall, seconds, used):
    figures = {'wall': round(wall, 2), 'seconds': round(seconds, 2), 'peak_mb': round(used.ru_maxrss / 1024)}
    return {'part': part, 'rows': rows, **figures}


def measure(part, subjects, sessions):
    """Seconds and peak memory of one part; what it works on is made before."""
    import pandas as pd

    from bids_qsm.cohort import change, correlation, model, normative, observations
    from bids_qsm.cohort import tables as joins

    series, people = tables(subjects, sessions)
    start, clock = time.process_time(), time.perf_counter()
    long = joins.join_participants(joins.gather(series), people)[0]
    if sessions > 1:
        since = pd.Timestamp('2020-01-01') + pd.to_timedelta(400 * (long['session_id'] == 'ses-2'), 'D')
        long['acq_time'] = since.dt.strftime('%Y-%m-%dT%H:%M:%S')
    del series
    gathered = time.process_time() - start, time.perf_counter() - clock

    def fit():
        model.fit_models(long, MODEL)
        model.fit_models(long, 'R2star ~ group + age + sex')

    def correlate():
        for column in ('dystonia', 'parkinsonism'):
            correlation.correlate(long, column, covariates=['age', 'sex'])

    steps = {
        'observe': lambda: observations.observe(long),
        'relative': lambda: joins.relative_to(long, 'White matter'),
        'model': fit,
        'correlate': correlate,
        'compare': lambda: correlation.compare_correlations(long, covariates=['age', 'sex']),
        'change': lambda: change.change_summary(change.changes(long)[0]),
        'normative': lambda: normative.normative(long, controls='control'),
    }
    chosen = [] if part == 'gather' else list(steps) if part == 'all' else [part]
    start, clock = time.process_time(), time.perf_counter()
    for name in chosen:
        steps[name]()
    passed = time.process_time() - start, time.perf_counter() - clock
    seconds, wall = gathered if part == 'gather' else passed
    return _figures(part, len(long), wall, seconds, resource.getrusage(resource.RUSAGE_SELF))


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--subjects', type=int, default=500)
    parser.add_argument('--sessions', type=int, default=2)
    parser.add_argument('--parts', nargs='+', choices=PARTS, default=PARTS)
    parser.add_argument('--child', action='store_true', help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.child:
        (part,), size = options.parts, (options.subjects, options.sessions)
        print(json.dumps(called(part, *size) if part in ('command', 'harmonised') else measure(part, *size)))
        return
    one_core = {f'{library}_NUM_THREADS': '1' for library in ('OMP', 'OPENBLAS', 'MKL', 'NUMBA')}
    print('part\trows\twall\tseconds\tpeak_mb', flush=True)
    for part in options.parts:
        command = [sys.executable, __file__, '--child', '--parts', part]
        command += ['--subjects', str(options.subjects), '--sessions', str(options.sessions)]
        done = subprocess.run(
            command, check=True, capture_output=True, text=True, env={**os.environ, **one_core}
        )
        print('\t'.join(str(value) for value in json.loads(done.stdout).values()), flush=True)


if __name__ == '__main__':
    main()
