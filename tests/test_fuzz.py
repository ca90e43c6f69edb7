"""Malformed datasets end in a clear message or a right result: no traceback, no hang, no stray write.

Phase that is not what it should be ends in a right map, or in one with a warning, or in an error.
"""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from bids_qsm.errors import UserError
from bids_qsm.interfaces.xfm import load_xfm
from tests import malformed, wrong_phase
from tests.cohorts import write_cohort
from tests.nasty import JUNK, WORDS
from tests.ordeal import Lost, Writes, fresh, put_through, said_by, time_limit

CASES = {
    'names': 24,
    'echoes': 20,
    'sidecars': 20,
    'headers': 24,
    'arrays': 20,
    'damage': 20,
    'links': 20,
    'derivatives': 24,
    'several': 12,
    'dataset': 16,
    'harmless': 12,
}
"""Datasets a class; benchmarks/fuzz.py runs as many as one likes."""


def fuzz(examples):
    """As many cases, the same each time; failures are not made smaller, which takes minutes."""
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope='module')
def sound(tmp_path_factory):
    return malformed.write_sound(tmp_path_factory.mktemp('sound'))


@pytest.fixture(scope='module')
def writes():
    return Writes()


@pytest.mark.parametrize('kind', CASES)
@pytest.mark.usefixtures('templates_once')
def test_malformed_datasets(kind, sound, templates, writes):
    spoil, kinds = malformed.KINDS[kind], set()

    @fuzz(CASES[kind])
    @given(st.data())
    def case(data):
        root = fresh(sound)
        try:
            spoil(data.draw, root)
            outcome = put_through(
                *(root, writes, '-d', f'others={root / "derivatives"}'),
                templates=templates,
                all_of_dataset=kind == 'dataset',
                must_run=kind == 'harmless',
            )
            kinds.add(outcome.kind)
        finally:
            shutil.rmtree(root.parent)

    case()
    assert kinds == ({'result'} if kind == 'harmless' else {'message', 'result'})


def test_the_ordeal_notices(sound, templates, writes, tmp_path, monkeypatch):
    """A harness that sees nothing would say that all is well."""

    def put(**options):
        root = fresh(sound)
        try:
            return put_through(root, writes, templates=templates, **options)
        finally:
            shutil.rmtree(root.parent)

    def raised(error):
        def find(_):
            raise error

        monkeypatch.setattr('bids_qsm.app.participant.make_plan', find)

    assert put(must_run=True).run == ('sub-01', 'sub-02')
    with monkeypatch.context():
        raised(ValueError('no'))
        with pytest.raises(Lost, match='unexpected ValueError'):
            put()
        raised(UserError('bad'))
        with pytest.raises(Lost, match='the other subject was not run'):
            put()
        with pytest.raises(Lost, match='no clear message'):
            put(all_of_dataset=True)
        monkeypatch.setattr(
            'bids_qsm.app.participant.make_plan', lambda _: (tmp_path / 'stray').write_text('x')
        )
        with pytest.raises(Lost, match='stray'):
            put()
    with pytest.raises(Lost, match='hung'):
        _spin()


def _spin():
    with time_limit(0.2):
        while True:
            pass


@fuzz(24)
@given(
    st.sampled_from(['participants.tsv', 'sub-001/sub-001_sessions.tsv', 'sub-001/sub-001_scans.tsv']),
    st.one_of(
        JUNK,
        st.lists(st.lists(WORDS, max_size=3).map('\t'.join), max_size=4).map(
            lambda rows: '\n'.join(rows).encode('utf-8', 'surrogateescape')
        ),
        st.lists(st.lists(WORDS, max_size=3).map('\t'.join), max_size=3).map(
            lambda rows: '\n'.join(['participant_id\tage', *rows, 'sub-001\t3']).encode(
                'utf-8', 'surrogateescape'
            )
        ),
    ),
)
def test_tables_of_participants(cohort, writes, name, content):
    """The group level joins them to what the runs left, or says why it cannot."""
    data, out, page = cohort
    path = data / name
    before = path.read_bytes() if path.exists() else None
    path.write_bytes(content)
    try:
        with page(), time_limit(20), writes.only_in(out):
            status, printed, said = said_by([data, out, 'group'])
    finally:
        path.unlink()
        if before is not None:
            path.write_bytes(before)
    assert not writes.found
    assert status in (0, 2)
    assert 'Traceback' not in printed + said
    assert 'error: unexpected' not in said
    assert status == 0 or path.name in said


@pytest.fixture(scope='module')
def cohort(tmp_path_factory):
    """A dataset, its output, and a context in which its report is not drawn."""
    from unittest import mock

    data, out = write_cohort(tmp_path_factory.mktemp('cohort'), n=4, repeated=1)
    return data, out, lambda: mock.patch('bids_qsm.group.analyse.build_cohort_report', lambda out, **_: out)


@fuzz(60)
@given(st.data())
def test_transforms(tmp_path_factory, data):
    """Composites of ITK, as of fMRIPrep, with fields that are missing, of another size or no numbers."""
    path = tmp_path_factory.getbasetemp() / 'fuzzed.h5'
    kinds = [
        'AffineTransform_double_3_3',
        'DisplacementFieldTransform_float_3_3',
        'CompositeTransform_double_3_3',
    ]
    numbers = st.sampled_from([0.0, 1.0, -1.0, 2.0, 3.0, 1e30, np.nan, np.inf])
    with h5py.File(path, 'w') as file:
        group = file.create_group(data.draw(st.sampled_from(['TransformGroup', 'TransformGroup', 'Other'])))
        for key in data.draw(st.lists(st.sampled_from(['0', '1', '2', 'x']), max_size=3, unique=True)):
            part = group.create_group(key)
            kind = data.draw(st.sampled_from([*kinds, 'BSplineTransform_double_3_3', 'é', '']))
            part['TransformType'] = data.draw(st.sampled_from([[kind.encode()], kind, 3]))
            for name, sizes in (
                ('TransformParameters', (12, 3, 24, 0)),
                ('TransformFixedParameters', (3, 18, 0)),
            ):
                size = data.draw(st.sampled_from(sizes))
                if data.draw(st.integers(0, 9)):
                    part[name] = data.draw(st.lists(numbers, min_size=size, max_size=size))
    if data.draw(st.booleans()):
        path.write_bytes(path.read_bytes()[: data.draw(st.integers(0, 3000))])
    try:
        found = load_xfm(path)
    except UserError as error:
        found, message = [], str(error)
    else:
        message = path.name
    assert path.name in message
    for one in found:
        assert np.isfinite(one if isinstance(one, np.ndarray) else one.field).all()


@pytest.fixture(scope='module')
def head():
    """A coarse scan, and how well its map correlates with the truth."""
    simulation = wrong_phase.acquire()
    clean = wrong_phase.put_through(simulation, simulation.magnitude, simulation.phase)
    assert clean.said == ()
    assert clean.correlation > 0.7
    return simulation, clean.correlation


@pytest.mark.parametrize('fault', wrong_phase.FAULTS)
def test_no_silent_wrong_map(head, fault):
    simulation, clean = head
    images = simulation.magnitude, simulation.phase
    outcome = wrong_phase.put_through(
        simulation, *wrong_phase.FAULTS[fault](np.random.default_rng(1), *images)
    )
    assert outcome.said or outcome.correlation > wrong_phase.LEAST * clean
    if fault in ('offsets_of_slices', 'checkerboard', 'units_of_an_echo'):  # these are mended
        assert outcome.correlation == pytest.approx(clean, abs=0.02)
    else:
        assert outcome.said


def test_benchmark(monkeypatch, capsys, head):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / 'benchmarks'))
    import fuzz as bench

    assert bench.main(['--cases', '4', '--kinds', 'links', 'damage']) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table[:4]] == ['malformation', 'links', 'damage', 'all']
    assert table[-1].split()[1:] == ['8', *table[-1].split()[2:4], '0']
    monkeypatch.setattr(bench, 'put_through', None)
    assert bench.main(['--cases', '2', '--kinds', 'links']) == 1
    assert 'lost 2 times: TypeError' in capsys.readouterr().out
    outcomes = iter([(0.8, ()), (0.8, ()), (0.2, ()), (0.2, ('Doubtful.',)), (np.nan, ('No.',))])
    monkeypatch.setattr(bench, 'SCANS', {'one': {}})
    monkeypatch.setattr(wrong_phase, 'acquire', lambda _: head[0])
    monkeypatch.setattr(wrong_phase, 'put_through', lambda *_: wrong_phase.Outcome(*next(outcomes)))
    assert bench.main(['--cases', '4', '--kinds', 'noise']) == 1
    assert capsys.readouterr().out.splitlines()[1].split() == ['noise', '4', '2', '1', '1']
