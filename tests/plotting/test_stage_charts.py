import numpy as np
import pandas as pd

from bids_qsm.plotting.stage_charts import plot_ellipses, plot_trajectories
from tests.plotting.test_cohort_charts import marks


def rows():
    table = pd.DataFrame(
        [(region, stage, name) for region in ('GP', 'SN') for stage in '12' for name in ('iron', 'mvf')],
        columns=['region', 'stage', 'map'],
    )
    table['estimate'] = np.arange(8.0)
    end = {'ci_low': table['estimate'] - 1, 'ci_high': table['estimate'] + 1}
    return table.assign(reference='0', se=0.5, p_fdr=0.01, dof=20.0, rho_iron_mvf=-0.5, **end)


def test_trajectories_have_a_mark_for_each_stage():
    table = rows()[rows()['map'] == 'iron']
    both = plot_trajectories(table, ylabel='change')
    one = plot_trajectories(table[table['stage'] == '1'], ylabel='change')
    assert marks(both) > marks(one)
    assert both.count('SN') == one.count('SN')


def test_ellipses_have_one_for_each_region_and_stage():
    both = plot_ellipses(rows())
    one = plot_ellipses(rows()[rows()['stage'] == '1'])
    assert both.count('opacity: 0.3') == 2 * one.count('opacity: 0.3') == 4
