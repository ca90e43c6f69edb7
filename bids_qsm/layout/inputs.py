"""Files that applications read beside the maps: where they are, and which image each was drawn on."""

from collections import Counter, defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from bids_qsm.applications import application, applications
from bids_qsm.applications.contract import Application, Query
from bids_qsm.derivatives.products import PRODUCTS, products_of
from bids_qsm.derivatives.tables import read_table
from bids_qsm.entities import OF_SERIES, entities_of, entity_set, session_of
from bids_qsm.errors import UserError
from bids_qsm.layout import checks
from bids_qsm.layout.bold_run import BoldRun
from bids_qsm.layout.gradients import read_gradients
from bids_qsm.layout.index import EXTENSIONS, Index
from bids_qsm.layout.people import facts_of
from bids_qsm.layout.protocol import lies_on_series
from bids_qsm.layout.query_files import below, fits, image_problem, is_named, label_in, named_files
from bids_qsm.layout.series import Input, Series, Use
from bids_qsm.layout.trains import read_trains

if TYPE_CHECKING:
    from bids_qsm.app.options import Options
    from bids_qsm.layout.ancillary import Anatomy

GRADIENT_ECHOES = ('MEGRE', 'GRE', 'T2starw', 'MPM')
"""Suffixes that the entity space- may name."""
OWN_SPACES = (None, 'orig', *GRADIENT_ECHOES)
"""Values of the entity space- that may mean the series itself."""
NATIVE = (None, 'orig', 'native', 'individual', 'ASL', 'asl', 'aslref', 'BOLD', 'boldref', 'PET', 'CT')
"""Values of the entity space- of an image that is aligned by itself; others are templates, but for T1w."""


def chosen(options: 'Options') -> list[Application]:
    """Applications that may run: those that ask for nothing, those that ``options`` name, and what they use.

    One that joins others runs where these are named; one whose files an option names runs too. An application
    comes after those that it uses.
    """
    named = {method.name for method in options.applications}
    wanted = [
        one
        for one in applications()
        if not one.asked
        or one.name in named
        or (one.joins and named.issuperset(one.uses))
        or any(is_named(query, options) for query in one.extra)
    ]
    return list({one.name: one for last in wanted for one in _with_used(last)}.values())


def _with_used(one: Application) -> Iterator[Application]:
    for name in one.uses:
        yield from _with_used(application(name))
    yield one


def find_inputs(subject: str, options: 'Options', index: Index) -> dict[tuple[str, str], list[Path]]:
    """Files of a participant by (application, query), in the dataset, its derivatives/ and those given."""
    given = _roots(options)
    beside = [path for path in sorted(options.bids_dir.glob('derivatives/*')) if path.is_dir()]
    queries = {(one.name, query.name): query for one in chosen(options) for query in one.extra}
    found = {key: {} for key in queries}
    for key in [key for key, query in queries.items() if is_named(query, options)]:
        found[key] = named_files(getattr(options, queries.pop(key).option), subject, given)
    for root in (given[0], *beside, *given[1:]):
        if root.is_relative_to(options.output_dir):
            continue
        if root not in given and subject in index.files(root).problems:  # nobody asked for it
            continue
        is_ours = _is_ours(root)
        for key, query in queries.items():
            if query.foreign and is_ours:
                continue
            endings = [*EXTENSIONS] if query.is_image else [query.extension]
            paths = index.files(root).of(subject, extension=endings, with_ignored=query.outside_bids)
            found[key] |= {path.resolve(): path for path in paths if fits(query, path)}
    return {key: list(paths.values()) for key, paths in found.items()}


def _is_ours(root: Path) -> bool:
    """Whether an earlier run of this software wrote a dataset."""
    content, _ = checks.read_json(root / 'dataset_description.json')
    makers = content.get('GeneratedBy')
    return isinstance(makers, list) and any(
        isinstance(one, dict) and one.get('Name') == 'bids_qsm' for one in makers
    )


def _roots(options: 'Options') -> list[Path]:
    return [options.bids_dir, *(path for _, path in options.derivatives)]


def drawn_images(found: dict[tuple[str, str], list[Path]]) -> list[Path]:
    """Those of the files of `find_inputs` that may lie on one of the participant's images."""
    queries = {
        (name, query.name): query for name in {name for name, _ in found} for query in application(name).extra
    }
    of_scanner = (key for key in found if queries[key].is_image and queries[key].align == 'scanner')
    return [path for key in of_scanner for path in found[key]]


def plan_applications(
    one: Series,
    found: dict[tuple[str, str], list[Path]],
    anatomy: 'Anatomy',
    flair: Path | None,
    series: Sequence[Series],
    scanned: dict[str, set],
    people: pd.DataFrame | None,
    runs: Sequence[BoldRun],
    options: 'Options',
    index: Index,
) -> tuple[tuple[Use, ...], list[str]]:
    """The applications that run for a series, with their files, and what to say of files and of the others.

    ``scanned`` are the sessions that have an image of their own, by suffix ('T1w', 'FLAIR'), ``people`` is
    the content of participants.tsv, ``runs`` are the BOLD runs that go with the series.
    """
    uses, notes, facts = [], [], None
    made = products_of(one, background=options.background.name, inversion=options.inversion.name)
    params = {method.name: method.params for method in options.applications}
    of_session = [other for other in series if other.session == one.session]
    for app in chosen(options):
        variant = app.variant(dict(params.get(app.name, ())))
        absent = [
            name
            for name, required in app.arguments.items()
            if (required or name in variant.needs) and _is_absent(name, made, one)
        ]
        inputs, lacking, spoilt = [], [], []
        for query in app.extra:
            if query.name in variant.spares:
                continue
            paths = found[app.name, query.name]
            own = {path: Path(path.name) for path in paths}
            if is_named(query, options):
                pattern, roots = getattr(options, query.option), _roots(options)
                own = {path: below(path, pattern, roots) for path in paths}
            if query.echoes:
                here = [path for path in paths if label_in(own[path], 'ses') in (None, one.session)]
                trains, problems = read_trains(query, here, index)
                own = {path: own[path] for path in trains}
                spoilt += [f'the {query.title} cannot be used: {problem}' for problem in problems]
                notes += [f'A {query.title} is not used: {problem}' for problem in problems]
            if query.gradients:
                here = [path for path in paths if label_in(own[path], 'ses') in (None, one.session)]
                tables, problems = read_gradients(here, index)
                own = {path: own[path] for path in tables}
                # others do as well
                if not tables and not any(_stands_for(query, item, app) for item in inputs):
                    spoilt += [f'the {query.title} cannot be used: {problem}' for problem in problems]
                    notes += [f'A {query.title} is not used: {problem}' for problem in problems]
            if query.beside:
                placed, said = _place_beside(query, paths, inputs)
            else:
                with_it = [
                    (other, found[app.name, other.name]) for other in app.extra if other.beside == query.name
                ]
                placed, said = _place_all(
                    query,
                    own,
                    one,
                    anatomy,
                    flair,
                    series,
                    scanned,
                    with_it,
                    is_checked=app.check_session is not None,
                )
            notes += said
            for item in placed:
                echoes = trains[item.path] if query.echoes else []
                if query.gradients:
                    item = replace(item, gradients=tables[item.path])
                inputs += [replace(item, path=path, echo_time=time) for time, path in echoes] or [item]
            if not placed:
                lacking.append(query)
        inputs, said = _without_replaced(app, inputs)
        notes += said
        notes += [
            f'{app.title}: a tensor is fitted to {item.path.name}; motion, eddy currents and distortion are '
            'not corrected here.'
            for item in inputs
            if item.gradients
        ]
        lacking = _missed(app, lacking, inputs)
        required = [query for query in lacking if not query.optional or query.name in variant.needs]
        for one_of in filter(None, (app.one_of, variant.one_of)):
            others = [query for query in lacking if query.name in one_of]
            required += others if len(others) == len(one_of) else []
            lacking = [query for query in lacking if query not in others]
        running = [use.name for use in uses]
        lost = {name: other for name, (other, _) in app.of_others.items() if other not in running}
        needed = {other for name, other in lost.items() if app.arguments[name]}
        # what runs by itself where its input is there need not be missed
        asked = app.name in params or any(is_named(query, options) for query in app.extra)
        if required and app.joins and not asked:
            continue
        if absent:
            notes.append(
                f'{app.title}: left out, as the series has no {" and no ".join(absent).replace("_", " ")}.'
            )
        elif (
            'echoes' in app.arguments
            and 'echoes' not in variant.spares
            and len(one.echo_times) < app.fewest_echoes
        ):
            notes.append(
                f'{app.title}: left out, as it takes {app.fewest_echoes} echoes or more, and the series has '
                f'{len(one.echo_times)}.'
            )
        elif app.scope == 'subject' and len(of_session) < app.fewest_series:
            notes.append(
                f'{app.title}: left out, as it takes {app.fewest_series} series or more of a session, and '
                f'there {"is" if len(of_session) == 1 else "are"} {len(of_session)}.'
            )
        elif app.of_runs and not runs:
            notes.append(f'{app.title}: left out, as there is no BOLD run that goes with this series.')
        elif required:
            if spoilt and app.name in params:
                raise UserError(spoilt[0])
            if app.asked:
                titles = ' and no '.join(query.title for query in required)
                notes.append(f'{app.title}: left out, as there is no {titles} of this series.')
        elif needed:
            titles = ' and '.join(application(name).title for name in sorted(needed))
            notes.append(f'{app.title}: left out, as it uses the results of {titles}, which is left out.')
        else:
            notes += [f'{app.title}: there is no {query.title}; it is done without.' for query in lacking]
            notes += [
                f'{app.title}: there are no results of {application(name).title}; it is done without.'
                for name in dict.fromkeys(lost.values())
            ]
            if facts is None and 'participant' in app.arguments:
                facts, said = facts_of(one.subject, one.session, people, options.bids_dir)
                notes += said
            own = tuple(runs) if app.of_runs else ()
            stated = facts or () if 'participant' in app.arguments else ()
            if app.check is not None:
                app.check(dict(stated), dict(params.get(app.name, ())))
            uses.append(Use(app.name, params.get(app.name, ()), tuple(inputs), stated, own))
    return tuple(uses), notes


def _stands_for(query: Query, item: Input, app: Application) -> bool:
    """Whether an input is one that stands for that of a query."""
    return any(other.instead_of == query.name and other.name == item.query for other in app.extra)


def _without_replaced(app: Application, inputs: list[Input]) -> tuple[list[Input], list[str]]:
    """Inputs without those that another one stands for, or that lack what belongs to them where another one
    does without it; and what to say of them.
    """
    notes = []
    for query in app.extra:
        new = next((item.path.name for item in inputs if item.query == query.name), None)
        old = next((item.path.name for item in inputs if item.query == query.instead_of), None)
        if new and old:
            replaced = next(other for other in app.extra if other.name == query.instead_of)
            inputs = [item for item in inputs if item.query != query.instead_of]
            of_fit = ', and parameters of its fit have no effect' if replaced.echoes else ''
            notes.append(
                f'{app.title}: the {replaced.title} {old} is not used, as the {query.title} {new} is '
                f'given{of_fit}; take the map out to use it.'
            )
        first = next((item.path.name for item in inputs if item.query == query.beside), None)
        if old and first and not new:
            title = next(other.title for other in app.extra if other.name == query.beside)
            inputs = [item for item in inputs if item.query != query.beside]
            notes.append(
                f'{app.title}: the {title} {first} is not used, as there is no {query.title}; {old} is used.'
            )
    return inputs, notes


def _missed(app: Application, lacking: list[Query], inputs: list[Input]) -> list[Query]:
    """Inputs that are lacking, without those that another one stands for."""
    there = {item.query for item in inputs}
    stood_for = {query.instead_of for query in app.extra if query.name in there}
    instead = [query for query in app.extra if query.instead_of in there]
    stood_for |= {name for query in instead for name in (query.name, query.beside)}
    return [query for query in lacking if query.name not in stood_for]


def without_too_few(
    found: Sequence[tuple[Series, tuple[Use, ...], list[str]]],
) -> list[tuple[Series, tuple[Use, ...], list[str]]]:
    """Series, their applications and notes, less applications of several series that too few can take.

    `plan_applications` sees one series at a time; others of the session may lack what the application needs.
    """
    counts = Counter((one.session, use.name) for one, uses, _ in found for use in uses)
    kept = []
    for one, uses, notes in found:
        few = [
            use
            for use in uses
            if application(use.name).scope == 'subject'
            and counts[one.session, use.name] < application(use.name).fewest_series
        ]
        said = []
        for use in few:
            app, n = application(use.name), counts[one.session, use.name]
            said.append(
                f'{app.title}: left out, as it takes {app.fewest_series} series or more of a session, and '
                f'only {n} of those there {"has" if n == 1 else "have"} what it needs.'
            )
        kept.append((one, tuple(use for use in uses if use not in few), [*notes, *said]))
    return kept


def check_sessions(found: Sequence[tuple[Series, tuple[Use, ...], list[str]]]) -> dict[str, str]:
    """Series that do not go with the others of their session, which an application takes together, and why.

    ``found`` is what `without_too_few` returns. UserError where a table of theirs cannot be read: without it
    the answer would be another one.
    """
    refused: dict[str, str] = {}
    sessions = defaultdict(list)
    for one, uses, _ in found:
        for use in uses:
            if application(use.name).check_session is not None:
                sessions[use.name, one.session].append((one, use))
    for (name, _), parts in sessions.items():
        files = {item.query: item.path for item in parts[0][1].inputs if item.space == 'table'}
        for problem in filter(None, map(_table_problem, files.values())):
            raise UserError(problem)
        tables = {query: (path.name, read_table(path)) for query, path in files.items()}
        series = [one for one, _ in parts]
        sizes = [one.resampled or one.voxel_size for one in series]
        refused |= application(name).check_session([one.name for one in series], sizes, tables)
    return refused


def _is_absent(name: str, made: Mapping[str, object], one: Series) -> bool:
    if name == 'echoes':
        return bool(one.given)
    if name in ('echo_times', 'field_strength'):  # a series of given maps states none
        return not getattr(one, name)
    return name in PRODUCTS and name not in made


def _place_all(
    query: Query,
    paths: Mapping[Path, Path],
    one: Series,
    anatomy: 'Anatomy',
    flair: Path | None,
    series: Sequence[Series],
    scanned: dict[str, set],
    with_it: Sequence[tuple[Query, Sequence[Path]]] = (),
    *,
    is_checked: bool = False,
) -> tuple[list[Input], list[str]]:
    """The files of a query that concern a series, and what to say of the others.

    ``paths`` are files -> the part of their path that tells whose they are, and that names them in notes;
    ``with_it`` are queries of what is beside this one, and their files. With ``is_checked`` a table that
    cannot be read is no reason to leave it out: `check_sessions` refuses it.
    What is aligned by itself and lies on the T1w image already is placed by the transform of that.
    """
    placed, notes = [], []
    sessions = {path: label_in(own, 'ses') for path, own in paths.items()}
    for path, own in paths.items():
        if sessions[path] not in (None, one.session) and not query.outside_bids:
            continue
        if query.is_image:
            problem = image_problem(query, path)
        else:
            problem = None if is_checked else _table_problem(path)
        if problem:
            which = '' if own.name == str(own) else f'{own}: '
            notes.append(f'A {query.title} is not used: {which}{problem}')
            continue
        space = entities_of(path).get('space')
        if not query.is_image:
            where, note = 'table', None
        elif query.align == 'own' and not query.echoes and _lies_here(query, path, space, one):
            where, note = 'gre', None
        elif query.align in ('own', 'coordinates') and (
            space in query.spaces or not (space == 'T1w' and anatomy.images)
        ):
            of_head = space in (*NATIVE, *query.spaces, 'T1w')
            place = 'own' if query.align == 'own' else 'gre'
            where, note = (place, None) if of_head else (None, f'is in the space {space} and is not used.')
        else:
            where, note = _place(path, one, anatomy, flair, series, scanned)
        if where:
            placed.append(Input(query.name, path, where))
        elif note:
            notes.append(f'The {query.title} {own} {note}')
    drawn = [item for item in placed if item.space == 'flair']
    problem = checks.image_problem(flair) if flair and drawn else None
    if problem:
        notes += [f'The {query.title} {item.path.name} is not used: {problem}' for item in drawn]
        placed = [item for item in placed if item not in drawn]
    # of the maps of a pipeline, that without desc- is the plain one; of diffusion images the prepared ones
    placed.sort(
        key=lambda item: (
            not all(_fit_beside(other, others, item.path)[0] for other, others in with_it),
            sessions[item.path] not in (None, one.session),
            query.align == 'own' and ('desc' in entities_of(item.path)) != query.gradients,
            item.space,
        )
    )
    if len(placed) > 1 and not query.many:
        notes.append(
            f'There are {len(placed)} files that could be the {query.title}; {paths[placed[0].path]} is used.'
        )
        placed = placed[:1]
    notes += [
        f'The {query.title} {paths[item.path]} is of session {sessions[item.path]}.'
        for item in placed
        if sessions[item.path] not in (None, one.session)
    ]
    return placed, notes


def _place_beside(
    query: Query, paths: Sequence[Path], inputs: Sequence[Input]
) -> tuple[list[Input], list[str]]:
    """The file of a query that goes with one that was placed, and what to say of the others."""
    first = next((item.path for item in inputs if item.query == query.beside), None)
    if first is None:
        return [], []
    fitting, problems = _fit_beside(query, paths, first)
    notes = [f'A {query.title} is not used: {problem}' for problem in problems]
    if len(fitting) > 1:
        notes.append(
            f'There are {len(fitting)} files that could be the {query.title}; {fitting[0].name} is used.'
        )
    return [Input(query.name, path, 'beside') for path in fitting[:1]], notes


def _fit_beside(query: Query, paths: Sequence[Path], first: Path) -> tuple[list[Path], list[str]]:
    """Files in the folder of another that go with it, and why others do not.

    Those most alike in name come first, then as the names of the query come.
    """
    fitting, problems = [], []
    labels = dict(entity_set(first))
    for path in paths:
        if path.parent != first.parent or session_of(path) != session_of(first):
            continue
        own = dict(entity_set(path))
        # of another acquisition; a model or desc- of another name is of another fit of the same one
        if any(own[key] != labels[key] for key in (*OF_SERIES, 'space') if key in own and key in labels):
            continue
        problem = image_problem(query, path) or checks.grid_problem(path, first)
        if problem:
            problems.append(problem)
        else:
            stem = path.name.partition('.')[0].lower()
            place = next(n for n, name in enumerate(query.names) if fnmatch(stem, name.lower()))
            fitting.append((len(own.items() ^ labels.items()), place, path))
    return [path for *_, path in sorted(fitting)], problems


def _table_problem(path: Path) -> str | None:
    """Why a table cannot be read."""
    try:
        read_table(path)
    except (OSError, ValueError) as error:  # what pandas raises for a table are kinds of ValueError
        reason = str(error).strip().partition('\n')[0]
        return f'{path.name} is no table of tab-separated values ({reason}); mend it.'
    return None


def choose_flair(one: Series, flairs: list[Path], drawn: list[Path], anatomy: 'Anatomy') -> Path | None:
    """The FLAIR image of a series: of its session first, and one that masks were drawn on before others.

    None where there is none; one that cannot be read is an error only once masks lie on it.
    """

    def rank(path: Path):
        labels = entities_of(path)
        return 'ce' in labels, labels.get('run', '').zfill(4), labels.get('ses', ''), path.name

    own = [p for p in flairs if session_of(p) == one.session] or flairs
    ranked = sorted(own, key=rank)
    sound = [path for path in ranked if checks.image_problem(path) is None]
    drawn = [path for path in drawn if _may_be_on_flair(path, one, anatomy.images)]
    fits = [path for path in sound if any(checks.same_grid(mask, path) for mask in drawn)]
    return next(iter((*fits, *sound, *ranked)), None)


def _may_be_on_flair(path: Path, one: Series, anat: Sequence[Path]) -> bool:
    if session_of(path) not in (None, one.session):
        return False
    space = drawn_space(path)
    if space not in (None, 'orig', 'FLAIR') or checks.image_problem(path):
        return False
    others = (one.files[0], *anat) if space != 'FLAIR' else ()
    return not any(checks.same_grid(path, other) for other in others)


def drawn_space(path: Path) -> str | None:
    """Space that a mask names: its entity space-, or the image in its name; None where it names none."""
    named = next((image for image in ('T1w', 'FLAIR') if f'_{image}_' in path.name), None)
    return entities_of(path).get('space', named)


def _place(
    path: Path,
    one: Series,
    anatomy: 'Anatomy',
    flair: Path | None,
    series: Sequence[Series],
    scanned: dict[str, set],
) -> tuple[str | None, str | None]:
    """Image that a mask was drawn on ('anat', 'gre', 'flair' or None), and a note where it is not used."""
    space = drawn_space(path)
    named = {
        'T1w': ('anat', anatomy.images, anatomy.session),
        'FLAIR': ('flair', (flair,) if flair else (), session_of(flair)),
    }
    if space in named:
        where, images, in_use = named[space]
        if not images:
            return None, f'was drawn on the {space} image, which is not there; it is not used.'
        session = session_of(path)
        # a mask that names no session is of the one in use
        if session in (None, in_use):
            return where, None
        alike = any(checks.lies_on(path, image) for image in images)
        if alike and not is_of_other_scan(path, in_use, scanned[space]):
            return where, None
        why = 'and the head lies elsewhere in it' if alike else 'on another grid'
        return None, (
            f'was drawn on the {space} image of session {session}, but {images[0].name} is the one in use, '
            f'{why}; it is not used.'
        )
    if space not in OWN_SPACES:
        return None, f'is in the space {space} and is not used.'
    of_other = is_of_other(path, one)
    if lies_on_series(path, one):
        return (None if of_other else 'gre'), None
    note = None
    for kind, (where, images, in_use) in named.items():
        if space not in (None, 'orig') or not any(checks.lies_on(path, image) for image in images):
            continue
        if not is_of_other_scan(path, in_use, scanned[kind]):
            return where, None
        if note is None:
            note = (
                f'is of session {session_of(path)}, which has a {kind} image of its own, but '
                f'{images[0].name} is the one in use, and the head lies elsewhere in it; it is not used.'
            )
    if note:
        return None, note
    if of_other and any(lies_on_series(path, other) for other in series):
        return None, None
    return None, (
        'lies neither on the grid of the series nor on that of the T1w or FLAIR image and is not used; if it '
        'was drawn on one of these, name it space-T1w or space-FLAIR.'
    )


def _lies_here(query: Query, path: Path, space: str | None, one: Series) -> bool:
    """Whether a map that would be aligned by itself lies on the series: by its name, or by its grid.

    Those of other folders than anat/ have another distortion.
    """
    named = space in GRADIENT_ECHOES and not one.in_t1w
    return (
        query.datatype == 'anat'
        and not is_of_other(path, one)
        and (named or (space in (None, 'orig') and lies_on_series(path, one)))
    )


def is_of_other_scan(path: Path, in_use: str | None, sessions: Container[str | None]) -> bool:
    """Whether a file names another session than that ``in_use``, which has an image of its own.

    Equal grids then say nothing: a protocol gives all its sessions the same one, and the head moves between
    them.
    """
    own = session_of(path)
    return None not in (own, in_use) and own != in_use and own in sessions


def is_of_other(path: Path, one: Series) -> bool:
    """Whether a file names another acquisition than a series does."""
    labels, own = entities_of(path), dict(one.entities)
    return any(labels[k] != own.get(k) for k in OF_SERIES if k in labels)
