"""Charts of venous oxygenation."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bids_qsm.plotting.region_charts import COLOURS, as_svg

MOST = 40
"""Most veins in a chart."""
_KINDS = {
    'superior_sagittal_sinus': COLOURS[0],
    'straight_sinus': COLOURS[1],
    'vein_of_galen': COLOURS[3],
    'internal_cerebral_vein': COLOURS[4],
    'cortical_vein': COLOURS[2],
}


def plot_saturation(table: pd.DataFrame) -> str:
    """Draw the saturation of each usable vein with its 95 % confidence interval, the most certain on top.

    The thick part of a line is the error of the vein itself; the rest is shared by all veins of the person:
    haematocrit, reference and model.

    Parameters
    ----------
    table : DataFrame
        Columns vein, name, diameter_mm, Yv, Yv_se, Yv_se_own, usable.

    Returns
    -------
    SVG file.
    """
    rows = table[table['usable'].astype(bool) & table['Yv'].notna()].sort_values('Yv_se_own').head(MOST)
    figure = Figure(figsize=(8, max(1.8, 1.1 + 0.24 * len(rows))), layout='constrained')
    if rows.empty:
        figure.text(0.5, 0.5, 'No vein could be used.', ha='center')
        return as_svg(figure)
    ax = figure.subplots()
    names = []
    for place, row in enumerate(rows.to_dict('records')):
        colour = _KINDS.get(str(row['name']), COLOURS[6])
        for size, width in ((row['Yv_se'], 1.0), (row['Yv_se_own'], 3.0)):
            half = 196 * size
            ax.plot([100 * row['Yv'] - half, 100 * row['Yv'] + half], [place] * 2, color=colour, lw=width)
        ax.plot(100 * row['Yv'], place, 'o', color=colour, markersize=4)
        names.append(f'{str(row["name"]).replace("_", " ")} {row["vein"]} ({row["diameter_mm"]:.1f} mm)')
    ax.set_yticks(np.arange(len(names)), names, fontsize=8)
    ax.invert_yaxis()
    left, right = ax.get_xlim()
    ax.set_xlim(max(left, 20), min(right, 105))  # one vague vein must not hide the others
    ax.set_xlabel('venous oxygen saturation (%)')
    ax.grid(axis='x', color='#dddddd', linewidth=0.7)
    ax.spines[['top', 'right']].set_visible(False)
    return as_svg(figure)
