"""Simulated trials of treatments that take metal from the brain: tables of visits with known slopes.

Regional values are drawn, not images, so that a whole trial takes a moment. Tissue shrinks, and what metal is
left is in less of it: the mean may rise while the total falls.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

_DAYS = 365.25
_START = pd.Timestamp('2021-02-01T09:00:00')


@dataclass(frozen=True)
class Course:
    """A region over time.

    Attributes
    ----------
    level, spread : float
        Mean and standard deviation between people of susceptibility at the first visit (ppb).
    volume : float
        Of both sides (ml).
    metal : Mapping of str to float
        Change a year of metal by arm, as ppb in the volume of the first visit.
    varies : float
        Standard deviation between people of that change (ppb a year).
    atrophy : Mapping of str to float
        Share of the volume that is lost a year, by arm.
    """

    level: float
    spread: float
    volume: float
    metal: Mapping[str, float]
    varies: float
    atrophy: Mapping[str, float]


@dataclass(frozen=True)
class Trial:
    """Arms with their number of participants, visits (years), regions, and the error of measurement.

    Attributes
    ----------
    sdw : float
        Within-subject standard deviation of a scan (ppb).
    sdw_volume : float
        The same of volume, as a share of it.
    retests : int
        Participants of each arm who are scanned twice at the first visit.
    late : float
        Standard deviation of the time of a later visit (years).
    """

    arms: Mapping[str, int]
    regions: Mapping[str, Course]
    visits: tuple[float, ...] = (0.0, 0.75, 1.5)
    sdw: float = 3.0
    sdw_volume: float = 0.01
    retests: int = 6
    late: float = 0.03
    about: str = field(default='', compare=False)

    def truth(self, region: str, arm: str) -> dict[str, float]:
        """True change a year of mean (ppb), total (ppb ml) and volume (ml): lines through planned visits."""
        of, t = self.regions[region], np.array(self.visits)
        metal, left = of.level + of.metal[arm] * t, 1 - of.atrophy[arm] * t
        return {
            'chi': float(np.polyfit(t, metal / left, 1)[0]),
            'chi_total': float(np.polyfit(t, metal * of.volume, 1)[0]),
            'volume': float(np.polyfit(t, left * of.volume, 1)[0]),
        }


def _still(level: float, volume: float, arms: tuple[str, ...], *, spread: float = 10.0, atrophy: float = 0.0):
    """A region whose metal does not change."""
    return Course(level, spread, volume, dict.fromkeys(arms, 0.0), 2.0, dict.fromkeys(arms, atrophy))


_WD = ('standard care', 'chelation')
WILSON = Trial(
    {'standard care': 20, 'chelation': 20},
    {
        'Putamen': Course(
            110.0, 20.0, 8.0, {'standard care': 0.0, 'chelation': -5.5}, 2.0, dict.fromkeys(_WD, 0.045)
        ),
        'Caudate': Course(
            90.0, 15.0, 6.5, {'standard care': 0.0, 'chelation': -3.5}, 2.0, dict.fromkeys(_WD, 0.035)
        ),
        'GP': _still(160.0, 3.2, _WD, spread=20.0, atrophy=0.02),
        'Thalamus': _still(40.0, 13.0, _WD, atrophy=0.02),
        'SN': _still(150.0, 0.9, _WD, spread=15.0),
    },
    about='Wilson disease with atrophy; chelation on top of standard care',
)
"""Chelation takes metal from the striatum at the speed at which atrophy concentrates it."""

_NBIA = ('placebo', 'deferiprone')
DEFERIPRONE = Trial(
    {'placebo': 12, 'deferiprone': 24},
    {
        'GP': Course(
            280.0, 40.0, 3.0, {'placebo': 4.0, 'deferiprone': -45.0}, 12.0, dict.fromkeys(_NBIA, 0.01)
        ),
        'SN': Course(
            190.0, 25.0, 0.9, {'placebo': 2.0, 'deferiprone': -12.0}, 6.0, dict.fromkeys(_NBIA, 0.0)
        ),
        'Putamen': _still(55.0, 8.5, _NBIA),
        'Caudate': _still(50.0, 7.0, _NBIA),
        'Thalamus': _still(20.0, 13.5, _NBIA),
    },
    about='Pantothenate-kinase-associated neurodegeneration; deferiprone or placebo, two to one',
)
"""Deferiprone takes iron from the pallidum."""
TRIALS = {'wilson': WILSON, 'deferiprone': DEFERIPRONE}


def draw_trial(trial: Trial, seed: int) -> tuple[list[tuple[dict, pd.DataFrame]], pd.DataFrame, pd.DataFrame]:
    """Draw the tables of regions of all sessions, participants.tsv and the rows of the sessions.tsv files.

    Returns
    -------
    tables : list of (dict, DataFrame)
        Entities of each series and its table of regions.
    participants, sessions : DataFrame
        Sessions have acq_time, and visit, which two sessions of a retest share.
    """
    rng = np.random.default_rng([seed, 41])
    tables, people, sessions = [], [], []
    for arm, number in trial.arms.items():
        for n in range(number):
            name = f'{len(people) + 1:03d}'
            age = round(float(rng.uniform(8, 40)), 1)
            people.append(
                {'participant_id': f'sub-{name}', 'arm': arm, 'age': age, 'sex': rng.choice(['F', 'M'])}
            )
            own = {
                region: (
                    rng.normal(of.level, of.spread),
                    rng.normal(of.metal[arm], of.varies),
                    of.volume * np.exp(0.08 * rng.standard_normal()),
                )
                for region, of in trial.regions.items()
            }
            start = _START + pd.Timedelta(days=int(rng.integers(0, 400)))
            for v, planned in enumerate(trial.visits):
                time = planned + (trial.late * rng.standard_normal() if v else 0.0)
                again = ('a', 'b') if v == 0 and n < trial.retests else ('',)
                for k, repeat in enumerate(again):
                    label = f'{round(12 * planned):02d}m{repeat}'
                    when = start + pd.Timedelta(days=round(_DAYS * time) + k)
                    row = {'participant_id': f'sub-{name}', 'session_id': f'ses-{label}', 'visit': v + 1}
                    sessions.append(row | {'acq_time': when.isoformat()})
                    tables.append(
                        ({'sub': name, 'ses': label, 'seg': 'nuclei'}, _table(trial, arm, own, time, rng))
                    )
    return tables, pd.DataFrame(people), pd.DataFrame(sessions)


def _table(trial: Trial, arm: str, own: dict, time: float, rng: np.random.Generator):
    """Regional means and volumes of one scan."""
    rows = []
    for region, (level, metal, volume) in own.items():
        left = 1 - trial.regions[region].atrophy[arm] * time
        mean = (level + metal * time) / left + trial.sdw * rng.standard_normal()
        size = volume * left * (1 + trial.sdw_volume * rng.standard_normal())
        rows.append({
            'region': region, 'hemisphere': 'both', 'map': 'chi', 'n_voxels': round(1e3 * size),
            'volume_mm3': round(1e3 * size, 1), 'coverage': 1.0, 'mean': mean / 1e3, 'median': mean / 1e3,
            'units': 'ppm', 'reference': 'CSF',
        })  # fmt: skip
    return pd.DataFrame(rows)


def write_trial(root: str | Path, trial: Trial, *, seed: int) -> tuple[Path, Path]:
    """Write a trial as the participant level leaves it: ``root/data`` and ``root/out``, for ``group``."""
    data, out = Path(root) / 'data', Path(root) / 'out'
    tables, people, sessions = draw_trial(trial, seed)
    about = {column: {'Description': f'The {column}, simulated.'} for column in tables[0][1]}
    for entities, table in tables:
        folder = out / f'sub-{entities["sub"]}' / f'ses-{entities["ses"]}' / 'anat'
        folder.mkdir(parents=True)
        path = folder / f'sub-{entities["sub"]}_ses-{entities["ses"]}_seg-nuclei_stats.tsv'
        table.to_csv(path, sep='\t', index=False, na_rep='n/a')
        path.with_suffix('.json').write_text(json.dumps(about))
    for name, rows in sessions.groupby('participant_id'):
        (data / name).mkdir(parents=True)
        rows.drop(columns='participant_id').to_csv(
            data / name / f'{name}_sessions.tsv', sep='\t', index=False
        )
    people.to_csv(data / 'participants.tsv', sep='\t', index=False)
    described = {'arm': {'Description': 'Arm of the trial.'}, 'age': {'Description': 'Age.', 'Units': 'year'}}
    (data / 'participants.json').write_text(json.dumps(described))
    (data / 'dataset_description.json').write_text(json.dumps({'Name': trial.about, 'BIDSVersion': '1.10.0'}))
    return data, out
