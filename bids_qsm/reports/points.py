"""What an interactive chart of the cohort's page needs: quartiles and points by region and group."""

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from bids_qsm.cohort.tables import series_columns
from bids_qsm.plotting.region_charts import group_colours, only

MOST_POINTS = 15_000
"""Points of a chart; beyond, only those outside the whiskers are drawn, so that it stays quick."""


def distribution_points(
    table: pd.DataFrame,
    *,
    map_name: str,
    symbol: str,
    group: str | None,
    regions: Sequence[str],
    statistic: str,
    pages: Collection[str],
) -> dict:
    """Quartiles, whiskers and points of the values of regions, as `plot_distributions` draws them.

    Parameters
    ----------
    table, map_name, symbol, group, regions, statistic
        As for :func:`bids_qsm.plotting.region_charts.plot_distributions`.
    pages
        Participants that have a page.

    Returns
    -------
    dict
        ``symbol``, ``unit``, ``regions``, ``groups`` (name, colour, count); ``boxes`` (numbers of region and
        group, then whisker, quartile, median, quartile, whisker); ``names`` and ``pages`` of series;
        ``points``, columns of one length: numbers of region, group and series, and value; ``cut``, whether
        points within the whiskers are left out.
    """
    kept = (table['map'] == map_name) & (table['hemisphere'] == 'both') & table[statistic].notna()
    table = table[kept & table['region'].isin(regions)]
    groups = pd.Series('all', table.index) if group is None else table[group].fillna('n/a').astype(str)
    colours = group_colours(groups)
    named = table[series_columns(table)].astype(object)
    series = [' '.join(str(v) for v in row if pd.notna(v)) for row in named.itertuples(index=False)]
    names = list(dict.fromkeys(series))
    number = {name: i for i, name in enumerate(names)}
    people = dict(zip(series, table['participant_id'], strict=True))
    frame = pd.DataFrame(
        {
            'region': pd.Categorical(table['region'], list(regions)).codes,
            'group': pd.Categorical(groups, list(colours)).codes,
            'series': [number[name] for name in series],
            'value': table[statistic].to_numpy(float),
        }
    )
    boxes, outside = [], np.zeros(len(frame), bool)
    for (region, one), part in frame.groupby(['region', 'group']):
        low, middle, high = np.percentile(part['value'], [25, 50, 75])
        reach = 1.5 * (high - low)
        within = part['value'].between(low - reach, high + reach)
        ends = part.loc[within, 'value']
        if len(part) >= 4:
            five = [ends.min(), low, middle, high, ends.max()]
            boxes.append([int(region), int(one), *(_rounded(v) for v in five)])
        outside[part.index[~within]] = True
    cut = len(frame) > MOST_POINTS
    shown = (frame[outside] if cut else frame).sort_values(['region', 'group', 'value'], kind='stable')
    counts = table.assign(_group=groups).groupby('_group')['participant_id'].nunique()
    return {
        'symbol': symbol,
        'unit': only(table, 'units'),
        'regions': list(regions),
        'groups': [[name, colour, int(counts[name])] for name, colour in colours.items()],
        'boxes': boxes,
        'names': names,
        'pages': [f'{people[name]}.html' if people[name] in pages else '' for name in names],
        'points': {
            **{key: shown[key].astype(int).tolist() for key in ('region', 'group', 'series')},
            'value': [_rounded(v) for v in shown['value']],
        },
        'cut': cut,
    }


def _rounded(value: float) -> float:
    return float(f'{value:.4g}')
