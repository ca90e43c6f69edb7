"""Tabulate the maps over the regions of the atlas and of the participant's own segmentations."""

from functools import partial

import numpy as np
import pandas as pd

from bids_qsm.applications.contract import Application, Figure, Table
from bids_qsm.biomarkers.region_columns import dictionary
from bids_qsm.biomarkers.regions import region_table
from bids_qsm.derivatives.products import PRODUCTS, SYMBOLS
from bids_qsm.plotting.region_charts import plot_regions
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.registry import Need


def measure(
    maps: dict[str, np.ndarray],
    dseg: np.ndarray,
    labels: pd.DataFrame,
    mask: np.ndarray,
    grid: Grid,
    probseg: np.ndarray | None,
    white_matter: np.ndarray | None,
    reference: str,
) -> pd.DataFrame:
    """Tabulate the maps, see `bids_qsm.biomarkers.regions.region_table`."""
    units = {one.column: one.units for one in PRODUCTS.values() if one.column}
    return region_table(
        maps,
        dseg,
        labels,
        mask,
        grid,
        probseg=probseg,
        white_matter=white_matter,
        reference=reference,
        units=units,
    )


APPLICATION = Application(
    name='regions',
    title='Table of regions',
    measure=measure,
    tables=(Table(entities=(), dictionary=dictionary, cohort='tidy'),),
    figures=(
        Figure(
            'regions',
            'Regional means',
            'Mean and one standard deviation inside each region, left and right. Hollow marks lie less than '
            '90 % inside the mask and the field of view; pale ones have the outline of the atlas, at least '
            'in part.',
            draw=partial(plot_regions, symbols=SYMBOLS),
            after='gre2t1w',
        ),
    ),
    scope='labels',
    asked=False,
    memory=Need(0.2, volume=17),
    memory_of_many=Need(0.15, volume=52, anat=4),
)
