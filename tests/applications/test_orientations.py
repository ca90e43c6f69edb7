"""COSMOS and the tensor as applications: answers, what they refuse, and pictures."""

import io
from functools import partial

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bids_qsm.applications import cosmos, tensor
from bids_qsm.biomarkers import positions as module
from bids_qsm.errors import UserError
from bids_qsm.phantom.head import rigid
from bids_qsm.phantom.positions import head_turns
from bids_qsm.plotting.orientation_charts import (
    plot_anisotropy,
    plot_coverage,
    plot_directions,
    plot_singles,
)
from bids_qsm.recon.grid import Grid
from tests.recon.test_orientations import ball

LABELS = pd.DataFrame({'index': [1, 2], 'region': ['White', 'Iron'], 'hemisphere': ['L', 'R']})


def session(turns, monkeypatch, noise=0.0005):
    """Arguments of both applications: the same grid for all, as if the slab had followed the head."""
    components, mask, white, (fields, masks, _, h), grid = ball(turns, noise)
    affine = np.diag([3.0, 3, 3, 1])
    truth = components[[0, 3, 5]].mean(0)
    # positions on one grid differ in B0 alone
    monkeypatch.setattr(module, 'register', lambda *_: np.eye(4))
    monkeypatch.setattr(module, 'correct_bias', lambda image, _: (image, None))
    names = [f'pos{n}' for n, _ in enumerate(turns)]
    n = len(turns)
    rng = np.random.default_rng(1)
    shape = mask.shape
    return {
        'localfield': fields,
        'mask': masks,
        'magnitude': [mask * np.float32(100)] * n,
        'chi': [mask * (truth + 0.02 * rng.standard_normal(shape)).astype(np.float32) for _ in turns],
        'affine': [affine] * n,
        'grid': [Grid(shape, grid.voxel_size, tuple(one)) for one in h],
        'entities': [{'sub': '01', 'acq': name} for name in names],
        'dseg': [white * 1 + (truth > 0.05) * 2] * n,
        'labels': [LABELS] * n,
        'white_matter': [white] * n,
        'orientations': [None] * n,
        'levelled': [True] * n,
        'tissue': [None] * n,
        'r2star': [None] * n,
    }, truth


def run(app, data, **params):
    given = [data[name] for name in app.APPLICATION.arguments]
    return dict(zip(app.APPLICATION.gives, app.measure(*given, **params), strict=True))


def test_cosmos_beats_each_position_and_says_how_it_was_done(monkeypatch):
    data, truth = session(head_turns(3), monkeypatch)
    found = run(cosmos, data)
    mask = data['mask'][0] & ~data['white_matter'][0]
    errors = [np.std((one - truth)[mask]) for one in (found['cosmos'], *data['chi'])]
    assert errors[0] < 0.5 * min(errors[1:])
    rows = found['table'].set_index(['region', 'map'])
    assert rows.loc[('Iron', 'chi_cosmos'), 'mean'] == pytest.approx(
        truth[data['dseg'][0] == 2].mean() + data['chi'][0][mask].mean() - truth[mask].mean(), abs=0.01
    )
    assert rows.loc[('Iron', 'chi_single'), 'spread'] < 0.01
    listed = found['cosmospositions']
    assert listed['angle_deg'].tolist() == pytest.approx([0, 25, 25], abs=0.01)
    assert set(listed['b0_from']) == {'scanner and registration'}
    assert found['facts']['coverage']['value'] == pytest.approx(0.116, abs=0.002)
    assert 'nothing is regularised' in found['facts']['coverage']['source']
    assert found['facts']['regularised']['value'] == found['facts']['first_alone']['value'] == 0
    assert not found['cosmospositions']['filtered'].any()
    assert len(found['cosmosregions']) == 3 * 3
    for table, rows in zip(
        cosmos.APPLICATION.tables, ('table', 'cosmospositions', 'cosmosregions'), strict=True
    ):
        assert set(found[rows]) <= set(table.described())
    assert '<svg' in plot_coverage(listed, found['facts'])
    assert found['facts']['limit']['value'] == 0.1
    assert 'Iron R' in plot_singles(found['cosmosregions'])


def test_where_a_table_states_b0_maps_of_single_positions_are_not_compared(monkeypatch):
    """They were made with B0 of the header, which is wrong then; COSMOS is not."""
    data, truth = session(head_turns(2), monkeypatch)
    vectors = np.array([one.b0_dir for one in data['grid']])
    files = [f'sub-01_acq-{one["acq"]}_echo-1_MEGRE.nii.gz' for one in data['entities']]
    table = pd.DataFrame({'file': files, **dict(zip('xyz', vectors.T, strict=True))})
    header = [Grid(truth.shape, data['grid'][0].voxel_size)] * 2
    found = run(cosmos, {**data, 'grid': header, 'orientations': [table] * 2})
    mask = data['mask'][0] & ~data['white_matter'][0]
    assert np.std((found['cosmos'] - truth)[mask]) < 0.01
    assert set(found['cosmospositions']['b0_from']) == {'table'}
    assert found['cosmospositions'][['correlation', 'difference_ppb']].isna().all(axis=None)
    assert set(found['table']['map']) == {'chi_cosmos'}
    assert found['table']['spread'].isna().all()
    assert found['cosmosregions']['chi_single'].isna().all()
    assert 'Iron R' in plot_singles(found['cosmosregions'])
    assert found['facts']['slow_variation_removed']['value'] is None


def test_one_axis_is_regularised_and_one_direction_refused(monkeypatch):
    data, _ = session([(0, 0, 0), (25, 0, 0), (-25, 0, 0)], monkeypatch)
    assert 'drawn to zero' in run(cosmos, data)['facts']['coverage']['source']
    alike, _ = session([(0, 0, 0), (1, 0, 0)], monkeypatch)
    with pytest.raises(UserError, match='head in one position'):
        run(cosmos, alike)
    with pytest.raises(UserError, match='the tensor needs 6'):
        run(tensor, data)


def test_the_sidecar_counts_what_is_filtered():
    h = np.array([rigid(turn)[2, :3] for turn in head_turns(3)])
    slabs = [3 * rigid(tuple(-0.5 * np.array(turn)))[:3, :3] for turn in head_turns(3)]
    listed = pd.DataFrame({'position': ['a', 'b', 'c'], 'same_affine': False, 'b0_from': 'scanner'})
    of_slabs = cosmos.determined(h, Grid((8, 8, 8), (3.0, 3.0, 3.0)), slabs=slabs)
    facts = cosmos.facts_of(cosmos.conditioning(h), of_slabs, listed, 0.1)
    assert 'nothing is regularised' not in facts['coverage']['source']
    assert facts['noise_gain']['value'] == of_slabs.noise_gain > cosmos.conditioning(h).noise_gain
    assert 0 < facts['regularised']['value'] < facts['first_alone']['value'] < 1


@pytest.mark.parametrize(
    ('app', 'params', 'said'),
    [
        (cosmos, {'limit': -0.1}, 'limit is -0.1'),
        (tensor, {'spread': 0}, 'spread is 0; it must be from 0.001'),
    ],
)
def test_parameters_that_cannot_be_used_are_refused(app, params, said):
    app.APPLICATION.check({}, {})
    with pytest.raises(UserError, match=said):
        app.APPLICATION.check({}, params)


def test_tensor_finds_fibres_along_the_axes_of_the_scanner(monkeypatch):
    # 12 iterations are enough to see where the fibres run
    monkeypatch.setattr(tensor, 'tensor', partial(tensor.tensor, max_iterations=12))
    data, _ = session(head_turns(8), monkeypatch)
    turn = rigid((0, 0, 90)) @ np.diag([3.0, 3, 3, 1])
    data['affine'] = [turn] * 8
    found = run(tensor, data)
    white = data['white_matter'][0]
    # (1, 1, 0) along the voxel axes
    angle = np.degrees(np.arccos(np.clip(np.abs(found['v1'][white] @ [-(0.5**0.5), 0.5**0.5, 0]), 0, 1)))
    assert np.median(angle) < 20
    assert found['sti'].shape == (*white.shape, 6)
    assert not found['msa'][~white].any()
    rows = found['table'].set_index(['region', 'map'])['mean']
    assert rows['White matter', 'MSA'] == pytest.approx(0.02, rel=0.4)
    assert ('Iron', 'MSA') not in rows
    for drawn in (
        plot_directions(found['v1'], found['msa'], found['mms'], turn),
        plot_anisotropy(found['msa'], found['mms'], turn),
    ):
        assert np.asarray(Image.open(io.BytesIO(drawn)))[..., :3].max() > 100
    dark = [np.zeros_like(white)] * 8
    with pytest.raises(UserError, match='no white matter'):
        run(tensor, {**data, 'white_matter': dark})
