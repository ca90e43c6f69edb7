"""Images of the cohort: tests in every voxel, and the study template."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from bids_qsm.anatomy.atlas import nuclei_atlas
from bids_qsm.anatomy.transform import spacing_of
from bids_qsm.cohort import design as designs
from bids_qsm.cohort.formula import Formula, parse_model
from bids_qsm.cohort.observations import is_numeric, numeric
from bids_qsm.cohort.study_template import StudyTemplate, build_template
from bids_qsm.cohort.tables import group_column
from bids_qsm.cohort.voxelwise import COLUMNS, SecondLevel, second_level
from bids_qsm.derivatives.files import BIDS_VERSION, write_json
from bids_qsm.derivatives.products import LOOKS, PRODUCTS
from bids_qsm.errors import UserError
from bids_qsm.group.collect import save_table
from bids_qsm.group.map_stack import (
    Cohort,
    OnDisk,
    Subjects,
    find_maps,
    on_one_grid,
    plot_overlay,
    save_image,
    slugs,
    zeros_of,
)
from bids_qsm.plotting.maps import ANATOMY, plot_map, plot_outlines
from bids_qsm.threads import set_threads

MAPS = {one.column: (one.suffix, one.units) for one in PRODUCTS.values() if one.column and one.in_template}
"""Map in the tables -> suffix and unit of its images."""

_LEAST = 4
METHODS = {
    'fdr': 'false discovery rate over all voxels',
    'permutation': 'family-wise error, by permutation of the largest t',
}


def run_voxelwise(
    output_dir: str | Path,
    table: pd.DataFrame,
    formula: str,
    *,
    method: str,
    smoothing_mm: float,
    spacing_mm: float = 2.0,
    controls: str = '',
    space: str = '',
    relative_to: str = '',
) -> dict:
    """Test a model in every voxel of template space; write maps and tables of clusters to ``group/``.

    All series of a participant (sessions, runs) are averaged first, so that each participant counts once.
    Covariates that change between sessions are averaged too.

    Parameters
    ----------
    output_dir
        Output dataset with ``sub-*/**/*_space-<space>_Chimap.nii.gz``.
    table : DataFrame
        Rows of participants: participant_id, the columns of the formula, and session_id to use only the
        listed sessions. With ``relative_to``, the long table of the cohort.
    formula
        For example ``chi ~ group + age``; on the left a key of `MAPS`.
    method
        'fdr' or 'permutation', see :func:`bids_qsm.cohort.voxelwise.second_level`.
    smoothing_mm
        Full width at half maximum of the smoothing within tissue.
    spacing_mm
        Grid of the test; coarser maps keep their grid.
    controls
        Reference level of the factors.
    space
        Template space, where there are several; by default the one that most participants have.
    relative_to
        Region whose mean in the same series is subtracted from each susceptibility map. Series without it
        are left out.

    Returns
    -------
    dict
        title, figures (caption, PNG), tables (caption, DataFrame) and notes, for the report.

    Raises
    ------
    UserError
        The formula is not valid, or names a map or a column that does not exist.
    """
    model, out = parse_model(formula), Path(output_dir)
    if model.response not in MAPS:
        raise UserError(
            f'The left side of {formula!r} has no images; voxels can be tested for {", ".join(MAPS)}.'
        )
    suffix, unit = MAPS[model.response]
    notes: list[str] = []
    report = {'title': f'Voxelwise: {model}', 'figures': [], 'tables': [], 'notes': notes}
    people = _people(table, model, notes)
    shifted, zeros = bool(relative_to) and model.response == 'chi', None
    space, paths = find_maps(out, suffix, table, space, notes, shifted=shifted)
    lacking = [name for name in people.index if name not in paths]
    if lacking:
        notes.append(f'Left out, as there is no map in template space: {", ".join(lacking)}.')
    if shifted:
        zeros, paths = zeros_of(table, relative_to, paths, notes)
    people = people[people.index.isin(on_one_grid(paths, notes))]
    design = designs.build(model, people, np.arange(len(people)), controls=controls)
    notes += design.notes
    names = list(people.index[design.rows])
    for old in (out / 'group').glob(f'space-*_map-{model.response}_*'):  # of an earlier run
        old.unlink()
    if len(names) < _LEAST:
        notes.append(f'No voxel was tested: {len(names)} participants have a map and all covariates.')
        return report
    cohort = Cohort.read([paths[name] for name in names], smoothing_mm, spacing_mm, zeros)
    terms = [' '.join(filter(None, (c.term, c.level))) for c in design.columns]
    matrix = pd.DataFrame(design.x, index=names, columns=['Intercept', *terms])
    dseg = labels = None
    if space.startswith('MNI152'):
        dseg, labels = nuclei_atlas(cohort.shape, cohort.affine)
    stem = out / 'group' / f'space-{space}_map-{model.response}'
    zero = f', relative to {relative_to}' if shifted else ''
    described = f'Mean over the participants{zero}'
    save_image(f'{stem}_desc-mean_{suffix}', cohort.mean, cohort.affine, described, unit)
    for column, term, label in zip(design.columns, terms, slugs(terms), strict=True):
        if column.kind == 'curve':
            notes.append(
                f'{column.term} is a curve: its single columns have no meaning, so they are not mapped.'
            )
            continue
        found = second_level(
            cohort.images, cohort.masks, cohort.affine, matrix, term, dseg, labels, method=method
        )
        notes += [note for note in found.notes if note not in notes]
        if not found.images:
            continue
        per = f'{unit} per unit of {column.term}' if column.kind == 'number' else unit
        about = f'{term}: {found.n} participants, {smoothing_mm:g} mm, {METHODS[method]} < {found.alpha:g}'
        about += zero
        _write_test(f'{stem}_contrast-{label}', found, cohort.affine, about, per)
        _report_test(report, cohort, found, term, about, per)
    return report


def run_study_template(
    output_dir: str | Path,
    *,
    iterations: int,
    name: str = 'study',
    space: str = '',
    table: pd.DataFrame | None = None,
    n_jobs: int = 1,
    alignment: dict | None = None,
) -> dict:
    """Average the cohort in template space and write a template to ``group/tpl-<name>/``.

    Files are named as in TemplateFlow. To use the template, set $TEMPLATEFLOW_HOME to the folder ``group``
    and ask for ``--output-spaces <name>``.

    Parameters
    ----------
    output_dir
        Output dataset; T1w images and transforms of the subjects are used if they exist.
    iterations
        Number of times that the subjects are aligned to the average, see
        :func:`bids_qsm.cohort.study_template.build_template`.
    name
        Letters and digits.
    space
        Template space, where there are several; by default the one that most participants have.
    table : DataFrame, optional
        participant_id (and session_id) of the maps to use; all by default.
    n_jobs
        Processes that align subjects.
    alignment
        Further parameters of :func:`bids_qsm.cohort.study_template.build_template`.

    Returns
    -------
    dict
        title, figures (caption, PNG), tables (caption, DataFrame) and notes, for the report.

    Raises
    ------
    UserError
        The name has characters that are not letters or digits.
    """
    if not name.isalnum():
        raise UserError(f'The name of the template, {name!r}, may have letters and digits only.')
    out, notes = Path(output_dir), list[str]()
    report = {'title': 'Study template', 'figures': [], 'tables': [], 'notes': notes}
    space, paths = find_maps(out, 'Chimap', table, space, notes)
    names = on_one_grid(paths, notes)
    if len(names) < 2:
        notes.append(f'No template was made: {len(names)} participants have a map in template space.')
        return report
    source = Subjects(out, space, {one: paths[one] for one in names})
    with ExitStack() as stack:
        (out / 'group').mkdir(parents=True, exist_ok=True)
        folder = stack.enter_context(TemporaryDirectory(dir=out / 'group', prefix='.fields-'))
        mapper: Callable = map
        if n_jobs > 1 and iterations:
            # fresh processes: forks of a process with threads may hang
            pool = ProcessPoolExecutor(n_jobs, get_context('spawn'), initializer=set_threads, initargs=(1,))
            mapper = stack.enter_context(pool).map
        found = build_template(
            source.all('chi'), source.all('t1w'), source.all('mask'), source.affine, source.all('t1w_mask'),
            OnDisk(folder), iterations=iterations, mapper=mapper, **(alignment or {}),
        )  # fmt: skip
    notes += [f'{names[i]} {text}.' for i, text in found.notes]
    chi, t1w, mask = _write_template(out / 'group', name, space, source, found, len(names), iterations)
    rounds = f'{iterations} round{"" if iterations == 1 else "s"} of alignment'
    about = f'{len(names)} participants, {rounds}, space {space}'
    affine = source.grid[1]
    png = plot_map(chi, affine, look=LOOKS['chi'], mask=mask, title='Study template: susceptibility')
    figures = [(f'Mean susceptibility of {about}.', png)]
    if t1w is not None:
        png = plot_map(t1w, affine, look=ANATOMY, mask=mask, title='Study template: T1w')
        figures.append((f'Mean T1w image of {int(source.has_t1w.sum())} participants.', png))
    if space.startswith('MNI152'):
        dseg, labels = nuclei_atlas(chi.shape, affine)
        png = plot_outlines(chi, affine, look=LOOKS['chi'], dseg=dseg, labels=labels, title='Study template')
        figures.append((f'The built-in nuclei of {space} on the mean susceptibility.', png))
    table = pd.DataFrame(
        {
            'participant_id': names,
            'maps': [len(paths[one]) for one in names],
            'T1w': np.where(source.has_t1w, 'yes', 'no'),
            'moved_mm': found.shifts.round(2),
            'likeness': found.likeness.round(3),
        }
    )
    caption = (
        'Mean displacement of each brain to the template, and the correlation of its susceptibility with the '
        'mean.'
    )
    return {**report, 'figures': figures, 'tables': [(caption, table)]}


def _people(table: pd.DataFrame, model: Formula, notes: list[str]):
    """One row a participant: the mean of numbers, the first value of text columns."""
    designs.check_columns(model, table)
    wanted = table[['participant_id', *model.columns]]
    groups, columns = wanted.groupby('participant_id', sort=True), {}
    factors = designs.forced(model) | {group_column(table)}
    for column in model.columns:
        if is_numeric(wanted[column]) and column not in factors:
            numbers = numeric(wanted[column])[0]
            columns[column] = numbers.groupby(wanted['participant_id']).mean()
        else:
            columns[column] = groups[column].first()
            several = groups[column].nunique()
            if (several > 1).any():
                told = ', '.join(several.index[several > 1])
                notes.append(f'{column} differs between sessions of {told}; the first session is used.')
    return pd.DataFrame(columns, index=pd.Index(sorted(set(wanted['participant_id'])), name='participant_id'))


def _write_test(stem: str, found: SecondLevel, affine: np.ndarray, about: str, unit: str):
    kinds = {
        'effect': ('Effect', unit),
        't': ("Student's t", None),
        'z': ('Normal deviate of the uncorrected two-sided p', None),
        'logp': ('-log10 of the corrected p', None),
        'thresholded': ('Normal deviate where the corrected p is below the threshold', None),
    }
    for kind, (what, of) in kinds.items():
        save_image(f'{stem}_stat-{kind}_statmap', found.images[kind], affine, f'{what}. {about}', of)
    save_table(Path(f'{stem}_clusters.tsv'), found.clusters, COLUMNS)


def _report_test(report: dict, cohort: Cohort, found: SecondLevel, term: str, about: str, unit: str):
    kept = found.images['thresholded']
    marks = (kept != 0).astype(np.int32)
    draw = partial(plot_overlay, cohort.mean, cohort.affine, mask=cohort.mean != 0, marks=marks)
    png = draw(found.images['effect'], title=f'Effect of {term}', unit=unit)
    report['figures'].append((f'Effect of {term} ({unit}) in {found.n} participants, not thresholded.', png))
    if not kept.any():
        report['notes'].append(f'No voxel passes the threshold: {about}.')
        return
    png = draw(kept, title=f'{term}: significant voxels', unit='z')
    report['figures'].append((f'z of significant voxels. {about}. Red: higher, blue: lower.', png))
    table = found.clusters.head(20).round(
        {'x': 0, 'y': 0, 'z': 0, 'region_distance_mm': 1, 'effect': 4, 'effect_se': 4, 't': 2, 'z_score': 2}
    )
    more = f', the first 20 of {len(found.clusters)}' if len(found.clusters) > 20 else ''
    report['tables'].append((f'Significant clusters{more}. {about}. Effect in {unit}.', table))


def _write_template(
    folder: Path, name: str, space: str, source: Subjects, found: StudyTemplate, n: int, iterations: int
):
    """Write the averages, named as in TemplateFlow; return chi, T1w (or None) and brain on the full grid."""
    brain = found.coverage >= 0.5 if found.t1w_coverage is None else found.t1w_coverage >= 0.5
    chi, mask = source.whole(found.chi), source.whole(brain)
    t1w = None if found.t1w is None else source.whole(np.where(brain, found.t1w, 0).astype(np.float32))
    stem = folder / f'tpl-{name}' / f'tpl-{name}_res-01'
    for old in stem.parent.glob(f'tpl-{name}_*'):
        old.unlink()
    about = {'spatial_reference': space, 'NumberOfParticipants': n, 'Iterations': iterations}
    affine = source.grid[1]
    save_image(f'{stem}_Chimap', chi, affine, 'Mean magnetic susceptibility of the cohort', 'ppm', **about)
    save_image(
        f'{stem}_desc-brain_mask', mask.astype(np.uint8), affine, 'Brain of at least half of the cohort',
        None, mask_type='Brain', **about,
    )  # fmt: skip
    if t1w is not None:
        save_image(
            f'{stem}_T1w', t1w, affine, "Mean T1w image of the cohort, in units of the brain's median",
            'arbitrary', **about,
        )  # fmt: skip
    write_json(
        stem.parent / 'template_description.json',
        {
            'Name': f'Template of the cohort: {n} participants',
            'Identifier': name,
            'BIDSVersion': BIDS_VERSION,
            'Description': f'Made in the space {space} with {iterations} rounds of alignment to the average.',
            'res': {
                '01': {
                    'origin': affine[:3, 3].tolist(),
                    'shape': list(chi.shape),
                    'zooms': spacing_of(affine).round(6).tolist(),
                }
            },
        },
    )
    return chi, t1w, mask
