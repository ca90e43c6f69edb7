"""Stages of a disease at the group level: from the table of regions and sidecars to contrasts."""

from pathlib import Path

import pandas as pd

from bids_qsm.cohort.observations import some
from bids_qsm.cohort.tables import relative_to
from bids_qsm.entities import entities_of
from bids_qsm.errors import UserError
from bids_qsm.reports.html import read_json

FIELD = 'MagneticFieldStrength'
_SAME = 0.1
"""Most that field strengths (T) of scanners of one kind differ."""


def find_stages(
    long: pd.DataFrame, asked: dict, output_dir: Path, notes: dict[str, list[str]]
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

    Raises
    ------
    UserError
        See `field_strength` and `bids_qsm.cohort.stages.compare_stages`.
    """
    # imported here, as scipy is slow to import
    from bids_qsm.cohort import stages

    if asked['relative_to']:
        long, _ = relative_to(long, asked['relative_to'])
    table, constants, said = stages.compare_stages(
        long,
        asked['stages'],
        field_strength=field_strength(output_dir, list(long['participant_id'].unique())),
        statistic=asked['statistic'],
        controls=asked['controls'] or '',
        relative_to=asked['relative_to'] or '',
    )
    notes['stages'] += said
    return {
        'stages': (table, stages.dictionary()),
        'stage_constants': (constants, stages.constants_dictionary()),
    }


def field_strength(output_dir: Path, participants: list[str]) -> float:
    """Field strength (T) of the maps of participants, from the sidecars of susceptibility.

    Raises
    ------
    UserError
        A sidecar does not state it, or they differ.
    """
    files = [
        path
        for name in participants
        for path in sorted((output_dir / name).glob('**/*_Chimap.json'))
        if not {'space', 'desc'} & set(entities_of(path))
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
    values = sorted(float(value) for value in found.values())
    if values[-1] - values[0] > _SAME:
        raise UserError(
            f'--stages: maps are of {values[0]:g} to {values[-1]:g} T, and iron changes R2* more in higher '
            'fields; name the participants of one field strength by --participant-label.'
        )
    return values[0]
