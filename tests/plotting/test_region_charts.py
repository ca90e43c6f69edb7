import re

import numpy as np
import pandas as pd
import pytest

from bids_qsm.plotting.region_charts import plot_distributions, plot_regions


def rows(values, **more):
    base = {'map': 'chi', 'sd': 0.01, 'coverage': 1.0, 'units': 'ppm', 'reference': 'CSF'}
    return [{**base, 'region': r, 'hemisphere': h, 'mean': m, **more} for (r, h), m in values.items()]


def marks(svg):
    return len(re.findall('<use ', svg))


@pytest.fixture
def table():
    chi = {
        ('GP', 'L'): 0.13,
        ('GP', 'R'): 0.12,
        ('GP', 'both'): 0.125,
        ('RN', 'L'): 0.1,
        ('Lesion', 'both'): 0.03,
    }
    r2star = {('GP', 'L'): 35.0, ('GP', 'R'): 33.0}
    return pd.DataFrame(rows(chi) + rows(r2star, map='R2star', units='1/s', sd=2.0))


def test_regions_without_voxels_are_left_out(table):
    empty = pd.DataFrame(rows({('STN', 'L'): np.nan}))
    assert plot_regions(pd.concat([table, empty])) == plot_regions(table)
    assert 'svg' in plot_regions(empty)


def test_charts_show_all_values_and_are_the_same_each_time(table):
    svg = plot_regions(table)
    assert svg == plot_regions(table)
    assert marks(plot_regions(table[table['map'] == 'chi'])) < marks(svg)
    assert 'date' not in svg


def test_a_region_partly_outside_is_hollow(table):
    partly = table.assign(coverage=0.5)
    assert 'fill: #ffffff' in plot_regions(partly).replace('fill:#ffffff', 'fill: #ffffff')
    assert plot_regions(partly) != plot_regions(table)


def test_a_nucleus_with_the_outline_of_the_atlas_is_pale(table):
    svg = plot_regions(table.assign(source='prior'))
    assert 'opacity: 0.4' in svg
    assert 'opacity: 0.4' not in plot_regions(table.assign(source='own'))


def test_distributions_part_the_groups():
    rng = np.random.default_rng(0)
    long = pd.DataFrame(
        row
        for i in range(12)
        for row in rows(
            {('GP', 'both'): 0.1 + rng.normal(0, 0.01), ('SN', 'both'): 0.1, ('GP', 'L'): 0.9},
            participant_id=f'sub-{i}', group='patient' if i % 2 else 'control',
        )
    )  # fmt: skip
    together = plot_distributions(long)
    parted = plot_distributions(long, group='group')
    assert marks(together) > 24
    assert '#d55e00' in parted
    assert '#d55e00' not in together
    without = long[long['hemisphere'] == 'both']
    assert plot_distributions(without) == together


def test_distributions_are_of_one_atlas():
    one = pd.DataFrame(rows({('GP', 'both'): 0.1}, atlas='nuclei'))
    assert plot_distributions(one)
    with pytest.raises(ValueError, match='one atlas a figure, not nuclei, other'):
        plot_distributions(pd.concat([one, one.assign(atlas='other')]))


def test_distributions_of_nothing():
    assert 'svg' in plot_distributions(pd.DataFrame(rows({('GP', 'both'): np.nan})))
