"""Made-up output datasets of a cohort, with known effects, for the tests of the group level."""

import json

import numpy as np
import pandas as pd

from bids_qsm.app.options import Options
from bids_qsm.group.analyse import FILES
from bids_qsm.group.dictionaries import dictionaries
from bids_qsm.phantom.cohort import REGIONS

CHI = {'SN': 0.11, 'GP': 0.13, 'RN': 0.10, 'Putamen': 0.04, 'Caudate': 0.045, 'Thalamus': 0.02, 'CSF': 0.01}


def write_cohort(root, *, n=24, repeated=6, atlases=('nuclei',), lesions=True, candidates=True, seed=0):
    """Write ``root/data`` and ``root/out``: half are patients, in whom GP and SN hold more iron.

    Dystonia goes with GP, parkinsonism with SN; in ``repeated`` patients GP falls by 0.04 ppm in two years.
    """
    rng = np.random.default_rng(seed)
    data, out = root / 'data', root / 'out'
    people = []
    for i in range(n):
        name, is_patient = f'sub-{i + 1:03d}', i % 2 == 1
        own = {region: chi + rng.normal(0, 0.008) for region, chi in CHI.items()}
        own['GP'] += (0.06 + rng.normal(0, 0.02)) * is_patient
        own['SN'] += (0.05 + rng.normal(0, 0.02)) * is_patient
        age = rng.uniform(20, 75)
        own['Putamen'] += 0.0004 * (age - 45)
        people.append(
            {
                'participant_id': name,
                'group': 'patient' if is_patient else 'control',
                'age': round(age, 1),
                'sex': rng.choice(['F', 'M']),
                'dystonia': round(100 * (own['GP'] - 0.13) + rng.normal(0, 1), 2) if is_patient else 0,
                'parkinsonism': round(100 * (own['SN'] - 0.11) + rng.normal(0, 1), 2) if is_patient else 0,
            }
        )
        again = is_patient and i // 2 < repeated
        sessions = ('1', '2') if again else ('1',)
        for session in sessions:
            changed = {**own, 'GP': own['GP'] - 0.04 * (session == '2')}
            series = f'{name}_ses-{session}'
            anat = out / name / f'ses-{session}' / 'anat'
            anat.mkdir(parents=True)
            for atlas in atlases:
                _write_regions(anat / f'{series}_seg-{atlas}_stats.tsv', changed, rng)
            if lesions and is_patient:
                _write_lesions(anat / f'{series}_label-lesion_stats.tsv', rng)
            if candidates and i % 4 == 0:
                _write_candidates(anat / f'{series}_label-candidate_stats.tsv', rng)
            figures = out / name / 'figures'
            figures.mkdir(exist_ok=True)
            finding = {'what': 'Coverage', 'found': 'low', 'level': 'warning'} if i == 2 else None
            content = {
                'facts': {'Echoes': '5', 'Voxel size': '1 x 1 x 1 mm'},
                'findings': [finding] if finding else [],
            }
            (figures / f'{series}_desc-findings.json').write_text(json.dumps(content))
        (data / name).mkdir(parents=True)
        if again:
            times = pd.DataFrame(
                {'session_id': ['ses-1', 'ses-2'], 'acq_time': ['2020-01-01T10:00:00', '2022-01-01T10:00:00']}
            )
            times.to_csv(data / name / f'{name}_sessions.tsv', sep='\t', index=False)
    table = pd.DataFrame(people)
    table.to_csv(data / 'participants.tsv', sep='\t', index=False, na_rep='n/a')
    (data / 'participants.json').write_text(json.dumps({'age': {'Description': 'Age.', 'Units': 'year'}}))
    (out / 'logs').mkdir()
    record = {'version': '1.2.3', 'started': '2026-01-01T00:00:00+00:00', 'failures': [], 'methods': []}
    (out / 'logs' / 'sub-001.json').write_text(json.dumps(record))
    return data, out


def _write_regions(path, chi, rng):
    rows = []
    for region, value in chi.items():
        for side in ('L', 'R', 'both') if region != 'CSF' else ('both',):
            for name, mean, units in (
                ('chi', value + rng.normal(0, 0.002), 'ppm'),
                ('R2star', 15 + 150 * value, '1/s'),
            ):
                rows.append(
                    {
                        'region': region,
                        'hemisphere': side,
                        'map': name,
                        'n_voxels': 300,
                        'volume_mm3': 500.0,
                        'coverage': 1.0,
                        'mean': round(mean, 5),
                        'sd': 0.02,
                        'median': round(mean, 5),
                        'units': units,
                        'reference': 'brain' if name == 'chi' else None,
                    }
                )
    table = pd.DataFrame(rows)
    table.to_csv(path, sep='\t', index=False, na_rep='n/a')
    columns = {column: {'Description': f'The {column}.'} for column in table}
    path.with_suffix('.json').write_text(json.dumps(columns))


def _write_lesions(path, rng):
    rows = [{'source': 'lesions.nii.gz', 'lesion': None, 'reason': 'the mask is empty', 'volume_mm3': 0.0}]
    if rng.uniform() < 0.8:
        rows = [
            {
                'source': 'lesions.nii.gz',
                'lesion': number + 1,
                'reason': 'outside the field of view' if number == 3 else None,
                'volume_mm3': round(float(np.exp(rng.normal(4, 1))), 1),
                'chi_mean': round(contrast, 4) if number < 3 else None,
                'chi_surround': 0.0 if number < 3 else None,
                'sign': ('paramagnetic' if contrast > 0 else 'diamagnetic') if number < 3 else None,
                'reference': 'brain',
            }
            for number, contrast in enumerate(rng.normal(0.02, 0.04, rng.integers(1, 5)))
        ]
    table = pd.DataFrame(
        rows,
        columns=['source', 'lesion', 'reason', 'volume_mm3', 'chi_mean', 'chi_surround', 'sign', 'reference'],
    )
    table.to_csv(path, sep='\t', index=False, na_rep='n/a')
    path.with_suffix('.json').write_text(json.dumps({c: {'Description': f'The {c}.'} for c in table}))


def _write_candidates(path, rng):
    classes = ['microbleed', 'calcification'][: rng.integers(0, 3)]
    n = len(classes)
    table = pd.DataFrame(
        {'class': classes, 'x': [1.0] * n, 'confidence': [0.8] * n, 'mars_region': ['frontal'] * n},
        columns=['class', 'x', 'confidence', 'mars_region'],
    )
    table.to_csv(path, sep='\t', index=False, na_rep='n/a')
    path.with_suffix('.json').write_text(json.dumps({c: {'Description': f'The {c}.'} for c in table}))


def region_tables(people, seed, *, noise_ppm=0.004, atlas='nuclei'):
    """(entities, table of regions) of each session of simulated people: the truth with noise on each mean."""
    rng = np.random.default_rng([seed, 25])
    for person in people:
        for session in person.sessions:
            rows = []
            for region in REGIONS:
                sides = session.chi(region) + noise_ppm * np.sqrt(2) * rng.standard_normal(2)
                for hemisphere, value in (('L', sides[0]), ('R', sides[1]), ('both', sides.mean())):
                    rows.append(
                        {
                            'region': region,
                            'hemisphere': hemisphere,
                            'map': 'chi',
                            'units': 'ppm',
                            'n_voxels': 200,
                            'coverage': 1.0,
                            'mean': value,
                            'median': value,
                            'reference': 'CSF',
                        }
                    )
            yield {'sub': person.subject, 'ses': session.label, 'seg': atlas}, pd.DataFrame(rows)


def options(data, out, **settings):
    """Of the group level."""
    return Options.from_settings({'bids_dir': data, 'output_dir': out, 'level': 'group', **settings})


def table(path):
    """A table that was written."""
    return pd.read_csv(path, sep='\t', na_values=['n/a'])


def assert_described(out, key):
    """Beside a table of ``group/`` each column is described, as the documentation does.

    Two tables also have columns of the study: harmonised values those of the table of regions, predictions
    those that name the unit.
    """
    path = out / FILES[key]
    described, known = json.loads(path.with_suffix('.json').read_text()), dictionaries()[key]
    assert list(described) == list(table(path).columns), key
    assert all(len(one['Description']) > 3 for one in described.values()), key
    if key in ('harmonised', 'classification_predictions'):
        assert set(known) <= set(described), key
    else:
        assert set(described) <= set(known), key
