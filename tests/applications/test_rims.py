import json

import numpy as np
import pandas as pd
import pytest

from bids_qsm.applications import application
from bids_qsm.applications.contract import Application, Figure, Given, Table
from bids_qsm.applications.rims import _inversion, counts, overview
from bids_qsm.biomarkers import rim_profiles, rim_response
from bids_qsm.biomarkers.lesions import label_lesions
from bids_qsm.biomarkers.rim_table import UNSEEN
from bids_qsm.phantom.rim_box import make_box
from bids_qsm.phantom.rims import RimLesion
from bids_qsm.plotting.rim_charts import plot_rims
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.inversion import INVERSION

LESIONS = (
    RimLesion((-8.2, 0.3, 0.1), 4.5, 0.01, 0.06, thickness=1.5),
    RimLesion((8.7, 0.2, -0.4), 3.5, 0.05),
)


@pytest.fixture(scope='module')
def box():
    return make_box(2, shape=(36, 26, 26), lesions=LESIONS, factor=2)


@pytest.fixture(scope='module')
def found(box):
    return measured(box, box.chi.astype(np.float32))


def measured(box, chi):
    """What the application gives of a map, by name."""
    labels = label_lesions(box.drawn)
    given = Given('sub-1_label-lesion_mask.nii.gz', box.drawn, labels, box.affine, labels, [])
    atlas = pd.DataFrame({name: [] for name in ('index', 'name', 'hemisphere', 'region')})
    data = {
        'chi': chi,
        'r2star': None,
        'localfield': box.field,
        'mask': np.ones(box.chi.shape, bool),
        'lesions': (given,),
        'veins_share': None,
        'dseg': np.zeros(box.chi.shape, np.int32),
        'labels': atlas,
        'white_matter': None,
        'grid': box.grid,
        'affine': box.affine,
        'to_template': [],
        'inversion': ('tkd', {'threshold': 0.2}),
        'field_strength': 3.0,
        'echo_times': [0.01, 0.02],
        'reference': 'CSF',
    }
    app = application('rims')
    return dict(zip(app.gives, app.measure(*(data[name] for name in app.arguments)), strict=True))


def test_a_table_has_a_row_a_lesion(found):
    table = found['table']
    assert table['rim_class'].tolist() == ['definite', 'no']
    assert table['parent'].tolist() == [1, 2]
    assert table['vein_touch'].tolist() == ['n/a', 'n/a']
    assert np.isfinite(table['least_rim']).all()
    assert np.isnan(table['rim_contrast_corrected'][1])
    assert set(np.unique(found['split'])) == {0, 1, 2}
    assert len(found['rimdirections']) == 128


def test_where_noise_hides_any_rim_there_is_no_answer(box):
    noise = np.random.default_rng(3).normal(0, 0.045, box.chi.shape).astype(np.float32)
    table = measured(box, noise)['table']
    assert (table['reason'] == UNSEEN).all(), table[['reason', 'least_rim']]
    assert table['rim_class'].isna().all()


def test_facts_say_what_was_assumed(found):
    facts = found['facts']
    assert facts['RimResponseInversion'] == {'value': 'tkd', 'source': 'that of the series'}
    assert facts['RimResponseNoise']['value'] == pytest.approx(0.003, rel=0.1)
    assert 'not excluded' in facts['Veins']
    json.dumps(facts, default=float)


def test_a_rim_is_seen_through_any_inversion(monkeypatch):
    # a small box: the response is a little off, and cheap
    monkeypatch.setattr(rim_response, 'MARGIN_MM', 3.0)
    grid, tissue = Grid((16, 16, 16)), np.ones((16, 16, 16), bool)
    ball = ((np.indices(grid.shape) - 7.5) ** 2).sum(0) < 3**2
    frame, seen = rim_profiles.frame_of(ball, grid.voxel_size), np.ones(64, bool)
    sources = {}
    for name in INVERSION:
        how, facts = _inversion((name, {}), None, tissue, None, None)
        sources[facts['RimResponseInversion']['value']] = how
        assert (how.function is INVERSION[name]) == (name not in rim_response.IN_A_HEAD)
        assert (name in facts['RimResponseInversion']['source']) == (name in rim_response.IN_A_HEAD)
    assert len(sources) == len(INVERSION) - len(rim_response.IN_A_HEAD)
    for name, how in sources.items():
        more = (how.function, how.params, how.noise, how.radians_per_ppm)
        response = rim_response.rim_response(frame, seen, grid, *more)
        assert 0.1 < response < 1, name


def test_the_chart_is_drawn_of_what_is_read_back(found, box, tmp_path):
    read = {}
    for name in ('table', 'rimdirections'):
        found[name].to_csv(tmp_path / 'x.tsv', sep='\t', index=False, na_rep='n/a')
        read[name] = pd.read_csv(tmp_path / 'x.tsv', sep='\t')
    (figure,) = application('rims').figures
    more = {**read, 'chi': box.chi, 'split': found['split'], 'affine': box.affine}
    assert '<svg' in figure.draw(read[figure.table], *(more[name] for name in figure.takes))
    none = read['table'].assign(reason='too small')
    assert '<svg' in figure.draw(read[figure.table], none, box.chi, found['split'], box.affine)


def test_left_and_right_of_the_chart_do_not_hang_on_the_order_of_storage(found, box):
    table, ways, split = found['table'][:1], found['rimdirections'], found['split']
    drawn = plot_rims(ways, table, box.chi, split, np.eye(4))
    assert plot_rims(ways, table, box.chi[::-1], split[::-1], np.diag([-1, 1, 1, 1])) == drawn


def test_a_cohort_counts_classes(found):
    rows = counts(found['table']).set_index('map')['mean']
    assert rows['rim_definite'] == rows['rim_lesions'] == 1
    assert rows['rim_contrast'] > 0.03
    said = overview(found['table'].assign(participant_id='sub-1'))
    assert '1 definite' in said['answers'][0]
    assert said['tables'][0][1]['definite'].tolist() == [1]


def test_lesions_that_were_not_assessed_are_not_counted_as_without_rims(found):
    lost = found['table'].assign(reason='too small', rim_class=None)
    assert counts(lost)['mean'].isna().all()
    assert counts(lost[:0]).set_index('map').loc['rim_lesions', 'mean'] == 0


def test_a_figure_takes_only_what_is_there():
    chart = Figure('chart', 'Chart', 'A chart.', draw=str, takes=('nothing',))
    with pytest.raises(ValueError, match='takes nothing'):
        Application('wrong', 'Wrong', lambda chi: chi, tables=(Table(),), figures=(chart,))
