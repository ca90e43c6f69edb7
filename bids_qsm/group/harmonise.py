"""Harmonised values of the cohort, and the effects of sites that were taken away."""

import pandas as pd

from bids_qsm.cohort.tables import relative_to
from bids_qsm.group.dictionaries import raw

Found = dict[str, tuple[pd.DataFrame, dict]]
"""Tables of the group level, each with its data dictionary."""


def find_harmonised(
    long: pd.DataFrame, asked: dict, notes: dict[str, list[str]], described: dict
) -> tuple[pd.DataFrame, Found]:
    """Harmonise the values of sites by ComBat.

    Parameters
    ----------
    long : DataFrame
        Table of regions with the columns of the participants.
    asked : dict
        Options: harmonise, model, stages, statistic, controls, relative_to.
    notes : dict of list of str
        Extended by what needs attention.
    described : dict
        Data dictionary of ``long``.

    Returns
    -------
    values : DataFrame
        The long table, relative to the region that was asked for, with harmonised values.
    found : dict
        Its table, and that of site effects.

    Raises
    ------
    UserError
        See `bids_qsm.cohort.harmonise.harmonise`.
    """
    # imported here, as scipy is slow to import
    from bids_qsm.cohort import harmonise

    if asked['relative_to']:
        long, _ = relative_to(long, asked['relative_to'])
    found = harmonise.harmonise(
        long,
        asked['harmonise'],
        model=asked['model'] or '',
        keep=[asked['stages']] if asked['stages'] else [],
        controls=asked['controls'] or '',
        statistic=asked['statistic'],
    )
    notes['sites'] += found.notes
    what = described.get(asked['statistic'], {}).get('Description', '')
    own = {
        **described,
        asked['statistic']: {
            'Description': f'{what} Harmonised by ComBat.'.strip(),
            'Units': 'see column units',
        },
        harmonise.RAW: raw(asked['statistic']),
    }
    unknown = {'Description': 'Column of the table of regions, not described there.'}
    values = found.long
    return values, {
        'harmonised': (values, {column: own.get(column, unknown) for column in values}),
        'sites': (found.effects, harmonise.dictionary()),
    }
