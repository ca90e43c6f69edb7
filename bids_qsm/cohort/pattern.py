"""Which nuclei of a participant are raised, and which pattern of raised nuclei that is most like."""

import numpy as np
import pandas as pd

from bids_qsm.cohort.inference import adjust
from bids_qsm.cohort.observations import describe

PATTERNS: dict[str, dict[str, float]] = {
    'pallidum more than nigra': {'GP': 1.0, 'SN': 0.4},
    'pallidum and nigra alike': {'GP': 1.0, 'SN': 1.0},
    'nigra more than pallidum': {'GP': 0.4, 'SN': 1.0},
    'nigra alone': {'SN': 1.0},
    'striatum, less pallidum and thalamus': {
        'Putamen': 1.0, 'Caudate': 1.0, 'GP': 0.5, 'Thalamus': 0.5, 'SN': 0.3, 'RN': 0.3,
    },
    'all nuclei': dict.fromkeys(('Putamen', 'Caudate', 'GP', 'Thalamus', 'Dentate', 'RN', 'SN'), 1.0),
}  # fmt: skip
"""Relative rise of each nucleus above what is normal."""
SEEN_IN = {
    'pallidum more than nigra': 'PKAN',
    'pallidum and nigra alike': 'MPAN',
    'nigra more than pallidum': 'BPAN',
    'nigra alone': "Parkinson's disease",
    'striatum, less pallidum and thalamus': "Wilson's disease",
    'all nuclei': 'aceruloplasminaemia, neuroferritinopathy',
}
"""Diseases in which such a pattern has been described; each has others too."""
_REGIONS = ('SN', 'GP', 'RN', 'Putamen', 'Caudate', 'Thalamus', 'Dentate')
_RAISED = 0.05
_LEAST_REGIONS = 4
_DRAWS = 1000
_DESCRIBED: dict[str, str | tuple[str, str]] = {
    'participant_id': 'Label of the participant.',
    'session_id': 'Label of the session.',
    'atlas': 'Atlas that the regions come from.',
    'raised': 'Nuclei above controls: one-sided p < .05, the false discovery rate over nuclei controlled.',
    'pattern': 'Pattern of raised nuclei that was compared; no diagnosis.',
    'seen_in': 'Diseases in which it has been described; it is found in others too.',
    'similarity': 'Cosine between the deviations from controls (over sd) and those of the pattern, -1 to 1.',
    'rank': 'Place among the patterns, by similarity.',
    'share': (
        'How often the pattern is the most similar one when normal variation is added to them again '
        '(standard deviation 1).'
    ),
    'n_regions': 'Nuclei that were compared.',
    'note': 'Why there is no pattern.',
}
COLUMNS = list(_DESCRIBED)


def patterns(scores: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    r"""Compare the susceptibility of each participant with patterns of raised nuclei.

    A pattern is a relative rise :math:`w_r` of each nucleus; with the expected value :math:`\mu_r` and the
    standard deviation :math:`s_r` of controls of that age it gives deviations :math:`w_r \mu_r / s_r`. The
    similarity is the cosine between these and those of the participant, :math:`(x_r - \mu_r) / s_r`. Only
    those who are not controls and have a raised nucleus are compared. This is a description, never a
    diagnosis: patterns overlap between diseases, and vary within each.

    Parameters
    ----------
    scores : DataFrame
        From :func:`bids_qsm.cohort.normative.normative`.

    Returns
    -------
    table : DataFrame
        Columns `COLUMNS`: one row a participant, session and pattern, or one without a pattern.
    notes : list of str
    """
    wanted = (
        (scores['map'] == 'chi')
        & scores['hemisphere'].isin(['both', ''])
        & ~scores['is_control'].astype(bool)
    )
    rows = scores[wanted & scores['region'].isin(_REGIONS)].dropna(subset=['z'])
    found, rng = [], np.random.default_rng(0)
    by = ['participant_id', 'session_id', 'atlas']
    for key, one in rows.groupby(by, sort=False, dropna=False):
        common = dict(zip(by, key, strict=True)) | {'n_regions': len(one)}
        if len(one) < _LEAST_REGIONS:
            found.append(common | {'note': f'{len(one)} nuclei are too few'})
            continue
        # z, a normal score, would bring large deviations too close to each other
        z = ((one['value'] - one['expected']) / one['sd']).to_numpy(float)
        p = adjust(1 - one['percentile'] / 100, ['all'] * len(one))
        raised = one['region'].to_numpy()[p < _RAISED]
        common['raised'] = ', '.join(raised)
        if not len(raised):
            found.append(common | {'note': 'no nucleus is raised'})
            continue
        found += [common | row for row in _compared(one, z, rng)]
    table = pd.DataFrame(found).reindex(columns=COLUMNS)
    for column in ('raised', 'pattern', 'seen_in', 'note'):
        table[column] = table[column].astype(object).fillna('')
    notes = ['Patterns describe which nuclei are raised. They are no diagnosis.'] if len(table) else []
    return table, notes


def _compared(one: pd.DataFrame, z: np.ndarray, rng: np.random.Generator):
    """Rows of all patterns of which a nucleus was measured."""
    per_sd = np.maximum(one['expected'].to_numpy(float), 0) / one['sd'].to_numpy(float)
    wanted = {
        name: np.array([weights.get(region, 0.0) for region in one['region']]) * per_sd
        for name, weights in PATTERNS.items()
    }
    wanted = {name: w / np.linalg.norm(w) for name, w in wanted.items() if w.any()}
    if not wanted:
        return [{'note': 'no nucleus of a pattern was measured'}]
    directions = np.array(list(wanted.values()))
    similarity = directions @ z / np.linalg.norm(z)
    first = np.argmax((z + rng.standard_normal((_DRAWS, len(z)))) @ directions.T, axis=1)
    share = np.bincount(first, minlength=len(wanted)) / _DRAWS
    order = np.argsort(-similarity, kind='stable')
    names = list(wanted)
    return [
        {
            'pattern': names[i], 'seen_in': SEEN_IN[names[i]], 'similarity': float(similarity[i]),
            'rank': rank, 'share': float(share[i]), 'note': '',
        }
        for rank, i in enumerate(order, 1)
    ]  # fmt: skip


def dictionary() -> dict:
    """Describe every column of the table of patterns."""
    return describe(_DESCRIBED)
