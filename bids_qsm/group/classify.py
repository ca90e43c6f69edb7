"""Units of the group level to be told apart: their table, the analysis, and what is written of it."""

from importlib.metadata import version
from pathlib import Path

import pandas as pd

from bids_qsm import __version__
from bids_qsm.cohort.classify import FOLDS, Classified, Units, classify
from bids_qsm.cohort.units import by_participant, make_units, parse_classes
from bids_qsm.derivatives.tables import read_input
from bids_qsm.errors import UserError
from bids_qsm.group.collect import join_people
from bids_qsm.group.dictionaries import CLASSIFICATION, of_classification
from bids_qsm.plotting.cohort_charts import p_text

SEED, REPEATS, PERMUTATIONS, RESAMPLES = 0, 10, 999, 400


def run_classify(
    formula: str,
    units: str,
    long: pd.DataFrame,
    events: dict[str, pd.DataFrame],
    bids_dir: Path,
    *,
    statistic: str,
    controls: str,
    site: str,
    n_jobs: int,
) -> tuple[dict[str, tuple[pd.DataFrame, dict]], dict[str, list[str]], list[str]]:
    """Classify the units of a table.

    Parameters
    ----------
    formula : str
        As of ``--classify``.
    units : str
        'participants', the name of a table of events, or the path of a table.
    long : DataFrame
        Table of regions with the columns of the participants.
    events : dict
        Tables of events by name.
    site : str
        Column of the site whose effect is taken away from regional values; may be empty.

    Returns
    -------
    found : dict
        Tables of the analysis, each with its data dictionary.
    notes : dict of list of str
        'classification', and 'leaks': what needs attention.
    text : list of str
        Paragraphs of methods and results, with citations as [@key].

    Raises
    ------
    UserError
        The table or a column is not there, or participants are too few.
    """
    table, said = _table(units, parse_classes(formula)[0], long, events, bids_dir, statistic, site)
    if site and units != 'participants':
        said.append(f'The values of {units} are not harmonised: --harmonise is for those of regions.')
        site = ''
    # the columns that `by_participant` adds
    regional = [c for c in table if c not in long]
    made, notes, leaks, flow = make_units(table, formula, controls=controls, site=site, of_site=regional)
    result = classify(
        made, repeats=REPEATS, permutations=PERMUTATIONS, n_boot=RESAMPLES, seed=SEED, n_jobs=n_jobs
    )
    sizes = {
        'n_participants': len(set(made.person)),
        'n_units': len(made.y),
        'n_positive': int(made.y.sum()),
        'positive': made.positive,
    }
    found = {
        'classification': result.performance.assign(**sizes),
        'classification_predictions': result.predictions,
        'classification_coefficients': result.coefficients,
        'classification_curves': result.curves,
    }
    for key in ('classification_coefficients', 'classification_curves'):
        found[key] = found[key][list(CLASSIFICATION[key])]
    described = of_classification(made.table, positive=f'the label {made.positive}')
    text = methods(formula, units, made, result, flow, [*notes, *leaks])
    return (
        {key: (one, {c: described[c] for c in one}) for key, one in found.items()},
        {'classification': [*said, *notes, *result.notes], 'leaks': leaks},
        text,
    )


def _table(
    units: str,
    label: str,
    long: pd.DataFrame,
    events: dict[str, pd.DataFrame],
    bids_dir: Path,
    statistic: str,
    site: str,
):
    """One row a unit, with the columns of the participants, and notes."""
    if units == 'participants':
        return by_participant(long, label, statistic=statistic, site=site)
    if units in events:
        if events[units].empty:
            raise UserError(
                # the key of a table begins with the name of its application, which is the flag
                f'--units {units}: no participant has a table of {units} with rows; the participant level '
                f'writes it with --{units.partition("_")[0]}.'
            )
        return _with_people(events[units], bids_dir)
    path = Path(units).expanduser()
    if not path.is_file():
        known = ', '.join(['participants', *events])
        raise UserError(f'--units {units} is neither a file nor one of {known}.')
    table = read_input(path)
    if 'participant_id' not in table:
        raise UserError(f'{path} has no column participant_id; add one, so that no participant is split.')
    if table['participant_id'].isna().any():
        raise UserError(
            f'{path} has n/a in the column participant_id (in {table["participant_id"].isna().sum()} rows); '
            'name the participant, or remove the rows.'
        )
    table['participant_id'] = 'sub-' + table['participant_id'].astype(str).str.removeprefix('sub-')
    return _with_people(table, bids_dir)


def _with_people(table: pd.DataFrame, bids_dir: Path):
    table, said, _ = join_people(table, bids_dir)
    return table, [note for notes in said.values() for note in notes]


def methods(
    formula: str, units: str, made: Units, result: Classified, flow: list[dict], notes: list[str]
) -> list[str]:
    """Paragraphs on what was done and found, in the order of TRIPOD+AI."""
    what = Path(units).name if units.endswith('.tsv') else units
    steps = '; '.join(
        f'{one["units"]} units of {one["participants"]} participants {one["step"]}' for one in flow
    )
    n, positive = len(made.y), int(made.y.sum())
    permuted = (
        'participants, each with all its units'
        if made.by_participant
        else 'the units within each participant'
    )
    found = '; '.join(
        f'{row.model}: {row.measure} {row.estimate:.3f} '
        + ('(no interval)' if pd.isna(row.ci_low) else f'({row.ci_low:.3f} to {row.ci_high:.3f})')
        + (f', p {"< .001" if row.p < 0.001 else f"= {p_text(row.p)}"}' if pd.notna(row.p) else '')
        for row in result.performance.itertuples()
    )
    features = {name: ', '.join(columns) for name, columns in made.models.items()}
    libraries = ', '.join(f'{name} {version(name)}' for name in ('numpy', 'scipy', 'numba', 'pandas'))
    return [
        'This text follows the items of TRIPOD+AI [@tripodai] that the software can know. Add the source of '
        'the data, who was eligible, how and by whom the label was made and whether they saw the features, '
        'how the sample size was chosen, and the intended use.',
        f'Data. Units: {what}. Flow: {steps}. {positive} of {n} units have the label {made.positive} '
        f'(against {made.negative}).',
        f'Outcome and predictors. Formula: {formula}. '
        + '. '.join(f'Features of the model "{name}": {listed}' for name, listed in features.items())
        + '. Text became indicator variables of each level but the first.',
        'Missing data and model. Missing values became the mean, features were scaled by their standard '
        'deviation, and a logistic regression with a ridge penalty was fitted; all of it, and the penalty '
        f'(0.1 to 1000, the smallest log-loss in {FOLDS} inner folds), was found in the units that a model '
        'was fitted to. No feature was selected, and no class was weighted or resampled.',
        f'Validation. {REPEATS} repeats of {FOLDS}-fold cross-validation, with whole participants in each '
        'fold and about as many positive units, and the same folds for both models. AUC compares units of '
        'one fold and of different participants [@airola2011]; other measures are of all units together; '
        f'all are means over the repeats. Intervals are from {RESAMPLES} bootstrap resamples of participants '
        'in which the whole procedure ran again [@bates2024], with t quantiles, on the scale of the logit '
        'for AUC, PR-AUC and sensitivity and of the logarithm for the Brier score. p of an AUC sets that of '
        f'the first repeat alone against {PERMUTATIONS} permutations of {permuted} [@winkler2015], each in '
        'one repeat. '
        'Where each participant has one unit, the difference of the AUC has a standard error from the '
        'jackknife over participants, of the models that were fitted. There was no external validation.',
        f'Results. {found}.',
        *(
            [
                'Sites. Shift and scale of each site [@combat] were taken away from '
                f'{", ".join(made.of_site)}, without a prior. They were learned in the units that a model '
                'was fitted to, with their label in the model, and applied to the units left out without it. '
                'AUC compares units of one site, and its p permutes labels within sites.'
            ]
            if made.site is not None
            else []
        ),
        *([f'Notes. {" ".join(notes)}'] if notes else []),
        f'Software. bids_qsm {__version__} ({libraries}); seed {SEED}. Results are equal, bit for bit, for '
        'any number of threads.',
    ]
