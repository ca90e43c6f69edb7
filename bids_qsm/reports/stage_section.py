"""Section of the cohort page on the stages of a disease."""

import pandas as pd

from bids_qsm.cohort.observations import as_text, some
from bids_qsm.plotting.stage_charts import plot_ellipses, plot_trajectories
from bids_qsm.reports.blocks import (
    ALPHA,
    FOLD,
    by_region,
    charted,
    figure,
    grid,
    in_order,
    section,
    signed,
    words,
)

NAMES = {'iron': 'iron', 'mvf': 'myelin fraction', 'chi': 'χ', 'R2star': 'R2*'}


def stages_section(
    table: pd.DataFrame, constants: pd.DataFrame, column: str, *, notes: list[str], files: list[str]
) -> dict:
    """Changes of iron, myelin, susceptibility and R2* from the first stage."""
    said, blocks, answers = words('stages'), [], []
    table = table.assign(stage=as_text(table['stage']))
    reference = str(table['reference'].iloc[0])
    several = table['atlas'].nunique() > 1
    for atlas, rows in table.groupby('atlas', sort=False):
        rows = by_region(rows, in_order(rows['region']))
        of = f' (atlas {atlas})' if several else ''
        drawn, cut = charted(rows)
        for name, title in NAMES.items():
            part = rows[rows['map'] == name]
            if part.empty:
                continue
            unit = part['units'].iloc[0]
            answers.append(_answer(part, title + of, unit, reference))
            label = f'change of {title}' + (f' ({unit})' if unit != 'fraction' else '')
            svg = plot_trajectories(drawn[drawn['map'] == name], ylabel=label)
            caption = said['trajectory'].format(map=title, reference=f'{column} {reference}') + cut
            blocks.append(figure(f'stages-{name}-{atlas}', f'{title} by stage{of}', svg, caption))
        if 'iron' in set(rows['map']):
            svg = plot_ellipses(drawn[drawn['map'].isin(['iron', 'mvf'])])
            caption = said['ellipses'] + cut
            blocks.append(figure(f'stages-ellipses-{atlas}', f'Iron and myelin{of}', svg, caption))
        shown = rows.assign(map=rows['map'].map(NAMES))
        columns = {
            'region': 'region',
            'stage': 'stage',
            'map': 'quantity',
            'estimate': 'change',
            'units': 'unit',
        }
        columns |= {'ci_low': '95 % from', 'ci_high': 'to', 'p': 'p', 'p_fdr': 'p (FDR)'}
        columns |= {'rho_iron_mvf': 'correlation', 'change_per_fifth': 'change by a fifth'}
        caption = said['table'].format(reference=f'{column} {reference}')
        blocks.append(grid(f'Changes{of}', shown, columns=columns, caption=caption, folded=len(rows) > FOLD))
    if len(constants):
        caption = said['constants'].format(reference=f'{column} {reference}')
        blocks.append(grid('Constants', constants, caption=caption))
    question = said['question'].format(column=column, reference=reference)
    return section('stages', question=question, answers=answers, blocks=blocks, notes=notes, files=files)


def _answer(rows: pd.DataFrame, title: str, unit: str, reference: str) -> str:
    """Regions that differ, by stage."""
    sure = rows[rows['p_fdr'] < ALPHA]
    found = []
    for stage, part in sure.groupby('stage', sort=False):
        listed = [f'{row["region"]} {signed(row["estimate"])}' for row in part.to_dict('records')]
        found.append(f'stage {stage}: {", ".join(listed)}')
    what = f'{title} ({unit})' if unit != 'fraction' else title
    unknown = rows[rows['p'].isna()]['region'].unique()
    rest = f' It could not be tested in {some(unknown)}.' if len(unknown) else ''
    if found:
        return f'{what} differs from {reference} in {"; ".join(found)}.{rest}'
    return f'{what} could not be tested.' if rows['p'].isna().all() else f'{what} differs in no stage.{rest}'
