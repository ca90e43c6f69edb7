"""Make the data of the tutorials: nobody was scanned.

python examples/simulate.py KIND FOLDER, where KIND is

head: a head with lesions and a calcification, in FOLDER/data.
fmri: a head with a BOLD run, raw and as fMRIPrep leaves it, in FOLDER/data.
parkinson, nbia: tables of regions of a cohort, as the participant level leaves them, in FOLDER/out, and what
  is known of the people in FOLDER/data. Values are drawn, not measured, so that a cohort takes a moment.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from bids_qsm.phantom.bold import BoldProtocol
from bids_qsm.phantom.cohort import REGIONS, SCORES, Effects, Person, draw_people
from bids_qsm.phantom.dataset import Visit, write_dataset
from bids_qsm.phantom.gre import Protocol
from bids_qsm.phantom.head import Lesion

SEED = 7
VOLUMES = {'SN': 1.1, 'GP': 3.6, 'RN': 0.6, 'STN': 0.25, 'Putamen': 9.0, 'Caudate': 7.5, 'Thalamus': 13.0}
"""Of both sides (ml)."""
ERROR = 0.004
"""Standard deviation (ppm) of a regional mean between scans of a person."""
SHAPES = {
    'parkinson': Effects(gp=1.0, sn=1.35, spread=0.15, dystonia=0.0),
    'nbia': Effects(),
}
"""In Parkinson's disease the nigra holds more iron; in NBIA pallidum and nigra, each with its own score."""


def head(folder: Path):
    """Write a head of 2 mm with two lesions, which a mask shows, and a calcification to ``folder/data``."""
    scan = Protocol((2.0, 2.0, 2.0), echo_times=(0.005, 0.012, 0.019, 0.026), rotation=(-12, 0, 4), snr=90)
    lesions = (
        Lesion((-24, -22, 30), 6.0, 0.06, rim=0.06),
        Lesion((27, -44, 22), 5.0, 0.06),
        Lesion((-23, 28, 14), 4.0, -0.5, kind='calcification'),
    )
    visit = Visit('01', None, SEED, scan, 1.5, lesions=lesions)
    people = {'01': {'age': 41, 'sex': 'M', 'group': 'patient'}}
    write_dataset(folder / 'data', [visit], participants=people, seed=SEED, spacing=2.0)


def fmri(folder: Path):
    """Write a coarse head with a BOLD run to ``folder/data``."""
    scan = Protocol((2.5, 2.5, 2.5), echo_times=(0.006, 0.013, 0.020, 0.027), rotation=(8, 0, 0))
    run = BoldProtocol((4.0, 4.0, 4.0), frames=80)
    visit = Visit('01', None, SEED, scan, 1.5, bold=run)
    write_dataset(folder / 'data', [visit], seed=SEED, spacing=2.0)


def cohort(folder: Path, people: Sequence[Person], name: str):
    """Write the tables of ``people`` to ``folder/out`` and what is known of them to ``folder/data``."""
    data, out, rng = folder / 'data', folder / 'out', np.random.default_rng(SEED)
    traits = [{'participant_id': f'sub-{one.subject}', **one.traits} for one in people]
    scores = [score for score in SCORES if name == 'nbia' or score == 'parkinsonism']
    data.mkdir(parents=True)
    columns = ['participant_id', 'group', 'age', 'sex', *scores]
    pd.DataFrame(traits)[columns].to_csv(data / 'participants.tsv', sep='\t', index=False)
    _save(data / 'participants.json', {score: SCORES[score] for score in scores})
    _save(data / 'dataset_description.json', {'Name': f'Drawn: {name}', 'BIDSVersion': '1.10.0'})
    for one in people:
        for session in one.sessions:
            stem = f'sub-{one.subject}_ses-{session.label}'
            table = (
                out / f'sub-{one.subject}' / f'ses-{session.label}' / 'anat' / f'{stem}_seg-nuclei_stats.tsv'
            )
            table.parent.mkdir(parents=True)
            rows = _rows({region: session.chi(region) for region in REGIONS}, rng)
            rows.to_csv(table, sep='\t', index=False)
            _save(table.with_suffix('.json'), {name: {'Description': f'The {name}, drawn.'} for name in rows})
        times = [(f'ses-{s.label}', s.time.isoformat()) for s in one.sessions]
        target = data / f'sub-{one.subject}' / f'sub-{one.subject}_sessions.tsv'
        target.parent.mkdir()
        pd.DataFrame(times, columns=['session_id', 'acq_time']).to_csv(target, sep='\t', index=False)


def _rows(chi: dict[str, float], rng: np.random.Generator) -> pd.DataFrame:
    rows = []
    for region, value in {**chi, 'CSF': 0.019}.items():
        volume = VOLUMES.get(region, 1.0) * np.exp(0.08 * rng.standard_normal())
        mean = value + ERROR * rng.standard_normal()
        rows.append({
            'region': region, 'hemisphere': 'both', 'map': 'chi', 'n_voxels': round(1e3 * volume),
            'volume_mm3': round(1e3 * volume, 1), 'coverage': 1.0, 'mean': round(mean, 6), 'se': ERROR,
            'median': round(mean, 6), 'units': 'ppm', 'reference': 'CSF',
        })  # fmt: skip
    return pd.DataFrame(rows)


def _save(path: Path, content: dict):
    path.write_text(json.dumps(content, indent=2) + '\n')


IMAGES = {'head': head, 'fmri': fmri}


def main(argv: Sequence[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('kind', choices=(*IMAGES, *SHAPES))
    parser.add_argument('folder', type=Path)
    given = parser.parse_args(argv)
    if given.kind in IMAGES:
        IMAGES[given.kind](given.folder)
    else:
        again = 8 if given.kind == 'nbia' else 0
        people = draw_people(SEED, controls=20, patients=20, repeated=again, effects=SHAPES[given.kind])
        cohort(given.folder, people, given.kind)
    print(f'Written to {given.folder}.')


if __name__ == '__main__':
    main()
