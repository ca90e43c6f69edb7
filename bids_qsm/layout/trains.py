"""Trains of echoes that applications read: which files are one train, and when its echoes are."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bids_qsm.applications.contract import Query
from bids_qsm.entities import entities_of
from bids_qsm.errors import UserError
from bids_qsm.layout import checks
from bids_qsm.layout.index import Index

SPACING = 0.02
"""Largest deviation of an echo time from a multiple of the first, as a share of the first."""


def trains_of(paths: Sequence[Path]) -> dict[Path, list[Path]]:
    """First file of each train -> its magnitudes, which differ in the entity echo alone, by its number."""
    found = defaultdict(dict)
    for path in paths:
        labels = entities_of(path)
        if labels.get('part') in (None, 'mag'):
            number = labels.pop('echo', '0')
            found[path.parent, *sorted(labels.items())][number.zfill(4)] = path
    trains = ([files[number] for number in sorted(files)] for files in found.values())
    return {files[0]: files for files in trains}


def read_trains(
    query: Query, paths: Sequence[Path], index: Index
) -> tuple[dict[Path, list[tuple[float, Path]]], list[str]]:
    """First file of each train -> its echoes by time (s), and what is wrong with those of no use."""
    found, problems = {}, []
    for first, files in trains_of(paths).items():
        try:
            found[first] = _read_train(query, files, index)
        except UserError as error:
            problems.append(str(error))
    return found, problems


def _read_train(query: Query, files: Sequence[Path], index: Index) -> list[tuple[float, Path]]:
    """The echoes of a train by echo time; UserError where they are none."""
    first = files[0]
    if len(files) < query.echoes:
        raise UserError(
            f'{first.name}: it has {len(files)} echo{"es" if len(files) > 1 else ""}, and {query.echoes} are '
            'needed; add the other echo-<n> files, or take it out.'
        )
    for path in files:
        problem = checks.image_problem(path) or checks.grid_problem(first, path)
        if problem:
            raise UserError(problem)
    root = index.root_of(first)
    given = [index.metadata(path, root).get('EchoTime') for path in files]
    problem = checks.echo_time_problem([path.name for path in files], given)
    if problem:
        raise UserError(problem)
    times = sorted(zip(map(float, given), files, strict=True))
    spacing = times[0][0]
    expected = spacing * (1 + np.arange(len(times)))
    if np.abs(np.array([time for time, _ in times]) - expected).max() > SPACING * spacing:
        listed = ', '.join(f'{1000 * time:g}' for time, _ in times)
        raise UserError(
            f'{first.name}: echo times of {listed} ms are not 1, 2, 3, ... times the first, as those of '
            'a train of spin echoes are; add the missing echoes, correct the sidecars, or take it out.'
        )
    return times
