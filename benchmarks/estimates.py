"""Compare the estimates of --dry-run with what the steps of whole runs took, by their logs.

python benchmarks/estimates.py OUT [OUT ...] [--fit]

Each OUT is the output folder of a participant level whose dataset is still where it was. Seconds are those
of the processor, so that other work on the machine counts little.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import nnls

from bids_qsm.app.options import Options, read_toml
from bids_qsm.execution import estimates
from bids_qsm.execution.progress import stage_of
from bids_qsm.execution.run_log import merge, read_runs
from bids_qsm.layout import find_series


def measured(steps: dict[str, dict]) -> pd.DataFrame:
    """Processor seconds, and the most memory (GB) of a step, by stage."""
    rows = [
        (stage_of(name), one.get('cpu_seconds', one['seconds']), one.get('peak_gb') or 0.0)
        for name, one in steps.items()
        if not estimates.is_application(name)
    ]
    found = pd.DataFrame(rows, columns=['stage', 'cpu_s', 'gb']).groupby('stage')
    return found.agg({'cpu_s': 'sum', 'gb': 'max'})


def compare(out: Path) -> list[dict]:
    """Rows of series, and of anatomies, by stage."""
    configs = sorted(out.glob('logs/*/config.toml'))
    settings = read_toml(configs[-1].read_text(), source=configs[-1])
    options = Options.from_settings({**settings, 'skip_bids_validation': True})
    damage: list[str] = []
    log, rows, seen = merge(read_runs(out / 'logs', damage)), [], set()
    for said in damage:
        print(said, file=sys.stderr)
    for one in find_series(options).series:
        parts = [(one.name, log['series'].get(one.name, {}), estimates.of_stages(one, options))]
        if one.subject not in seen and one.has_regions:
            seen.add(one.subject)
            anatomy = log['subjects'].get(f'sub-{one.subject}', {})
            parts.append((f'sub-{one.subject}', anatomy, {'anatomy': estimates.of_anatomy(one, options)}))
        for name, entry, stages in parts:
            if entry.get('state', 'done') != 'done' or not entry.get('steps'):
                continue
            found = measured(entry['steps'])
            for stage, cost in stages.items():
                if stage in found.index:
                    took, gb = found.loc[stage]
                    rows.append(
                        {
                            'run': out.parent.name,
                            'series': name,
                            'megavoxels': round(1e-6 * np.prod(one.shape), 2),
                            'echoes': len(one.echo_times),
                            'stage': stage,
                            'estimate_s': round(cost.seconds, 1),
                            'measured_s': round(took, 1),
                            'ratio': round(took / cost.seconds, 2),
                            'estimate_gb': round(cost.gb, 2),
                            'measured_gb': round(gb, 2),
                        }
                    )
    return rows


def fit(table: pd.DataFrame) -> dict[str, tuple[float, ...]]:
    """Seconds of a stage, of each million voxels, and of each of their echoes, least in relative error."""
    found = {}
    for stage, rows in table.groupby('stage'):
        if stage == 'anatomy':
            found[stage] = (round(float(rows['measured_s'].median()), 1),)
            continue
        voxels = rows['megavoxels'].to_numpy()
        design = np.stack([np.ones(len(rows)), voxels, voxels * rows['echoes']], 1)
        took = rows['measured_s'].to_numpy()
        found[stage] = tuple(nnls(design / took[:, None], np.ones(len(rows)))[0].round(2).tolist())
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('out', nargs='+', type=Path)
    parser.add_argument('--fit', action='store_true', help='also print what would fit these runs best')
    given = parser.parse_args()
    table = pd.DataFrame([row for out in given.out for row in compare(out)])
    print(table.to_string(index=False))
    whole = table.groupby(['run', 'megavoxels', 'echoes'])[['estimate_s', 'measured_s']].sum()
    print(f'\n{whole.assign(ratio=(whole["measured_s"] / whole["estimate_s"]).round(2)).to_string()}')
    if given.fit:
        print('', *(f'{stage}: {numbers}' for stage, numbers in fit(table).items()), sep='\n')


if __name__ == '__main__':
    main()
