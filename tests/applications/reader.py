"""Where the ratio of the toy is high: a toy that uses another application."""

import numpy as np
import pandas as pd

from bids_qsm.applications.contract import Application, Column, Image, Table


def measure(
    mask: np.ndarray,
    toy_ratio: np.ndarray,
    toy_peaks: pd.DataFrame | None,
    participant: dict[str, str | float | None],
    *,
    share: float = 0.5,
):
    """Voxels above a share of the peak, and their number."""
    peak = toy_ratio.max() if toy_peaks is None else toy_peaks['ratio'].max()
    high = mask & (toy_ratio > share * peak)
    row = {'n_voxels': int(high.sum()), 'peak': peak, 'hematocrit': participant.get('hematocrit')}
    levels = high.astype(np.uint8) + mask
    facts = {
        'hematocrit': {'value': participant.get('hematocrit'), 'source': 'participants.tsv'},
        'share': np.float32(share),
        'lowest': np.nan,
    }
    return high, levels, high.astype(np.float32), pd.DataFrame([row]), facts


APPLICATION = Application(
    name='reader',
    title='High flow per iron',
    measure=measure,
    gives=('high', 'levels', 'share', 'table', 'facts'),
    uses=('toy',),
    images=(
        Image('high', 'mask', 'Where flow per iron is high', desc='', entities=(('label', 'high'),)),
        Image('levels', 'dseg', 'Low and high flow per iron', lookup=((1, 'low'), (2, 'high'))),
        Image('share', 'Sharemap', 'Share of high flow per iron', '1', desc=''),
    ),
    tables=(
        Table(
            columns=(
                Column('n_voxels', 'Number of voxels.'),
                Column('peak', 'Highest ratio.'),
                Column('hematocrit', 'Of the participant.'),
            )
        ),
    ),
    method='High flow was outlined.',
)
