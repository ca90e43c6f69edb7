import numpy as np
import pandas as pd
import pytest

from bids_qsm.applications.veins import APPLICATION, measure, overview
from tests.biomarkers.vein_maps import make_maps


@pytest.fixture(scope='module')
def head():
    return make_maps()


def run(head, **changed):
    given = {**head, 'labels': pd.DataFrame({'index': [1], 'hemisphere': ['L'], 'region': ['SN']})}
    given |= {'white_matter': head['mask'], 'to_template': [], 'echoes': None, 'echo_times': None, **changed}
    return dict(
        zip(APPLICATION.gives, measure(*(given[name] for name in APPLICATION.arguments)), strict=True)
    )


def test_images_tables_and_constants_belong_together(head):
    found = run(head)
    for image in APPLICATION.images:
        assert found[image.name].shape == head['mask'].shape
    for table in APPLICATION.tables:
        described = table.described('nuclei')
        assert set(found[table.name]) <= set(described)
    numbers = found['table']['segment'].tolist()
    assert set(np.unique(found['segments'])) <= {0, *numbers}
    assert set(np.unique(found['veinlabels'])) <= {0, 5, 6}
    line = found['skeleton']
    assert np.array_equal(found['diameter'] > 0, line)
    widest = found['table'].sort_values('length_mm').iloc[-1]
    assert np.median(found['diameter'][line & (found['segments'] == widest['segment'])]) == pytest.approx(
        widest['diameter_mm'], rel=0.1
    )
    assert found['facts']['VeinSusceptibility']['source'] in ('measured', 'assumed')
    # the projection is no less than the map
    assert (found['veinmip'] >= np.where(head['mask'], head['chi'], 0) - 1e-6).all()


def test_without_susceptibility(head):
    found = run(head, chi=None, r2star=None)
    assert found['table']['chi_mean'].isna().all()
    assert len(found['table'])
    assert not found['veinmip'].any()
    assert np.isnan(found['facts']['VeinSusceptibility']['value'])


def test_the_page_of_a_cohort(head):
    table = run(head)['table']
    rows = pd.concat([table.assign(participant_id='sub-01'), table.assign(participant_id='sub-02')])
    said = overview(rows)
    assert said['answers'][0].startswith(f'{2 * len(table)} segments in 2 participants')
    names = said['tables'][0][1]
    assert names['segments'].sum() == 2 * len(table)
    assert overview(rows.iloc[:0])['answers'] == ['No vein was found.']
