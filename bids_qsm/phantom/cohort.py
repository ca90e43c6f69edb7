"""A simulated study of neurodegeneration with brain iron accumulation, whose every effect is known."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from bids_qsm.phantom.dataset import Visit, write_dataset
from bids_qsm.phantom.gre import Protocol
from bids_qsm.phantom.tissue import COMPOSITE, NUCLEI

REGIONS = ('SN', 'GP', 'RN', 'STN', 'Putamen', 'Caudate', 'Thalamus', 'Dentate')
"""What differs between people; what groups, scores and treatment change is in `Effects`."""
IRON = {
    'GP': (21.41, 0.09, 0.37),
    'Putamen': (14.62, 0.04, 0.46),
    'Caudate': (9.66, 0.05, 0.33),
}
"""Iron (mg/100 g) a (1 - exp(-b age)) + c, Hallgren & Sourander (1958), J Neurochem 3:41.
doi:10.1111/j.1471-4159.1958.tb12607.x"""
MIDDLE_AGE = 45.0
PROTOCOL = Protocol(
    (2.0, 2.0, 2.0),
    fov=(180.0, 216.0, 160.0),
    echo_times=(0.005, 0.012, 0.019, 0.026),
    rotation=(14.0, 2.0, 0.0),
    snr=90.0,
    phase_format='siemens',
)
"""Small, so that a cohort is a matter of minutes."""
SCORES = {
    'dystonia': {'Description': 'Burke-Fahn-Marsden dystonia scale, movement (0 to 120); patients only'},
    'parkinsonism': {
        'Description': 'Unified Parkinson disease rating scale, part III (0 to 108); patients only'
    },
}


@dataclass(frozen=True)
class Effects:
    """What is true of the population.

    Attributes
    ----------
    gp, sn : float
        Mean factor on the susceptibility of patients' GP and SN; no other region knows of the disease.
    spread : float
        Standard deviation of these factors between patients, independent of each other.
    variation : float
        Standard deviation of susceptibility between people, relative, of each region by itself.
    treated, treated_spread : float
        Mean and standard deviation of the factor on GP between a patient's first and second session.
    dystonia, parkinsonism : float
        Points of the score for each ppm that GP, or SN, lies above normal at the first session.
    noise : float
        Standard deviation of what else decides a score (points).
    """

    gp: float = 2.0
    sn: float = 1.8
    spread: float = 0.35
    variation: float = 0.06
    treated: float = 0.75
    treated_spread: float = 0.04
    dystonia: float = 300.0
    parkinsonism: float = 300.0
    noise: float = 4.0


@dataclass(frozen=True)
class Session:
    """A scan: its label, when it was, and factors on the susceptibility of REGIONS as of the atlas's."""

    label: str
    time: datetime
    factors: Mapping[str, float]

    def chi(self, region):
        """Susceptibility (ppm) of a region."""
        return normal(region) * self.factors[region]


@dataclass(frozen=True)
class Person:
    """A participant; the scores of controls are None."""

    subject: str
    group: str
    age: int
    sex: str
    dystonia: float | None
    parkinsonism: float | None
    sessions: tuple[Session, ...]

    @property
    def traits(self):
        """The columns of participants.tsv; a score of a control is missing."""
        named = {name: getattr(self, name) for name in ('group', 'age', 'sex', *SCORES)}
        return {name: 'n/a' if value is None else value for name, value in named.items()}


def normal(region):
    """Susceptibility (ppm) of a region in middle age."""
    return float(np.mean([NUCLEI[part].chi for part in COMPOSITE.get(region, (region,))]))


def aged(region, age):
    """Susceptibility of a region at an age relative to middle age: iron gathers in the basal ganglia."""
    if region not in IRON:
        return 1.0
    a, b, c = IRON[region]
    return (a * (1 - np.exp(-b * age)) + c) / (a * (1 - np.exp(-b * MIDDLE_AGE)) + c)


def draw_people(seed, *, controls=12, patients=12, repeated=6, effects=None):
    """Draw the participants of a study.

    Controls and patients are alike in age and sex. Which patients have much iron in GP says nothing of their
    SN, nor age of either: the factors are quantiles of the normal distribution in the order that correlates
    least of many, so that a small study holds the effects of the population.

    Parameters
    ----------
    seed, controls, patients, repeated : int
        ``repeated`` of the patients come a second time, one to two years later, treated meanwhile.
    effects : Effects, optional
        The defaults unless given.

    Returns
    -------
    list of Person
        Controls first.
    """
    effects = effects or Effects()
    rng = np.random.default_rng([seed, 24])
    disease = _independent(rng, patients)
    gp, sn = effects.gp + effects.spread * disease[0], effects.sn + effects.spread * disease[1]
    again = set(rng.choice(patients, repeated, replace=False).tolist())
    people = []
    for n in range(controls + patients):
        patient = n - controls
        size = controls if patient < 0 else patients
        # the same ages in both groups, in an order that is independent of everything else
        age = round(20 + 40 * ((n if patient < 0 else patient) + 0.5) / size + rng.uniform(-1.5, 1.5))
        first = {r: aged(r, age) * (1 + effects.variation * rng.standard_normal()) for r in REGIONS}
        noise = effects.noise * rng.standard_normal(2)
        start = datetime(2021, 1, 4, 9) + timedelta(
            days=int(rng.integers(0, 500)), hours=int(rng.integers(0, 9))
        )
        later = timedelta(days=int(rng.integers(365, 730)))
        response = effects.treated + effects.treated_spread * rng.standard_normal()
        scores, sessions = (None, None), [Session('1', start, first)]
        if patient >= 0:
            first['GP'] *= gp[patient]
            first['SN'] *= sn[patient]
            above = [sessions[0].chi(region) - normal(region) for region in ('GP', 'SN')]
            ideal = np.multiply(above, (effects.dystonia, effects.parkinsonism)) + noise
            scores = tuple(float(np.clip(round(2 * s) / 2, 0, 108)) for s in ideal)
            if patient in again:
                sessions.append(Session('2', start + later, {**first, 'GP': first['GP'] * response}))
        people.append(
            Person(
                f'{n + 1:02d}',
                'control' if patient < 0 else 'patient',
                age,
                'FM'[n % 2],
                *scores,
                tuple(sessions),
            )
        )
    return people


def _independent(rng, number):
    """Two rows of normal quantiles, shuffled to go as little as may be with each other and with the place."""
    quantiles = stats.norm.ppf((np.arange(number) + 0.5) / number)
    tries = [[rng.permutation(quantiles), rng.permutation(quantiles)] for _ in range(500)]
    if number < 3:
        return tries[0]
    order = np.arange(number)
    together = [np.abs(np.corrcoef([*pair, order])[np.triu_indices(3, 1)]).max() for pair in tries]
    return tries[int(np.argmin(together))]


def truth_table(people):
    """Susceptibility (ppm) that each participant's nuclei have at each session, with what else is known.

    Returns
    -------
    DataFrame
        Columns participant_id, session_id, acq_time, years (since the first session), group, age, sex,
        dystonia, parkinsonism and REGIONS.
    """
    rows = []
    for person in people:
        for session in person.sessions:
            since = (session.time - person.sessions[0].time).total_seconds() / (365.25 * 86400)
            rows.append(
                {
                    'participant_id': f'sub-{person.subject}',
                    'session_id': f'ses-{session.label}',
                    'acq_time': session.time.isoformat(),
                    'years': round(since, 4),
                    **person.traits,
                    **{region: round(session.chi(region), 6) for region in REGIONS},
                }
            )
    return pd.DataFrame(rows).replace('n/a', np.nan).infer_objects()


def region_tables(people, seed, *, noise_ppm=0.004, atlas='nuclei'):
    """Tables of regions as the participant level would write them, had it measured with this noise.

    For tests of statistics: nothing is imaged. Only what statistics read is there.

    Parameters
    ----------
    people : sequence of Person
    seed : int
    noise_ppm : float
        Standard deviation of a regional mean (ppm).
    atlas : str

    Yields
    ------
    entities : dict
        BIDS entities of the table.
    table : DataFrame
    """
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


def write_cohort(path, people, *, seed=0, protocol=PROTOCOL, t1w=2.0, spacing=1.0, nuclei_mm=0.0):
    """Image the participants and write them as a BIDS dataset, with what is true in ``derivatives/truth``.

    Beside what `write_dataset` writes there are the scores in participants.tsv, a sessions.tsv of each
    subject with the times of acquisition, and in derivatives/truth cohort.tsv (`truth_table`). Only the first
    session has a T1-weighted image.

    Parameters
    ----------
    path : path-like
    people : sequence of Person
    seed : int
        Of the anatomies, the noise and how people lie.
    protocol : Protocol
    t1w : float
        Voxel size (mm) of the T1-weighted images.
    spacing, nuclei_mm : float
        See make_head.

    Returns
    -------
    Path
        The dataset.
    """
    path = Path(path)
    visits = [
        Visit(p.subject, s.label, 1000 * seed + n, protocol, t1w if s.label == '1' else None, s.factors)
        for n, p in enumerate(people, 1)
        for s in p.sessions
    ]
    # the factors hold all that differs between people but for their shape
    anatomy = {'spacing': spacing, 'variation': 0.0, 'nuclei_mm': nuclei_mm}
    traits = {p.subject: p.traits for p in people}
    write_dataset(path, visits, participants=traits, seed=seed, **anatomy)
    _describe_scores(path / 'participants.json')
    truth = truth_table(people)
    for subject, rows in truth.groupby('participant_id'):
        target = path / subject / f'{subject}_sessions'
        rows[['session_id', 'acq_time']].to_csv(f'{target}.tsv', sep='\t', index=False)
        times = {'acq_time': {'Description': 'When the session began'}}
        Path(f'{target}.json').write_text(json.dumps(times, indent=2) + '\n')
    folder = path / 'derivatives' / 'truth'
    truth.to_csv(folder / 'cohort.tsv', sep='\t', index=False, na_rep='n/a')
    (folder / '.bidsignore').write_text('cohort.tsv\n')
    return path


def _describe_scores(path):
    known = json.loads(path.read_text())
    path.write_text(json.dumps({**known, **SCORES}, indent=2) + '\n')
