"""Separation of sources on blocks of tissue whose sources and relaxivities are known."""

import numpy as np
import pytest

from bids_qsm.biomarkers.separation.calibration import ANISOTROPY, TURNED, Data, calibrate
from bids_qsm.biomarkers.separation.closed import closed
from bids_qsm.biomarkers.separation.posterior import separate
from bids_qsm.biomarkers.separation.tissues import zones
from bids_qsm.errors import UserError

SHAPE = (24, 24, 16)
NOISE = {'chi_noise': 0.005, 'rate_noise': 1.0}
SHIFT = -0.02
VEIN = (slice(2, 4), slice(20, 22), slice(None))


@pytest.fixture(scope='module')
def tissue():
    """Paramagnetic and diamagnetic susceptibility, R2, and zones: halves of white and grey matter, nuclei."""
    rng = np.random.default_rng(5)
    para, dia, r2 = (np.zeros(SHAPE, np.float32) for _ in range(3))
    white = np.zeros(SHAPE, bool)
    white[:, :12] = True
    para[white], dia[white], r2[white] = 0.010, 0.036, 14.0
    para[~white], dia[~white], r2[~white] = 0.040, 0.020, 11.5
    nuclei = np.zeros(SHAPE, bool)
    for start, iron, myelin in ((1, 0.045, 0.030), (9, 0.09, 0.012), (17, 0.14, 0.012)):
        box = (slice(start, start + 6), slice(10, 16), slice(4, 12))
        para[box], dia[box], r2[box], nuclei[box] = iron, myelin, 13.0, True
    fluid = (slice(None), slice(19, None), slice(0, 5))
    para[fluid], dia[fluid], r2[fluid] = 0, 0, 0.6
    for field in (para, dia):
        field *= 1 + 0.1 * rng.standard_normal(SHAPE)
    mask = np.ones(SHAPE, bool)
    mask[0] = False
    return para, dia, r2, mask, zones(mask, white & ~nuclei, nuclei)


def measured(tissue, relaxivity, *, with_r2):
    """Maps with noise, whose zero is off; one vein of much iron that dephases little."""
    para, dia, r2, mask, zone = tissue
    rng = np.random.default_rng(6)
    chi = para - dia + SHIFT + 0.005 * rng.standard_normal(SHAPE)
    rate = relaxivity[0] * para + relaxivity[1] * dia + rng.standard_normal(SHAPE) + r2 * with_r2
    chi[VEIN] += 0.4
    return chi.astype(np.float32), rate.astype(np.float32), mask, zone


@pytest.fixture(scope='module')
def plain(tissue):
    """Maps of voxels of 2 mm, and their separation."""
    maps = measured(tissue, (160, 130), with_r2=False)
    return maps, separate(*maps, **NOISE, voxel_size=(2.0,) * 3)


@pytest.mark.parametrize(('relaxivity', 'reversible'), [((300, 260), True), ((160, 130), False)])
def test_sources_are_found_without_being_told_relaxivities(tissue, relaxivity, reversible):
    para, dia, *_ = tissue
    maps = measured(tissue, relaxivity, with_r2=not reversible)
    found = separate(*maps, **NOISE, voxel_size=(1.5,) * 3, reversible=reversible)
    fitted = found.calibration
    assert fitted.para == pytest.approx(relaxivity[0], rel=0.2)
    assert abs(fitted.shift - SHIFT) < 0.008
    where = found.fits
    assert not where[VEIN][1:].any()
    assert where.sum() > 0.9 * maps[2].sum()
    assert found.para.min() == 0
    assert found.dia.max() == 0
    assert not found.para[~maps[2]].any()
    naive = closed(maps[0] - np.float32(SHIFT), maps[1], *relaxivity)
    for one, true, plain, sd in (
        (found.para, para, naive[0], found.para_sd),
        (-found.dia, dia, -naive[1], found.dia_sd),
    ):
        error = (one - true)[where]
        if reversible:  # the closed form is told relaxivities and zero
            assert np.abs(error).mean() < 1.1 * np.abs(plain - true)[where].mean()
        assert np.abs(error).mean() < 0.006
        assert (np.abs(error) < sd[where]).mean() > 0.6


def test_another_relaxivity_changes_the_sources_as_said(tissue):
    """The change by a tenth more relaxivity is that of a second separation, where no bound holds."""
    maps = measured(tissue, (160, 130), with_r2=False)
    one = separate(*maps, **NOISE, voxel_size=(1.5,) * 3, smoothness=(0.0, 0.0))
    moved = type(one.calibration)(
        1.1 * one.calibration.para,
        1.1 * one.calibration.dia,
        one.calibration.shift,
        one.calibration.means,
        one.calibration.spreads,
        one.calibration.covariance,
    )
    other = separate(*maps, **NOISE, voxel_size=(1.5,) * 3, smoothness=(0.0, 0.0), calibration=moved)
    inside = one.fits & other.fits & (one.para > 0.02) & (one.dia < -0.01)
    for before, after, said in (
        (one.para, other.para, one.para_change),
        (one.dia, other.dia, one.dia_change),
    ):
        assert (after - before)[inside].mean() == pytest.approx(said[inside].mean(), rel=0.25)


def test_angles_of_fibres_take_out_what_they_do(tissue):
    """White matter of two directions: with their angles, myelin of neither is taken for more."""
    para, dia, _, mask, zone = tissue
    cosine, fa = np.full(SHAPE, 1 / 3, np.float32), np.full(SHAPE, 0.12, np.float32)
    white = zone == 1
    fa[white] = 0.7
    cosine[white] = 0.0
    along = white.copy()
    along[:12] = False
    cosine[along] = 1.0
    angle = np.where(white, cosine - 1 / 3, 0)
    turned = dia - 0.012 * angle
    rng = np.random.default_rng(6)
    chi = para - turned + SHIFT + 0.005 * rng.standard_normal(SHAPE)
    rate = 160 * para + 130 * turned * (1 - 0.75 * angle) + 1.0 * rng.standard_normal(SHAPE)
    maps = chi.astype(np.float32), rate.astype(np.float32), mask, zone
    off, fitted = {}, {}
    for name, fibres in (('with', {'cosine': cosine, 'fa': fa}), ('without', {})):
        found = separate(*maps, **NOISE, voxel_size=(1.5,) * 3, **fibres)
        error, fitted[name] = -found.dia - turned, found.calibration
        off[name] = error[along & found.fits].mean() - error[white & ~along & found.fits].mean()
    assert abs(off['with']) < 0.0015
    assert abs(off['with']) < 0.5 * abs(off['without'])
    assert fitted['with'].turned == pytest.approx(0.5, abs=0.15)
    assert fitted['with'].anisotropy == pytest.approx(0.012, abs=0.005)
    # they are hardly better known than before
    for sd, before in zip(fitted['with'].angle_sd, (TURNED[1], ANISOTROPY[1]), strict=True):
        assert 0.2 * before < sd <= before
    assert fitted['without'].angle_sd == (0.0, 0.0)


def test_a_voxel_of_tissue_and_blood_keeps_its_myelin(tissue, plain):
    para, dia, *_ = tissue
    chi, rate, mask, zone = measured(tissue, (160, 130), with_r2=False)
    vessel = (slice(4, 8), slice(3, 4), slice(4, 12))
    chi[vessel] += 0.12  # a third of a voxel of blood
    known = plain[1].calibration
    found = separate(chi, rate, mask, zone, **NOISE, voxel_size=(1.5,) * 3, calibration=known)
    assert not found.fits[vessel].any()
    assert found.para[vessel].mean() == pytest.approx(0.12 + 0.7 * para[vessel].mean(), abs=0.015)
    assert -found.dia[vessel].mean() == pytest.approx(0.7 * dia[vessel].mean(), abs=0.006)


@pytest.mark.parametrize('size', [15.0, 99.0])
def test_a_large_bleed_spoils_no_other_voxel(tissue, plain, size):
    """A ball of 3 cm, whose middle has no tissue around it; and a head that is all blood."""
    para, *_ = tissue
    maps, plain = plain
    chi, mask = maps[0].copy(), maps[2]
    away = 2 * np.linalg.norm(np.indices(SHAPE).T - np.array(SHAPE) / 2, axis=-1).T
    ball = mask & (away < size)
    chi[ball] += 1.0
    found = separate(
        chi, *maps[1:], **NOISE, voxel_size=(2.0,) * 3, calibration=plain.calibration, smooth_error=0.006
    )
    for one in (found.para, found.dia, found.para_sd, found.dia_sd):
        assert np.isfinite(one).all()
    assert not found.fits[ball].any()
    assert found.para[ball].mean() == pytest.approx(1.0 + (para - tissue[1])[ball].mean(), abs=0.02)
    assert np.abs(found.dia[ball]).max() < 0.001
    # noise, smooth error and zero; the tissue is gone
    assert np.median(found.para_sd[ball]) == pytest.approx(np.hypot(0.005, 0.006), abs=0.006)
    far = mask & (away > size + 6)
    assert np.abs(found.para - plain.para)[far].max(initial=0) < 0.01


def test_where_anisotropy_is_not_known_it_says_nothing(plain):
    maps, plain = plain
    cosine, fa = np.full(SHAPE, 1 / 3, np.float32), np.full(SHAPE, np.nan, np.float32)
    fibres = {'cosine': cosine, 'fa': fa, 'calibration': plain.calibration}
    blank = separate(*maps, **NOISE, voxel_size=(2.0,) * 3, **fibres)
    np.testing.assert_allclose(blank.para, plain.para, atol=1e-5)
    np.testing.assert_array_equal(blank.fits, plain.fits)


def test_too_few_voxels_are_refused():
    few = np.zeros(50, np.float32)
    with pytest.raises(UserError, match='too few voxels'):
        calibrate(Data(few, few, 0.005, 1.0), np.zeros(50, np.uint8))
