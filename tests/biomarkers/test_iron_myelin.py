"""Iron and myelin come out as they went in, with errors that are as large as stated."""

from dataclasses import replace

import numpy as np
import pytest

from bids_qsm.biomarkers import iron_myelin as im
from bids_qsm.biomarkers.iron_myelin_maps import ROUGHNESS, iron_myelin_maps
from bids_qsm.recon.grid import Grid

TISSUE = np.array([[20.0, 0.07], [10.0, 0.1], [4.2, 0.27], [5.0, 0.15]])


def made(constants, tissue=TISSUE):
    return constants.mean[:, 0] + tissue @ constants.slopes.T


def exact(names=('chi', 'R2star'), field_strength=3.0):
    constants = im.constants_at(field_strength, names)
    return replace(constants, cov=0 * constants.cov)


@pytest.mark.parametrize('field_strength', [1.5, 3.0, 7.0])
def test_known_constants_give_back_the_tissue(field_strength):
    constants = exact(field_strength=field_strength)
    found = im.posterior(made(constants), np.full((4, 2), 1e-4), constants)
    np.testing.assert_allclose(found.mean, TISSUE, atol=2e-3)
    np.testing.assert_allclose(found.residual, 0, atol=1e-4)
    assert found.identifiable.all()


def test_errors_of_noise_and_of_constants_are_as_stated():
    """Over draws of constants and noise, errors over their standard deviations have a spread of 1."""
    rng = np.random.default_rng(0)
    constants = im.constants_at(3.0, ('chi', 'R2star'))
    drawn = constants.mean + 0.3 * constants.sd * rng.standard_normal((2000, 2, 3))
    assumed = replace(constants, cov=0.09 * constants.cov)
    y = drawn[:, :, 0] + np.einsum('nki,i->nk', drawn[:, :, 1:], TISSUE[2])
    noise = np.array([0.003, 0.5])
    y = y + noise * rng.standard_normal(y.shape)
    found = im.posterior(y, np.broadcast_to(noise, y.shape), assumed)
    z = (found.mean - TISSUE[2]) / found.sd
    np.testing.assert_allclose(z.std(0), 1, atol=0.15)
    np.testing.assert_allclose(z.mean(0), 0, atol=0.3)
    errors = found.mean - TISSUE[2]
    assert np.corrcoef(errors.T)[0, 1] == pytest.approx(found.correlation.mean(), abs=0.1)


def test_one_map_does_not_tell_iron_from_myelin():
    constants = exact()
    values = made(constants)
    values[:, 1] = np.nan
    assert not im.posterior(values, np.full((4, 2), 1e-3), constants).identifiable.any()
    alone = im.iron_alone(values[:2, 0], np.full(2, 1e-3), exact(('chi',)))
    np.testing.assert_allclose(alone.mean[:, 0], TISSUE[:2, 0], atol=0.8)
    assert not alone.identifiable.any()


def test_a_map_of_myelin_water_narrows_myelin():
    both, three = (im.constants_at(3.0, names) for names in (('chi', 'R2star'), ('chi', 'R2star', 'MWF')))
    sd = [
        im.posterior(made(one), np.tile([0.004, 0.5, 0.01][: len(one.names)], (4, 1)), one).sd[:, 1]
        for one in (both, three)
    ]
    assert (sd[1] < 0.7 * sd[0]).all()


def test_residuals_are_those_of_what_is_not_negative():
    constants = im.constants_at(3.0, ('chi', 'R2star'))
    values = made(constants, np.array([[6.0, -0.3], [20.0, 0.07]]))
    found = im.posterior(values, np.full((2, 2), 1e-3), constants)
    assert found.mean[0, 1] == 0
    np.testing.assert_allclose(found.residual, values - made(constants, found.mean), atol=1e-12)


def test_nothing_is_negative():
    rng = np.random.default_rng(1)
    mean, cov = rng.normal(0, 1, (300, 2)), np.array([[1.0, 0.6], [0.6, 0.5]])
    found = im.nonnegative(mean, cov)
    assert (found >= 0).all()
    # no point of the quadrant is nearer
    inverse = np.linalg.inv(cov)

    def distance(x):
        return np.einsum('...i,ij,...j->...', x - mean, inverse, x - mean)

    for other in rng.uniform(0, 2, (200, 2)):
        assert (distance(found) <= distance(other) + 1e-9).all()


def test_controls_bring_constants_nearer_to_the_truth():
    regions = ['GP', 'SN', 'RN', 'Putamen', 'Caudate', 'Thalamus', 'Dentate', im.WHITE]
    ages = np.array([50.0])
    tissue = np.stack([im.reference_tissue(region, ages)[0] for region in regions])
    before = im.constants_at(3.0, ('chi', 'R2star'))
    true = replace(before, mean=before.mean + np.array([0.8, 1.0, -0.7]) * before.sd)
    noise = np.tile([0.002, 0.3], (8, 1))
    after, used = im.calibrate(made(true, tissue), noise, regions, [ages] * 8, before)
    assert used == regions
    slopes = np.abs(after.slopes - true.slopes) / np.abs(before.slopes - true.slopes)
    assert (slopes[:, 0] < 0.3).all()
    assert (after.sd < before.sd).all()
    same, used = im.calibrate(np.ones((1, 2)), noise[:1], ['Nowhere'], [ages], before)
    assert used == []
    assert same is before


def test_a_contrast_does_not_mind_the_zero():
    constants = im.constants_at(3.0, ('chi', 'R2star'))
    change = np.array([2.0, -0.05])
    found, cov = im.contrast(constants.slopes @ change, np.diag([0.002, 0.3]) ** 2, constants)
    np.testing.assert_allclose(found, change)
    far = constants.cov.copy()
    far[0, 0], far[3, 3] = 1.0, 1e4
    np.testing.assert_allclose(
        im.contrast(constants.slopes @ change, np.diag([0.002, 0.3]) ** 2, replace(constants, cov=far))[1],
        cov,
    )


def test_maps_are_the_solution_of_the_whole_system():
    """A dense matrix of all voxels gives the maps, and its inverse the error of the middle voxel."""
    rng = np.random.default_rng(2)
    shape, size = (9, 9, 7), (1.0, 1.0, 2.0)
    grid, constants, noise = Grid(shape, size), exact(), np.array([0.005, 1.0])
    mask = np.ones(shape, bool)
    mask[0, :3] = False
    values = np.moveaxis(made(constants, np.broadcast_to(TISSUE[1], (*shape, 2))), -1, 0)
    values = values + noise[:, None, None, None] * rng.standard_normal((2, *shape))
    maps = iron_myelin_maps(values, noise, constants, mask, grid)
    places = np.argwhere(mask)
    steps = np.abs(places[:, None] - places)
    links = np.where(steps.sum(-1) == 1, (steps / size).sum(-1), 0)
    laplacian = np.diag(links.sum(1)) - links
    a = constants.slopes
    prior = np.diag(1 / im.PRIOR_SD**2)
    precision = np.kron(np.eye(len(places)), a.T @ np.diag(1 / noise**2) @ a + prior)
    precision += np.kron(laplacian, np.diag(1 / ROUGHNESS**2))
    data = (values[:, mask] - constants.mean[:, :1]) / noise[:, None] ** 2
    inverse = np.linalg.inv(precision)
    x = (inverse @ (a.T @ data + (prior @ im.PRIOR_MEAN)[:, None]).T.ravel()).reshape(-1, 2)
    assert maps.fits[mask].all()
    np.testing.assert_allclose(maps.iron[mask], x[:, 0], atol=2e-3)
    np.testing.assert_allclose(maps.myelin[mask], np.maximum(x[:, 1], 0), atol=2e-3)
    middle = np.flatnonzero((places == (4, 4, 3)).all(1))[0]
    sd = np.sqrt(np.diag(inverse)).reshape(-1, 2)[middle]
    assert maps.iron_sd[4, 4, 3] == pytest.approx(sd[0], rel=0.02)
    assert maps.myelin_sd[4, 4, 3] == pytest.approx(sd[1], rel=0.02)


def test_fluid_and_what_has_no_such_tissue_are_left_out():
    shape, noise = (12, 12, 10), np.array([0.005, 1.0])
    constants = im.constants_at(3.0, ('chi', 'R2star'))
    values = np.moveaxis(made(constants, np.broadcast_to(TISSUE[2], (*shape, 2))), -1, 0).copy()
    values[:, :4] = np.array([0.02, 1.0])[:, None, None, None]
    maps = iron_myelin_maps(values, noise, constants, np.ones(shape, bool), Grid(shape))
    assert not maps.fits[:4].any()
    assert not maps.iron[:4].any()
    assert maps.fits[6:].all()


def test_a_myelin_fraction_above_one_does_not_hold():
    shape, noise = (10, 10, 8), np.array([0.005, 1.0])
    constants = im.constants_at(3.0, ('chi', 'R2star'))
    content = np.broadcast_to(np.array([5.0, 0.25]), (*shape, 2)).copy()
    content[:4] = 5.0, 2.0
    values = np.moveaxis(made(constants, content), -1, 0)
    maps = iron_myelin_maps(values, noise, constants, np.ones(shape, bool), Grid(shape))
    assert not maps.fits[:2].any()
    assert maps.fits[7:].all()
    assert maps.myelin.max() <= 1
