"""Extraction from decay and susceptibility: limits of the model, exact data, noise against the prior."""

import numpy as np
import pytest

from bids_qsm.biomarkers import oxygen as ox
from bids_qsm.biomarkers.qbold import (
    Tissue,
    decay,
    dephasing,
    extraction_map,
    fit_tissue,
    priors,
    tissue_chi,
)

CONSTANTS = ox.Constants()
BLOOD = ox.blood_of({'hematocrit': 0.42, 'sao2': 0.98}, constants=CONSTANTS)
SCAN = {'echo_times': tuple(0.005 * np.arange(1, 9)), 'field_strength': 3.0}


def tissues(number, seed=3):
    rng = np.random.default_rng(seed)
    for _ in range(number):
        oef, volume, chi, rate = rng.standard_normal(4)
        yield Tissue(0.35 + 0.08 * oef, 0.025 * np.exp(0.4 * volume), -0.02 + 0.02 * chi, 15 + 4 * rate)


def test_dephasing_has_the_known_limits():
    assert dephasing(0.05) == pytest.approx(0.3 * 0.05**2, rel=0.02)
    assert dephasing(30.0) == pytest.approx(29, rel=0.002)
    assert dephasing(100.0) == pytest.approx(99, rel=0.001)
    assert (np.diff(dephasing(np.linspace(0, 80, 500))) > 0).all()


def test_susceptibility_adds_up_by_volume():
    """A voxel that is all blood, as veins and arteries share it, has the susceptibility of that blood."""
    here = Tissue(0.35, 0.77, 5.0, 15)
    full = 0.85 * 0.42 * CONSTANTS.dchi_do
    expected = full * (0.77 * (1 - 0.65 * 0.98) + 0.23 * 0.02)
    assert tissue_chi(here, BLOOD, CONSTANTS) == pytest.approx(expected)


def test_exact_data_give_the_extraction():
    for tissue in tissues(8):
        signal = 700 * decay(tissue, BLOOD, CONSTANTS, **SCAN)
        chi = tissue_chi(tissue, BLOOD, CONSTANTS)
        found, _ = fit_tissue(signal, 1e-4, chi, 1e-6, BLOOD, CONSTANTS, oef=0.35, **SCAN)
        assert found.oef == pytest.approx(tissue.oef, abs=0.01)
        assert found.volume == pytest.approx(tissue.volume, rel=0.03)


def test_noise_makes_it_no_worse_than_the_prior():
    rng = np.random.default_rng(5)
    errors, before, scores = [], [], []
    for tissue in tissues(40):
        signal = decay(tissue, BLOOD, CONSTANTS, **SCAN) + 0.02 * rng.standard_normal(8)
        chi = tissue_chi(tissue, BLOOD, CONSTANTS) + 0.005 * rng.standard_normal()
        found, se = fit_tissue(signal, 0.02, chi, 0.005, BLOOD, CONSTANTS, oef=0.35, **SCAN)
        errors.append(found.oef - tissue.oef)
        before.append(0.35 - tissue.oef)
        scores.append(abs(errors[-1]) < 1.96 * se)
    assert np.std(errors) < 1.05 * np.std(before)
    assert np.mean(scores) > 0.9


def test_a_map_tells_two_tissues_apart():
    one, two = Tissue(0.45, 0.03, -0.02, 15), Tissue(0.25, 0.03, -0.02, 15)
    rng = np.random.default_rng(2)
    where = np.zeros((20, 20, 20), bool)
    where[:10] = True
    curves = [decay(t, BLOOD, CONSTANTS, **SCAN) for t in (one, two)]
    echoes = np.where(where[..., None], *curves) * rng.uniform(0.7, 1.3, where.shape)[..., None]
    echoes += rng.standard_normal(echoes.shape) / 200
    chi = np.where(where, *(tissue_chi(t, BLOOD, CONSTANTS) for t in (one, two)))
    mask = np.ones_like(where)
    mask[:, :, 0] = False
    oef, volume, se = extraction_map(
        echoes, chi, mask, BLOOD, CONSTANTS, oef=0.35, chi_sd=0.002, clusters=4, **SCAN
    )
    low, high = oef[~where & mask].mean(), oef[where & mask].mean()
    assert high - low > 0.05
    assert not oef[~mask].any()
    assert ((volume[mask] > 0) & (se[mask] > 0)).all()
    empty = extraction_map(echoes, chi, np.zeros_like(mask), BLOOD, CONSTANTS, oef=0.35, **SCAN)
    assert not any(image.any() for image in empty)


@pytest.mark.parametrize('oef', [-0.2, 0.0, 1.3])
def test_an_extraction_of_veins_that_cannot_be_is_no_error(oef):
    tissue = Tissue(0.35, 0.025, -0.02, 15)
    signal = decay(tissue, BLOOD, CONSTANTS, **SCAN)
    found, _ = fit_tissue(
        signal, 1e-5, tissue_chi(tissue, BLOOD, CONSTANTS), 1e-6, BLOOD, CONSTANTS, oef=oef, **SCAN
    )
    assert 0.02 <= found.oef <= 0.95


def test_the_expected_rate_rises_with_field_strength():
    """Tissue whose R2 is that of 7 T is fitted with less pull to a wrong one."""
    at7 = {**SCAN, 'field_strength': 7.0}
    assert priors(7.0)['rate'][0] == pytest.approx(15 * np.sqrt(7 / 3))
    assert priors(7.0)['chi'] == priors(1.5)['chi']
    tissue = Tissue(0.35, 0.025, -0.02, priors(7.0)['rate'][0])
    signal = decay(tissue, BLOOD, CONSTANTS, **at7)
    found, _ = fit_tissue(
        signal, 0.02, tissue_chi(tissue, BLOOD, CONSTANTS), 0.01, BLOOD, CONSTANTS, oef=0.35, **at7
    )
    assert found.oef == pytest.approx(0.35, abs=1e-3)


def test_voxels_beyond_the_sample_join_the_clusters(monkeypatch):
    monkeypatch.setattr('bids_qsm.biomarkers.qbold.SAMPLE', 300)
    ones, where = np.ones((10, 10, 10)), np.indices((10, 10, 10))[0] < 5
    curves = [decay(Tissue(oef, 0.03, -0.02, 15), BLOOD, CONSTANTS, **SCAN) for oef in (0.25, 0.45)]
    noise = np.random.default_rng(0).normal(0, 1e-4, (10, 10, 10, 8))
    echoes = np.where(where[..., None], *curves) + noise
    oef, _, _ = extraction_map(echoes, 0.02 * ones, ones > 0, BLOOD, CONSTANTS, oef=0.35, clusters=2, **SCAN)
    assert len(np.unique(oef)) == 2
    assert len(np.unique(oef[where])) == len(np.unique(oef[~where])) == 1
