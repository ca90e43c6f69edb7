"""Columns of the tables of the group level, as the files beside them and the documentation describe them."""

from collections.abc import Iterable, Mapping

from bids_qsm.cohort.observations import describe
from bids_qsm.cohort.tables import DESCRIPTIONS, PROTOCOL


def dictionaries() -> dict[str, dict]:
    """Key of each table in ``group/`` -> data dictionary of the columns that it may have.

    Columns of the study are not among them: those that harmonised values share with the table of regions, and
    those that name the units of a classification.
    """
    # imported here, as scipy is slow to import
    from bids_qsm.cohort import (
        change,
        correlation,
        harmonise,
        model,
        normative,
        patterns,
        power,
        published_norms,
        repeatability,
        stages,
        trial,
    )

    both, changed, compared = correlation.dictionary(), change.dictionary(), patterns.dictionary()
    classified = of_classification()
    return {
        'model': model.dictionary(),
        'residuals': _only({**model.dictionary(), **_RESIDUALS}, model.RESIDUALS),
        'correlation': _only(both, correlation.COLUMNS),
        'difference': _only(both, correlation.DIFFERENCES),
        'change': _only(changed, [*change.COLUMNS, *PROTOCOL]),
        'change_summary': _only(changed, change.SUMMARY),
        'normative': normative.dictionary(),
        'published': published_norms.dictionary(),
        'patterns': _only(compared, patterns.COLUMNS),
        'pattern_means': _only(compared, patterns.MEANS),
        'stages': stages.dictionary(),
        'stage_constants': stages.constants_dictionary(),
        'harmonised': {'mean': _HARMONISED, harmonise.RAW: raw('the statistic')},
        'sites': harmonise.dictionary(),
        'repeatability': repeatability.dictionary(),
        'slopes': trial.dictionary(),
        'samples': power.dictionary(),
        **{key: _only(classified, columns) for key, columns in CLASSIFICATION.items()},
    }


def _only(described: Mapping[str, dict], columns: Iterable[str]) -> dict:
    return {column: described[column] for column in columns}


_RESIDUALS = describe(
    {
        'participant_id': DESCRIPTIONS['participant_id'],
        'session_id': DESCRIPTIONS['session_id'],
        'fitted': (
            "Value that the fixed effects of the model predict, without the participant's intercept.",
            'see column units',
        ),
        'residual': (
            "Measured value less fitted; in a mixed model it includes the participant's intercept.",
            'see column units',
        ),
        'units': 'Unit of the values.',
    }
)


_HARMONISED = {
    'Description': 'Harmonised value; the column has the name of the statistic, such as median.',
    'Units': 'see column units',
}


def raw(statistic: str) -> dict:
    """The entry of the values before they were harmonised."""
    return {'Description': f'{statistic} as measured.', 'Units': 'see column units'}


CLASSIFICATION = {
    'classification': (
        *('model', 'measure', 'estimate', 'ci_low', 'ci_high', 'p'),
        *('n_participants', 'n_units', 'n_positive', 'positive'),
    ),
    'classification_predictions': ('participant_id', 'label', 'p_base', 'p_base_qsm'),
    'classification_coefficients': (
        *('model', 'feature', 'coefficient', 'ci_low', 'ci_high', 'same_sign', 'penalty'),
    ),
    'classification_curves': ('model', 'curve', 'x', 'y', 'low', 'high', 'n'),
}
"""Columns of each table of a classification; predictions also have those that name the unit."""


def of_classification(named: Iterable[str] = (), *, positive: str = 'the positive label') -> dict:
    """Describe every column of the tables of a classification; ``named`` are those that name a unit."""
    probability = f'Predicted probability of {positive}, mean over the repeats in which the unit was '
    probability += 'left out, of the model with the {} features.'
    return describe(
        {
            **{column: f'Column {column} of the table of units.' for column in named},
            'participant_id': 'Label of the participant.',
            'label': 'Label of the unit.',
            'p_base': probability.format('base'),
            'p_base_qsm': probability.format('base and QSM'),
            'model': 'base: the base features; base + QSM: all features; difference: base + QSM less base.',
            'measure': 'auc: area under the ROC curve; pr_auc: average precision; sensitivity: true positive '
            'rate at a specificity of 0.9; brier: mean squared '
            'error of the probability; calibration_slope: 1 is right, less is too extreme; '
            'calibration_intercept: logit of the observed less that of the predicted share, 0 is right.',
            'estimate': 'Mean over the repeats of cross-validation.',
            'ci_low': 'Lower end of the 95 % interval, by bootstrap over participants; of the difference of '
            'the AUC by jackknife where each participant has one unit.',
            'ci_high': 'Upper end of the interval.',
            'p': 'Of the AUC of the first repeat alone: by permutation of the labels, one-sided; of a '
            'difference: two-sided, t of the standard error of its interval.',
            'n_participants': 'Participants.',
            'n_units': 'Units.',
            'n_positive': f'Units with {positive}.',
            'positive': 'The positive label.',
            'feature': 'Feature of the model of all units.',
            'coefficient': (
                'Penalised coefficient, so smaller than without a penalty: change of the logit by one '
                'standard deviation of the feature.',
                '1/SD',
            ),
            'same_sign': 'Share of the cross-validated models whose coefficient has this sign.',
            'penalty': 'Ridge penalty (1/C of scikit-learn).',
            'curve': 'roc: true positive over false positive rate; pr: precision over recall; decision: '
            'net benefit over the threshold of the probability; calibration: share of positive units over '
            'mean predicted probability.',
            'x': 'Horizontal axis.',
            'y': 'Vertical axis.',
            'low': 'Lower end of the 95 % interval, of calibration.',
            'high': 'Upper end of the 95 % interval, of calibration.',
            'n': 'Units of a point of calibration.',
        }
    )
