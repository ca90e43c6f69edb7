"""A first-level model with nilearn that leaves veins out.

python examples/fmri_without_veins.py FMRIPREP BIDS_QSM EVENTS SUBJECT TASK OUTPUT [--regressors]

FMRIPREP and BIDS_QSM are the outputs of fMRIPrep and of ``bids_qsm ... --fmri``, and EVENTS is the table of
events of the run. Voxels that veins change are not analysed. With --regressors the signal of veins is removed
from all others too: look at ``r_vein_task_max`` in ``*_desc-veins_stats.tsv`` first.
"""

import argparse
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from nilearn.glm.first_level import FirstLevelModel
from nilearn.interfaces.fmriprep import load_confounds
from nilearn.maskers import NiftiMasker


def analyse(
    fmriprep: str,
    bids_qsm: str,
    events: pd.DataFrame,
    subject: str,
    task: str,
    *,
    with_regressors: bool = False,
):
    """z map of all events of a run against rest, outside of veins."""
    stem = f'sub-{subject}/func/sub-{subject}_task-{task}'
    bold = Path(fmriprep, f'{stem}_desc-preproc_bold.nii.gz')
    brain = nib.load(Path(fmriprep, f'{stem}_desc-brain_mask.nii.gz'))
    veins = nib.load(Path(bids_qsm, f'{stem}_label-vein_desc-exclude_mask.nii.gz'))
    inside = (np.asarray(brain.dataobj) > 0) & (np.asarray(veins.dataobj) == 0)
    masker = NiftiMasker(nib.Nifti1Image(inside.astype(np.uint8), brain.affine)).fit()

    # the cosines of fMRIPrep belong to the regressors of veins, and replace the high-pass filter of the model
    confounds, kept = load_confounds(
        str(bold), strategy=('motion', 'high_pass', 'wm_csf'), motion='basic', wm_csf='basic'
    )
    if with_regressors:
        table = pd.read_csv(
            Path(bids_qsm, f'{stem}_desc-confounds_timeseries.tsv'), sep='\t', na_values='n/a'
        )
        confounds = pd.concat([confounds, table.filter(regex='^vein_comp_cor_')], axis=1)
    repetition_time = json.loads(bold.with_name(f'{bold.name[:-7]}.json').read_text())['RepetitionTime']
    model = FirstLevelModel(
        t_r=repetition_time, mask_img=masker, drift_model=None, hrf_model='glover', minimize_memory=True
    )
    model.fit(str(bold), events=events, confounds=confounds, sample_masks=kept)
    names = model.design_matrices_[0].columns
    kinds = events['trial_type'].unique() if 'trial_type' in events else ['dummy']
    return model.compute_contrast(np.isin(names, kinds).astype(float), output_type='z_score')


def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name in ('fmriprep', 'bids_qsm', 'events', 'subject', 'task', 'output'):
        parser.add_argument(name)
    parser.add_argument('--regressors', action='store_true')
    given = parser.parse_args(argv)
    found = analyse(
        given.fmriprep,
        given.bids_qsm,
        pd.read_csv(given.events, sep='\t'),
        given.subject,
        given.task,
        with_regressors=given.regressors,
    )
    found.to_filename(given.output)


if __name__ == '__main__':
    main()
