"""Mean of several series of a session: a toy of scope 'subject'."""

import numpy as np
import pandas as pd

from bids_qsm.applications.contract import Application, Column, Image, Table


def measure(chi: list[np.ndarray], mask: list[np.ndarray], entities: list[dict]):
    """Mean susceptibility over series on one grid (ppm), and a row a series."""
    rows = [
        {'series': one.get('acq', 'n/a'), 'chi': image[inside].mean()}
        for image, inside, one in zip(chi, mask, entities, strict=True)
    ]
    return np.mean(chi, axis=0), pd.DataFrame(rows)


APPLICATION = Application(
    name='joint',
    title='Mean of the series',
    measure=measure,
    gives=('mean', 'table'),
    images=(Image('mean', 'Chimap', 'Mean susceptibility of the series of a session', 'ppm'),),
    table=Table(columns=(Column('series', 'Its acq-.'), Column('chi', 'Mean over the mask.', 'ppm'))),
    scope='subject',
    method='Series of a session were averaged.',
)
