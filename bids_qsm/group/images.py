"""Images of the cohort: the maps in template space are read, tested voxel by voxel, averaged and written."""

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
from bids_qsm.derivatives.files import BIDS_VERSION, atomic_write, sidecar_path, write_json
from bids_qsm.derivatives.products import PRODUCTS
from bids_qsm.errors import UserError
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
"""Map of the tables -> suffix of its images, and their unit."""

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
    """Test a model in every voxel of template space and write maps and tables of clusters to ``group/``.

    All series of a participant (sessions, runs) are averaged first, so that each participant counts once;
    what changes from session to session is averaged alike.

    Parameters
    ----------
    output_dir
        Output dataset with ``sub-*/**/*_space-<space>_Chimap.nii.gz``.
    table : DataFrame
        Rows of participants: participant_id, the columns that the formula names, and session_id where only
        the sessions named are to be used. With ``relative_to``, the long table of the cohort.
    formula
        Such as ``chi ~ group + age``; on the left a key of `MAPS`.
    method
        'fdr' or 'permutation', see :func:`bids_qsm.cohort.voxelwise.second_level`.
    smoothing_mm
        Full width at half maximum, within tissue.
    spacing_mm
        Grid of the test; maps that are coarser are tested on their own.
    controls
        Reference level of factors that have it.
    space
        Template space, where there are several; by default the one that most participants have.
    relative_to
        Region whose mean in the same series is subtracted from each map of susceptibility; a series whose
        table lacks it is left out.

    Returns
    -------
    dict
        title, figures (caption, PNG), tables (caption, DataFrame) and notes, for the report.

    Raises
    ------
    UserError
        The formula cannot be read, or names a map or a column that does not exist.
    """
    model, out = parse_model(formula), Path(output_dir)
    if model.response not in MAPS:
        raise UserError(
            f'The left side of {formula!r} has no images; voxels can be tested for {", ".join(MAPS)}.'
        )
    suffix, unit = MAPS[model.response]
    report = {'title': f'Voxelwise: {model}', 'figures': [], 'tables': [], 'notes': []}
    notes = report['notes']
    people = _people(table, model, notes)
    shifted, zeros = bool(relative_to) and model.response == 'chi', None
    space, paths = find_maps(out, suffix, table, space, notes, shifted=shifted)
    lacking = [name for name in people.index if name not in paths]
    if lacking:
        notes.append(f'Left out, for there is no map in template space: {", ".join(lacking)}.')
    if shifted:
        zeros, paths = zeros_of(table, relative_to, paths, notes)
    people = people[people.index.isin(on_one_grid(paths, notes))]
    design = designs.build(model, people, np.arange(len(people)), controls=controls)
    notes += design.notes
    names = list(people.index[design.rows])
    _remove_old(out, model.response)
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
            notes.append(f'{column.term} is a curve: no column of it means anything alone, none was mapped.')
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

    Its files are named as TemplateFlow names them: with $TEMPLATEFLOW_HOME set to the folder ``group``,
    ``--output-spaces <name>`` takes it.

    Parameters
    ----------
    output_dir
        Output dataset; T1w images and transforms of the subjects are used where they are.
    iterations
        How often the subjects are aligned to the average, see
        :func:`bids_qsm.cohort.study_template.build_template`.
    name
        Letters and digits.
    space
        Template space, where there are several; by default the one that most participants have.
    table : DataFrame, optional
        participant_id (and session_id) of the maps to use; all where None.
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
        The name has other characters than letters and digits.
    """
    if not name.isalnum():
        raise UserError(f'The name of the template, {name!r}, may have letters and digits only.')
    out, notes = Path(output_dir), []
    report = {'title': 'Study template', 'figures': [], 'tables': [], 'notes': notes}
    space, paths = find_maps(out, 'Chimap', table, space, notes)
    names = on_one_grid(paths, notes)
    if len(names) < 2:
        notes.append(f'No template was made: {len(names)} participants have a map in template space.')
        return report
    source = Subjects(out, space, {one: paths[one] for one in names})
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(dir=_made(out / 'group'), prefix='.fields-'))
        mapper = map
        if n_jobs > 1 and iterations:
            # fresh processes: those forked from one whose libraries have threads may hang
            pool = ProcessPoolExecutor(n_jobs, get_context('spawn'), initializer=set_threads, initargs=(1,))
            mapper = stack.enter_context(pool).map
        found = build_template(
            *(source.all(part) for part in ('chi', 't1w', 'mask')),
            source.affine, source.all('t1w_mask'), OnDisk(folder),
            iterations=iterations, mapper=mapper, **(alignment or {}),
        )  # fmt: skip
    notes += [f'{names[i]} {text}.' for i, text in found.notes]
    chi, t1w, mask = _write_template(out / 'group', name, space, source, found, len(names), iterations)
    rounds = f'{iterations} round{"" if iterations == 1 else "s"} of alignment'
    about = f'{len(names)} participants, {rounds}, space {space}'
    affine = source.grid[1]
    report['figures'].append(
        (
            f'Mean susceptibility of {about}.',
            plot_map(
                chi, affine, look=PRODUCTS['chi'].look, mask=mask, title='Study template: susceptibility'
            ),
        )
    )
    if t1w is not None:
        report['figures'].append(
            (
                f'Mean T1w image of {int(source.has_t1w.sum())} participants.',
                plot_map(t1w, affine, look=ANATOMY, mask=mask, title='Study template: T1w'),
            )
        )
    if space.startswith('MNI152'):
        dseg, labels = nuclei_atlas(chi.shape, affine)
        report['figures'].append(
            (
                f'The built-in nuclei of {space} on the mean susceptibility.',
                plot_outlines(
                    chi, affine, look=PRODUCTS['chi'].look, dseg=dseg, labels=labels, title='Study template'
                ),
            )
        )
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
        'How far each brain was moved to the template in the mean, and the correlation of its susceptibility '
        'with the mean.'
    )
    report['tables'].append((caption, table))
    return report


def _people(table: pd.DataFrame, model: Formula, notes: list[str]):
    """One row a participant: the mean of numbers over its rows, the first of texts."""
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
                notes.append(f'{column} differs between sessions of {told}; the first counts.')
    return pd.DataFrame(columns, index=pd.Index(sorted(set(wanted['participant_id'])), name='participant_id'))


def _remove_old(out: Path, name: str):
    """What an earlier run, perhaps of another model, left would pass for this one's."""
    for path in (out / 'group').glob(f'space-*_map-{name}_*'):
        path.unlink()


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
    path = Path(f'{stem}_clusters.tsv')
    atomic_write(path, lambda p: found.clusters.to_csv(p, sep='\t', index=False, na_rep='n/a'))
    write_json(sidecar_path(path), COLUMNS)


def _report_test(report: dict, cohort: Cohort, found: SecondLevel, term: str, about: str, unit: str):
    kept = found.images['thresholded']
    marks = (kept != 0).astype(np.int32)
    draw = partial(plot_overlay, cohort.mean, cohort.affine, mask=cohort.mean != 0)
    report['figures'].append(
        (
            f'Effect of {term} ({unit}) in {found.n} participants, not thresholded.',
            draw(found.images['effect'], title=f'Effect of {term}', unit=unit, marks=marks),
        )
    )
    if not kept.any():
        report['notes'].append(f'No voxel passes the threshold: {about}.')
        return
    report['figures'].append(
        (
            f'z where the corrected p passes. {about}. Red: higher, blue: lower.',
            draw(kept, title=f'{term}: voxels that pass', unit='z', marks=marks),
        )
    )
    table = found.clusters.head(20).round(
        {'x': 0, 'y': 0, 'z': 0, 'region_distance_mm': 1, 'effect': 4, 'effect_se': 4, 't': 2, 'z_score': 2}
    )
    more = f', the first 20 of {len(found.clusters)}' if len(found.clusters) > 20 else ''
    report['tables'].append((f'Clusters that pass{more}. {about}. Effect in {unit}.', table))


def _made(folder: Path):
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write_template(
    folder: Path, name: str, space: str, source: Subjects, found: StudyTemplate, n: int, iterations: int
):
    """Write the averages with TemplateFlow's names; return chi, T1w (or None) and brain on the whole grid."""
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
