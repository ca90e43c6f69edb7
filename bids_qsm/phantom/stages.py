"""Simulated cohorts over stages of a disease in which tissue gains iron and loses myelin.

Regional means are drawn, not images. The constants that make susceptibility and R2* of iron and myelin are
drawn for each cohort, and are not those that the analysis assumes; tissue of healthy people is not quite that
of 1958.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from bids_qsm.biomarkers.iron import expected_iron

REGIONS = ('GP', 'SN', 'RN', 'Putamen', 'Caudate', 'Thalamus', 'Dentate', 'White matter')
WHITE = 'White matter'
_GREY_MYELIN, _WHITE_MYELIN, _WHITE_IRON = 0.07, 0.27, 4.2
_YOUNGEST_ADULT = 30.0


@dataclass(frozen=True)
class Stages:
    """A cohort: effects of the stages, people, and errors of measurement.

    Attributes
    ----------
    iron, myelin : tuple of float
        Change of iron (mg/100 g) of all regions and of the myelin fraction of white matter, by stage; grey
        matter loses the same share of its own.
    number : int
        People of each stage.
    varies : float
        Standard deviation of a person's effect over the mean effect.
    iron_varies, shared : float
        Relative standard deviation of iron between healthy people: of each region, and common to all.
    myelin_varies : float
        Standard deviation of the myelin fraction of white matter; a quarter of it in grey matter.
    zero, chi_noise, rate_noise : float
        Errors of one person: of the zero of susceptibility and of its mean in a region (ppm), of R2* (1/s).
    years : float
        How much older each stage is than the one before.
    curvature : float
        Most that slopes of R2* and susceptibility over iron change over 20 mg/100 g, over the mean slope.
    sites : int
        Scanners, with shifts of 5 ppb and 1 /s; people of all stages are at each.
    spread : float
        Widths of the ranges of constants over those of `draw_constants`.
    """

    iron: tuple[float, ...] = (0.0, 1.0, 2.0, 4.0)
    myelin: tuple[float, ...] = (0.0, -0.02, -0.05, -0.10)
    number: int = 20
    varies: float = 0.3
    iron_varies: float = 0.10
    shared: float = 0.05
    myelin_varies: float = 0.02
    zero: float = 0.005
    chi_noise: float = 0.003
    rate_noise: float = 0.5
    years: float = 2.0
    curvature: float = 0.15
    sites: int = 1
    spread: float = 1.0


NULL = Stages(iron=(0.0,) * 4, myelin=(0.0,) * 4)
"""Stages that differ in nothing but age."""


@dataclass(frozen=True)
class Cohort:
    """What was drawn.

    Attributes
    ----------
    tables : list of (dict, DataFrame)
        Entities of each series and its table of regions.
    people : DataFrame
        participants.tsv: participant_id, stage, age, sex, site.
    constants : dict of str to float
        'chi_zero', 'chi_iron', 'chi_myelin' (ppm), 'R2star_zero', ... (1/s).
    truth : DataFrame
        Mean change from stage 0 of each region and stage: iron (mg/100 g) and mvf.
    """

    tables: list[tuple[dict, pd.DataFrame]]
    people: pd.DataFrame
    constants: dict[str, float]
    truth: pd.DataFrame


def draw_constants(rng: np.random.Generator, spread: float = 1.0) -> dict[str, float]:
    """Constants of a scanner and its reconstruction at 3 T; ``spread`` scales their ranges."""
    ranges = {
        'chi_zero': (-0.012, 0.012),
        'chi_iron': (0.0045, 0.0080),
        'chi_myelin': (-0.16, -0.075),
        'R2star_zero': (8.5, 13.5),
        'R2star_iron': (1.0, 2.0),
        'R2star_myelin': (15.0, 40.0),
    }
    drawn = {name: (sum(ends) / 2, float(rng.uniform(*ends))) for name, ends in ranges.items()}
    return {name: middle + spread * (value - middle) for name, (middle, value) in drawn.items()}


def healthy(region: str, age: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Iron (mg/100 g) and myelin fraction of healthy adults."""
    if region == WHITE:
        return np.full(len(age), _WHITE_IRON), _WHITE_MYELIN - 0.0006 * np.maximum(age - 45, 0)
    iron = expected_iron(region, np.maximum(age, _YOUNGEST_ADULT))
    return iron, np.full(len(age), _GREY_MYELIN)


def draw_stages(cohort: Stages, seed: int) -> Cohort:
    """Draw the people of a cohort, and their regional means of susceptibility and R2*."""
    rng = np.random.default_rng([seed, 57])
    constants = draw_constants(rng, cohort.spread)
    bend = rng.uniform(-1, 1, 2) * cohort.curvature
    stage = np.repeat(np.arange(len(cohort.iron)), cohort.number)
    n = len(stage)
    age = np.clip(rng.normal(55, 8, n) + cohort.years * stage, 30, 85)
    site = rng.integers(0, cohort.sites, n)
    people = pd.DataFrame(
        {
            'participant_id': [f'sub-{i + 1:03d}' for i in range(n)],
            'stage': stage,
            'age': age.round(1),
            'sex': rng.choice(['F', 'M'], n),
            'site': [f'scanner{one + 1}' for one in site],
        }
    )
    zero = constants['chi_zero'] + cohort.zero * rng.standard_normal(n) + 0.005 * site
    common = cohort.shared * rng.standard_normal(n)
    amount = 1 + cohort.varies * rng.standard_normal(n)
    gained, lost = (np.array(one)[stage] * amount for one in (cohort.iron, cohort.myelin))
    rows = []
    for region in REGIONS:
        iron, myelin = healthy(region, age)
        # tissue of these people, in these outlines, is not quite that of the literature
        iron = iron * (1 + 0.07 * rng.standard_normal()) * (1 + common)
        iron = iron * (1 + cohort.iron_varies * rng.standard_normal(n)) + gained
        white = region == WHITE
        share = 1.0 if white else _GREY_MYELIN / _WHITE_MYELIN
        myelin = myelin + (0.025 if white else 0.015) * rng.standard_normal()
        myelin = myelin + cohort.myelin_varies * (1.0 if white else 0.25) * rng.standard_normal(n)
        myelin = np.maximum(myelin + share * lost, 0)
        bent = iron[:, None] * (1 + bend * (iron[:, None] / 20 - 0.5))
        chi = zero + constants['chi_iron'] * bent[:, 0] + constants['chi_myelin'] * myelin
        rate = constants['R2star_zero'] + constants['R2star_iron'] * bent[:, 1]
        rate = rate + constants['R2star_myelin'] * myelin + 1.0 * site
        chi = chi + cohort.chi_noise * rng.standard_normal(n)
        rate = rate + cohort.rate_noise * rng.standard_normal(n)
        rows += [(i, region, 'chi', chi[i], 'ppm') for i in range(n)]
        rows += [(i, region, 'R2star', rate[i], '1/s') for i in range(n)]
    whole = pd.DataFrame(rows, columns=['person', 'region', 'map', 'mean', 'units'])
    whole = whole.assign(hemisphere='both', coverage=1.0, n_voxels=500, reference='CSF')
    tables = [
        ({'sub': f'{i + 1:03d}', 'seg': 'nuclei'}, part.drop(columns='person').reset_index(drop=True))
        for i, part in whole.groupby('person')
    ]
    truth = [
        {
            'region': region,
            'stage': k,
            'iron': cohort.iron[k],
            'mvf': cohort.myelin[k] * (1.0 if region == WHITE else _GREY_MYELIN / _WHITE_MYELIN),
        }
        for region in REGIONS
        for k in range(1, len(cohort.iron))
    ]
    return Cohort(tables, people, constants, pd.DataFrame(truth))


def write_stages(root: str | Path, cohort: Stages, *, seed: int) -> tuple[Path, Path]:
    """Write a cohort as the participant level leaves it: ``root/data`` and ``root/out``, for ``group``."""
    data, out = Path(root) / 'data', Path(root) / 'out'
    drawn = draw_stages(cohort, seed)
    about = {column: {'Description': f'The {column}, simulated.'} for column in drawn.tables[0][1]}
    for entities, table in drawn.tables:
        folder = out / f'sub-{entities["sub"]}' / 'anat'
        folder.mkdir(parents=True)
        path = folder / f'sub-{entities["sub"]}_seg-nuclei_stats.tsv'
        table.to_csv(path, sep='\t', index=False, na_rep='n/a')
        path.with_suffix('.json').write_text(json.dumps(about))
        of_map = path.with_name(f'sub-{entities["sub"]}_Chimap.json')
        of_map.write_text(json.dumps({'MagneticFieldStrength': 3.0, 'Units': 'ppm'}))
    data.mkdir(parents=True)
    drawn.people.to_csv(data / 'participants.tsv', sep='\t', index=False)
    described = {'stage': {'Description': 'Stage of the disease, 0 is healthy.'}}
    (data / 'participants.json').write_text(json.dumps(described))
    about_data = {'Name': 'Stages of a disease, simulated', 'BIDSVersion': '1.10.0'}
    (data / 'dataset_description.json').write_text(json.dumps(about_data))
    return data, out
