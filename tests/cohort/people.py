"""Long tables of made-up cohorts."""

import numpy as np
import pandas as pd

from bids_qsm.cohort.tables import gather, join_participants

REGIONS = ('GP', 'SN', 'RN')


def cohort(
    n=24, *, seed=0, sessions=1, runs=1, effect=0.03, slope=0.0004, tau=0.01, sigma=0.005,
    hemispheres=('both',), maps=('chi',), regions=REGIONS,
):  # fmt: skip
    """Controls and patients by turns; patients have ``effect`` more in the first region."""
    rng = np.random.default_rng(seed)
    known = pd.DataFrame(
        {
            'participant_id': [f'sub-{i:03d}' for i in range(n)],
            'group': np.where(np.arange(n) % 2, 'patient', 'control'),
            'age': rng.uniform(20, 70, n).round(1),
            'sex': rng.permutation(np.where(np.arange(n) < n // 2, 'F', 'M')),
            'score': rng.normal(20, 5, n).round(1),
        }
    )
    rows = [(r, h, m) for r in regions for h in hemispheres for m in maps]
    frame = pd.DataFrame(rows, columns=['region', 'hemisphere', 'map'])
    frame = frame.assign(
        units=frame['map'].map({'chi': 'ppm', 'R2star': '1/s'}), coverage=1.0, reference='CSF'
    )
    own = (frame['region'] == regions[0]).to_numpy()
    series = []
    for person in known.itertuples():
        centre = 0.1 + effect * own * (person.group == 'patient') + slope * person.age
        centre = centre + rng.normal(0, tau, len(frame))
        for session in range(sessions):
            for run in range(runs):
                entities = {'sub': person.participant_id[4:], 'seg': 'a'}
                entities |= {'ses': str(session + 1)} if sessions > 1 else {}
                entities |= {'run': str(run + 1)} if runs > 1 else {}
                series.append((entities, frame.assign(mean=centre + rng.normal(0, sigma, len(frame)))))
    return join_participants(gather(series), known)[0]


def values(long, region='GP'):
    """Mean of a region (both sides, chi) by participant."""
    rows = long[(long['region'] == region) & (long['hemisphere'] == 'both') & (long['map'] == 'chi')]
    return rows.groupby('participant_id')['mean'].mean()


def known(long):
    """One row a participant."""
    return long.drop_duplicates('participant_id').set_index('participant_id')
