"""One long table of all subjects, sessions and runs, joined with participants, sessions and scans.tsv."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile

import numpy as np
import pandas as pd

from bids_qsm.entities import entities_of
from bids_qsm.errors import UserError

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
PROTOCOL = ('acquisition', 'contrast_agent', 'reconstruction', 'inversion')
"""Columns of the acquisition: series that differ in them are not repeats."""

VALUES = ('mean', 'mean_weighted', 'median', 'mean_pv', 'core_mean', 'core_median')
"""What may stand for the value of a region."""
SHIFTED = (*VALUES, 'p5', 'p95')
"""Statistics of a region that move with the zero of susceptibility."""
WHOLE = ('mean', 'mean_weighted', 'median', 'mean_positive', 'mean_pv')
"""Statistics of a region that the tissue at its border enters."""
BORDER = 'border_effect'
"""Column: change of the mean by the error of the border."""
MEASURES: tuple[str, ...] = (
    'region',
    'hemisphere',
    'index',
    'map',
    'n_voxels',
    'volume_mm3',
    'coverage',
    'core',
    'units',
)
MEASURES += ('reference', 'sd', 'mean_positive', 'core_voxels', 'core_sd', 'note', *SHIFTED)
ERRORS = ('se', 'se_weighted', 'core_se', 'se_pv')
"""Standard errors of statistics that move with the zero of susceptibility."""
ZEROS: tuple[str, ...] = ('against_csf', 'against_white_matter', 'against_brain')
ZEROS += (*(f'se_{name}' for name in ZEROS), 'zero_se')
"""Susceptibility relative to the reference regions, and the errors of these, whatever the zero of the map."""
MEASURES += (*ERRORS, *ZEROS, 'source', 'confidence', 'moved_mm', 'volume_ratio', 'border_mm', BORDER)
"""Columns of the tables of regions; all others but the atlas describe the series or its participant."""

_PREFIXED = ('sub', 'ses')
DESCRIPTIONS = {
    'participant_id': 'Label of the participant, as in participants.tsv.',
    'session_id': 'Label of the session.',
    'acquisition': 'Value of the entity acq- of the series.',
    'contrast_agent': 'Value of the entity ce- of the series.',
    'reconstruction': 'Value of the entity rec- of the series.',
    'inversion': 'Value of the entity inv- of the series.',
    'run': 'Index of the run.',
    'atlas': 'Atlas that the regions come from.',
}
"""Descriptions of the columns of `ENTITY_COLUMNS`."""
_TOGETHER = 500
"""Tables that are stacked at a time."""
_LEAST_COVERAGE = 0.5
"""Least measured share of a region of reference."""


def named(entities: Mapping[str, str]) -> dict:
    """Columns and values of the long table for the entities of a series.

    >>> named({'sub': '01', 'acq': 'fast'})
    {'participant_id': 'sub-01', 'acquisition': 'fast'}
    """
    return {
        ENTITY_COLUMNS.get(key, key): f'{key}-{value}' if key in _PREFIXED else str(value)
        for key, value in entities.items()
    }


def gather(tables: Iterable[tuple[Mapping[str, str], pd.DataFrame]]) -> pd.DataFrame:
    """Stack the tables of many series.

    Columns that name the series (participant_id, session_id, run...) come first, in a fixed order, then the
    union of the tables' own columns; what a series lacks is missing there.

    Parameters
    ----------
    tables : iterable of (dict, DataFrame)
        BIDS entities of the series (``{'sub': '01', 'run': '2'}``) and its table.
    """
    kinds, keys, named_by = defaultdict(list), ['participant_id'], []
    parts: list[_Part] = []
    for number, (entities, table) in enumerate(tables):
        values = named(entities)
        keys += [column for column in values if column not in keys]
        # entities of the file name take precedence over a column of the same name
        twice = [c for c in values if c in table]
        frame = table.drop(columns=twice) if twice else table
        named_by.append(values)
        # tables of one kind are stacked as they are: thousands of them do not become Python objects
        members = kinds[(*frame.columns, *frame.dtypes)]
        members.append((number, frame))
        if len(members) == _TOGETHER:
            parts.append(_Part.of(members))
            members.clear()
    if not named_by:
        return pd.DataFrame(columns=['participant_id'])
    order = [c for c in ENTITY_COLUMNS.values() if c in keys]
    order += [c for c in keys if c not in order]
    parts += [_Part.of(members) for members in kinds.values() if members]
    kinds.clear()
    parts.sort(key=lambda part: part.first)
    own = list(dict.fromkeys(c for part in parts for c in part.columns if c not in order))
    stated = {c: np.array([values.get(c, np.nan) for values in named_by], object) for c in order}
    # rows in the order of the entities, a missing one last; of those alike, in the order of the tables
    texts = [[(pd.isna(v), str(v)) for v in stated[c]] for c in order]
    place = np.empty(len(named_by), int)
    place[sorted(range(len(named_by)), key=lambda i: [column[i] for column in texts])] = range(len(named_by))
    at = np.concatenate([part.numbers for part in parts])
    rows = np.argsort(place[at], kind='stable')
    at = at[rows]
    columns = {c: pd.Series(stated[c][at]).infer_objects() for c in order}
    columns |= {c: _stacked(parts, c, rows) for c in own}
    return pd.DataFrame(columns, copy=False)


@dataclass
class _Part:
    """Tables of one kind, stacked: their columns, the number of the table of each row, and the first one."""

    columns: dict[str, pd.Series]
    numbers: np.ndarray
    first: int

    @classmethod
    def of(cls, members: list[tuple[int, pd.DataFrame]]):
        numbers = np.repeat([number for number, _ in members], [len(frame) for _, frame in members])
        whole = pd.concat([frame for _, frame in members], ignore_index=True)
        # each column by itself, so that it can be let go of
        return cls({c: whole[c].copy() for c in whole}, numbers, members[0][0])


def _stacked(parts: list[_Part], column: str, rows: np.ndarray) -> pd.Series:
    """Take one column out of all parts, in the order of ``rows``; that of a part without it is missing."""
    found = [
        part.columns.pop(column)
        if column in part.columns
        else pd.Series(np.nan, range(len(part.numbers)), dtype=object)
        for part in parts
    ]
    if len({one.dtype for one in found}) > 1:
        found = [one.astype(object) for one in found]
    return pd.concat(found, ignore_index=True).iloc[rows].reset_index(drop=True).infer_objects()


def join_participants(long: pd.DataFrame, participants: pd.DataFrame | None = None):
    """Add the columns of participants.tsv to the long table, with notes on what did not match.

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
        return long, ['There is no participants.tsv: the table has no data about the participants.']
    if 'participant_id' not in participants:
        return long, ['participants.tsv has no column participant_id and was left out.']
    notes = []
    known = participants.copy()
    known['participant_id'] = 'sub-' + known['participant_id'].astype(str).str.removeprefix('sub-')
    repeated = sorted(known.loc[known['participant_id'].duplicated(), 'participant_id'].unique())
    if repeated:
        notes.append(f'participants.tsv names {", ".join(repeated)} more than once; the first row counts.')
        known = known.drop_duplicates('participant_id')
    # entities come from file names alone, including those that no file has
    taken = {*long, *ENTITY_COLUMNS.values()} - {'participant_id'}
    clash = [c for c in known if c in taken]
    if clash:
        notes.append(f'Columns of participants.tsv renamed to participant_<name>: {", ".join(clash)}.')
        known = known.rename(columns={c: f'participant_{c}' for c in clash})
    unknown = sorted(set(long['participant_id']) - set(known['participant_id']))
    if unknown:
        notes.append(f'Not in participants.tsv: {", ".join(unknown)}.')
    place = pd.Index(known['participant_id']).get_indexer(long['participant_id'])
    # at once, as columns that are added one by one lie in pieces
    own = known.drop(columns='participant_id').reset_index(drop=True)
    more = {column: own[column].reindex(place).set_axis(long.index) for column in own}
    joined = pd.concat([long, pd.DataFrame(more, index=long.index)], axis=1)
    group = group_column(joined)
    if group and pd.api.types.is_float_dtype(joined[group]):
        # with missing groups whole numbers become floats: write 1.0 as 1, as in the file
        joined[group] = joined[group].astype(object).map(lambda code: f'{code:g}', na_action='ignore')
    return joined, notes


def join_sessions(long: pd.DataFrame, sessions: pd.DataFrame | None = None):
    """Add the columns of the sessions.tsv files to the long table, with notes on what did not match.

    A value of a session (an age, a score) takes precedence over that of participants.tsv.

    Parameters
    ----------
    long : DataFrame
        From `join_participants`.
    sessions : DataFrame, optional
        Rows of all sessions.tsv files, with the columns participant_id and session_id, labels with or without
        ``sub-`` and ``ses-``.

    Returns
    -------
    joined : DataFrame
        All rows of ``long`` in their order.
    notes : list of str
    """
    if sessions is None or sessions.empty:
        return long, []
    keys = ['participant_id', 'session_id']
    missing = [key for key in keys if key not in sessions]
    if missing:
        return long, [f'sessions.tsv has no column {" and ".join(missing)} and was left out.']
    if 'session_id' not in long:
        return long, ['sessions.tsv was left out: no series has a session.']
    known, notes = sessions.copy(), []
    for key, prefix in zip(keys, _PREFIXED, strict=True):
        known[key] = f'{prefix}-' + known[key].astype(str).str.removeprefix(f'{prefix}-')
    twice = known.duplicated(keys)
    if twice.any():
        named_twice = ', '.join(sorted({f'{p} {s}' for p, s in known.loc[twice, keys].to_numpy()}))
        notes.append(f'sessions.tsv names {named_twice} more than once; the first row counts.')
        known = known[~twice]
    here = long[keys].drop_duplicates()
    here = here[here['session_id'].notna()]
    unknown = here.merge(known[keys], on=keys, how='left', indicator=True)
    unknown = unknown[unknown['_merge'] == 'left_only']
    if len(unknown):
        told = ', '.join(f'{p} {s}' for p, s in unknown[keys].to_numpy()[:5])
        notes.append(
            f'Not in sessions.tsv: {told}{f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""}.'
        )
    return _overlay(long, known, keys, 'sessions.tsv', notes)


def join_scans(long: pd.DataFrame, scans: pd.DataFrame | None = None):
    """Add when each series was acquired (column acq_time) from the scans.tsv files.

    The time of a series is that of its own file; where no file matches (phase and magnitude may be listed
    under other names), the earliest time of its session.

    Parameters
    ----------
    long : DataFrame
        From `gather`, `join_participants` or `join_sessions`; an acq_time that is there is kept where
        scans.tsv states none.
    scans : DataFrame, optional
        Rows of all scans.tsv files with the columns filename and acq_time. The entities of the series are
        read from the file name.

    Returns
    -------
    joined : DataFrame
        All rows of ``long`` in their order.
    notes : list of str
    """
    if scans is None or scans.empty:
        return long, []
    missing = [column for column in ('filename', 'acq_time') if column not in scans]
    if missing:
        return long, [f'scans.tsv has no column {" and ".join(missing)} and was left out.']
    files = scans['filename'].astype(str)
    known = pd.DataFrame([named(entities_of(file)) for file in files], index=scans.index)
    known['acq_time'] = scans['acq_time'].astype(object)
    known = known[parse_times(known['acq_time']).notna()].sort_values('acq_time', kind='stable')
    if known.empty or 'participant_id' not in known:
        return long, ['scans.tsv states no acq_time that can be read.']
    visit = [c for c in ('participant_id', 'session_id') if c in long]
    joined, notes = long, []
    for keys in (visit, series_columns(long)):
        # a series without run- matches only files without run-
        times = known.reindex(columns=[*keys, 'acq_time']).drop_duplicates(keys)
        joined, notes = _overlay(joined, times, keys, 'scans.tsv', notes, said=False)
    lacking = joined.loc[joined['acq_time'].isna(), 'participant_id'].nunique()
    if lacking:
        notes.append(f'scans.tsv states no acq_time for {lacking} participants.')
    return joined, notes


def parse_times(column: pd.Series) -> pd.Series:
    """Acquisition times of BIDS as timestamps; anything else is missing."""
    # a bare number is not a time, though pandas would read it as one
    stated = column.astype(object).map(lambda value: value if isinstance(value, str | datetime) else None)
    return pd.to_datetime(stated, errors='coerce', format='ISO8601', utc=True)


def _overlay(
    long: pd.DataFrame,
    known: pd.DataFrame,
    keys: list[str],
    name: str,
    notes: list[str],
    *,
    said: bool = True,
):
    """Replace columns of ``long`` by those of ``known`` where these have a value."""
    more = [c for c in known if c not in keys]
    reserved = [c for c in more if c in MEASURES or c in ENTITY_COLUMNS.values()]
    if reserved:
        notes.append(f'Columns of {name} renamed to session_<name>: {", ".join(reserved)}.')
        known = known.rename(columns={c: f'session_{c}' for c in reserved})
        more = [c for c in known if c not in keys]
    both = [c for c in more if c in long]
    if both and said:
        notes.append(f'{name} states {", ".join(both)} by session; it counts over participants.tsv.')
    # compare as text: a run that is missing in all rows of one table is a float there
    here, there = ([frame[c].astype(object).fillna('').astype(str) for c in keys] for frame in (long, known))
    place = pd.MultiIndex.from_arrays(there).get_indexer(pd.MultiIndex.from_arrays(here))
    columns = dict(long)
    for column in more:
        new = known[column].astype(object).reset_index(drop=True).reindex(place)
        new.index = long.index
        if column in both:
            new = new.where(new.notna(), long[column].astype(object))
        columns[column] = new.infer_objects()
    return pd.DataFrame(columns, index=long.index), notes


def relative_to(long: pd.DataFrame, region: str):
    """Refer susceptibility to a region of the same series.

    The mean of the region (both hemispheres together) is subtracted from means, medians and percentiles.
    sd stays, standard errors add in quadrature (of Brain, CSF and White matter, zero_se), and mean_positive
    becomes missing, as it does not follow from a shift. Where the atlas of a row lacks the region, that of
    another atlas of the same series is used; a region of which less than half was measured is not a
    reference.

    Parameters
    ----------
    long : DataFrame
        From `gather`; only rows of the map chi change.
    region : str
        As in the column region.

    Returns
    -------
    shifted : DataFrame
        Rows of ``long`` in their order; where a series lacks the region, the statistics of its chi are
        missing.
    notes : list of str

    Raises
    ------
    UserError
        No series has the region.
    """
    chi = long['map'] == 'chi'
    names = sorted(set(long.loc[chi, 'region'].dropna().astype(str)))
    rows = long[chi & (long['region'] == region)]
    if rows.empty:
        raise UserError(f'No table has the region {region!r} to refer to; there are {", ".join(names)}.')
    notes = [f'Susceptibility is relative to {region} of the same series.']
    series = series_columns(long)
    keys = [*series, 'atlas'] if 'atlas' in long else series
    found, own_atlas = _zero_of(long, rows, series, keys, region, notes)
    shift = found['_zero'].to_numpy()[chi]
    if (np.isfinite(shift) & ~own_atlas[chi]).any():
        notes.append(f'Regions of an atlas without {region} refer to that of another atlas of the series.')
    shifted = long.copy()
    for column in (c for c in SHIFTED if c in long):
        values = pd.to_numeric(long[column], errors='coerce').to_numpy(float, copy=True)
        values[chi] = values[chi] - shift
        shifted[column] = values
    own = (long['region'] == region).to_numpy()[chi] & own_atlas[chi]
    for column in (c for c in ERRORS if c in long):
        values = pd.to_numeric(long[column], errors='coerce').to_numpy(float, copy=True)
        both = np.hypot(values[chi], found['_error'].to_numpy()[chi])
        # the mean of the reference itself is zero by definition
        values[chi] = np.where(own & (long['hemisphere'] == 'both').to_numpy()[chi], 0.0, both)
        shifted[column] = values
    if 'mean_positive' in long:
        shifted['mean_positive'] = pd.to_numeric(long['mean_positive'], errors='coerce').mask(chi)
    shifted['reference'] = np.where(chi, region, long.get('reference', 'n/a'))
    lacking = long.loc[chi, keys][np.isnan(shift)].drop_duplicates()
    if len(lacking):
        told = ', '.join(sorted(set(lacking['participant_id'].astype(str)))[:8])
        notes.append(f'{len(lacking)} series lack {region}, so their susceptibility is left out ({told}).')
    return shifted, notes


def of_statistic(long: pd.DataFrame, statistic: str) -> pd.DataFrame:
    """The long table with one statistic of each region, which is all that analyses need."""
    kept = {'region', 'hemisphere', 'map', 'volume_mm3', 'coverage', 'units', 'reference', 'border_mm'}
    kept |= {BORDER, statistic}
    return long[[c for c in long if c in kept or c not in MEASURES]]


def _zero_of(
    long: pd.DataFrame, rows: pd.DataFrame, series: list[str], keys: list[str], region: str, notes: list[str]
):
    """Mean of a region and its error for each row of the long table, and whether its own atlas has them."""
    if 'coverage' in rows:
        thin = pd.to_numeric(rows['coverage'], errors='coerce') < _LEAST_COVERAGE
        if thin.any():
            n = len(rows.loc[thin, series].drop_duplicates())
            notes.append(
                f'Less than half of {region} was measured in {n} series, where it is not a reference.'
            )
        rows = rows[~thin]
    error = pd.Series(np.nan, rows.index)
    for column in (c for c in ('zero_se', 'se') if c in rows):
        error = error.fillna(pd.to_numeric(rows[column], errors='coerce'))
    zero = rows[keys].assign(
        _zero=pd.to_numeric(rows['mean'], errors='coerce').replace([np.inf, -np.inf], np.nan),
        _error=error,
        # both sides together where possible; a midline region may have one row only
        _rank=rows['hemisphere'].map({'both': 0}).fillna(1),
    )
    zero = zero[zero['_zero'].notna()].sort_values('_rank', kind='stable')
    own, other = (
        long[by].merge(
            zero[[*by, '_zero', '_error']].drop_duplicates(by), on=by, how='left', validate='many_to_one'
        )[['_zero', '_error']]
        for by in (keys, series)
    )
    there = own['_zero'].notna()
    return own.where(there, other), there.to_numpy()


def dictionary(columns: Iterable[str], tables: Mapping[str, dict], participants: Mapping[str, dict]) -> dict:
    """Data dictionary of the long table, from the first source that describes each column.

    Parameters
    ----------
    columns : iterable of str
        Columns of the long table, in its order.
    tables, participants : dict
        Data dictionaries of the series' tables and of participants.tsv (column -> description).
    """
    columns = list(columns)
    renamed = {
        f'{of}_{key}': value for of in ('participant', 'session') for key, value in participants.items()
    }
    own = {key: {'Description': text} for key, text in DESCRIPTIONS.items()}
    unknown = {'Description': 'Column of participants.tsv, not described there.'}
    # `gather` puts the entities before the columns of the tables
    first = takewhile(lambda column: column not in MEASURES and column not in tables, columns)
    entities = {key: {'Description': f'Value of the entity {key}- of the series.'} for key in first}
    sources = (own, tables, entities, participants, renamed)
    return {column: next((s[column] for s in sources if column in s), unknown) for column in columns}


def group_column(long: pd.DataFrame) -> str | None:
    """The column of the groups, where participants.tsv has one; else that of the arms of a trial."""
    for column in ('group', 'participant_group', 'arm'):
        if column in long and long[column].notna().any():
            return column
    return None


def counts(long: pd.DataFrame) -> pd.DataFrame:
    """Participants, sessions and series in each group."""
    group = group_column(long)
    series = long.drop_duplicates(series_columns(long))
    keys = series[group].fillna('n/a').astype(str) if group else pd.Series('all', index=series.index)
    rows = []
    for name, part in series.groupby(keys, sort=True):
        visits = ['participant_id', *(['session_id'] if 'session_id' in part else [])]
        sessions = len(part.drop_duplicates(visits))
        rows.append((name, part['participant_id'].nunique(), sessions, len(part)))
    return pd.DataFrame(rows, columns=['group', 'participants', 'sessions', 'series'])


def series_columns(long: pd.DataFrame) -> list[str]:
    """Columns that identify a series."""
    return [c for c in ENTITY_COLUMNS.values() if c in long and c != 'atlas']


def by_atlas(long: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Each atlas with its rows; the name is empty without an atlas column."""
    return list(long.groupby(_atlas(long), sort=True))


def references(long: pd.DataFrame) -> dict[str, int]:
    """Reference regions of susceptibility, and the number of series that use each."""
    keys = [*series_columns(long), 'reference']
    series = long[long['map'] == 'chi'].reindex(columns=keys).drop_duplicates()
    names = series['reference'].astype(object).fillna('not stated').astype(str)
    return names.value_counts().sort_index().to_dict()


def summary(long: pd.DataFrame, regions: Sequence[str], *, map_name: str = 'chi') -> pd.DataFrame:
    """Number of series, mean, standard deviation and median of regional means, by atlas and group."""
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


def lowest_coverage(long: pd.DataFrame) -> pd.DataFrame:
    """For each series and atlas, the region with the smallest share inside mask and field of view."""
    keys = [*series_columns(long), 'atlas']
    rows = long[(long['map'] == 'chi') & long['coverage'].notna()]
    worst = rows.assign(atlas=_atlas(rows), coverage=rows['coverage'].astype(float))
    worst = worst.sort_values('coverage', kind='stable')
    return worst.drop_duplicates(keys)[[*keys, 'region', 'hemisphere', 'coverage']].sort_values(
        keys, ignore_index=True, key=lambda c: c.astype(str)
    )


def _atlas(long: pd.DataFrame):
    return long['atlas'].fillna('').astype(str) if 'atlas' in long else pd.Series('', index=long.index)
