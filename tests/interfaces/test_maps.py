"""Interfaces of maps of other tools: units, masks and what stands in for the magnitude."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bids_qsm.interfaces.maps import MaskMaps, ReadMaps
from tests.skeletons import SHAPE, write_image


def array(path):
    return np.asarray(nib.load(path).dataobj)


@pytest.fixture
def cwd(tmp_path):
    folder = tmp_path / 'node'
    folder.mkdir()
    return folder


@pytest.fixture
def image(tmp_path):
    """A function that writes an image of random values in a box, 0 elsewhere."""

    def write(name, scale=1.0):
        data = np.zeros(SHAPE, np.float32)
        data[1:-1, 1:-1, 1:-1] = scale * np.random.default_rng(0).normal(1, 0.1, [n - 2 for n in SHAPE])
        return str(write_image(tmp_path / name, data=data))

    return write


def test_maps_come_out_in_ppm(image, cwd, monkeypatch):
    monkeypatch.chdir(cwd)
    chi, r2star = image('chi.nii', 100), image('r2star.nii', 20)
    found = ReadMaps(chi=chi, r2star=r2star, factors={'chi': 1e-3, 'r2star': 1.0}).run().outputs
    assert array(found.chi) == pytest.approx(array(chi) / 1000)
    assert np.array_equal(array(found.r2star), array(r2star))
    assert np.array_equal(array(found.support) > 0, array(chi) != 0)
    # without a magnitude the map itself is aligned
    assert np.array_equal(array(found.combined) >= 1, array(chi) != 0)
    assert json.loads(Path(found.notes).read_text()) == {'findings': []}


def test_magnitudes_of_all_echoes_are_combined(image, cwd, monkeypatch):
    monkeypatch.chdir(cwd)
    echoes = [image('e1.nii', 4), image('e2.nii', 3)]
    found = ReadMaps(field=image('field.nii'), magnitude=echoes, factors={'field': 1.0}).run().outputs
    assert array(found.combined) == pytest.approx(array(echoes[0]) * 5 / 4, rel=1e-5)
    assert array(found.magnitude).shape == (*SHAPE, 2)
    assert array(found.noise).min() > 0


@pytest.mark.parametrize(('region', 'named'), [('CSF', 'CSF'), ('', 'as given')])
def test_the_reference_is_that_of_the_map(image, tmp_path, cwd, monkeypatch, region, named):
    monkeypatch.chdir(cwd)
    brain = np.zeros(SHAPE, np.uint8)
    brain[:4] = 1
    keep = MaskMaps(
        support=image('support.nii', 10),
        chi=image('chi.nii'),
        brain=str(write_image(tmp_path / 'brain.nii', data=brain)),
        reference=region,
    )
    found = keep.run().outputs
    assert json.loads(Path(found.note).read_text())['ReferenceRegion'] == named
    assert not array(found.chi)[4:].any()
    assert array(found.mask).sum() == 3 * 7 * 5
