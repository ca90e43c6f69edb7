"""Charts of statistics: all that is given is drawn, what is missing is said, equal data make equal files."""

import re

import numpy as np
import pandas as pd
import pytest

from bids_qsm.plotting.cohort_charts import (
    plot_changes,
    plot_forest,
    plot_lesions,
    plot_normative,
    plot_residuals,
    plot_scatter,
    plot_zscores,
)
from bids_qsm.plotting.region_charts import group_colours

RED = '#d55e00'


def marks(svg):
    return len(re.findall('<use ', svg))


def svgs(draw):
    """A chart twice over: it must be the same."""
    first, second = draw(), draw()
    assert first == second
    assert first.startswith('<?xml')
    return first


@pytest.fixture
def effects():
    estimate = np.array([0.05, 0.01, np.nan])
    return pd.DataFrame(
        {
            'label': ['SN', 'GP', 'RN'],
            'estimate': estimate,
            'ci_low': estimate - 0.02,
            'ci_high': estimate + 0.02,
            'p_fdr': [0.001, 0.3, np.nan],
            'n': [24, 24, 0],
        }
    )


def points(n, regions=('GP', 'SN'), groups=('control', 'patient')):
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            'region': np.repeat(regions, n),
            'x': rng.normal(0, 1, n * len(regions)),
            'y': rng.normal(0, 1, n * len(regions)),
            'group': np.resize(groups, n * len(regions)),
            'line': np.resize(np.arange(n // 2), n * len(regions)),
        }
    )


def test_a_forest_fills_what_is_significant(effects):
    svg = svgs(lambda: plot_forest(effects, xlabel='effect (ppm)'))
    assert 'fill: #0072b2' in svg
    assert 'fill: #ffffff; stroke: #0072b2' in svg
    none = plot_forest(effects.assign(p_fdr=0.2), xlabel='effect (ppm)')
    assert 'fill: #0072b2' not in none
    assert plot_forest(effects.iloc[2:], xlabel='effect (ppm)')


def texts(monkeypatch, module='bids_qsm.plotting.cohort_charts'):
    """What the charts to come write: their letters are outlines in the file."""
    written = []

    def keep(figure):
        written.extend(t.get_text() for ax in figure.axes for t in ax.texts)
        return ''

    monkeypatch.setattr(f'{module}.as_svg', keep)
    return written


def test_a_forest_without_intervals_writes_estimates_in_full(effects, monkeypatch):
    written = texts(monkeypatch)
    plot_forest(effects.assign(ci_low=np.nan, ci_high=np.nan), xlabel='effect (ppm)')
    assert '0.0500  no interval' in written
    assert not [text for text in written if 'nan' in text]
    plot_forest(effects.assign(estimate=[0.051, 0.01, 0.01]), xlabel='effect (ppm)')
    assert '0.0510  [0.0300, 0.0700]' in written


def test_the_normal_range_counts_participants(monkeypatch):
    written = texts(monkeypatch)
    table = points(10, regions=('GP',)).rename(columns={'x': 'age', 'y': 'value'})
    table['participant_id'] = [f'sub-{i // 2}' for i in range(10)]
    table = table.assign(expected=0.0, low=-2.0, high=2.0, is_control=True)
    plot_normative(table, xlabel='age (years)', ylabel='χ (ppm)')
    assert written == ['n = 5']


def test_a_forest_parts_groups_by_colour(effects):
    both = pd.concat([effects.assign(who='a'), effects.assign(who='b')]).sort_values('label', kind='stable')
    svg = plot_forest(both, xlabel='change (ppm)', by='who')
    assert RED in svg
    assert RED not in plot_forest(effects, xlabel='change (ppm)')


def test_groups_keep_their_colour_where_others_are_absent():
    assert group_colours(['patient'], ['control', 'patient'])['patient'] == RED
    assert list(group_colours(['b', 'n/a', 'all', 'a'])) == ['a', 'b', 'all', 'n/a']
    assert group_colours(['all', 'patient'], ['control', 'patient'])['patient'] == RED
    assert group_colours(['all'])['all'] == '#0072b2'
    visits = points(8, groups=('patient',))
    svg = plot_changes(visits, {}, xlabel='years', ylabel='χ (ppm)', groups=('control', 'patient'))
    assert RED in svg
    assert '#0072b2' not in svg


def test_scatter_draws_each_point_and_line():
    line = pd.DataFrame({'region': ['GP'] * 2, 'x': [-1, 1], 'fit': [0, 1], 'low': [-1, 0], 'high': [1, 2]})
    table = points(10)
    few = svgs(lambda: plot_scatter(table, line, {'GP': 'r = .5'}, xlabel='score', ylabel='χ (ppm)'))
    # four points twice: the axes stay as they are
    more = pd.concat([table, table.iloc[4:8]])
    assert (
        marks(plot_scatter(more, line, {'GP': 'r = .5'}, xlabel='score', ylabel='χ (ppm)')) == marks(few) + 4
    )
    without = plot_scatter(table, line.iloc[:0], {}, xlabel='score', ylabel='χ (ppm)')
    assert len(without) < len(few)


def test_many_points_become_one_picture():
    line = pd.DataFrame(columns=['region', 'x', 'fit', 'low', 'high'])
    svg = plot_scatter(points(2000), line, {}, xlabel='score', ylabel='χ (ppm)')
    assert 'data:image/png' in svg
    assert len(svg) < 400_000


def test_names_with_signs_of_formulas_are_drawn_as_they_are():
    line = pd.DataFrame(columns=['region', 'x', 'fit', 'low', 'high'])
    table = points(6, regions=('$x_',), groups=('a$b^', 'c$\\frac'))
    assert plot_scatter(table, line, {'$x_': '$'}, xlabel='$\\', ylabel='_$')


def test_changes_draw_one_line_a_participant_and_the_least_change():
    visits = pd.DataFrame(
        {
            'region': 'GP', 'line': ['a', 'a', 'a', 'b', 'b'], 'x': [0, 1, 2, 0, 1.5],
            'y': [0.1, 0.2, 0.3, 0.2, 0.1], 'group': 'patient',
        }
    )  # fmt: skip
    svg = svgs(lambda: plot_changes(visits, {'GP': 'n = 2'}, xlabel='years', ylabel='χ (ppm)'))
    courses = re.findall(r'd="(M [^"]+)" clip-path', svg)
    # one path that is broken once: three points, then two
    assert [re.sub('[^ML]', '', course) for course in courses if course.count('M') == 2] == ['MLLML']
    bar = plot_changes(visits, {'GP': 'n = 2'}, xlabel='years', ylabel='χ (ppm)', detectable={'GP': 0.05})
    assert len(bar) > len(svg)


def test_scores_and_the_range_of_controls():
    table = points(10).rename(columns={'x': 'age', 'y': 'value'})
    table['participant_id'] = [f'sub-{i % 5}' for i in range(len(table))]
    table = table.assign(
        expected=0.0, low=-2.0, high=2.0, z=table['value'], is_control=table['group'] == 'control'
    )
    svg = svgs(lambda: plot_normative(table, xlabel='age (years)', ylabel='χ (ppm)'))
    assert RED in svg
    assert marks(plot_zscores(table)) > 20
    # only controls, each of whom is expected from the others
    assert plot_normative(table[table['is_control']], xlabel='age (years)', ylabel='χ (ppm)')


def test_residuals_of_few_and_many_regions():
    for regions in (('GP',), tuple(f'r{i}' for i in range(8))):
        table = points(12, regions=regions).rename(columns={'x': 'fitted', 'y': 'residual'})
        svg = svgs(lambda table=table: plot_residuals(table.assign(normal=table['residual']), unit='ppm'))
        assert marks(svg) > 24 * len(regions)


def test_lesions_are_coloured_by_sign():
    table = pd.DataFrame(
        {'volume_mm3': [10.0, 100.0, 50.0], 'chi_mean': [0.1, -0.1, 0.0], 'chi_surround': 0.0}
    )
    svg = svgs(lambda: plot_lesions(table.assign(sign=['paramagnetic', 'diamagnetic', 'none'])))
    assert all(colour in svg for colour in (RED, '#0072b2', '#666666'))
    assert plot_lesions(table.assign(sign=np.nan, chi_surround=np.nan))
