"""Stages of a disease at the group level: from the table of regions and sidecars to contrasts."""

from pathlib import Path
from statistics import median

import pandas as pd

from bids_qsm.biomarkers.iron_myelin import FIELD as BASE
from bids_qsm.cohort.observations import some
from bids_qsm.cohort.tables import ENTITY_COLUMNS, named, relative_to, series_columns
from bids_qsm.entities import entities_of
from bids_qsm.errors import UserError
from bids_qsm.layout.checks import SAME_SCANNER
from bids_qsm.reports.html import read_json

FIELD = 'MagneticFieldStrength'


def find_stages(
    long: pd.DataFrame,
    asked: dict,
    output_dir: Path,
    notes: dict[str, list[str]],
    *,
    values: pd.DataFrame | None = None,
) -> dict[str, tuple[pd.DataFrame, dict]]:
    """Tables of the contrasts of stages and of the constants, each with its data dictionary.

    Parameters
    ----------
    long : DataFrame
        Table of regions with the columns of the participants.
    asked : dict
        Options: stages, statistic, controls, relative_to.
    output_dir : Path
        Output dataset.
    notes : dict of list of str
        Extended by what needs attention.
    values : DataFrame, optional
        Harmonised, already relative to the region that was asked for.

    Raises
    ------
    UserError
        See `field_strength` and `bids_qsm.cohort.stages.compare_stages`.
    """
    # imported here, as scipy is slow to import
    from bids_qsm.cohort import stages

    if values is not None:
        long = values
    elif asked['relative_to']:
        long, _ = relative_to(long, asked['relative_to'])
    table, constants, said = stages.compare_stages(
        long,
        asked['stages'],
        field_strength=field_strength(output_dir, long),
        statistic=asked['statistic'],
        controls=asked['controls'] or '',
        relative_to=asked['relative_to'] or '',
    )
    notes['stages'] += said
    return {
        'stages': (table, stages.dictionary()),
        'stage_constants': (constants, stages.constants_dictionary()),
    }


def field_strength(output_dir: Path, long: pd.DataFrame) -> float:
    """Field strength (T) of the series with R2*, from their sidecars of susceptibility.

    That of 3 T scanners is 2.89 to 3.00 T: the median counts. Where there is no R2* no constant is used, and
    it is `bids_qsm.biomarkers.iron_myelin.FIELD`.

    Raises
    ------
    UserError
        A sidecar does not state it, or they differ.
    """
    rates = long[long['map'] == 'R2star']
    if rates.empty:
        return BASE
    series = {_series(row) for row in rates[series_columns(rates)].drop_duplicates().to_dict('records')}
    files = [
        path
        for name in rates['participant_id'].unique()
        for path in sorted((output_dir / name).glob('**/*_Chimap.json'))
        if not {'space', 'desc'} & set(entities_of(path)) and _series(named(entities_of(path))) in series
    ]
    found = {path.name: read_json(path, {}).get(FIELD) for path in files}
    lacking = [name for name, value in found.items() if not isinstance(value, int | float)]
    if lacking or not found:
        raise UserError(
            f'--stages takes {FIELD} (T) from the sidecars of susceptibility, and '
            f'{some(lacking) + " lacks it" if lacking else "there are none"}; run the participant level '
            f'again, '
            'or add it there.'
        )
    values = [float(value) for value in found.values()]
    if max(values) > (1 + SAME_SCANNER) * min(values):
        raise UserError(
            f'--stages: maps are of {min(values):g} to {max(values):g} T, and iron changes R2* more in '
            'higher fields; name the participants of one field strength by --participant-label.'
        )
    return median(values)


def _series(columns: dict) -> frozenset:
    """Columns that identify a series, those that are stated."""
    return frozenset(
        (name, str(value))
        for name, value in columns.items()
        if name in ENTITY_COLUMNS.values() and pd.notna(value)
    )
