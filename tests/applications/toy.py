"""Flow per iron: a toy that shows what one file can hold."""

import numpy as np
import pandas as pd

from bids_qsm.applications.contract import Application, Column, Figure, Image, Query, Table


def measure(
    chi: np.ndarray,
    mask: np.ndarray,
    dseg: np.ndarray,
    labels: pd.DataFrame,
    flow: np.ndarray,
    doses: pd.DataFrame | None,
    *,
    gain: float = 1.0,
):
    """Flow over the size of susceptibility (ml/ppm), and its mean by region."""
    ratio = np.where(mask, gain * flow / (0.1 + np.abs(chi)), 0).astype(np.float32)
    rows = [
        {
            'region': region,
            'hemisphere': side,
            'map': 'ratio',
            'n_voxels': int((dseg == index).sum()),
            'mean': ratio[dseg == index].mean() if (dseg == index).any() else np.nan,
            'units': 'ml/ppm',
            'dose': 0.0 if doses is None else doses['dose'].sum(),
        }
        for index, region, side in zip(labels['index'], labels['region'], labels['hemisphere'], strict=True)
    ]
    whole = {'region': 'Brain', 'hemisphere': 'both', 'map': 'ratio', 'units': 'ml/ppm'}
    rows.append({**whole, 'mean': ratio[mask].mean(), 'n_voxels': int(mask.sum())})
    return ratio, pd.DataFrame(rows)


APPLICATION = Application(
    name='toy',
    title='Flow per iron',
    measure=measure,
    gives=('ratio', 'table'),
    extra=(
        Query('flow', 'flow map', ('cbf',), datatype='perf', align='own', optional=False),
        Query('doses', 'table of doses', ('doses',), datatype='perf', extension='.tsv'),
    ),
    images=(Image('ratio', 'ratiomap', 'Flow over the size of susceptibility', 'ml/ppm'),),
    table=Table(
        maps=(Column('ratio', 'flow over susceptibility', 'ml/ppm'),),
        columns=(Column('dose', 'Sum of doses.', 'mg'),),
    ),
    figures=(Figure('ratio', 'Flow per iron', 'Bright where flow is high and iron low.'),),
    cohort='tidy',
    method='Flow was divided by the size of susceptibility.',
)
