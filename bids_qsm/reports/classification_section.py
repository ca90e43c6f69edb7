"""Section of the cohort page on the classifier."""

from collections.abc import Sequence

import pandas as pd

from bids_qsm.plotting.classification_charts import plot_curves
from bids_qsm.plotting.cohort_charts import p_text
from bids_qsm.reports.blocks import FOLD, figure, grid, section, signed, words
from bids_qsm.reports.citations import cite

_NAMES = {
    'auc': 'AUC',
    'pr_auc': 'PR-AUC',
    'sensitivity': 'sensitivity at 0.9 specificity',
    'brier': 'Brier score',
    'calibration_slope': 'calibration slope',
    'calibration_intercept': 'calibration intercept',
}
_INTERVAL = {'ci_low': '95 % low', 'ci_high': '95 % high'}
_PERFORMANCE = {'model': 'model', 'measure': 'measure', 'estimate': 'estimate', **_INTERVAL, 'p': 'p'}
_COEFFICIENTS = {'model': 'model', 'feature': 'feature', 'coefficient': 'logit per SD', **_INTERVAL}
_COEFFICIENTS |= {'same_sign': 'folds with this sign', 'penalty': 'penalty'}


def classification_section(
    performance: pd.DataFrame,
    coefficients: pd.DataFrame,
    curves: pd.DataFrame,
    *,
    formula: str,
    methods: Sequence[str],
    notes: list[str],
    files: list[str],
) -> dict:
    """Performance without and with QSM, their difference, curves, coefficients, and the methods text."""
    said = words('classification')
    auc = performance[performance['measure'] == 'auc'].set_index('model')
    answers = [_in_words(name, row) for name, row in auc.iterrows()]
    sizes = performance.iloc[0]
    texts = {name: f'{name}: AUC {row["estimate"]:.2f}' for name, row in auc.iterrows()}
    positive = str(sizes['positive'])
    share = sizes['n_positive'] / sizes['n_units']
    answers.append(
        f'{sizes["n_positive"]:.0f} of {sizes["n_units"]:.0f} units are {positive}, in '
        f'{sizes["n_participants"]:.0f} participants.'
    )
    svg = plot_curves(curves, texts, share=share, positive=positive)
    table = performance.assign(measure=performance['measure'].map(_NAMES))
    paragraphs, references = cite(methods)
    text = [*paragraphs, *(f'{i}. {r["text"]} doi:{r["doi"]}' for i, r in enumerate(references, 1))]
    blocks = [
        figure('classification-curves', 'Curves', svg, said['curves'].format(positive=positive)),
        grid('Performance', table, columns=_PERFORMANCE, caption=said['performance']),
        grid(
            'Coefficients', coefficients, columns=_COEFFICIENTS, caption=said['coefficients'],
            folded=len(coefficients) > FOLD,
        ),
        grid('Text for methods (TRIPOD+AI)', pd.DataFrame({'text': text}), folded=True),
    ]  # fmt: skip
    question = said['question'].format(formula=formula)
    return section(
        'classification', question=question, answers=answers, blocks=blocks, notes=notes, files=files
    )


def _in_words(name: str, row: pd.Series):
    has_none = pd.isna(row['ci_low'])
    p = p_text(row['p'])
    told = f'p {p if p.startswith("<") else f"= {p}"}'
    if name != 'difference':
        interval = 'no interval' if has_none else f'{row["ci_low"]:.2f} to {row["ci_high"]:.2f}'
        return f'{name}: AUC {row["estimate"]:.2f} ({interval}), {told} (of the first repeat).'
    if has_none:
        return f'With QSM features: AUC {signed(row["estimate"])} (no interval).'
    sure = row['ci_low'] > 0 or row['ci_high'] < 0
    verdict = ('better' if row['estimate'] > 0 else 'worse') if sure else 'not clearly different'
    interval = f'{signed(row["ci_low"])} to {signed(row["ci_high"])}'
    return f'With QSM features {verdict}: AUC {signed(row["estimate"])} ({interval}), {told}.'
