"""A simulated study of neurodegeneration with brain iron accumulation, with known effects."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from bids_qsm.phantom.dataset import Visit, write_dataset
from bids_qsm.phantom.families import FAMILIES, aged
from bids_qsm.phantom.gre import Protocol
from bids_qsm.phantom.tissue import COMPOSITE, NUCLEI

REGIONS = ('SN', 'GP', 'RN', 'STN', 'Putamen', 'Caudate', 'Thalamus', 'Dentate')
"""Regions that vary between people; effects of group, score and treatment are in `Effects`."""
PROTOCOL = Protocol(
    (2.0, 2.0, 2.0),
    fov=(180.0, 216.0, 160.0),
    echo_times=(0.005, 0.012, 0.019, 0.026),
    rotation=(14.0, 2.0, 0.0),
    snr=90.0,
    phase_format='siemens',
)
"""Low resolution, so that a cohort takes minutes."""
SCORES = {
    'dystonia': {'Description': 'Burke-Fahn-Marsden dystonia scale, movement (0 to 120); patients only'},
    'parkinsonism': {
        'Description': 'Unified Parkinson disease rating scale, part III (0 to 108); patients only'
    },
}


@dataclass(frozen=True)
class Effects:
    """Effects in the population.

    Attributes
    ----------
    gp, sn : float
        Mean factor on the susceptibility of GP and SN in patients; no other region is affected.
    spread : float
        Standard deviation of these factors between patients, independent of each other.
    variation : float
        Relative standard deviation of susceptibility between people, independent by region.
    treated, treated_spread : float
        Mean and standard deviation of the factor on GP between a patient's first and second session.
    dystonia, parkinsonism : float
        Points of the score for each ppm that GP, or SN, lies above normal at the first session.
    noise : float
        Standard deviation of the noise of a score (points).
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
    """A scan: label, time, and factors on the susceptibility of REGIONS in the atlas."""

    label: str
    time: datetime
    factors: Mapping[str, float]

    def chi(self, region: str):
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


def normal(region: str):
    """Susceptibility (ppm) of a region in middle age."""
    return float(np.mean([NUCLEI[part].chi for part in COMPOSITE.get(region, (region,))]))


def draw_people(
    seed: int, *, controls: int = 12, patients: int = 12, repeated: int = 6, effects: Effects | None = None
):
    """Draw the participants of a study.

    Controls and patients are matched in age and sex. Iron of GP, iron of SN and age are independent: the
    factors are quantiles of the normal distribution, in the least correlated of many random orders, so that
    a small study has the effects of the population.

    Parameters
    ----------
    seed, controls, patients, repeated : int
        ``repeated`` of the patients have a second session, one to two years later and after treatment.
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
        # the same ages in both groups, in an independent order
        age = round(20 + 40 * ((n if patient < 0 else patient) + 0.5) / size + rng.uniform(-1.5, 1.5))
        first = {r: aged(r, age) * (1 + effects.variation * rng.standard_normal()) for r in REGIONS}
        noise = effects.noise * rng.standard_normal(2)
        start = datetime(2021, 1, 4, 9) + timedelta(
            days=int(rng.integers(0, 500)), hours=int(rng.integers(0, 9))
        )
        later = timedelta(days=int(rng.integers(365, 730)))
        response = effects.treated + effects.treated_spread * rng.standard_normal()
        scores: tuple[float | None, float | None] = (None, None)
        sessions = [Session('1', start, first)]
        if patient >= 0:
            first['GP'] *= gp[patient]
            first['SN'] *= sn[patient]
            above = [sessions[0].chi(region) - normal(region) for region in ('GP', 'SN')]
            ideal = np.multiply(above, (effects.dystonia, effects.parkinsonism)) + noise
            dystonia, parkinsonism = (float(np.clip(round(2 * s) / 2, 0, 108)) for s in ideal)
            scores = dystonia, parkinsonism
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


def _independent(rng: np.random.Generator, number: int):
    """Two rows of normal quantiles, shuffled for least correlation with each other and with their order."""
    quantiles = stats.norm.ppf((np.arange(number) + 0.5) / number)
    tries = [[rng.permutation(quantiles), rng.permutation(quantiles)] for _ in range(500)]
    if number < 3:
        return tries[0]
    order = np.arange(number)
    together = [np.abs(np.corrcoef([*pair, order])[np.triu_indices(3, 1)]).max() for pair in tries]
    return tries[int(np.argmin(together))]


def truth_table(people: Sequence[Person]):
    """True susceptibility (ppm) of the nuclei of each participant and session, with all other variables.

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


def write_cohort(
    path: str | Path,
    people: Sequence[Person],
    *,
    seed: int = 0,
    protocol: Protocol = PROTOCOL,
    t1w: float = 2.0,
    spacing: float = 1.0,
    family: str = 'atlas',
):
    """Simulate images of the participants as a BIDS dataset, with the truth in ``derivatives/truth``.

    In addition to `write_dataset`, it writes the scores in participants.tsv, a sessions.tsv of each subject
    with the times of acquisition, and derivatives/truth/cohort.tsv (`truth_table`). Only the first session
    has a T1-weighted image.

    Parameters
    ----------
    path : path-like
    people : sequence of Person
    seed : int
        Of the anatomies, the noise and the poses.
    protocol : Protocol
    t1w : float
        Voxel size (mm) of the T1-weighted images.
    spacing : float
        See make_head.
    family : str
        Of the heads; age and disease of the participants take the place of its own.

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
    # the factors hold all differences between people except for shape
    own = replace(FAMILIES[family], ages=None, diseases=(('', 1.0),))
    traits = {p.subject: p.traits for p in people}
    write_dataset(path, visits, participants=traits, seed=seed, spacing=spacing, variation=0.0, family=own)
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


def _describe_scores(path: Path):
    known = json.loads(path.read_text())
    path.write_text(json.dumps({**known, **SCORES}, indent=2) + '\n')
