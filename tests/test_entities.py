from pathlib import Path

import pytest

from bids_qsm.derivatives.files import output_path
from bids_qsm.entities import ENTITIES, NUMBERED, OF_SERIES, entities_of, entity_set, in_order, suffix_of


def test_names_are_taken_apart():
    name = 'sub-01_ses-a_acq-x-y_odd_echo-01_MEGRE.nii.gz'
    assert list(entities_of(name).items()) == [('sub', '01'), ('ses', 'a'), ('acq', 'x-y'), ('echo', '01')]
    assert entities_of(Path('/sub-02/anat') / name) == entities_of(name)
    assert suffix_of(name) == 'MEGRE'
    assert entities_of('participants.tsv') == {}
    assert suffix_of('.nii') == ''


def test_numbers_are_compared_as_such_and_labels_are_not():
    assert entity_set('echo-01_x.json') == entity_set('echo-1_x.nii')
    assert entity_set('ses-01_x.json') != entity_set('ses-1_x.nii')
    assert entity_set('run-1a_x.json') == {('run', '1a')}


def test_unknown_entities_come_last():
    assert in_order({'odd': '1', 'desc': 'x', 'sub': '1'}) == (('sub', '1'), ('desc', 'x'), ('odd', '1'))


def test_tables_agree():
    assert set(OF_SERIES) | set(NUMBERED) <= set(ENTITIES)
    assert list(OF_SERIES) == [key for key in ENTITIES if key in OF_SERIES]
    assert len(set(ENTITIES.values())) == len(ENTITIES)


@pytest.mark.parametrize('key', [key for key in OF_SERIES if key != 'sub'])
def test_outputs_keep_what_tells_series_apart(key):
    path = output_path('out', {'sub': '01', key: '1'}, suffix='Chimap')
    assert entities_of(path) == {'sub': '01', key: '1'}
