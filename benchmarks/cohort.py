"""Recover the known effects of a simulated cohort with the command line, from images to group statistics.

python benchmarks/cohort.py OUT [--seed 4] [--family surface] [--nprocs 2] [--only STEP] [-- options]

OUT/data is the dataset, OUT/out what bids_qsm makes of it; both are kept, and go on from where they stopped.
Each effect is compared with that of the true susceptibility of these heads, put through the same statistics:
the same regional values of derivatives/truth instead of those measured. What was meant, the effect that the
cohort was drawn with, stands beside it: that of the tissue, without partial volume. Three statistics are
tested: the mean of the whole region, the weighted one, and the one corrected for partial volume.
"""

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from bids_qsm.biomarkers.regions import region_table
from bids_qsm.cohort.change import change_summary, changes
from bids_qsm.cohort.correlation import compare_correlations
from bids_qsm.cohort.model import fit_models
from bids_qsm.cohort.tables import gather, join_participants, join_sessions
from bids_qsm.phantom.cohort import SCORES, Effects, aged, draw_people, normal, truth_table, write_cohort
from bids_qsm.phantom.families import FAMILIES
from bids_qsm.recon.grid import Grid

MODEL = 'chi ~ group + age + sex + session_id'
NULL = ('Putamen', 'Nucleus Accumbens', 'Ventral Pallidum', 'Extended Amygdala', 'Caudate', 'Thalamus')
NULL += ('RN', 'STN', 'Dentate')
"""Regions without an effect, the first of them beside the pallidum."""
OPTIONS = ('--skip-bids-validation', '--output-spaces', 'MNI152NLin2009aSym')
CORRELATE = ('--correlate', 'dystonia:GP', 'parkinsonism:SN')
ASKED = {'plain': CORRELATE, 'adjusted': ('--model', MODEL, *CORRELATE, '--controls', 'control')}
"""Calls of the group level; what stands in the model is taken out of the correlations."""
KEYS = ['quantity', 'region']


def load(path):
    image = nib.load(path)
    return np.asanyarray(image.dataobj), image.affine


def true_long(data, truth):
    """The long table that the images of derivatives/truth give, relative to water.

    There are no shares of voxels: the weighted mean is held against the plain one.
    """
    tables = []
    for row in truth.itertuples():
        entities = {'sub': row.participant_id[4:], 'ses': row.session_id[4:], 'seg': 'nuclei'}
        stem = f'{row.participant_id}_{row.session_id}'
        stem = data / 'derivatives' / 'truth' / row.participant_id / row.session_id / 'anat' / stem
        chi, affine = load(f'{stem}_Chimap.nii.gz')
        dseg, mask = (load(f'{stem}_{s}.nii.gz')[0] for s in ('seg-nuclei_dseg', 'desc-brain_mask'))
        labels = pd.read_csv(f'{stem}_seg-nuclei_dseg.tsv', sep='\t')
        grid = Grid.from_affine(chi.shape, affine)
        table = region_table(
            {'chi': chi}, dseg.astype(int), labels, mask > 0, grid, reference='water', label_mm=0.0
        )
        tables.append((entities, table.assign(mean_weighted=table['mean'])))
    return gather(tables)


def joined(long, truth):
    people = truth.drop_duplicates('participant_id')
    long, _ = join_participants(long, people[['participant_id', 'group', 'age', 'sex', *SCORES]])
    return join_sessions(long, truth[['participant_id', 'session_id', 'acq_time']])[0]


def analysed(long, statistic):
    """Tables of the statistics, as the group level makes them."""
    change, _ = changes(long, statistic=statistic)
    return {
        'model': fit_models(long, MODEL, statistic=statistic)[0],
        'correlation_difference': pd.concat(
            compare_correlations(long, statistic=statistic, covariates=covariates)[0]
            for covariates in ((), ('age', 'sex'))
        ),
        'change': change,
        'change_summary': change_summary(change)[0],
    }


def measured(folder):
    """The same from what the group level wrote."""
    names = ('model', 'change', 'change_summary')
    tables = {name: read(folder / 'adjusted' / f'{name}.tsv') for name in names}
    differences = (read(folder / call / 'correlation_difference.tsv') for call in ASKED)
    return {**tables, 'correlation_difference': pd.concat(differences)}


def read(path):
    return pd.read_csv(path, sep='\t', na_values='n/a', keep_default_na=False)


def rows(tables):
    """(quantity, region, estimate, ci_low, ci_high) of what the cohort is about."""
    model = tables['model'].query('map == "chi" and hemisphere == "both"')
    kept = model[model['term'].isin(['group', 'session_id']) & model['region'].isin(['GP', 'SN', *NULL])]
    found = [(f'{r.term} (ppm)', r.region, r.estimate, r.ci_low, r.ci_high) for r in kept.itertuples()]
    summary = tables['change_summary'].query('map == "chi" and hemisphere == "both" and group == "patient"')
    for r in summary[summary['region'].isin(['GP', 'SN', *NULL])].itertuples():
        found.append(('change (ppm)', r.region, r.mean, r.ci_low, r.ci_high))
    difference = tables['correlation_difference'].query('map == "chi" and hemisphere == "both"')
    for r in difference.itertuples():
        place = f'{r.region_a} - {r.region_b}'
        # scores are of patients, at their first session: of the model only these vary
        less = ', less age and sex' if isinstance(r.covariates, str) and r.covariates else ''
        found.append((f'r with {r.column}{less}', place, r.difference, r.ci_low, r.ci_high))
    return pd.DataFrame(found, columns=[*KEYS, 'estimate', 'ci_low', 'ci_high'])


def meant(truth, effects):
    """What the cohort was drawn with, by quantity and region; what is not there is nothing."""
    ages = truth.drop_duplicates('participant_id')['age']
    known = {}
    for region, factor in (('GP', effects.gp), ('SN', effects.sn)):
        middle = normal(region) * np.mean([aged(region, age) for age in ages])
        known['group (ppm)', region] = middle * (factor - 1)
    pairs = truth.pivot(index='participant_id', columns='session_id', values='GP').dropna()
    known['change (ppm)', 'GP'] = known['session_id (ppm)', 'GP'] = pairs['ses-1'].mean() * (
        effects.treated - 1
    )
    return known


def compare(tables, true, truth, effects):
    """One row an effect: measured with its interval, true, meant, and whether the true one lies inside."""
    table = rows(tables).merge(rows(true)[[*KEYS, 'estimate']].rename(columns={'estimate': 'true'}), on=KEYS)
    known = meant(truth, effects)
    table['meant'] = [
        np.nan if q.startswith('r ') else known.get((q, region), 0.0)
        for q, region in table[KEYS].itertuples(index=False)
    ]
    table['inside'] = table['true'].between(table['ci_low'], table['ci_high'])
    table['apart from 0'] = (table['ci_low'] > 0) | (table['ci_high'] < 0)
    return table


def false_effects(tables):
    """Effects of group, session and time in null regions that stand after control of the discovery rate."""
    model = tables['model'].query('map == "chi" and term in ["group", "session_id"] and p_fdr < .05')
    change = tables['change_summary'].query('map == "chi" and group == "patient" and p_fdr < .05')
    parts = [*model.assign(what=model['term']).itertuples(), *change.assign(what='change').itertuples()]
    return [f'{p.region} {p.hemisphere} ({p.what})' for p in parts if p.region in NULL]


def each_change(tables, true):
    """One row a participant: change of GP measured, with its interval, and true."""
    wanted = 'map == "chi" and hemisphere == "both" and region == "GP"'
    columns = ['participant_id', 'years', 'change', 'ci_low', 'ci_high', 'beyond']
    found = tables['change'].query(wanted)[columns]
    known = true['change'].query(wanted)[['participant_id', 'change']].rename(columns={'change': 'true'})
    found = found.merge(known, on='participant_id')
    found['inside'] = found['true'].between(found['ci_low'], found['ci_high'])
    return found


def regional_errors(long, true, statistic):
    """Error of the regional values (ppb) over all series, and slope of measured against true values."""
    keys = ['participant_id', 'session_id', 'region', 'hemisphere']
    wanted = long['map'].eq('chi') & long['hemisphere'].eq('both') & long['atlas'].eq('nuclei')
    both = long[wanted].merge(true[[*keys, statistic]], on=keys, suffixes=('', '_true'))
    both = both[both['region'].isin(['SN', 'GP', 'RN', 'Putamen', 'Caudate', 'Thalamus'])]
    found = []
    for region, part in both.groupby('region'):
        error = 1e3 * (part[statistic] - part[f'{statistic}_true'])
        slope = np.polyfit(part[f'{statistic}_true'], part[statistic], 1)[0]
        found.append((region, len(part), error.mean(), error.std(), error.abs().median(), slope))
    columns = ['region', 'n', 'bias ppb', 'sd ppb', 'median |error| ppb', 'slope']
    return pd.DataFrame(found, columns=columns)


def run(*words):
    start = time.perf_counter()
    subprocess.run([sys.executable, '-m', 'bids_qsm', *map(str, words)], check=True)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('out', type=Path)
    parser.add_argument('--seed', type=int, default=4)
    parser.add_argument('--controls', type=int, default=12)
    parser.add_argument('--patients', type=int, default=12)
    parser.add_argument('--repeated', type=int, default=6)
    parser.add_argument('--family', choices=list(FAMILIES), default='surface', help='of the heads')
    parser.add_argument('--nprocs', type=int, default=2)
    parser.add_argument(
        '--statistic',
        nargs='+',
        default=['mean', 'mean_weighted', 'mean_pv'],
        help='columns to test, in turn',
    )
    parser.add_argument(
        '--only', choices=('data', 'participant', 'group', 'compare'), help='do this step alone'
    )
    parser.add_argument('options', nargs='*', help='options of the participant level, after --')
    args = parser.parse_args()
    people = draw_people(args.seed, controls=args.controls, patients=args.patients, repeated=args.repeated)
    data, out = args.out / 'data', args.out / 'out'
    truth = truth_table(people)

    def wanted(step):
        return args.only in (None, step)

    # the table of the truth is written last
    if wanted('data') and not (data / 'derivatives' / 'truth' / 'cohort.tsv').exists():
        start = time.perf_counter()
        write_cohort(data, people, seed=args.seed, family=args.family)
        print(f'dataset: {time.perf_counter() - start:.0f} s')
    if wanted('participant'):
        own = ('--nprocs', args.nprocs, *args.options)
        print(f'participant: {run(data, out, "participant", *OPTIONS, *own):.0f} s')
    known = joined(true_long(data, truth), truth) if wanted('compare') else None
    for statistic in args.statistic:
        folder = args.out / statistic
        if wanted('group'):
            for call, words in ASKED.items():
                seconds = run(data, out, 'group', *words, '--statistic', statistic)
                print(f'group, {statistic}, {call}: {seconds:.0f} s')
                # the next call writes to the same place
                shutil.copytree(out / 'group', folder / call, dirs_exist_ok=True)
            shutil.copy(out / 'group.html', folder)
        if wanted('compare'):
            report(folder, read(out / 'group_regions.tsv'), known, truth, statistic)


def report(folder, long, known, truth, statistic):
    """Print what was recovered with a statistic, and keep it in its folder."""
    tables, true = measured(folder), analysed(known, statistic)
    effects, each = compare(tables, true, truth, Effects()), each_change(tables, true)
    print(f'\n== {statistic}')
    for title, table in (
        ('Effects', effects),
        ('Change of GP by participant (ppm)', each),
        (
            'Regional values against truth, each relative to its reference',
            regional_errors(long, known, statistic),
        ),
    ):
        print(f'\n{title}\n{table.to_string(index=False, float_format="%.4g")}')
    print(f'\n{effects["inside"].sum()} of {len(effects)} true effects lie inside their intervals.')
    print(f'Null regions with an effect (FDR .05): {", ".join(false_effects(tables)) or "none"}.')
    effects.to_csv(folder / 'recovered.tsv', sep='\t', index=False, float_format='%.5g')


if __name__ == '__main__':
    main()
