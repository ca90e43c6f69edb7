"""Mean of several series of a session: a toy of scope 'subject'."""

import numpy as np
import pandas as pd

from bids_qsm.applications.contract import Application, Column, Image, Query, Table
from bids_qsm.plotting.maps import Look


def measure(chi: list[np.ndarray], mask: list[np.ndarray], entities: list[dict], flow: list[np.ndarray]):
    """Mean susceptibility over series on one grid (ppm), and a row a series."""
    rows = [
        {'series': one.get('acq', 'n/a'), 'chi': image[inside].mean(), 'flow': other[inside].mean()}
        for image, inside, one, other in zip(chi, mask, entities, flow, strict=True)
    ]
    return np.mean(chi, axis=0), pd.DataFrame(rows)


APPLICATION = Application(
    name='joint',
    title='Mean of the series',
    measure=measure,
    gives=('mean', 'table'),
    extra=(Query('flow', 'flow map', ('cbf',), datatype='perf', align='own'),),
    images=(
        Image(
            'mean',
            'Chimap',
            'Mean susceptibility of the series of a session',
            'ppm',
            look=Look('Mean of the series', 'ppm', window=(-0.1, 0.2)),
        ),
    ),
    tables=(
        Table(
            columns=(
                Column('series', 'Its acq-.'),
                Column('chi', 'Mean over the mask.', 'ppm'),
                Column('flow', 'Mean flow.'),
            )
        ),
    ),
    scope='subject',
    method='Series of a session were averaged.',
)
