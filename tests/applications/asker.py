"""Count what is high and what is not: a toy that can do without the applications that it uses."""

import numpy as np
import pandas as pd

from bids_qsm.applications.contract import Application, Column, Table


def measure(mask: np.ndarray, reader_high: np.ndarray | None, reader_table: pd.DataFrame | None):
    """Share of the mask that is high; missing where that is not known."""
    share = np.nan if reader_high is None else reader_high[mask].mean()
    counted = np.nan if reader_table is None else reader_table['n_voxels'].sum()
    return pd.DataFrame({'share': [share], 'counted': [counted]})


APPLICATION = Application(
    name='asker',
    title='Share of high flow',
    measure=measure,
    uses=('reader',),
    tables=(Table(columns=(Column('share', 'Share of the mask.'), Column('counted', 'Voxels.'))),),
)
