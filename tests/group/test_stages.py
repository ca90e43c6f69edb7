"""The group level with stages: tables, page, and field strength from the sidecars."""

import json

import numpy as np
import pandas as pd
import pytest

from bids_qsm.app.options import Options
from bids_qsm.errors import UserError
from bids_qsm.group.analyse import FILES, run_group
from bids_qsm.group.stages import field_strength
from bids_qsm.phantom.stages import Stages, write_stages
from bids_qsm.reports.stage_section import _answer
from tests.pages import Page, assert_self_contained


def test_stages_from_tables_to_page(tmp_path, monkeypatch):
    monkeypatch.setattr('bids_qsm.phantom.stages.REGIONS', ('GP', 'White matter'))
    data, out = write_stages(tmp_path, Stages(iron=(0.0, 4.0), myelin=(0.0, -0.10), number=8), seed=2)
    asked = {'bids_dir': data, 'output_dir': out, 'level': 'group', 'stages': 'stage'}
    assert run_group(Options.from_settings(asked)) == 0
    for kind in ('stages', 'stage_constants'):
        described = json.loads((out / FILES[kind]).with_suffix('.json').read_text())
        table = pd.read_csv(out / FILES[kind], sep='\t')
        assert list(described) == list(table)
    page = Page(out / 'group.html')
    assert_self_contained(page)
    text = page.text
    for said in (
        'iron (mg/100 g) differs from 0 in stage 1: ',
        'Iron and myelin',
        'R2* by stage',
        'Constants',
    ):
        assert said in text, said


def test_what_was_not_tested_is_not_said_to_be_the_same():
    rows = pd.DataFrame({'region': ['GP', 'SN'], 'stage': '1', 'estimate': 1.0, 'p': [0.5, np.nan]})
    rows = rows.assign(p_fdr=rows['p'])
    assert _answer(rows, 'iron', 'mg', '0') == 'iron (mg) differs in no stage. It could not be tested in SN.'
    assert _answer(rows[1:], 'iron', 'mg', '0') == 'iron (mg) could not be tested.'


def test_field_strength_is_that_of_all_sidecars(tmp_path):
    def write(name, end, **content):
        path = tmp_path / name / 'anat' / f'{name}_{end}.json'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))

    people = ['sub-01', 'sub-02']
    with pytest.raises(UserError, match='there are none'):
        field_strength(tmp_path, people)
    write('sub-01', 'Chimap', MagneticFieldStrength=3)
    write('sub-01', 'desc-total_Chimap', Units='ppm')
    write('sub-02', 'Chimap', MagneticFieldStrength=2.95)
    write('sub-03', 'Chimap', MagneticFieldStrength=7)
    write('sub-04', 'Chimap', Units='ppm')
    assert field_strength(tmp_path, people) == 2.95
    with pytest.raises(UserError, match=r'2.95 to 7 T'):
        field_strength(tmp_path, [*people, 'sub-03'])
    with pytest.raises(UserError, match=r'sub-04_Chimap.json lacks it'):
        field_strength(tmp_path, [*people, 'sub-04'])
