"""One long table over all subjects, sessions and runs, joined with what is known of the participants."""

import pandas as pd

ENTITY_COLUMNS = {
    'sub': 'participant_id',
    'ses': 'session_id',
    'acq': 'acquisition',
    'ce': 'contrast_agent',
    'rec': 'reconstruction',
    'inv': 'inversion',
    'run': 'run',
    'seg': 'atlas',
}
"""BIDS entity -> column of the long table; others keep the entity's own name."""

_PREFIXED = ('sub', 'ses')
_DESCRIPTIONS = {
    'participant_id': 'Label of the participant, as in participants.tsv.',
    'session_id': 'Label of the session.',
    'acquisition': 'Value of the entity acq- of the series.',
    'contrast_agent': 'Value of the entity ce- of the series.',
    'reconstruction': 'Value of the entity rec- of the series.',
    'inversion': 'Value of the entity inv- of the series.',
    'run': 'Index of the run.',
    'atlas': 'Atlas that the regions come from.',
}


def named(entities) -> dict:
    """Columns and values of the long table that stand for the entities of a series.

    >>> named({'sub': '01', 'acq': 'fast'})
    {'participant_id': 'sub-01', 'acquisition': 'fast'}
    """
    return {
        ENTITY_COLUMNS.get(key, key): f'{key}-{value}' if key in _PREFIXED else str(value)
        for key, value in entities.items()
    }


def gather(tables) -> pd.DataFrame:
    """Stack the tables of many series.

    Columns that name the series (participant_id, session_id, run...) come first, in a fixed order, then the
    union of the tables' own columns; what a series lacks is missing there.

    Parameters
    ----------
    tables : iterable of (dict, DataFrame)
        BIDS entities of the series (``{'sub': '01', 'run': '2'}``) and its table.
    """
    frames, keys = [], ['participant_id']
    for entities, table in tables:
        values = named(entities)
        keys += [column for column in values if column not in keys]
        # the name of the file is what tells series apart: it wins over a column of the same name
        frames.append(table.drop(columns=[c for c in values if c in table]).assign(**values))
    if not frames:
        return pd.DataFrame(columns=['participant_id'])
    order = [c for c in ENTITY_COLUMNS.values() if c in keys]
    order += [c for c in keys if c not in order]
    own = list(dict.fromkeys(c for frame in frames for c in frame if c not in order))
    frames = [frame.reindex(columns=[*order, *own]).astype(object) for frame in frames]
    long = pd.concat(frames, ignore_index=True).infer_objects()
    return long.sort_values(order, kind='stable', ignore_index=True, key=lambda c: c.astype(str))


def join_participants(long, participants=None):
    """Add the columns of participants.tsv to the long table, and say what did not match.

    Parameters
    ----------
    long : DataFrame
        From `gather`.
    participants : DataFrame, optional
        With the column participant_id, labels with or without ``sub-``.

    Returns
    -------
    joined : DataFrame
        All rows of ``long`` in their order.
    notes : list of str
        A sentence for each thing that was missing or renamed.
    """
    if participants is None:
        return long, ['There is no participants.tsv: the table holds no data about the participants.']
    if 'participant_id' not in participants:
        return long, ['participants.tsv has no column participant_id and was left out.']
    notes = []
    known = participants.copy()
    known['participant_id'] = 'sub-' + known['participant_id'].astype(str).str.removeprefix('sub-')
    repeated = sorted(known.loc[known['participant_id'].duplicated(), 'participant_id'].unique())
    if repeated:
        notes.append(f'participants.tsv names {", ".join(repeated)} more than once; the first row counts.')
        known = known.drop_duplicates('participant_id')
    clash = [c for c in known if c in long and c != 'participant_id']
    if clash:
        notes.append(f'Columns of participants.tsv renamed to participant_<name>: {", ".join(clash)}.')
        known = known.rename(columns={c: f'participant_{c}' for c in clash})
    unknown = sorted(set(long['participant_id']) - set(known['participant_id']))
    if unknown:
        notes.append(f'Not in participants.tsv: {", ".join(unknown)}.')
    return long.merge(known, on='participant_id', how='left', validate='many_to_one'), notes


def dictionary(columns, tables, participants) -> dict:
    """Data dictionary of the long table: each column described by the first source that knows it.

    Parameters
    ----------
    columns : iterable of str
        Columns of the long table.
    tables, participants : dict
        Data dictionaries of the series' tables and of participants.tsv (column -> description).
    """
    renamed = {f'participant_{key}': value for key, value in participants.items()}
    own = {key: {'Description': text} for key, text in _DESCRIPTIONS.items()}
    unknown = {'Description': 'Column of participants.tsv, not described there.'}
    entities = {key: {'Description': f'Value of the entity {key}- of the series.'} for key in columns}
    described = {}
    for column in columns:
        sources = (own, tables, participants, renamed)
        found = next((s[column] for s in sources if column in s), None)
        if found is None:
            found = entities[column] if len(column) <= 4 else unknown
        described[column] = found
    return described


def group_column(long) -> str | None:
    """The column that parts the participants, where participants.tsv has one."""
    for column in ('group', 'participant_group'):
        if column in long and long[column].notna().any():
            return column
    return None


def counts(long) -> pd.DataFrame:
    """Participants, sessions and series in each group."""
    group = group_column(long)
    series = long.drop_duplicates(series_columns(long))
    keys = series[group].fillna('n/a').astype(str) if group else pd.Series('all', index=series.index)
    rows = []
    for name, part in series.groupby(keys, sort=True):
        visits = ['participant_id', *(['session_id'] if 'session_id' in part else [])]
        rows.append(
            {
                'group': name,
                'participants': part['participant_id'].nunique(),
                'sessions': len(part.drop_duplicates(visits)),
                'series': len(part),
            }
        )
    return pd.DataFrame(rows, columns=['group', 'participants', 'sessions', 'series'])


def series_columns(long) -> list[str]:
    """Columns that tell one series from another."""
    return [c for c in ENTITY_COLUMNS.values() if c in long and c != 'atlas']


def by_atlas(long) -> list[tuple[str, pd.DataFrame]]:
    """Each atlas with its rows; the name is empty where a table names none."""
    return list(long.groupby(_atlas(long), sort=True))


def references(long) -> dict[str, int]:
    """What susceptibility is relative to, and how many series use it."""
    keys = [*series_columns(long), 'reference']
    series = long[long['map'] == 'chi'].reindex(columns=keys).drop_duplicates()
    names = series['reference'].astype(object).fillna('not stated').astype(str)
    return names.value_counts().sort_index().to_dict()


def summary(long, regions, *, map_name: str = 'chi') -> pd.DataFrame:
    """Series, mean, standard deviation and median over them of the regional means, by atlas and group."""
    group = group_column(long)
    rows = long[(long['map'] == map_name) & (long['hemisphere'] == 'both') & long['region'].isin(regions)]
    rows = rows.assign(
        atlas=_atlas(rows),
        group=rows[group].fillna('n/a').astype(str) if group else 'all',
        mean=pd.to_numeric(rows['mean'], errors='coerce'),
    )
    keys = ['atlas', 'region', 'group']
    table = rows.groupby(keys)['mean'].agg(['count', 'mean', 'std', 'median']).reset_index()
    place = {region: i for i, region in enumerate(regions)}
    table = table.sort_values(keys, key=lambda c: c.map(place) if c.name == 'region' else c)
    return table.rename(columns={'count': 'series', 'std': 'sd'}).reset_index(drop=True)


def lowest_coverage(long) -> pd.DataFrame:
    """Of each series and atlas, the region that lies least inside the mask and field of view."""
    keys = [*series_columns(long), 'atlas']
    rows = long[(long['map'] == 'chi') & long['coverage'].notna()]
    worst = rows.assign(atlas=_atlas(rows), coverage=rows['coverage'].astype(float))
    worst = worst.sort_values('coverage', kind='stable')
    return worst.drop_duplicates(keys)[[*keys, 'region', 'hemisphere', 'coverage']].sort_values(
        keys, ignore_index=True, key=lambda c: c.astype(str)
    )


def _atlas(long):
    return long['atlas'].fillna('').astype(str) if 'atlas' in long else pd.Series('', index=long.index)
