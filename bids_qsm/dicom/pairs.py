"""Which groups of images are parts of one acquisition."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from bids_qsm.dicom.headers import CORRECTED, NEAR, Group
from bids_qsm.dicom.table import SKIP, UNCLEAR, Row

TOGETHER = 1.0
"""Parts of one acquisition start within so many seconds."""

SAME_ECHO = 0.0015
"""Echo times that differ by less (ms) are the same: headers round them."""

Unit = list[Group]
"""Groups of one acquisition."""


def distinct_echoes(groups: Iterable[Group]) -> list[float]:
    """Echo times (ms) of groups, sorted; those that headers round are one."""
    times: list[float] = []
    for time in sorted({time for group in groups for time in group.echoes}):
        if not times or time - times[-1] > SAME_ECHO:
            times.append(time)
    return times


def difference(one: Group, other: Group, *, but_echoes: bool = False) -> str:
    """What tells that two groups are not parts of one acquisition, in words; '' for nothing.

    ``but_echoes`` allows other echo times.
    """
    if one.study != other.study:
        return 'they are of two studies'
    words = set(one.geometry_words) ^ set(other.geometry_words)
    if words:
        return f'they are not corrected for distortion alike ({" or ".join(sorted(words))})'
    frames = one.text('FrameOfReferenceUID'), other.text('FrameOfReferenceUID')
    if one.size != other.size or frames[0] != frames[1]:
        return 'they differ in size or in their frame of reference'
    places = zip(
        (one.facts['ImageOrientationPatient'], one.facts['PixelSpacing']),
        (other.facts['ImageOrientationPatient'], other.facts['PixelSpacing']),
        strict=True,
    )
    near = all(np.allclose(np.asarray(a, float), np.asarray(b, float), atol=1e-3) for a, b in places)
    if not near or np.abs(one.corners - other.corners).max() > 2 * NEAR:
        return 'they differ in place'
    times = sorted(one.echoes), sorted(other.echoes)
    is_other = len(times[0]) != len(times[1]) or not np.allclose(*times, rtol=0, atol=SAME_ECHO)
    if is_other and not but_echoes:
        said = ' and '.join(', '.join(f'{time:g}' for time in some) for some in times)
        return f'their echo times differ ({said} ms)'
    for key in ('RepetitionTime', 'FlipAngle', 'MagneticFieldStrength'):
        ours, theirs = one.number(key), other.number(key)
        if ours is not None and theirs is not None and abs(ours - theirs) > 1e-3 * abs(ours):
            return f'they differ in {key}'
    return ''


def _is_together(one: Group, other: Group) -> bool:
    """Whether nothing of names and times says that two groups are of two acquisitions."""
    if one.series_uid == other.series_uid:
        return True
    if one.text('ProtocolName') != other.text('ProtocolName'):
        return False
    apart = seconds_apart(one, other)
    return apart is None or apart <= TOGETHER


def _is_sure(one: Group, other: Group) -> bool:
    """Whether times or numbers of series tell that two groups, which may be together, are."""
    near = abs(one.series_number - other.series_number) == 1
    return one.series_uid == other.series_uid or seconds_apart(one, other) is not None or near


def seconds_apart(one: Group, other: Group) -> float | None:
    """Between the starts of two acquisitions; None where one is not known."""
    times = one.time, other.time
    return None if times[0] is None or times[1] is None else abs(times[0] - times[1])


def may_pair(one: Group, other: Group) -> bool:
    return not difference(one, other) and _is_together(one, other)


ALONE = 'alone'


def find_units(groups: Sequence[Group], *, needs_phase: bool) -> tuple[list[Unit], list[tuple[Group, tuple]]]:
    """Acquisitions, and what becomes of groups that are in none: name and note."""
    parts = defaultdict(list)
    for group in groups:
        parts[group.part].append(group)
    notes: list[tuple[Group, tuple]] = []
    pairs, torn = _pairs(parts['mag'], parts['phase'])
    complex_pairs, torn_complex = _pairs(parts['real'], parts['imag'])
    # the same acquisition may be there in both ways
    units, doubles = [list(pair) for pair in pairs], []
    for pair in complex_pairs:
        same = [unit[0] for unit in units if may_pair(unit[0], pair[0])]
        if same and not any(_is_sure(one, pair[0]) for one in same):
            torn_complex += pair
        elif same:
            doubles += [(one, (SKIP, 'the same acquisition is there as magnitude and phase')) for one in pair]
        else:
            own, _ = _pairs(parts['mag'], pair[:1])
            units.append([*pair, *(mag for mag, _ in own)])
    notes += doubles
    used = {group for unit in units for group in unit} | {group for group, _ in doubles}
    torn = [group for group in (*torn, *torn_complex) if group not in used]
    for group in torn:
        fits = [one for one in groups if one is not group and may_pair(one, group)]
        note = f'it fits {", ".join(one.label for one in fits)}'
        if all(seconds_apart(one, group) is None for one in fits):
            note += ', but no times tell whether they were acquired together'
        note += '; write skip for all but one pair, or name runs (run-1_MEGRE)'
        notes.append((group, (UNCLEAR, note)))
    used |= set(torn)
    for group in groups:
        if group in used:
            continue
        if group.part == 'mag':
            if needs_phase:
                notes.append((group, (SKIP, ALONE)))
            else:
                units.append([group])
        else:
            notes.append((group, _lonely(group, groups)))
    if needs_phase:
        units, more = _without_corrected(units)
        notes += more
        units, more = _joined(units)
        notes += more
    return units, notes


def _without_corrected(units: list[Unit]) -> tuple[list[Unit], list[tuple[Group, tuple]]]:
    """One unit of each acquisition that was saved with and without correction of distortion.

    The uncorrected one is kept: the correction interpolates over the jumps of the phase.
    """
    kept: list[Unit] = []
    doubtful: list[Unit] = []
    notes: list[tuple[Group, tuple]] = []
    for unit in sorted(units, key=lambda own: (len(own[0].geometry_words), own[0].order)):
        same = [
            other
            for other in kept
            if set(other[0].geometry_words) != set(unit[0].geometry_words)
            and {one.part for one in other} == {one.part for one in unit}
            and may_pair(_uncorrected(other[0]), _uncorrected(unit[0]))
        ]
        if not same:
            kept.append(unit)
        elif seconds_apart(same[0][0], unit[0]) is None:
            doubtful += [unit, *same]
            note = f'it may be {same[0][0].label}, corrected for distortion; write skip, or name runs'
            notes += [(group, (UNCLEAR, note)) for group in unit]
        else:
            note = f'the same acquisition as {same[0][0].label}, corrected for distortion'
            notes += [(group, (SKIP, note)) for group in unit]
    for unit in kept:
        if any(unit is other for other in doubtful):
            note = 'a series corrected for distortion may be the same; write a name (MEGRE) to use this one'
            notes += [(group, (UNCLEAR, note)) for group in unit]
    return [unit for unit in kept if not any(unit is other for other in doubtful)], notes


def _uncorrected(group: Group) -> Group:
    return replace(group, words=tuple(word for word in group.words if word not in CORRECTED))


def _pairs(first: Sequence[Group], second: Sequence[Group]) -> tuple[list[tuple[Group, Group]], list[Group]]:
    """Pairs of two parts of one acquisition that are beyond doubt, and the groups that are in doubt."""
    edges = [(a, b) for a in first for b in second if may_pair(a, b)]
    same = [(a, b) for a, b in edges if a.series_uid == b.series_uid]
    settled = {one for pair in same for one in pair}
    edges = same + [(a, b) for a, b in edges if not {a, b} & settled]
    degree = defaultdict(int)
    for pair in edges:
        for one in pair:
            degree[one] += 1
    pairs = [(a, b) for a, b in edges if degree[a] == degree[b] == 1 and _is_sure(a, b)]
    sure = {one for pair in pairs for one in pair}
    doubtful = {one: one for pair in edges for one in pair if one not in sure}
    return pairs, list(doubtful.values())


def _lonely(group: Group, groups: Iterable[Group]) -> tuple[str, str]:
    """Name and note of a phase, a real or an imaginary part without its other half."""
    other = {'phase': 'mag', 'real': 'imag', 'imag': 'real'}[group.part or 'phase']
    near = [one for one in groups if one.part == other and one.study == group.study]
    same = [one for one in near if one.text('ProtocolName') == group.text('ProtocolName')]
    for one in same:
        if group.part == 'phase' and set(group.echoes) < set(one.echoes) and len(group.echoes) == 1:
            return SKIP, f'a phase difference of a field map, with {one.label}: it is not used'
    if not near:
        what = 'magnitude' if other == 'mag' else f'{other} part'
        return UNCLEAR, f'there is no {what} beside it; write skip to leave it out'
    one = min(same or near, key=lambda one: abs(one.series_number - group.series_number))
    why = difference(one, group)
    if not why and one.text('ProtocolName') != group.text('ProtocolName'):
        why = 'they are of two protocols'
    apart = seconds_apart(one, group)
    if not why and (apart is None or apart <= TOGETHER):
        why = 'that has its other half already'
    why = why or f'they were acquired {apart:.0f} s apart'
    mend = 'give both one name if they belong together, or write skip'
    return UNCLEAR, f'the nearest is {one.label}, but {why}; {mend}'


def _joined(units: list[Unit]) -> tuple[list[Unit], list[tuple[Group, tuple]]]:
    """Units of one echo each that were acquired together, as one: echoes may be series of their own.

    Where no times tell whether they were, they are unclear.
    """
    joined: list[Unit] = []
    doubtful: list[Unit] = []
    for unit in units:
        for other in joined:
            echoes = {time for one in other if one.part == unit[0].part for time in one.echoes}
            if (
                len(unit[0].echoes) == 1
                and not set(unit[0].echoes) & echoes
                and {one.part for one in unit} == {one.part for one in other}
                and _is_together(unit[0], other[0])
                and len(other[0].echoes) == 1
                and not difference(unit[0], other[0], but_echoes=True)
            ):
                if seconds_apart(unit[0], other[0]) is None and unit[0].series_uid != other[0].series_uid:
                    doubtful += [unit, other]
                    continue
                other += unit
                break
        else:
            joined.append(list(unit))
    doubted = {group for unit in doubtful for group in unit}
    note = (
        'other series differ from it in echo time alone, and no times tell whether they are echoes of one '
        'acquisition; give all one name (MEGRE) if they are, else a name each (run-1_T2starw)'
    )
    notes = [(group, (UNCLEAR, note)) for unit in joined for group in unit if group in doubted]
    return [unit for unit in joined if not doubted & set(unit)], notes


def without_copies(groups: list[Group], by_group: dict[Group, Row]) -> list[Group]:
    """Without further images of the same acquisition: the normalised, or the first, is kept."""
    kept: list[Group] = []
    for group in sorted(groups, key=lambda one: ('NORM' not in one.words, one.order)):
        apart = [(seconds_apart(one, group), one) for one in kept]
        same = [one for seconds, one in apart if seconds is not None and seconds < TOGETHER]
        if same:
            row = by_group[group]
            row.name, row.note = SKIP, f'the same acquisition as {same[0].label}'
        else:
            kept.append(group)
    return kept
