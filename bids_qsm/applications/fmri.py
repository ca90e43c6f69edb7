"""Bring the veins to BOLD runs: masks to exclude them, and regressors of their signal."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from bids_qsm.anatomy.transform import Displacement
from bids_qsm.applications.contract import Application, Bold, Column, Figure, Image, Table
from bids_qsm.biomarkers.vein_fraction import boundary_points, excluded, misfit, pure, share_of_voxels
from bids_qsm.biomarkers.vein_signal import (
    drifts,
    explained,
    gather,
    largest_correlation,
    ratio_of_snr,
    regressors,
    responses,
    steady_from,
)
from bids_qsm.recon.registry import Need

SINUSES = (1, 2, 7)
"""Labels of veins that are sinuses: the superior sagittal, the straight and the transverse ones."""
PURE = 0.3
"""Share of veins from which the signal of a voxel is taken for theirs."""
MEASURED = 0.5
"""Share of a voxel in the field of view of the map of veins above which it counts as free of veins."""
CORRELATED = 0.3
"""Correlation of veins with the task above which their regressors would remove activation."""
REFUSED_MM, REFUSED_COST = 3.0, 0.7
"""Shift of the anatomy that fits better, and boundary cost, from which the run does not fit the anatomy."""

XCP_D = r"""name: veins
description: |
    Nuisance regressors were the six motion parameters, their temporal derivatives and the squares of all,
    the cosines of fMRIPrep, and the components of the signal in veins that bids_qsm found.
confounds:
    preproc_confounds:
        dataset: preprocessed
        query:
            space: null
            cohort: null
            res: null
            den: null
            desc: confounds
            extension: .tsv
            suffix: timeseries
        columns:
        - ^(trans|rot)_[xyz](_derivative1)?(_power2)?$
        - ^cosine\d+$
    vein_confounds:
        dataset: vein
        query:
            space: null
            cohort: null
            res: null
            den: null
            desc: confounds
            extension: .tsv
            suffix: timeseries
        columns:
        - ^vein_comp_cor_\d+$
"""
"""Settings of XCP-D 0.10 or later, for --nuisance-regressors with --datasets vein=<output folder>."""


def measure(
    run: Bold,
    veins_share: np.ndarray,
    veins_veinlabels: np.ndarray,
    affine: np.ndarray,
    *,
    threshold: float = 0.1,
    components: int = 5,
):
    """Share of veins in each voxel of a run, what to exclude, and regressors of their signal.

    Parameters
    ----------
    run : Bold
    veins_share, veins_veinlabels : ndarray
        Share of each voxel that is vein, and labels of veins, on the grid of the maps (``affine``).
    threshold : float
        Share of veins above which a voxel is excluded.
    components : int
        Most components of the signal of veins.

    Returns
    -------
    probability, exclude, grey, variance : ndarray or None
        On the grid of the run: share of veins, mask of what to exclude, grey matter without it, and share of
        the variance of each voxel that the components explain. None where it cannot be made.
    confounds : tuple of DataFrame and dict, or None
    quality : DataFrame
        One row.
    facts : dict
        What the masks and the regressors were made with.
    """
    shape, grid = run.reference.shape, run.affine
    row: dict[str, object] = dict.fromkeys((column.name for column in QUALITY), np.nan)
    row |= {'n_frames': len(run.frames), 'fieldmap': run.has_fieldmap, 'warning': None}
    facts = _facts(threshold, components)
    back = _inverse(run.to_anat)
    row['fit_checked'] = run.white is not None and back is not None
    if run.white is not None and back is not None:
        points, normals = boundary_points(*run.white)
        shift, cost, _ = misfit(run.reference, grid, points, normals, back)
        row |= {'misfit_mm': shift, 'boundary_cost': cost}
        if shift >= REFUSED_MM or not cost < REFUSED_COST:
            row['warning'] = (
                f'The run does not fit the T1w image (shifted by {shift:.0f} mm it fits better, boundary '
                f'cost {cost:.2f}), so no veins are given for it: correct its registration or its distortion.'
            )
            return None, None, None, None, None, pd.DataFrame([row]), facts

    probability = np.clip(np.nan_to_num(veins_share), 0, 1).astype(np.float32)
    is_sinus = np.isin(veins_veinlabels, SINUSES)
    veins, sinuses, known = (
        share_of_voxels(image, affine, shape, grid, run.to_maps)
        for image in (probability, np.where(is_sinus, probability, 0), np.ones_like(probability))
    )
    exclude = excluded(veins, sinuses, threshold=threshold)
    row['voxels_excluded'] = int((exclude & run.mask).sum())
    grey = without = None
    if run.grey is not None:
        grey = share_of_voxels(*run.grey, shape, grid, run.to_anat)
        without = (grey > 0.5) & (known > MEASURED) & ~exclude
        row['vein_fraction_gm'] = float((veins * grey).sum() / grey.sum())
        row['gm_excluded'] = float(exclude[grey > 0.5].mean())
        row['gm_measured'] = float((known * grey).sum() / grey.sum())
    if run.is_raw:
        return veins, exclude, without, None, None, pd.DataFrame([row]), facts

    inside = run.mask | (veins > PURE)
    series = gather(run.frames, inside)
    skip = 0 if run.confounds is None else steady_from(run.confounds)
    basis, of_fmriprep = drifts(run.confounds, len(series), run.repetition_time)
    venous = pure(veins, grey, share=PURE)
    table, about = regressors(
        series, venous[inside], (venous & (sinuses > PURE))[inside], basis, skip=skip, most=components
    )
    parts = [name for name in about if name.startswith('vein_comp_cor_')]
    about |= {
        name: {'Description': _COMPONENT.format(number), **about[name]}
        for number, name in enumerate(parts, start=1)
    }
    row |= {'n_vein_voxels': int(venous.sum()), 'cosines_of_fmriprep': of_fmriprep}
    if 'vein_mean' not in table:
        row['warning'] = 'Too few voxels are veins for regressors; only the masks are given.'
        return veins, exclude, without, None, None, pd.DataFrame([row]), facts

    steady, slow = series[skip:], basis[skip:]
    found = table.filter(regex='^vein_comp_cor_').to_numpy()[skip:]
    variance = np.zeros(shape, np.float32)
    variance[inside] = explained(steady, found, slow)
    if without is not None:
        row['var_explained_gm_mean'] = float(variance[without & inside].mean())
        row['tsnr_vein_ratio'] = ratio_of_snr(steady, venous[inside], without[inside], slow)
    mean = table[['vein_mean']].to_numpy()[skip:]
    whole = steady[:, run.mask[inside]].mean(1, keepdims=True)
    row['r_vein_global_signal'] = largest_correlation(mean, whole, slow)
    if run.events is not None:
        task = responses(run.events, len(series), run.repetition_time, start=run.start_time)[skip:]
        follows = largest_correlation(np.c_[mean, found], task.to_numpy(), slow)
        row['r_vein_task_max'] = follows
        if follows > CORRELATED:
            row['warning'] = (
                f'The signal of veins follows the task (r = {follows:.2f}): its regressors would remove '
                'activation. Exclude veins by the mask, and leave the regressors out.'
            )
    signals = table, about
    return veins, exclude, without, np.maximum(variance, 0), signals, pd.DataFrame([row]), facts


def _facts(threshold: float, components: int) -> dict[str, dict[str, object]]:
    """What the masks and the regressors of a run are made with."""
    stated: dict[str, tuple[float, str]] = {
        'ExcludedShare': (threshold, 'share of veins above which a voxel is excluded'),
        'SinusMargin': (1, 'voxels around sinuses that are excluded too'),
        'RegressorShare': (PURE, 'share of veins above which a voxel gives the signal of veins'),
        'MostComponents': (components, 'components at most; as many as explain half of the variance'),
        'MeasuredShare': (MEASURED, 'share in the field of view of the map above which grey matter counts'),
    }
    return {name: {'value': value, 'meaning': meaning} for name, (value, meaning) in stated.items()}


def _inverse(transforms: Sequence[np.ndarray | Displacement]) -> list[np.ndarray] | None:
    """Transforms of the other direction; None where one is not affine."""
    matrices = [one for one in transforms if not isinstance(one, Displacement)]
    return None if len(matrices) < len(transforms) else [np.linalg.inv(one) for one in reversed(matrices)]


_CONFOUNDS = {
    'vein_mean': 'Mean signal of voxels that are veins.',
    'vein_mean_derivative1': 'Its change from the frame before.',
    'sinus_mean': 'Mean signal of voxels of the superior sagittal, straight and transverse sinuses.',
}
_COMPONENT = (
    'Principal component {} of the signal in veins, after slow drifts were filtered out: put the cosines of '
    'fMRIPrep into the same model.'
)
QUALITY = (
    Column('n_frames', 'Frames of the run.'),
    Column(
        'fieldmap',
        'Whether fMRIPrep corrected the distortion by a field map; n/a before fMRIPrep 23.1, which does not '
        'say.',
    ),
    Column(
        'fit_checked',
        'Whether the fit of the run to the T1w image was checked: not in the space of a template, of a raw '
        'run, or without the white matter of fMRIPrep.',
    ),
    Column('boundary_cost', 'Cost of boundary-based registration, from 0; 1 is chance.'),
    Column('misfit_mm', 'Shift by which the anatomy would fit the run better.', 'mm'),
    Column('voxels_excluded', 'Voxels of the brain that the mask excludes.'),
    Column('gm_excluded', 'Share of grey matter that the mask excludes.'),
    Column('gm_measured', 'Share of grey matter in the field of view of the map of veins.'),
    Column('vein_fraction_gm', 'Share of veins in the volume of grey matter.'),
    Column('n_vein_voxels', 'Voxels that the regressors come from.'),
    Column('cosines_of_fmriprep', 'Whether slow drifts are the cosines of fMRIPrep, or a basis of 128 s.'),
    Column('r_vein_global_signal', 'Correlation (absolute) of the mean of veins with that of the brain.'),
    Column('r_vein_task_max', 'Largest correlation (absolute) of veins with an expected response.'),
    Column('var_explained_gm_mean', 'Mean share of the variance of grey matter that components explain.'),
    Column('tsnr_vein_ratio', 'Temporal signal to noise of veins over that of grey matter.'),
    Column('warning', 'What speaks against the use of masks or regressors.'),
)

_VEIN = (('label', 'vein'),)

APPLICATION = Application(
    name='fmri',
    title='Veins in BOLD runs',
    measure=measure,
    uses=('veins',),
    gives=('probability', 'exclude', 'grey', 'variance', 'confounds', 'quality', 'facts'),
    images=(
        Image('probability', 'probseg', 'Share of veins in each voxel', desc='', entities=_VEIN),
        Image('exclude', 'mask', 'Voxels that veins change', entities=_VEIN),
        Image(
            'grey', 'mask', 'Measured grey matter without veins', desc='devein', entities=(('label', 'GM'),)
        ),
        Image('variance', 'rsquaredmap', 'Share of variance explained by components of veins', desc='veins'),
    ),
    tables=(
        Table(
            'confounds',
            suffix='timeseries',
            columns=tuple(Column(name, about) for name, about in _CONFOUNDS.items()),
        ),
        Table(
            'quality',
            title='Veins in the BOLD run',
            entities=(('desc', 'veins'),),
            columns=QUALITY,
            shown=tuple(
                column.name for column in QUALITY if column.name not in ('n_frames', 'cosines_of_fmriprep')
            ),
            caption='Exclude veins by the mask. Regressors are for runs whose veins do not follow the task.',
        ),
    ),
    figures=(
        Figure(
            'exclude', 'Veins on the run', 'What the mask excludes, on the reference of the run.', 'boldref'
        ),
        Figure(
            'variance',
            'Variance explained by veins',
            'Share of the variance of each voxel that components of the signal in veins explain. In grey '
            'matter it should be near 0.',
        ),
    ),
    scope='run',
    files=(('xcp_d_veins.yaml', XCP_D),),
    method='The share of veins was averaged over the voxels of BOLD runs; regressors are the principal '
    'components of voxels with at least 30 % veins [@compcor].',
    memory=Need(0.3, volume=8, anat=6, run=1),
)
