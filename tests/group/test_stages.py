"""The group level with stages: tables, page, and field strength from the sidecars."""

import json

import numpy as np
import pandas as pd
import pytest

from bids_qsm.app.options import Options
from bids_qsm.errors import UserError
from bids_qsm.group.analyse import run_group
from bids_qsm.group.stages import field_strength
from bids_qsm.phantom.stages import Stages, write_stages
from bids_qsm.reports.stage_section import _answer
from tests.cohorts import assert_described
from tests.pages import Page, assert_self_contained


def test_stages_from_tables_to_page(tmp_path, monkeypatch):
    monkeypatch.setattr('bids_qsm.phantom.stages.REGIONS', ('GP', 'White matter'))
    data, out = write_stages(tmp_path, Stages(iron=(0.0, 4.0), myelin=(0.0, -0.10), number=8), seed=2)
    asked = {'bids_dir': data, 'output_dir': out, 'level': 'group', 'stages': 'stage'}
    assert run_group(Options.from_settings(asked)) == 0
    for kind in ('stages', 'stage_constants'):
        assert_described(out, kind)
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


def test_field_strength_is_that_of_the_series_with_r2star(tmp_path):
    def write(name, end, **content):
        path = tmp_path / name.partition('_')[0] / 'anat' / f'{name}_{end}.json'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))

    def found(*names, maps=('chi', 'R2star')):
        series = [
            dict(zip(('participant_id', 'session_id'), name.split('_'), strict=False)) for name in names
        ]
        return field_strength(tmp_path, pd.DataFrame([one | {'map': m} for one in series for m in maps]))

    people = ['sub-01_ses-1', 'sub-02']
    with pytest.raises(UserError, match='there are none'):
        found(*people)
    assert found(*people, maps=['chi']) == 3
    # 123.25 and 127.77 MHz are both called 3 T
    write('sub-01_ses-1', 'Chimap', MagneticFieldStrength=2.8947)
    write('sub-01_ses-2', 'Chimap', MagneticFieldStrength=7)
    write('sub-01_ses-1', 'desc-total_Chimap', Units='ppm')
    write('sub-02', 'Chimap', MagneticFieldStrength=3.0009)
    write('sub-03', 'Chimap', MagneticFieldStrength=3)
    write('sub-04', 'Chimap', Units='ppm')
    assert found(*people, 'sub-03') == 3
    with pytest.raises(UserError, match=r'2.8947 to 7 T'):
        found(*people, 'sub-01_ses-2')
    with pytest.raises(UserError, match=r'sub-04_Chimap.json lacks it'):
        found(*people, 'sub-04')
