"""Compare two output datasets byte by byte.

python benchmarks/compare_outputs.py ONE OTHER

Files that hold dates or the names of folders (pages, logs, work, SLURM scripts) are left out. Prints one line
for each kind of file, then the files that differ or lack; exits with 1 where a map, table or sidecar differs.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

import disturb


def files_of(root: Path) -> set[Path]:
    """Files of an output dataset that runs in other folders have in common, relative to it."""
    return {path for path in disturb.results(root) if path.parts[0] != 'slurm' and path.suffix != '.html'}


def differences(one: Path, other: Path) -> tuple[list[Path], list[Path]]:
    """(files in both that are equal, files that differ or are in one alone)."""
    everything = files_of(one) | files_of(other)
    unequal = everything & set(map(Path, disturb.differences(one, other)))
    return sorted(everything - unequal), sorted(unequal)


def kind_of(path: Path) -> str:
    """Extension, and whether the file is a figure of the report."""
    extension = ''.join(path.suffixes[-2:]) if path.name.endswith('.nii.gz') else path.suffix
    return f'figures {extension}' if 'figures' in path.parts else extension or path.name


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('one', type=Path)
    parser.add_argument('other', type=Path)
    args = parser.parse_args()
    equal, unequal = differences(args.one, args.other)
    counts = {name: Counter(map(kind_of, paths)) for name, paths in (('equal', equal), ('not', unequal))}
    print('| kind | equal | differ or lack |\n| --- | --- | --- |')
    for kind in sorted(counts['equal'] | counts['not']):
        print(f'| {kind} | {counts["equal"][kind]} | {counts["not"][kind]} |')
    for path in unequal:
        state = 'differs' if (args.one / path).exists() and (args.other / path).exists() else 'in one alone'
        print(f'{state}: {path}')
    return int(any('figures' not in path.parts for path in unequal))


if __name__ == '__main__':
    sys.exit(main())
