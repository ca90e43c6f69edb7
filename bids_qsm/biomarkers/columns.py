"""What tables of applications have in common: their data dictionaries, and the regions of tidy ones."""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd


def data_dictionary(columns: Mapping[str, tuple[str, str | None]]) -> dict[str, dict[str, str]]:
    """BIDS data dictionary of columns: name -> description and units, which may be empty or None.

    >>> data_dictionary({'x': ('Place.', 'mm'), 'name': ('Name.', None)})
    {'x': {'Description': 'Place.', 'Units': 'mm'}, 'name': {'Description': 'Name.'}}
    """
    return {
        name: {'Description': text, **({'Units': units} if units else {})}
        for name, (text, units) in columns.items()
    }


def regions_of(
    within: np.ndarray, dseg: np.ndarray, labels: pd.DataFrame
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Region, hemisphere and voxels (bool) inside ``within``: the brain first, then each of an atlas."""
    yield 'Brain', 'both', within
    for (name, side), part in labels.groupby(['region', 'hemisphere'], sort=False):
        yield name, side, within & np.isin(dseg, part['index'])
