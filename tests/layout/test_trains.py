"""Which files are a train of spin echoes, what is wrong with one, and which input of R2 wins."""

import json

import numpy as np
import pytest

from bids_qsm.app.methods import Method
from tests.skeletons import AFFINE, SHAPE, only_error, write_dataset, write_image, write_json, write_series

ASKED = {'applications': (Method('r2prime'),)}


def write_train(data, *, echoes=range(1, 5), spacing=0.01, entities='', **changed):
    """Echoes of a train; ``changed`` is what `write_image` gets of the second."""
    files = []
    for n in echoes:
        path = data / 'sub-01' / 'anat' / f'sub-01{entities}_echo-{n}_MESE.nii.gz'
        files.append(write_image(path, **(changed if n == 2 else {})))
        sidecar = {'EchoTime': round(n * spacing, 4), 'RepetitionTime': 3.0, 'FlipAngle': 90}
        path.with_name(path.name.replace('.nii.gz', '.json')).write_text(json.dumps(sidecar))
    return files


def inputs_of(series, name='r2prime'):
    (use,) = [use for use in series.applications if use.name == name]
    return [(one.query, one.path.name, one.space, one.echo_time) for one in use.inputs]


def test_a_train_is_one_input(data, find):
    write_series(data)
    files = write_train(data, echoes=range(1, 12))
    # phase is not read, and the order is that of numbers
    write_image(data / 'sub-01' / 'anat' / 'sub-01_echo-1_part-phase_MESE.nii.gz')
    (one,) = find(**ASKED).series
    assert inputs_of(one) == [
        ('mese', path.name, 'own', pytest.approx(0.01 * n)) for n, path in enumerate(files, 1)
    ]
    assert not any('map of R2' in note for note in one.notes)
    write_train(data, echoes=range(1, 4), entities='_run-2')
    (one,) = find(**ASKED).series
    assert any('2 files that could be the spin-echo train' in note for note in one.notes)
    assert len(inputs_of(one)) in (3, 11)


@pytest.mark.parametrize(
    ('train', 'said'),
    [
        ({'echoes': (1, 2, 4)}, 'echo times of 10, 20, 40 ms are not 1, 2, 3'),
        ({'echoes': (2, 3, 4)}, 'add the missing echoes'),
        ({'echoes': (1, 2)}, 'has 2 echoes, and 3 are needed'),
        ({'shape': (*SHAPE, 3)}, 'is 4D'),
        ({'shape': (*SHAPE[:2], SHAPE[2] + 2)}, 'sub-01_echo-2_MESE.nii.gz'),
        ({'affine': AFFINE + np.eye(4)[:, [3, 0, 1, 2]] * 5}, 'sub-01_echo-2_MESE.nii.gz'),
    ],
    ids=['gap', 'no first', 'two', '4D', 'shape', 'affine'],
)
def test_what_is_wrong_with_a_train_is_said(data, find, train, said):
    write_series(data)
    write_train(data, **train)
    error = only_error(find(**ASKED))
    assert said in error
    assert 'spin-echo train' in error or 'train of spin echoes' in error


def test_a_train_needs_echo_times(data, find):
    write_series(data)
    path = write_train(data)[2]
    sidecar = path.with_name(path.name.replace('.nii.gz', '.json'))
    for content in ({}, {'EchoTime': 10}, {'EchoTime': 'long'}, {'EchoTime': 0.01}):
        sidecar.write_text(json.dumps(content))
        error = only_error(find(**ASKED))
        assert 'the spin-echo train cannot be used' in error
        assert 'EchoTime' in error or 'echo time' in error


def test_a_train_of_no_use_leaves_other_answers_alone(data, find):
    write_series(data)
    write_train(data, echoes=(1, 2))
    (one,) = find(applications=(Method('separation'),)).series
    assert [use.name for use in one.applications if use.name in ('separation', 'r2prime')] == ['separation']
    said = 'A spin-echo train is not used: sub-01_echo-1_MESE.nii.gz: it has 2 echoes, and 3 are needed'
    assert any(said in note for note in one.notes)
    # a map that can be used, and a train that can, which it stands for
    write_image(data / 'sub-01' / 'anat' / 'sub-01_R2map.nii.gz', affine=2 * AFFINE)
    (one,) = find(**ASKED).series
    assert inputs_of(one) == [('given_r2', 'sub-01_R2map.nii.gz', 'own', None)]
    write_train(data)
    (one,) = find(**ASKED).series
    assert inputs_of(one) == [('given_r2', 'sub-01_R2map.nii.gz', 'own', None)]
    assert any('MESE.nii.gz is not used, as the map of R2 or T2 sub-01_R2map' in note for note in one.notes)


def test_what_an_earlier_run_wrote_is_not_given(data, find):
    write_series(data)
    write_train(data)
    earlier = write_dataset(data / 'derivatives' / 'earlier')
    for folder, name in (('anat', 'R2map'), ('anat', 'R2primemap'), ('fmap', 'desc-b1fit_TB1map')):
        write_image(earlier / 'sub-01' / folder / f'sub-01_{name}.nii.gz')
    makers = {'Name': 'x', 'BIDSVersion': '1.10.0', 'GeneratedBy': [{'Name': 'bids_qsm'}]}
    for ours in (True, False):
        write_json(earlier / 'dataset_description.json', makers if ours else {**makers, 'GeneratedBy': []})
        (one,) = find(**ASKED).series
        queries = {query for query, *_ in inputs_of(one)}
        # a field that was fitted is none that was measured, wherever it lies
        assert queries == ({'mese'} if ours else {'given_r2', 'given_r2prime'})


@pytest.mark.parametrize(('space', 'scale'), [('_space-MEGRE', 2), ('', 1)])
def test_a_map_on_the_series_is_not_aligned(data, find, space, scale):
    write_series(data)
    write_image(data / 'sub-01' / 'anat' / f'sub-01{space}_R2map.nii.gz', affine=scale * AFFINE)
    (one,) = find(**ASKED).series
    assert inputs_of(one) == [('given_r2', f'sub-01{space}_R2map.nii.gz', 'gre', None)]


def test_without_any_source_of_r2_it_is_left_out(data, find, tmp_path):
    write_series(data)
    (one,) = find(**ASKED).series
    said = [note for note in one.notes if note.startswith("R2, R2' and size of sources: left out")]
    assert len(said) == 1
    assert 'no spin-echo train and no map of R2 or T2' in said[0]
    # separation then does without, and says so
    (one,) = find(applications=(Method('separation'),)).series
    assert {'separation'} <= {use.name for use in one.applications}
    assert any("no results of R2, R2' and size of sources" in note for note in one.notes)
    # a map of R2' of another tool, beside the train, and a transmit field placed by coordinates
    tool = write_dataset(tmp_path / 'tool')
    write_image(tool / 'sub-01' / 'anat' / 'sub-01_R2primemap.nii.gz')
    write_image(data / 'sub-01' / 'fmap' / 'sub-01_TB1map.nii.gz')
    write_train(data)
    (one,) = find(derivatives=(('tool', tool),), **ASKED).series
    spaces = {query: space for query, _, space, _ in inputs_of(one)}
    assert spaces == {'mese': 'own', 'given_r2prime': 'gre', 'tb1': 'gre'}
