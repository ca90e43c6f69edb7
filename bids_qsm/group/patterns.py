"""Patterns of the group level: from z-scores and labels, or a table of the user, to tables of similarity."""

from pathlib import Path

import pandas as pd

from bids_qsm.cohort.normative import which_controls
from bids_qsm.cohort.observations import as_text
from bids_qsm.cohort.patterns import compare, dictionary, similarity
from bids_qsm.derivatives.tables import read_input
from bids_qsm.errors import UserError


def find_patterns(
    long: pd.DataFrame, asked: str, found: dict, controls: str, notes: dict[str, list[str]]
) -> dict[str, tuple[pd.DataFrame, dict]]:
    """Tables of the similarity of each participant to patterns.

    Parameters
    ----------
    long : DataFrame
        Table of regions with the columns of the participants.
    asked : str
        Column of the participants, or path of a table of patterns.
    found : dict
        Tables of the analyses so far: z-scores against own controls, or else against iron of 1958.
    controls : str
        Level of the group that is of controls; empty where there are none.
    notes : dict of list of str
        Extended by what needs attention.

    Raises
    ------
    UserError
        There are no z-scores, no such column or file, or groups are too small.
    """
    kind = next((one for one in ('normative', 'published') if one in found), None)
    if kind is None:
        raise UserError(
            f'--patterns {asked} compares z-scores, and there are none: name controls by --controls, or add '
            '--norms iron1958.'
        )
    z = found[kind][0]
    said = ['The z-scores are those against the controls of the study.']
    if kind == 'published':
        said = ['The z-scores are those against iron of 1958, as there are none against own controls.']
    people = long.drop_duplicates('participant_id').set_index('participant_id')
    path = Path(asked)
    if path.suffix:
        if not path.is_file():
            raise UserError(f'--patterns {asked}: there is no such file.')
        table, means, more = compare(z, read_input(path), name=path.name)
        said.append(f'Patterns of {path.name}: as given, without a check of their source.')
    elif asked not in people:
        raise UserError(f'--patterns {asked}: participants.tsv has no column {asked!r}.')
    else:
        labels = people[asked]
        levels = _control_levels(people, labels, controls)
        table, means, more = similarity(z, labels, controls=levels)
    notes['patterns'] += [*said, *more]
    described = dictionary()
    return {
        key: (one, {column: described[column] for column in one})
        for key, one in (('patterns', table), ('pattern_means', means))
    }


def _control_levels(people: pd.DataFrame, labels: pd.Series, controls: str) -> list[str]:
    """Labels whose participants are all controls."""
    if not controls:
        return []
    own = pd.Series(which_controls(people, controls, ''), people.index)
    return [str(name) for name, group in own.groupby(as_text(labels)) if group.all()]
