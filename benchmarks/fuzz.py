"""What becomes of thousands of malformed datasets: a clear message, a right result, or neither (lost).

python benchmarks/fuzz.py [--cases 300] [--seed 0] [--kinds names headers ...]

The classes are those of tests/malformed.py, the judge is tests/ordeal.py; a class may have fewer different
cases than are asked for. Those of tests/wrong_phase.py are phase images that say something else than they
should; one is lost where the map has less than half of the correlation with the truth that the clean one has,
and nothing is said. Where one is lost, it says why, and the exit status is 1.
"""

import argparse
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests import malformed, wrong_phase
from tests.ordeal import Writes, fresh, put_through

SCANS = {
    '3 T': {},
    '7 T': {'field_strength': 7.0, 'echo_times': (0.004, 0.009, 0.014)},
    'low SNR': {'snr': 15.0},
    'two echoes': {'echo_times': (0.005, 0.0075)},
    'single echo': {'echo_times': (0.018,)},
}
"""Scans whose phase is spoiled."""
KINDS = [*malformed.KINDS, *wrong_phase.FAULTS]


def survey(kind, cases, start, root, writes):
    """Outcomes of a class of malformations: Counter of 'message', 'result' and 'lost', and why these were."""
    tally, why = Counter(message=0, result=0, lost=0), Counter()
    quick = settings(
        max_examples=cases,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )

    @seed(start)
    @quick
    @given(st.data())
    def case(data):
        folder = fresh(root / 'sound')
        try:
            malformed.KINDS[kind](data.draw, folder)
            outcome = put_through(
                *(folder, writes, '-d', f'others={folder / "derivatives"}'),
                templates=root / 'templates',
                all_of_dataset=kind == 'dataset',
                must_run=kind == 'harmless',
            )
            tally[outcome.kind] += 1
        except Exception as error:  # Lost, or anything that the code under test let out
            tally['lost'] += 1
            why[f'{type(error).__name__}: {str(error).replace(str(folder), "")}'[:300]] += 1
        finally:
            shutil.rmtree(folder.parent)

    case()
    return tally, why


def survey_phase(fault, cases, start):
    """Outcomes of a fault of phase over all SCANS, as of `survey`."""
    tally, why = Counter(message=0, result=0, lost=0), Counter()
    for name, protocol in SCANS.items():
        simulation = wrong_phase.acquire(start, **protocol)
        images = simulation.magnitude, simulation.phase
        if fault == 'echoes_swapped' and images[0].shape[3] == 1:
            continue
        clean = wrong_phase.put_through(simulation, *images)
        for case in range(cases):
            rng = np.random.default_rng([start, case])
            outcome = wrong_phase.put_through(simulation, *wrong_phase.FAULTS[fault](rng, *images))
            right = outcome.correlation >= wrong_phase.LEAST * clean.correlation
            tally['message' if outcome.said else 'result' if right else 'lost'] += 1
            if not (outcome.said or right):
                why[f'{name}: correlation {outcome.correlation:.2f}, clean {clean.correlation:.2f}'] += 1
    return tally, why


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--cases', type=int, default=300, help='of each class')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--kinds', nargs='+', choices=KINDS, default=KINDS)
    options = parser.parse_args(words)
    root, writes, total = Path(tempfile.mkdtemp()), Writes(), Counter()
    try:
        malformed.write_sound(root / 'sound')
        (root / 'templates').mkdir()
        print(f'{"malformation":<14}{"cases":>7}{"message":>9}{"result":>8}{"lost":>6}', flush=True)
        for kind in options.kinds:
            if kind in wrong_phase.FAULTS:
                tally, why = survey_phase(kind, options.cases, options.seed)
            else:
                tally, why = survey(kind, options.cases, options.seed, root, writes)
            total += tally
            _print(kind, tally)
            for reason, times in why.most_common():
                print(f'  lost {times} times: {reason}', flush=True)
        _print('all', total)
    finally:
        shutil.rmtree(root)
    return int(total['lost'] > 0)


def _print(kind, tally):
    counts = f'{tally["message"]:>9}{tally["result"]:>8}{tally["lost"]:>6}'
    print(f'{kind:<14}{sum(tally.values()):>7}{counts}', flush=True)


if __name__ == '__main__':
    sys.exit(main())
