"""Veins in BOLD runs, by arrays: what is given, what is refused, and what is said."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from bids_qsm.applications.contract import Bold
from bids_qsm.applications.fmri import QUALITY, measure
from bids_qsm.phantom.head import rigid

SHAPE, SPACING, FRAMES = (24, 24, 20), 3.0, 60


def centred(shape, spacing):
    affine = np.diag([spacing] * 3 + [1.0])
    affine[:3, 3] = -spacing * (np.array(shape) - 1) / 2
    return affine


FINE = tuple(3 * n for n in SHAPE)
AFFINE, GRID = centred(FINE, 1.0), centred(SHAPE, SPACING)


def averaged(image):
    x, y, z = SHAPE
    return image.reshape(x, 3, y, 3, z, 3).mean((1, 3, 5))


@pytest.fixture(scope='module')
def head():
    """White matter, grey matter around it, a vein through both and a sinus above, on a grid of 1 mm."""
    x, y, z = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in FINE), indexing='ij')
    radius = np.sqrt(x**2 + y**2 + (1.2 * z) ** 2) - 2 * np.sin(x / 4) * np.cos(y / 5)
    white = np.clip(20.5 - radius, 0, 1)
    brain = np.clip(27.5 - radius, 0, 1)
    vein = np.clip(2.5 - np.hypot(x - 8, y), 0, 1) * brain
    sinus = np.clip(4.5 - np.hypot(x, z - 24), 0, 1)
    share = np.maximum(vein, sinus).astype(np.float32)
    labels = np.where(sinus > 0.5, 1, np.where(vein > 0.5, 4, 0))
    parts = {'white': white * (1 - share), 'grey': (brain - white) * (1 - share)}
    return {**{k: v.astype(np.float32) for k, v in parts.items()}, 'share': share, 'labels': labels}


def make_run(head, **changes):
    rng = np.random.default_rng(0)
    coarse = {name: averaged(head[name]) for name in ('white', 'grey', 'share')}
    base = 70 * coarse['white'] + 90 * coarse['grey'] + 60 * coarse['share']
    own = np.cumsum(rng.standard_normal(FRAMES))
    own = (own - own.mean()) / own.std()
    frames = [
        (base * (1 + 0.06 * coarse['share'] * own[t]) + 0.8 * rng.standard_normal(SHAPE)).astype(np.float32)
        for t in range(FRAMES)
    ]
    run = Bold(
        frames=frames,
        reference=base.astype(np.float32),
        mask=coarse['white'] + coarse['grey'] > 0.5,
        affine=GRID,
        repetition_time=2.0,
        start_time=0.0,
        to_maps=[np.eye(4)],
        to_anat=[np.eye(4)],
        grey=(head['grey'], AFFINE),
        white=(head['white'], AFFINE),
        confounds=None,
        events=None,
        is_raw=False,
        has_fieldmap=True,
    )
    return replace(run, **changes), own


def given(run, head, **settings):
    return measure(run, head['share'], head['labels'], AFFINE, **settings)


def test_a_run_gets_masks_regressors_and_what_they_explain(head):
    run, own = make_run(head)
    share, exclude, grey, variance, (table, about), quality = given(run, head)
    np.testing.assert_allclose(share, averaged(head['share']), atol=1e-5)
    assert exclude.sum() > (share > 0.1).sum()  # the sinus has a margin
    assert not (grey & exclude).any()
    assert abs(np.corrcoef(table['vein_comp_cor_00'], own)[0, 1]) > 0.5
    assert set(table) == set(about)
    row = quality.iloc[0]
    assert set(quality) == {column.name for column in QUALITY}
    assert row['misfit_mm'] < 3
    assert row['boundary_cost'] < 0.3
    assert row['warning'] is None
    assert row['gm_measured'] == pytest.approx(1)
    assert row['vein_fraction_gm'] == pytest.approx(
        (averaged(head['share']) * averaged(head['grey'])).sum() / head['grey'].sum() * 27, rel=1e-3
    )
    assert row['tsnr_vein_ratio'] < 0.5
    assert abs(row['var_explained_gm_mean']) < 0.05
    assert variance[share > 0.6].mean() > 0.5


def test_a_vein_that_follows_the_task_is_warned_of(head):
    events = pd.DataFrame({'onset': [10.0, 50.0, 90.0], 'duration': 12.0})
    run, own = make_run(head, events=events)
    from bids_qsm.biomarkers.vein_signal import responses

    task = responses(events, FRAMES, 2.0)['task'].to_numpy()
    coarse = averaged(head['share'])
    frames = [frame + 8 * coarse * (task[t] - 0.06 * own[t]) for t, frame in enumerate(run.frames)]
    row = given(replace(run, frames=frames), head)[-1].iloc[0]
    assert row['r_vein_task_max'] > 0.8
    assert 'follows the task' in row['warning']


def test_a_run_that_does_not_fit_is_refused(head):
    run, _ = make_run(head, to_anat=[rigid((0, 0, 0), (4.0, 0, 0))])
    *made, quality = given(run, head)
    assert made == [None] * 5
    assert quality['misfit_mm'][0] >= 3
    assert 'no veins are given' in quality['warning'][0]


def test_of_a_raw_run_only_veins_are_given(head):
    run, _ = make_run(head, is_raw=True, grey=None, white=None)
    share, exclude, grey, variance, confounds, quality = given(run, head)
    assert share.max() > 0.9
    assert exclude.any()
    assert (grey, variance, confounds) == (None, None, None)
    assert np.isnan(quality['misfit_mm'][0])


def test_too_few_voxels_of_veins_give_masks_alone(head):
    run, _ = make_run(head)
    nothing = {**head, 'share': np.where(head['share'] > 0.99, 0.05, 0).astype(np.float32)}
    _share, exclude, grey, variance, confounds, quality = given(run, nothing)
    assert not exclude.any()
    assert grey.any()
    assert (variance, confounds) == (None, None)
    assert 'Too few voxels' in quality['warning'][0]


def test_grey_matter_outside_the_field_of_view_is_told(head):
    run, _ = make_run(head)
    half = {**head, 'share': head['share'][:, :, :30], 'labels': head['labels'][:, :, :30]}
    assert given(run, half)[-1]['gm_measured'][0] == pytest.approx(0.5, abs=0.05)


def test_components_and_threshold_are_set_by_the_user(head):
    run, _ = make_run(head)
    _, wide, _, _, _, _ = given(run, head, threshold=0.02)
    _, narrow, _, _, (table, _), _ = given(run, head, components=1)
    assert wide.sum() > narrow.sum()
    assert [name for name in table if 'comp_cor' in name] == ['vein_comp_cor_00']
