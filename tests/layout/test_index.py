import os
import shutil

import pytest
from bids.layout import BIDSLayout

from bids_qsm.app.options import Options
from bids_qsm.errors import UserError, plain
from bids_qsm.layout import find_series
from bids_qsm.layout.index import DATABASE, Index, name_problem
from tests.skeletons import only_error, write_json, write_series, write_t1w


@pytest.mark.parametrize(
    ('name', 'says'),
    [
        ('sub-01_acq-a b_MEGRE.nii', '"acq-a b" is not key-label'),
        ('sub-01_acq-_MEGRE.nii', '"acq" is not key-label'),
        ('sub-01_x_MEGRE.nii', '"x" is not key-label'),
        ('sub-01_echo-a_MEGRE.nii', 'must be a whole number'),
        ('sub-01_echo-1_echo-2_MEGRE.nii', 'names an entity twice'),
        ('sub-02_echo-1_MEGRE.nii', 'lies in the folder sub-01, but'),
        ('sub-01_ses-1_echo-1_MEGRE.nii', 'lies in the folder sub-01, but'),
        ('sub-01_acq-0.8mm_MEGRE.nii.gz', '"acq-0.8mm" is not key-label of letters and digits'),
    ],
)
def test_names_that_are_not_bids(name, says):
    with pytest.raises(UserError, match=says):
        raise UserError(name_problem(name, '01', None))


def test_an_odd_name_does_not_stop_the_others(data, find):
    first, *_ = write_series(data)
    os.rename(first, first.with_name('sub-01_acq-\x1b[2J_echo-1_part-mag_MEGRE.nii.gz'))
    write_series(data, sub='02')
    plan = find()
    assert [one.name for one in plan.series] == ['sub-02']
    assert [one.name for one in plan.rejected] == ['sub-01', 'sub-01']
    odd = next(one.reason for one in plan.rejected if 'key-label' in one.reason)
    assert r'"acq-\x1b[2J" is not key-label' in odd
    assert len(find(participant_label=('02',)).rejected) == 0


def test_a_folder_that_is_no_participants_is_noted_and_blames_nobody(data, find):
    write_series(data, sub='01')
    write_series(data, sub='02')
    (data / 'sub-02').rename(data / 'sub-01_old')
    (data / 'sub-a\x1b[2J').mkdir()
    plan = find()
    assert [one.name for one in plan.series] == ['sub-01']
    assert plan.rejected == ()
    assert 'The folder sub-01_old is left out: its name is not' in plan.notes[0]
    assert r'sub-a\x1b[2J' in plan.notes[1]
    assert find(participant_label=('01',)).notes == ()
    assert len(find(array_task='1/2').notes) == 3
    assert len(find(array_task='2/2').notes) == 1


def test_a_label_with_a_dot_is_told_of(data, find):
    write_series(data, sub='01')
    for path in write_series(data, sub='02', entities='acq-x'):
        path.rename(path.with_name(path.name.replace('acq-x', 'acq-0.8mm')))
    plan = find()
    assert [one.name for one in plan.series] == ['sub-01']
    (one,) = plan.rejected
    assert '"acq-0.8mm" is not key-label of letters and digits; rename it. 5 more of its files' in one.reason


@pytest.mark.parametrize('extension', ['bak.nii.gz', 'orig.nii.gz', 'nii.gz.nii', 'nii.bak', 'mgz'])
def test_extensions_are_exact(data, find, extension):
    path = write_series(data)[0]
    path.with_name(path.name.replace('nii.gz', extension)).write_bytes(path.read_bytes())
    plan = find()
    assert len(plan.series[0].magnitude) == 3
    assert plan.rejected == ()


def test_an_odd_t1w_is_skipped(data, find):
    write_series(data)
    path = write_t1w(data)
    for name in ('T1w.nii.gz', 'sub-01_acq-0.8mm_T1w.nii.gz'):
        path.with_name(name).write_bytes(path.read_bytes())
    plan = find()
    assert plan.series[0].t1w == path
    assert [(one.name, one.is_error) for one in plan.rejected] == [
        ('T1w', False),
        ('sub-01_acq-0.8mm_T1w', False),
    ]


def test_a_folder_that_cannot_be_read_does_not_stop_the_others(data, find, monkeypatch):
    write_series(data, sub='01')
    for sub in ('02', '03', '04'):
        write_series(data, sub=sub, ses='1')
    (data / 'sub-02' / 'anat').symlink_to('anat')
    (data / 'sub-03' / 'ses-2').symlink_to('ses-2')
    listdir = os.listdir

    def refuse(folder):
        if str(folder).endswith('sub-04'):
            raise PermissionError(13, 'Permission denied')
        return listdir(folder)

    monkeypatch.setattr('bids_qsm.layout.index.os.listdir', refuse)
    plan = find()
    assert [one.name for one in plan.series] == ['sub-01', 'sub-02_ses-1', 'sub-03_ses-1']
    assert [one.name for one in plan.rejected] == ['sub-02', 'sub-03', 'sub-04']
    assert all(one.is_error and 'mend it or its permissions' in one.reason for one in plan.rejected)
    assert 'sub-04 cannot be read (Permission denied)' in plan.rejected[2].reason
    asked = find(session_label=('1',))
    assert [one.name for one in asked.rejected] == ['sub-02', 'sub-04']


def test_order_of_entities_does_not_matter(data, find):
    for path in write_series(data, entities='run-1_acq-x'):
        assert path.is_file()
    (one,) = find().series
    assert one.name == 'sub-01_acq-x_run-1'


def test_entities_that_outputs_cannot_have(data, find):
    write_series(data, entities='space-x')
    assert 'no place for space-x' in only_error(find())


def test_loops_of_links_are_not_entered(data, find):
    write_series(data)
    anat = data / 'sub-01' / 'anat'
    for n in range(3):
        (anat / f'loop{n}').symlink_to(anat)
    (data / 'sub-01' / 'ses-1').symlink_to(data / 'sub-01')
    plan = find()
    assert [one.name for one in plan.series] == ['sub-01']
    assert 'lies in the folder sub-01/ses-1' in plan.rejected[0].reason


@pytest.mark.parametrize('kind', ['broken', 'pipe', 'folder'])
def test_what_is_no_file(data, find, kind):
    path = write_series(data)[0]
    path.unlink()
    if kind == 'broken':
        path.symlink_to('.git/annex/none')
    elif kind == 'pipe':
        os.mkfifo(path)
    else:
        path.mkdir()
    says = 'is a link to a file that is not there; fetch' if kind == 'broken' else 'is no file; fetch'
    assert says in only_error(find())


def test_sidecars_of_nearer_folders_and_more_entities_win(data):
    path = write_series(data, sidecar={})[0]
    for place, content in (
        (data / 'MEGRE.json', {'a': 1, 'b': 1, 'c': 1}),
        (data / 'part-mag_MEGRE.json', {'b': 2, 'c': 2}),
        (data / 'sub-01' / 'sub-01_MEGRE.json', {'c': 3}),
        (data / 'part-phase_MEGRE.json', {'a': 4}),
        (data / 'T1w.json', {'a': 5}),
    ):
        write_json(place, content)
    index = Index(data, ('01',))
    assert index.metadata(path) == {'a': 1, 'b': 2, 'c': 3, 'EchoTime': 0.004}
    assert index.bad_sidecars == {}


def test_filters(data):
    write_series(data)
    write_t1w(data)
    index = Index(data, ('01',))
    assert len(index.images(('MEGRE',), {'echo': '02', 'part': 'mag'})) == 1
    assert len(index.images(('MEGRE',), {'echo': [1, 3]})) == 4
    assert len(index.images(('MEGRE',), {'EchoTime': 0.008})) == 2
    assert index.images(('MEGRE',), {'run': '*'}) == []
    with pytest.raises(UserError, match="'EchoTimes' is neither an entity nor in a sidecar"):
        index.images(('MEGRE',), {'EchoTimes': 0.008})
    # images of other participants may have it
    assert index.images(('MEGRE',), {'EchoTimes': 0.008}, is_part=True) == []
    assert index.images(('FLAIR',), {'SeriesDescription': 'x'}) == []
    assert index.images(('MEGRE',), {'run': '3', 'SeriesDescription': 'x'}) == []
    without = dict.fromkeys(('modality', 'segmentation', 'tracer', 'staining', 'task', 'ProtocolName'))
    assert len(index.images(('MEGRE',), without)) == 6


def test_numbers_are_compared_as_such_but_labels_are_not(data):
    for label in ('1', '01'):
        write_series(data, ses=label, entities=f'acq-{label}_mod-x_run-01')
    write_json(data / 'sub-01' / 'sub-01_run-1_MEGRE.json', {'a': 1})
    index = Index(data, ('01',))
    for filters in ({'session': '1'}, {'session': 1}, {'acquisition': ['1']}):
        found = index.images(('MEGRE',), {**filters, 'run': 1, 'modality': 'x', 'RepetitionTime': 0.03})
        assert {path.parent.parent.name for path in found} == {'ses-1'}
        assert len(found) == 6
    assert index.metadata(found[0])['a'] == 1


def test_values_of_sidecars_that_are_not_what_they_should_be(data, find):
    common = {
        'MagneticFieldStrength': 3.0,
        'Manufacturer': ['x'],
        'RepetitionTime': 'y',
        'FlipAngle': 10**400,
    }
    write_series(data, sidecar=common)
    (one,) = find().series
    assert (one.manufacturer, one.repetition_time, one.flip_angle) == (None, None, None)
    assert [note.split()[1] for note in one.notes[:3]] == ['Manufacturer', 'RepetitionTime', 'FlipAngle']


def test_messages_do_not_act_on_the_terminal():
    assert str(UserError('a\x1b[2J\nb\udcff\u202e é')) == r'a\x1b[2J\nb\udcff\u202e é'
    assert plain('中 x') == '中 x'


def test_filters_are_those_of_pybids(data):
    for entities in ('acq-x_run-1', 'acq-y'):
        write_series(data, entities=entities)
    index = Index(data, ('01',))

    def found(**filters):
        return {path.name.partition('_echo')[0] for path in index.images(('MEGRE',), filters)}

    assert found(run='Query.NONE') == found(acquisition='y') == {'sub-01_acq-y'}
    assert found(run='<Query.ANY: 2>') == found(run='bids.layout.Query.REQUIRED') == {'sub-01_acq-x_run-1'}
    assert len(found(run=[None, '01'])) == len(found(run='Query.OPTIONAL')) == 2
    assert found(acquisition='[wx]', regex_search=True) == {'sub-01_acq-x_run-1'}
    assert len(found(datatype='anat', suffix='MEGRE', extension='nii.gz', session=None)) == 2
    assert found(suffix='T1w') == found(echo=['a', -1, 10**400], acquisition={'a': '\udcff'}) == set()
    with pytest.raises(UserError, match='filter file cannot be used'):
        found(acquisition='[', regex_search=True)


LONG = 'x' * 300
"""Where a link leads that cannot even be asked for: pybids stops there."""


def test_a_link_that_cannot_be_followed_stops_only_its_participant(data, find):
    for sub in ('01', '02'):
        write_series(data, sub=sub)
    (data / 'sourcedata').symlink_to(LONG)
    assert [one.name for one in find().series] == ['sub-01', 'sub-02']
    (data / 'sub-02' / 'anat' / 'sub-02_acq-x_MEGRE.nii.gz').symlink_to(LONG)
    plan = find()
    assert [one.name for one in plan.series] == ['sub-01']
    assert 'sub-02 cannot be searched (File name too long: ' in plan.rejected[0].reason


def test_an_index_is_stored_and_used_again(data, find, tmp_path, monkeypatch):
    for sub in ('01', '02'):
        write_series(data, sub=sub)
    (data / 'sub-01' / 'anat' / 'sub-01_acq-0.8mm_T1w.nii').touch()
    (data / 'sub-01' / 'anat' / 'sub-01_PDw.nii').mkdir()
    stored = tmp_path / 'deep' / 'index'
    assert len(find(bids_database_dir=stored, participant_label=('01',)).series) == 1
    assert [path.name for path in stored.iterdir()] == [DATABASE]

    def refuse(*_):
        raise AssertionError('it is indexed again')

    with monkeypatch.context() as patch:
        patch.setattr('bids_qsm.layout.index._index', refuse)
        plan = find(bids_database_dir=stored)
        assert [one.name for one in plan.series] == ['sub-01', 'sub-02']
        t1w = write_t1w(data, sub='02')
        assert len(find(bids_database_dir=stored, participant_label=('01',)).series) == 1
        with pytest.raises(UserError, match='it is indexed again'):
            find(bids_database_dir=stored)
    assert find(bids_database_dir=stored).series[1].t1w == t1w
    t1w.unlink()
    assert find(bids_database_dir=stored).series[1].t1w is None


def test_an_index_that_is_not_of_the_dataset(data, find, tmp_path):
    write_series(data)
    stored = tmp_path / 'index'
    BIDSLayout(data, database_path=stored, validate=False)
    with pytest.raises(UserError, match='or of another program'):
        find(bids_database_dir=stored)
    (stored / DATABASE).unlink()
    find(bids_database_dir=stored)
    shutil.copytree(data, tmp_path / 'other')
    with pytest.raises(UserError, match=f'holds an index of {data}'):
        find_series(Options(tmp_path / 'other', tmp_path / 'out', 'participant', bids_database_dir=stored))
    (stored / DATABASE).write_text('junk')
    with pytest.raises(UserError, match='no index that pybids can read'):
        find(bids_database_dir=stored)
    with pytest.raises(UserError, match='cannot be made there'):
        find(bids_database_dir=data / 'README.md')
