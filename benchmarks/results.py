"""Measured results as tables on disk: one row a measurement, written as soon as it is known."""

import json
import os
import pickle
import platform
from datetime import date
from pathlib import Path

import numba
import numpy as np
import pandas as pd
import scipy

from bids_qsm import __version__
from bids_qsm.app.methods import registries

FOLDER = Path(__file__).parent / 'results'
PICTURED = (
    ('truth', 'truth'),
    ('chain|default', 'default chain'),
    ('chain|usual: V-SHARP + RTS', 'V-SHARP + RTS'),
    ('chain|usual: PDF + MEDI', 'PDF + MEDI'),
    ('inversion|{inversion}', 'default inversion,\ntrue local field'),
    ('inversion|tkd', 'TKD,\ntrue local field'),
)
"""Maps whose slices are kept, and their titles; {inversion} stands for the default."""


def defaults():
    """Step -> name of the method that is used when none is chosen."""
    return {step: next(iter(methods)) for step, methods in registries().items()}


class Table:
    """Rows of a TSV file, each known by its values in the columns ``key``."""

    def __init__(self, path, key):
        self.path, self.key = Path(path), list(key)
        self.rows = {}
        if self.path.exists():
            frame = pd.read_csv(self.path, sep='\t', na_values='n/a', dtype={'condition': str, 'method': str})
            self.rows = {self._id(row): row for row in frame.to_dict('records')}

    def _id(self, row):
        # a number read from the file may be an int where it was a float
        return tuple(v if isinstance(v, str) else float(v) for v in (row[k] for k in self.key))

    def __contains__(self, row):
        found = self.rows.get(self._id(row))
        # what failed is to be tried again
        return found is not None and pd.isna(found.get('error'))

    def put(self, row):
        """Add or replace a row, write the file and print the row."""
        row = {k: _plain(v) for k, v in row.items()}
        self.rows[self._id(row)] = row
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix('.part')
        self.frame.to_csv(part, sep='\t', index=False, float_format='%.5g', na_rep='n/a')
        part.replace(self.path)
        print(
            '  '.join(f'{k} {v:.4g}' if isinstance(v, float) else str(v) for k, v in row.items()), flush=True
        )

    @property
    def frame(self):
        """All rows as a data frame."""
        return pd.DataFrame(list(self.rows.values()))


def _plain(value):
    return value.item() if isinstance(value, np.generic) else value


def kept(folder, name, make):
    """What ``make`` returns, which takes minutes; from ``folder``, if given, where it was made before."""
    if not folder:
        return make()
    path = folder / f'{name.replace(" ", "_")}.pkl'
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(make()))
    return pickle.loads(path.read_bytes())


def write_machine(folder=FOLDER):
    """Note what the results were measured on, and what the defaults were."""
    names = {}
    for line in Path('/proc/cpuinfo').read_text().splitlines():
        name, _, value = line.partition(':')
        names.setdefault(name.strip(), value.strip())
    facts = {
        'date': date.today().isoformat(),
        'bids_qsm': __version__,
        'processor': names.get('model name', platform.machine()),
        'cores': len(os.sched_getaffinity(0)),
        'python': platform.python_version(),
        'numpy': np.__version__,
        'scipy': scipy.__version__,
        'numba': numba.__version__,
        'defaults': defaults(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'machine.json').write_text(json.dumps(facts, indent=2) + '\n')
