"""The benchmarks run on a head of 6 mm, and their scores mean what they say."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

BENCHMARKS = Path(__file__).parents[2] / 'benchmarks'


@pytest.fixture(scope='module')
def bench():
    """The scripts, imported as they import each other."""
    sys.path.insert(0, str(BENCHMARKS))
    import accuracy
    import conditions
    import document
    import metrics
    import speed

    yield {m.__name__: m for m in (accuracy, conditions, document, metrics, speed)}
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope='module')
def case(bench):
    """A base scan of 6 mm."""
    conditions = bench['conditions']
    return conditions.scan(conditions.grid_of_conditions(6.0)['base'], 3)


@pytest.fixture(scope='module')
def results(bench, case, tmp_path_factory):
    """Folder with the results of a few methods and one chain."""
    folder = tmp_path_factory.mktemp('results')
    accuracy = bench['accuracy']
    with pytest.MonkeyPatch.context() as patch:
        # the brain of a T1w image takes longer to find than all the rest
        patch.setattr(accuracy, 'scan', lambda *_, **__: case)
        case.data['brain'] = case.truth['mask']
        words = ['--voxel', '6', '--seeds', '3', '--conditions', 'base', '--results', str(folder)]
        accuracy.main([*words, '--methods', 'tkd', 'vsharp', 'arlo', 'clearswi', 'default'])
    return folder


def test_the_truth_scores_best_and_lost_voxels_cost(bench, case):
    score, truth = bench['metrics'].score_chi, case.truth
    size = case.grid.voxel_size
    # a constant makes no difference
    perfect = score(truth['chi'] + np.float32(0.3), truth['mask'], truth, size)
    for name, best in (('nrmse', 0), ('hfen', 0), ('xsim', 1), ('slope', 1), ('coverage', 1), ('stone', 100)):
        assert perfect[name] == pytest.approx(best, abs=0.05), name
    half = truth['mask'].copy()
    half[: half.shape[0] // 2] = False
    lost = score(truth['chi'], half, truth, size)
    assert 50 < lost['nrmse'] < 90
    assert lost['coverage'] == pytest.approx(0.5, abs=0.05)
    low = score(0.5 * truth['chi'], truth['mask'], truth, size)
    assert low['nrmse'] == pytest.approx(50, abs=0.1)
    assert low['detrended'] == pytest.approx(0, abs=0.1)
    assert low['slope'] == pytest.approx(0.5, abs=0.01)


def test_moment_of_a_stone(bench):
    moment = bench['metrics'].moment
    stone = np.zeros((24, 24, 24), bool)
    stone[10:13, 10:13, 10:13] = True
    chi = np.where(stone, -0.5, 0.1)
    assert moment(chi, stone, (1.0, 1.0, 2.0)) == pytest.approx(-0.6 * 27 * 2)
    assert np.isnan(moment(chi, ~stone & stone, (1.0, 1.0, 1.0)))


def test_wrong_wraps_are_counted_but_for_whole_turns_of_all(bench):
    field = np.linspace(-1, 1, 1000, dtype=np.float32).reshape(10, 10, 10)
    mask = np.ones(field.shape, bool)
    unwrapped = np.stack([5 * field + 2 * np.pi, 10 * field], -1)
    unwrapped[:2, 0, :5, 1] += 2 * np.pi
    assert bench['metrics'].wrong_wraps(unwrapped, field, mask, (5, 10)) == pytest.approx([0, 1])


def test_measured_fields_carry_the_noise_of_the_scan(case):
    data, mask = case.measured(), case.truth['mask']
    error = (data['field'] - case.truth['local_field'])[mask] / data['noise'][mask]
    assert error.std() == pytest.approx(1, abs=0.05)
    np.testing.assert_allclose(
        (data['total'] - data['field'])[mask], case.truth['background_field'][mask], atol=1e-5
    )


def test_every_condition_differs_from_the_base_and_says_in_what(bench):
    known = bench['conditions'].grid_of_conditions(1.0)
    assert len({c.protocol for c in known.values()}) == len(known)
    assert {c.field_strength for c in known.values()} == {1.5, 3.0, 7.0}
    assert {len(c.echo_times) for c in known.values()} == {1, 3, 5, 8}
    assert min(min(c.voxel_size) for c in known.values()) == pytest.approx(0.7)


def test_results_hold_every_part_and_no_error(results):
    table = pd.read_csv(results / 'accuracy.tsv', sep='\t', na_values='n/a')
    assert set(table['part']) == {'inversion', 'background', 'chain', 'r2star', 'swi'}
    assert 'error' not in table
    chosen = table[table['part'].isin(['inversion', 'background', 'chain'])]
    assert chosen[['nrmse', 'hfen', 'xsim', 'slope', 'coverage', 'stone']].notna().to_numpy().all()
    # the methods chosen are the default in one part and not in the next
    assert (table['part'] == 'chain').sum() == 1


def test_a_method_that_fails_is_named_in_the_table(bench, case, tmp_path, monkeypatch):
    accuracy = bench['accuracy']
    monkeypatch.setattr(accuracy, 'scan', lambda *_, **__: case)

    def broken(*_):
        raise ValueError('no such luck')

    monkeypatch.setattr(accuracy, 'run_inversion', broken)
    words = ['--voxel', '6', '--seeds', '3', '--conditions', 'base', '--parts', 'inversion']
    accuracy.main([*words, '--methods', 'tkd', '--results', str(tmp_path)])
    table = pd.read_csv(tmp_path / 'accuracy.tsv', sep='\t')
    assert table['error'].tolist() == ['ValueError: no such luck']
    # the next run finds the row and mends it
    monkeypatch.setattr(accuracy, 'run_inversion', lambda *_: (case.truth['chi'], {'nrmse': 1.0}))
    accuracy.main([*words, '--methods', 'tkd', '--missing', '--results', str(tmp_path)])
    table = pd.read_csv(tmp_path / 'accuracy.tsv', sep='\t', na_values='n/a')
    assert table['nrmse'].tolist() == [1.0]
    assert 'error' not in table


@pytest.mark.skipif(not Path('/proc/self/clear_refs').exists(), reason='needs the memory count of Linux')
def test_speed_of_a_method(bench, case, tmp_path, monkeypatch):
    from chain import Chain

    from bids_qsm.recon.fourier import Box

    monkeypatch.setattr(Box, 'around', Box.around)  # which the measurement replaces
    speed = bench['speed']
    data = Chain({**case.data, 'brain': case.truth['mask']}).run().data
    for name, content in (('tiny', case.data), ('scan', data)):
        (tmp_path / f'{name}.pickle').write_bytes(speed.pickle.dumps(content))
    found = speed.measure_method(tmp_path, 'inversion', 'tkd')
    assert set(found) == {'seconds', 'cpu', 'pairs', 'bytes_per_voxel'}
    assert speed.measure_method(tmp_path, 'minip', 'minip')['cpu'] >= 0
    assert {row['engine'] for row in speed.measure_fft(1)} >= {'scipy.fft'}


def test_the_page_shows_what_was_measured(bench, results, tmp_path):
    document = bench['document']
    pd.DataFrame(
        [
            {'step': 'inversion', 'method': 'tkd', 'threads': n, 'seconds': 0.1 / n, 'cpu': 0.1, 'pairs': 2.0}
            | {'bytes_per_voxel': 8.0}
            for n in (1, 2)
        ]
    ).to_csv(results / 'speed.tsv', sep='\t', index=False)
    document.main(['--results', str(results), '--docs', str(tmp_path), '--voxel', '6'])
    page = (tmp_path / 'benchmarks.md').read_text()
    assert '{{' not in page
    assert 'why:' not in page
    rows = [line for line in page.splitlines() if line.startswith('| inversion | tkd')]
    assert rows
    assert '| 0.18 | 1.8 |' in rows[0]
    for line in page.splitlines():
        if '](figures/' in line and 'fft' not in line:
            assert (tmp_path / line.partition('](')[2].rstrip(')')).stat().st_size > 1000


def test_a_table_that_does_not_exist_is_an_error(bench, results):
    document = bench['document']
    with pytest.raises(ValueError, match='nonsense'):
        document.render('{{nonsense}}', document.Results(results, 6.0))
