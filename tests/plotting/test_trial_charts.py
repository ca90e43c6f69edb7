import numpy as np
import pandas as pd

from bids_qsm.plotting.trial_charts import plot_agreement, plot_slopes
from tests.plotting.test_cohort_charts import marks, svgs


def test_agreement_has_a_point_for_each_participant():
    rng = np.random.default_rng(0)
    pairs = pd.DataFrame(
        {'region': np.repeat(['SN', 'GP'], 9), 'first': 100.0, 'second': 100 + rng.normal(size=18)}
    )
    table = pd.DataFrame(
        {'region': ['SN', 'GP'], 'bias': 0.1, 'limit_low': -2.0, 'limit_high': 2.2, 'sdw': 0.7, 'n_pairs': 9}
    )
    drawn = svgs(lambda: plot_agreement(pairs, table, unit='ppb'))
    more = svgs(lambda: plot_agreement(pd.concat([pairs, pairs.head(4)]), table, unit='ppb'))
    assert marks(more) == marks(drawn) + 4


def test_slopes_have_a_line_for_each_arm():
    visits = pd.DataFrame(
        {
            'region': 'GP',
            'line': np.repeat(list('abcd'), 3),
            'x': np.tile([0.0, 1, 2], 4),
            'y': np.arange(12.0),
        }
    ).assign(group=np.repeat(['placebo', 'active'], 6))
    lines = pd.DataFrame(
        {'region': 'GP', 'group': ['placebo', 'active'], 'baseline': 5.0, 'slope': [0.0, -1.0], 'years': 2.0}
    ).assign(text=['', '−1 ppb per year'])
    both = svgs(lambda: plot_slopes(visits, lines, ylabel='χ (ppb)', groups=['placebo', 'active']))
    one = plot_slopes(visits, lines.head(1), ylabel='χ (ppb)', groups=['placebo', 'active'])
    assert both.count('<path') > one.count('<path')
