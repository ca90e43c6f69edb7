"""Check candidates against a CT of the participant, and list calcium that the CT alone shows."""

from functools import reduce

import numpy as np
import pandas as pd
from scipy import ndimage

from bids_qsm.anatomy.transform import apply_affine, resample, spacing_of
from bids_qsm.applications.contract import Application, Figure, Given, Image, Query, Table
from bids_qsm.biomarkers.columns import data_dictionary
from bids_qsm.biomarkers.ct import (
    FARTHEST_MM,
    FEWEST_SEEN,
    MOST_BONE,
    WINDOW,
    Tomogram,
    alignment_problem,
    bone_share,
    filled,
    hounsfield_problem,
    second_alignment,
    seen_share,
)
from bids_qsm.biomarkers.ct_foci import (
    CALCIUM,
    CLASSES,
    FOCI,
    agreement,
    find_dense,
    list_calcium,
    measure_foci,
)
from bids_qsm.biomarkers.localisation import Places
from bids_qsm.plotting.maps import Look
from bids_qsm.recon.registry import Need

QUESTION = 'What does CT say of the candidates?'


def measure(
    ct: Given,
    candidates_candidates: np.ndarray,
    candidates_table: pd.DataFrame,
    magnitude: np.ndarray,
    mask: np.ndarray,
    dseg: np.ndarray,
    labels: pd.DataFrame,
    affine: np.ndarray,
    to_template: list,
) -> tuple:
    """Measure candidates in a CT, and find calcium in it, see `bids_qsm.biomarkers.ct_foci`."""
    to_ct = np.linalg.inv(reduce(lambda chain, one: one @ chain, ct.to_maps))
    # strong sources leave holes in the mask
    brain = ndimage.binary_fill_holes(mask)
    whole = Tomogram(ct.data, ct.affine, to_ct).around(brain, affine)
    seen = seen_share(whole, brain, affine)
    distance = bone = np.nan
    if seen >= FEWEST_SEEN:
        distance = second_alignment(whole, magnitude, brain, affine)
        bone = bone_share(whole, brain, affine)
    problem = alignment_problem(seen, distance, bone)
    facts = {
        'BrainInCT': {'value': round(seen, 3), 'meaning': 'share of the brain that the CT shows'},
        'AlignmentDistance': {
            'value': round(distance, 2),
            'units': 'mm',
            'meaning': 'between its places by the anatomical image and by the magnitude; more than '
            f'{FARTHEST_MM:g} is a failure',
        },
        'BoneInBrainMask': {
            'value': round(bone, 4),
            'meaning': f'share of the brain mask that is bone in the CT; more than {MOST_BONE} is a failure',
        },
        'VoxelOfCT': {'value': spacing_of(ct.affine).round(3).tolist(), 'units': 'mm'},
    }
    foci = pd.DataFrame(
        {
            'candidate': candidates_table['candidate'].astype(int),
            'chi_class': candidates_table['class'].astype(str),
            'chi_sign': candidates_table['sign'].astype(str),
        }
    )
    density = resample(ct.data, ct.affine, mask.shape, affine, [to_ct], cval=-1024)
    if problem:
        if foci.empty:  # a row that says it
            foci = pd.DataFrame([{'candidate': np.nan, 'chi_class': 'n/a', 'chi_sign': 'n/a'}])
        foci = foci.assign(ct_class='n/a', agreement='n/a', reason=problem)
        nothing = pd.DataFrame(columns=[*CALCIUM])
        foci['warning'] = f'CT was not used: {problem}'
        empty = np.zeros(mask.shape, np.int32)
        return density, empty, foci.reindex(columns=[*FOCI, 'warning']), nothing, facts
    dense = find_dense(whole, whole.holds(brain, affine))
    found = measure_foci(candidates_candidates, affine, mask, whole, dense)
    foci = foci.merge(found.rename(columns={'focus': 'candidate'}), on='candidate', how='left')
    foci['agreement'] = agreement(foci['chi_sign'], foci['ct_class'])
    places = Places(dseg, labels, affine, to_template)
    calcium = list_calcium(whole, dense, candidates_candidates, affine, places)
    return density, on_maps(whole, dense.pieces, mask.shape, affine), foci[[*FOCI]], calcium, facts


def on_maps(ct: Tomogram, pieces: np.ndarray, shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """Pieces of a CT on the grid of the maps: voxels whose middle they hold, and that hold one of theirs."""
    found = np.zeros(shape, np.int32)
    voxels = np.argwhere(pieces)
    to_maps = np.linalg.inv(affine) @ np.linalg.inv(ct.to_ct) @ ct.affine
    at = np.rint(apply_affine(to_maps, voxels)).astype(int)
    inside = ((at >= 0) & (at < shape)).all(1)
    found[tuple(at[inside].T)] = pieces[tuple(voxels[inside].T)]
    # voxels of the CT may be smaller or larger than those of the maps
    near = np.argwhere(ndimage.binary_dilation(found > 0, iterations=3))
    at = np.rint(apply_affine(np.linalg.inv(to_maps), near)).astype(int)
    inside = ((at >= 0) & (at < pieces.shape)).all(1)
    held = pieces[tuple(at[inside].T)]
    found[tuple(near[inside][held > 0].T)] = held[held > 0]
    return found


def counts(table: pd.DataFrame) -> pd.DataFrame:
    """Tidy rows of one series: how many candidates CT calls what; NaN where it says nothing of any."""
    classes = table['ct_class'].value_counts()
    nothing = 0 if table.empty or table['ct_class'].isin(CLASSES).any() else np.nan
    return pd.DataFrame(
        {'region': 'Brain', 'hemisphere': 'both', 'map': f'ct_{one}_count', 'mean': classes.get(one, nothing)}
        for one in CLASSES
    ).assign(units='count')


def overview(rows: pd.DataFrame) -> dict:
    """What the cohort's page says of all candidates with a CT."""
    # a row without a candidate says that a CT was not used
    rows = rows[rows['candidate'].notna()]
    if rows.empty:
        return {'question': QUESTION, 'answers': ['There was no candidate where there was a CT.']}
    told = rows['ct_class'].where(rows['ct_class'].isin(CLASSES), 'n/a')
    both = pd.crosstab(rows['chi_class'], told).reset_index()
    agreed = rows['agreement'].value_counts()
    return {
        'question': QUESTION,
        'answers': [
            f'{len(rows)} candidates in {rows["participant_id"].nunique()} participants with CT: '
            f'susceptibility and CT agree in {agreed.get("agree", 0)}, disagree in '
            f'{agreed.get("disagree", 0)}; CT says nothing of {(told == "n/a").sum()}.'
        ],
        'tables': [('Susceptibility and CT', both, 'Rows: susceptibility; columns: CT.')],
    }


APPLICATION = Application(
    name='calcium',
    title='Candidates in CT',
    measure=measure,
    gives=('density', 'calcium', 'table', 'pieces', 'facts'),
    extra=(
        Query(
            'ct',
            title='CT',
            suffix=('ct', 'CT'),
            datatype=('ct', 'anat'),
            align='own',
            window=WINDOW,
            sheared=True,
            problem=hounsfield_problem,
            prepare=filled,
            option='ct',
            outside_bids=True,
            whole=True,
            optional=False,
        ),
    ),
    uses=('candidates',),
    joins=True,
    images=(
        Image(
            'density',
            'HUmap',
            'CT on the grid of the maps',
            'HU',
            desc='CT',
            look=Look('CT', 'HU', window=(0.0, 100.0)),
        ),
        Image('calcium', 'dseg', 'Calcium in CT, numbered as in its table', desc='calcium'),
    ),
    tables=(
        Table(
            dictionary=lambda _: (
                data_dictionary(FOCI) | {'warning': {'Description': 'What is wrong with the CT.'}}
            ),
            shown=(
                *(
                    'candidate',
                    'chi_class',
                    'chi_sign',
                    'ct_class',
                    'agreement',
                    'hu_max',
                    'hu_mean',
                    'hu_surround',
                ),
                'reason',
            ),
            caption='Density of each candidate in CT. Thick slices dilute it: see hu_diluted. Neither CT nor '
            'susceptibility changes what the other says.',
            cohort=counts,
        ),
        Table(
            'pieces',
            title='Calcium in CT',
            dictionary=lambda _: data_dictionary(CALCIUM),
            shown=(
                *('piece', 'candidate', 'physiological', 'x', 'y', 'z', 'nearest_region', 'hemisphere'),
                *('volume_mm3', 'hu_max'),
            ),
            caption='Pieces of 100 HU or more in the brain mask that do not touch bone. Where candidate is '
            'n/a, susceptibility did not show it.',
        ),
    ),
    figures=(
        Figure('calcium', 'Calcium in CT', 'Outlines of calcium in CT over susceptibility.', over='chi'),
    ),
    overview=overview,
    method='A CT was aligned rigidly to the anatomical image by mutual information [@studholme] of densities '
    'from -20 to 100 HU. Candidates were called calcified where it reaches 100 HU within 2 mm of them.',
    memory=Need(0.6, volume=30, anat=60),
)
