"""Findings of all steps come into one file."""

import json
from pathlib import Path

import pytest

from bids_qsm.interfaces.findings import CollectFindings


@pytest.mark.parametrize(('region', 'level'), [('CSF', 'info'), ('Brain', 'warning'), ('none', 'info')])
def test_a_reference_that_was_not_found_is_a_warning(tmp_path, monkeypatch, region, level):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'phase.json').write_text(json.dumps({'findings': [{'what': 'Phase sign'}]}))
    note = {'ReferenceRegion': region, 'ReferenceDescription': 'Zero.'}
    (tmp_path / 'reference.json').write_text(json.dumps(note))
    collect = CollectFindings(
        series='sub-01',
        facts={'Voxel size': '1 mm'},
        layout_notes=['Sorted.'],
        conditioning=str(tmp_path / 'phase.json'),
        reference=str(tmp_path / 'reference.json'),
        reference_asked='csf',
    )
    found = json.loads(Path(collect.run().outputs.findings).read_text())
    assert (found['series'], found['facts']) == ('sub-01', {'Voxel size': '1 mm'})
    assert [one['what'] for one in found['findings']] == ['Dataset', 'Phase sign', 'Reference']
    assert found['findings'][-1] == {'what': 'Reference', 'found': 'Zero.', 'level': level}


def test_no_reference_and_no_notes_are_no_findings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'phase.json').write_text(json.dumps({'findings': []}))
    collect = CollectFindings(series='s', facts={}, conditioning='phase.json', reference_asked='csf')
    assert json.loads(Path(collect.run().outputs.findings).read_text())['findings'] == []


def test_slow_variation_that_cannot_be_told_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'phase.json').write_text(json.dumps({'findings': []}))
    note = {'ReferenceRegion': 'CSF', 'ReferenceDescription': 'Zero.', 'SlowVariationUncertainty': None}
    (tmp_path / 'reference.json').write_text(json.dumps(note))
    collect = CollectFindings(
        series='s', facts={}, conditioning='phase.json', reference='reference.json', reference_asked='csf'
    )
    found = json.loads(Path(collect.run().outputs.findings).read_text())['findings']
    assert [one['what'] for one in found] == ['Reference', 'Slow variation']
