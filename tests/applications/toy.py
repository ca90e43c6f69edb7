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
    """Flow over the size of susceptibility (ml/ppm), its mean by region, and where it is highest."""
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
    highest = np.unravel_index(ratio.argmax(), ratio.shape)
    peaks = pd.DataFrame([dict(zip('ijk', highest, strict=True), ratio=ratio[highest])])
    return ratio, pd.DataFrame(rows), peaks


def counts(peaks: pd.DataFrame) -> pd.DataFrame:
    """Tidy rows of one series: the highest ratio."""
    row = {'region': 'Brain', 'hemisphere': 'both', 'map': 'peak', 'mean': peaks['ratio'].max(), 'units': ''}
    return pd.DataFrame([row])


def draw(peaks: pd.DataFrame) -> str:
    """A dot at the place of each peak."""
    dots = ''.join(f'<circle cx="{i}" cy="{j}" r="1"/>' for i, j in zip(peaks['i'], peaks['j'], strict=True))
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 40 40">{dots}</svg>'


APPLICATION = Application(
    name='toy',
    title='Flow per iron',
    measure=measure,
    gives=('ratio', 'table', 'peaks'),
    extra=(
        Query('flow', 'flow map', ('cbf',), datatype='perf', align='own', optional=False),
        Query('doses', 'table of doses', ('doses',), datatype='perf', extension='.tsv'),
    ),
    images=(Image('ratio', 'ratiomap', 'Flow over the size of susceptibility', 'ml/ppm'),),
    tables=(
        Table(
            maps=(Column('ratio', 'flow over susceptibility', 'ml/ppm'),),
            columns=(Column('dose', 'Sum of doses.', 'mg'),),
            cohort='tidy',
        ),
        Table(
            'peaks',
            title='Peaks of flow per iron',
            columns=(
                *(Column(axis, f'Voxel {axis}.') for axis in 'ijk'),
                Column('ratio', 'Value.', 'ml/ppm'),
            ),
            shown=('ratio',),
            caption='The brightest voxel.',
            cohort=counts,
        ),
    ),
    figures=(
        Figure('ratio', 'Flow per iron', 'Bright where flow is high and iron low.'),
        Figure('where', 'Where flow per iron peaks', 'A dot a peak.', draw=draw, table='peaks'),
    ),
    method='Flow was divided by the size of susceptibility.',
)
