"""Veins by a threshold: what the application fmri is tested with, as its own finder takes long."""

import numpy as np

from bids_qsm.applications.contract import Application, Figure, Image


def measure(chi: np.ndarray, mask: np.ndarray):
    """All that is above 0 ppm by half, near the midline as the sagittal sinus."""
    share = np.clip(0.5 + chi / 0.1, 0, 1) * mask
    labels = np.zeros(chi.shape, np.int32)
    middle = chi.shape[0] // 2
    labels[middle - 2 : middle + 2] = 1
    return share.astype(np.float32), np.where(share > 0.5, labels, 0)


APPLICATION = Application(
    name='veins',
    title='Veins',
    measure=measure,
    gives=('share', 'veinlabels'),
    images=(Image('share', 'probseg', 'Veins'), Image('veinlabels', 'dseg', 'Labels of veins', desc='veins')),
    figures=(Figure('veinlabels', 'Veins', 'Outlines of veins.', over='swi'),),
)
