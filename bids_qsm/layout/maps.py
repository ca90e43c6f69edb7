"""Maps of other tools that a series may start from: susceptibility, local or total field, R2*."""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bids_qsm.entities import ENTITIES, OF_SERIES, in_order, is_label, join_entities, value_of
from bids_qsm.errors import UserError, plain
from bids_qsm.interfaces.io import grid_of
from bids_qsm.layout import checks
from bids_qsm.layout.index import EXTENSIONS, Index
from bids_qsm.layout.series import GivenMap, Rejected, Series
from bids_qsm.plugins.methods import find_method
from bids_qsm.recon.inversion import INVERSION
from bids_qsm.recon.registry import needs
from bids_qsm.recon.units import ppm_per_radian

if TYPE_CHECKING:
    from bids_qsm.app.options import Options

SUFFIXES = {
    'chimap': 'chi',
    'qsm': 'chi',
    'localfield': 'local_field',
    'fieldmap-local': 'local_field',
    'totalfield': 'field',
    'fieldmap': 'field',
    'r2starmap': 'r2star',
}
"""Last words of file names, in lower case, of BIDS, QSMxT, SEPIA and the chi-separation toolbox."""
MASKS = ('mask_qsm', 'mask_localfield', 'mask_brain', 'mask')
MAGNITUDES = ('megre', 't2starw', 'gre', 'mpm', 'magnitude', 'mag')
STEPS = ('chi', 'local_field', 'field')
"""What susceptibility may be found from, the nearest to it first."""
NAMES = {
    'chi': 'a susceptibility map',
    'local_field': 'a local field map',
    'field': 'a total field map',
    'r2star': 'an R2* map',
}
ASKED = {**NAMES, 'field_strength': 'MagneticFieldStrength in its sidecar'}
"""What methods of inversion may need of a map."""
OWN_SPACES = ('', 'orig', 'native', 'gre', 'megre', 't2starw')
"""Spaces, in lower case, that are the scanner's own."""
OF_T1W, CARRIED = 't1w', ('chi', 'r2star')
"""The space of the T1w image, and what keeps its meaning there; a field would turn with the image."""
PARTIAL = ('paramagnetic', 'diamagnetic', 'para', 'dia', 'pos', 'neg', 'singlepass')
"""Labels desc- of susceptibility maps that do not hold all of susceptibility."""
ELSEWHERE = {'fmap', 'func', 'dwi', 'perf', 'figures'}
"""Folders whose field maps are those of other acquisitions."""
PLAUSIBLE = {'chi': (0.003, 2.0), 'local_field': (0.001, 1.0), 'field': (0.01, 5.0), 'r2star': (2.0, 1000.0)}
"""Range (ppm, or 1/s) of the absolute value that 95 % of a head's voxels stay below."""
WHOLE_SHARE, WHOLE_ML = 0.75, 2200.0
"""A map that fills more than this share of its box, or this volume, was not masked to the brain."""


@dataclass(frozen=True)
class _File:
    """An image by the words of its name; ``kind`` is the last of them, in lower case."""

    path: Path
    root: Path
    entities: tuple[tuple[str, str], ...]
    kind: str

    def get(self, key: str) -> str:
        return dict(self.entities).get(key, '')

    @property
    def key(self) -> tuple[tuple[str, str], ...]:
        """Entities that names of outputs keep."""
        return tuple(item for item in self.entities if item[0] in OF_SERIES)

    @property
    def port(self) -> str | None:
        """What the image shows of `SUFFIXES`; None where it shows something else, or not all of it."""
        port, desc = SUFFIXES.get(self.kind), self.get('desc').lower()
        if not self.is_own or desc in PARTIAL or (self.in_t1w and port not in CARRIED):
            return None
        return 'local_field' if port == 'field' and desc.startswith('local') else port

    @property
    def is_own(self) -> bool:
        """Whether the image is in the space of the scanner or of the T1w, and of no single echo or region."""
        known, space = {*OF_SERIES, 'desc', 'space'}, self.get('space').lower()
        return {key for key, _ in self.entities} <= known and space in (*OWN_SPACES, OF_T1W)

    @property
    def in_t1w(self) -> bool:
        return self.get('space').lower() == OF_T1W


class _Problem(Exception):
    """What is wrong with a file, in one sentence."""


def with_maps(
    series: list[Series],
    rejected: list[Rejected],
    subjects: tuple[str, ...],
    options: 'Options',
    index: Index,
) -> tuple[list[Series], list[Rejected]]:
    """``series`` and ``rejected``, and with them what starts from maps of other tools.

    Maps are taken where there is no phase; with ``--start-from`` they are taken instead of the phase.
    """
    is_auto = options.start_from == 'auto'
    for subject in subjects:
        files = [one for one in _files(subject, options) if not index.ignores(one.path)]
        groups = defaultdict(list)
        for one in files:
            if one.port and (not options.session_label or one.get('ses') in options.session_label):
                groups[one.key].append(one)
        for key, group in sorted(groups.items()):
            with_phase = [one for one in series if one.phase + one.imag and _fits(key, one.entities)]
            if is_auto and with_phase:
                note = f'{plain(group[0].path.name)} is not used, as there is phase (see --start-from).'
                noted = {one.name: replace(one, notes=(*one.notes, note)) for one in with_phase}
                series = [noted.get(one.name, one) for one in series]
                continue
            has_phase = {f.key for f in files if f.get('part') in ('phase', 'imag') and _fits(key, f.key)}
            if is_auto and {one.name for one in rejected} & set(map(join_entities, has_phase)):
                continue  # what is wrong with the phase is to be mended
            start = next((p for p in STEPS if p in {f.port for f in group}), 'r2star')
            start = start if is_auto else options.start_from
            if not any(f.port == start for f in group):
                continue
            # of a map on both grids that of the scanner is taken; maps of one series are in one space
            in_t1w = all(f.in_t1w for f in group if f.port == start)
            others = [f for f in group if f.in_t1w != in_t1w]
            group = [f for f in group if f.in_t1w == in_t1w]
            magnitudes = _magnitudes(key, group, files)
            found = _read(start, key, group, magnitudes, files, options, index)
            if isinstance(found, Series):
                found = replace(found, notes=(*found.notes, *_said_of_space(in_t1w, others)))
            replaced = {found.name, *(join_entities(f.key) for f in magnitudes)}
            replaced |= {one.name for one in with_phase}
            series = [one for one in series if one.name not in replaced]
            rejected = [one for one in rejected if one.name not in replaced]
            (series if isinstance(found, Series) else rejected).append(found)
    if not is_auto:
        reason = f'--start-from asks for {NAMES[options.start_from]}, and there is none; add it.'
        rejected = rejected + [Rejected(one.name, reason, True) for one in series if not one.given]
        series = [one for one in series if one.given]
    return sorted(series, key=lambda one: one.name), rejected


def _files(subject: str, options: 'Options') -> Iterator[_File]:
    """Images of a subject in the folders anat/ of the dataset, and anywhere in its derivatives."""
    folder = f'sub-{subject}'
    found = [
        (options.bids_dir, path)
        for place in ('anat', 'ses-*/anat')
        for path in options.bids_dir.glob(f'{folder}/{place}/*.nii*')
    ]
    for _, root in options.derivatives:
        if not root.is_relative_to(options.output_dir):
            found += [(root, path) for path in root.glob(f'{folder}/**/*.nii*')]
    for root, path in sorted(found):
        folders = path.relative_to(root).parts[:-1]
        if not path.name.endswith(EXTENSIONS) or path.name[0] == '.' or ELSEWHERE & {*folders}:
            continue
        entities = dict(part.split('-', 1) for part in folders if re.match('(sub|ses)-', part))
        words = []
        for word in path.name.partition('.nii')[0].split('_'):
            label, _, value = word.partition('-')
            if label in ENTITIES and is_label(value):
                entities[label] = value
            else:
                words.append(word.lower())
        if entities['sub'] != subject:
            continue
        kind = '_'.join(words[-2:]) if words[-2:-1] == ['mask'] else ''.join(words[-1:])
        yield _File(path, root, in_order(entities), kind)


def _fits(key: tuple[tuple[str, str], ...], other: tuple[tuple[str, str], ...]) -> bool:
    """Whether two sets of entities may be of one acquisition: they differ in none that both have."""
    mine, theirs = dict(key), dict(other)
    return mine.get('ses') == theirs.get('ses') and all(theirs.get(k, v) == v for k, v in mine.items())


def _magnitudes(key: tuple[tuple[str, str], ...], group: list[_File], files: list[_File]) -> list[_File]:
    """Magnitudes of all echoes on the grid of the maps, of the acquisition that is most like theirs."""
    groups, place = defaultdict(list), group[0]
    for one in files:
        is_magnitude = one.kind in MAGNITUDES and one.get('part') in ('', 'mag') and not one.get('desc')
        is_magnitude &= one.in_t1w == place.in_t1w  # a protocol may give both images one grid
        if is_magnitude and _fits(key, one.key) and checks.lies_on(one.path, place.path):
            groups[len({*key} ^ {*one.key}), one.key, one.kind, one.root].append(one)
    return sorted(groups[min(groups)], key=lambda one: one.get('echo').zfill(9)) if groups else []


def _read(
    start: str,
    key: tuple[tuple[str, str], ...],
    group: list[_File],
    magnitudes: list[_File],
    files: list[_File],
    options: 'Options',
    index: Index,
) -> Series | Rejected:
    """The series that starts from the map ``start`` of ``group``, or what is wrong with its files."""
    name = join_entities(key)
    try:
        chosen = {port: _only(port, group) for port in (start, 'r2star') if port in {f.port for f in group}}
        main = chosen[start]
        times = _echo_times(magnitudes, index) if start == 'field' and 'r2star' not in chosen else ()
        has = {
            'r2star': 'r2star' in chosen or bool(times),
            'magnitude': bool(magnitudes),
            'field_strength': bool(checks.field_strength(main.path.name, _metadata(main, index))[0]),
        }
        _require_inversion(start, has, main.path.name, options)
        notes, given, strength = [], [], None
        for port, one in chosen.items():
            problem = checks.image_problem(one.path) or checks.grid_problem(one.path, main.path)
            if problem:
                raise _Problem(problem)
            metadata = _metadata(one, index)
            factor, note = _factor(port, one.path, metadata)
            own, _, said = checks.field_strength(one.path.name, metadata)
            strength = strength or own
            note = [*note, *filter(None, (said, checks.orientation_note(one.path)))]
            share, ml = _check_values(port, one.path, factor, metadata.get('Units'))
            if port == start:
                is_whole = share > WHOLE_SHARE or ml > WHOLE_ML
            reference = value_of(metadata.get('ReferenceRegion'), str) or ''
            given.append(GivenMap(port, one.path, factor, reference))
            notes += [text for text in note if text not in notes]
    except _Problem as problem:
        return Rejected(name, str(problem), True)
    masks = [f for f in files if f.kind in MASKS and f.is_own and f.get('desc') in ('', 'brain')]
    masks = [
        f
        for f in masks
        if f.root == main.root
        and f.in_t1w == main.in_t1w
        and _fits(key, f.key)
        and checks.lies_on(f.path, main.path)
    ]
    if masks:
        mask = min(masks, key=lambda f: MASKS.index(f.kind))
        given.append(GivenMap('mask', mask.path))
        is_whole = False
    if not magnitudes and not _has_t1w(files, options):
        reason = (
            f'{main.path.name} has neither a T1w image nor a magnitude on its grid to be placed by; add one.'
        )
        return Rejected(name, reason, True)
    others = [f for f in group if f.port in STEPS and f.port != start]
    image = checks.load_header(main.path)
    grid = grid_of(image)
    return Series(
        subject=dict(key)['sub'],
        session=dict(key).get('ses'),
        entities=key,
        suffix=main.kind,
        magnitude=tuple(f.path for f in magnitudes),
        phase=(),
        real=(),
        imag=(),
        echo_times=times,
        field_strength=strength,
        manufacturer=None,
        repetition_time=None,
        flip_angle=None,
        shape=grid.shape,
        voxel_size=grid.voxel_size,
        b0_dir=grid.b0_dir,
        given=tuple(given),
        is_whole=is_whole,
        in_t1w=main.in_t1w,
        notes=(
            f'The series starts from {NAMES[start]} of another tool: {plain(main.path.name)}.',
            *notes,
            *_said(start, has, bool(masks), is_whole, main.in_t1w),
            *(f'{plain(f.path.name)} is not used, as the series starts from {NAMES[start]}.' for f in others),
        ),
    )


def _only(port: str, group: list[_File]) -> _File:
    """The file of ``group`` that shows ``port``: the one without desc-, where there are several."""
    found = [one for one in group if one.port == port]
    bare = [one for one in found if not one.get('desc')] or found
    if len(bare) > 1:
        first, second = bare[:2]
        raise _Problem(f'{first.path} and {second.path} are both {NAMES[port]} of one series; remove one.')
    return bare[0]


def _echo_times(magnitudes: list[_File], index: Index) -> tuple[float, ...]:
    """Echo times (s) by which R2* can be fitted to the magnitudes; none where sidecars lack them."""
    times = [value_of(_metadata(one, index).get('EchoTime'), float) for one in magnitudes]
    if len(times) < 2 or None in times or checks.echo_time_problem([''] * len(times), times):
        return ()
    return tuple(times) if times == sorted(times) else ()


def _require_inversion(start: str, has: dict[str, bool], name: str, options: 'Options') -> None:
    if start not in ('local_field', 'field'):
        return
    asked = needs(find_method(INVERSION, options.inversion.name), optional=False)
    if start == 'local_field' and 'total' in asked:
        raise _Problem(
            f'--inversion {options.inversion.name} takes the total field, but {name} is a local field map; '
            'choose another method or give a total field map.'
        )
    for data, there in has.items():
        if data in asked and not there:
            what = ASKED.get(data, f'a {data} on its grid')
            raise _Problem(f'--inversion {options.inversion.name} needs {what}; add it to {name}.')
    removal = options.background
    asked = needs(find_method({}, removal.name)) if start == 'field' and removal.is_plugin else []
    if 'field_strength' in asked and not has['field_strength']:
        what = ASKED['field_strength']
        raise _Problem(f'--background {removal.name} needs {what}; add it to {name}.')


def _metadata(one: _File, index: Index) -> dict:
    """What the sidecars of a map say; _Problem where one of them cannot be read."""
    try:
        problem = index.sidecar_problem(one.path, one.root)
    except UserError as error:
        raise _Problem(str(error)) from None
    if problem:
        raise _Problem(problem)
    return index.metadata(one.path, one.root)


def _factor(port: str, path: Path, metadata: dict) -> tuple[float, list[str]]:
    """What the values of a map are multiplied by to get ppm or 1/s, and what to say of its units."""
    units = metadata.get('Units')
    known = {'1/s': 1.0, '1/ms': 1e3} if port == 'r2star' else {'ppm': 1.0, 'ppb': 1e-3}
    if port in ('local_field', 'field'):
        known |= {'hz': 2 * np.pi, 'rad/s': 1.0}
    else:
        standard = next(iter(known))
        if units is None:
            return 1.0, [
                f'{plain(path.name)} has no Units in its sidecar; as BIDS says, they are {standard}.'
            ]
    spelt = {'s-1': '1/s', 's^-1': '1/s', 'hertz': 'hz', 'ms-1': '1/ms', 'ms^-1': '1/ms'}
    unit = str(units).strip().lower()
    unit = spelt.get(unit, unit)
    listed = ' or '.join(('Hz' if u == 'hz' else u) for u in known)
    if units is None:
        stem = path.name.partition('.nii')[0]
        raise _Problem(
            f'{path.name} has no Units in its sidecar; write {stem}.json with "Units" ({listed}) and, for Hz '
            'or rad/s, "MagneticFieldStrength" (in tesla).'
        )
    if unit not in known:
        raise _Problem(f'{path.name} has the Units {plain(str(units))[:40]!r}; they must be {listed}.')
    if unit not in ('hz', 'rad/s'):
        return known[unit], []
    strength, problem, _ = checks.field_strength(path.name, metadata)
    if problem:
        raise _Problem(problem)
    return known[unit] * ppm_per_radian(strength), [
        f'{plain(path.name)} is in {units}, taken to ppm at {strength:g} T.'
    ]


def _check_values(port: str, path: Path, factor: float, units: str | None) -> tuple[float, float]:
    """Raise _Problem where values are none of ``units``; the share of the box that they fill, and its ml."""
    try:
        image = checks.load_header(path)
        values = np.asarray(image.dataobj, np.float32)
    except Exception as error:  # nibabel and zlib raise many kinds for damaged files
        raise _Problem(f'{path.name} cannot be read ({type(error).__name__}); copy it again.') from None
    inside = np.isfinite(values) & (values != 0)
    if not inside.any():
        raise _Problem(f'{path.name} holds no value other than 0; make it again.')
    high = float(np.percentile(np.abs(values[inside]), 95)) * factor
    low, most = PLAUSIBLE[port]
    if not low <= high <= most:
        unit = '1/s' if port == 'r2star' else 'ppm'
        stated = f'as its sidecar says {plain(str(units))[:40]}' if units else f'where {unit} is taken'
        raise _Problem(
            f'{path.name} has values up to {high:.3g} {unit} ({stated}), but {NAMES[port]} of a head has '
            f'{low:g} to {most:g} {unit}; correct Units in its sidecar.'
        )
    volume = abs(float(np.linalg.det(image.affine[:3, :3]))) / 1000
    return float(inside.mean()), float(inside.sum()) * volume


def _has_t1w(files: list[_File], options: 'Options') -> bool:
    """Whether the subject has a T1w image in any session."""
    return any(
        f.kind == 't1w'
        and (f.root == options.bids_dir or (f.get('desc') == 'preproc' and not f.get('space')))
        for f in files
    )


def _said_of_space(in_t1w: bool, others: list[_File]) -> Iterator[str]:
    """Notes on maps in the space of the T1w image, and on ``others`` in another space than the series."""
    if in_t1w:
        yield 'By their names its maps are in the space of the T1w image; they are not aligned again.'
    for one in others:
        where = 'scanner' if in_t1w else 'T1w image'
        yield (
            f'{plain(one.path.name)} is not used, as it is in the space of the {where}, unlike the map that '
            'the series starts from.'
        )


def _said(start: str, has: dict[str, bool], has_mask: bool, is_whole: bool, in_t1w: bool) -> Iterator[str]:
    """Notes on what is left out, and how the steps go without phase."""
    lacking = ['the field fit', 'susceptibility-weighted images']
    lacking += [] if has['r2star'] else ['R2*']
    if start == 'r2star':
        lacking += ['susceptibility', 'the refinement of the nuclei']
    yield f'Without phase, these are left out: {", ".join(lacking)}.'
    if not has['magnitude']:
        yield 'There is no magnitude on its grid' + (
            '.' if in_t1w else '; the map itself is aligned with the T1w image.'
        )
    if has_mask:
        yield 'The map is given where it is not 0, inside the mask that lies beside it.'
    elif is_whole:
        yield 'The map is not masked; the brain mask of the anatomical image is used.'
    else:
        yield 'The map is given where it is not 0.'
    if start in ('local_field', 'field'):
        how = 'inversely proportional to the magnitude' if has['magnitude'] else 'the same everywhere'
        yield f'The noise of the field is not known; it is estimated from the map and taken to be {how}.'
    if start == 'field' and not has['r2star']:
        yield 'There is no R2* map, so background removal works as for a single echo.'
