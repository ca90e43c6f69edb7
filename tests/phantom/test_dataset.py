import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from bids_qsm.phantom.blood import draw_blood
from bids_qsm.phantom.dataset import Visit, write_dataset
from bids_qsm.phantom.gre import Protocol
from bids_qsm.phantom.head import Lesion

PROTOCOL = Protocol(
    (5.0, 5.0, 5.0), echo_times=(0.006, 0.014), rotation=(10, 0, 0), phase_format='siemens', sign=-1
)
PEOPLE = {
    '01': {'age': 30, 'sex': 'F', 'group': 'control'},
    '02': {'age': 50, 'sex': 'M', 'group': 'patient'},
}
VISITS = [
    Visit('01', '1', 4, PROTOCOL, 4.0),
    Visit('01', '2', 4, PROTOCOL, None, {'SN': 1.2}),
    Visit('02', '1', 4, PROTOCOL, None, {'GP': 2.0}, (Lesion((-24, -22, 30), 7.0),)),
]


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    return write_dataset(
        tmp_path_factory.mktemp('data') / 'ds',
        VISITS,
        participants=PEOPLE,
        spacing=2.0,
        blood=True,
        perfusion=True,
    )


@pytest.fixture(scope='module')
def blood():
    return draw_blood(np.random.default_rng([4, 7]))  # of the person 4


def load(path):
    return np.asanyarray(nib.load(path).dataobj)


def test_every_echo_has_magnitude_phase_and_sidecars(dataset):
    folder = dataset / 'sub-01' / 'ses-1' / 'anat'
    for n, time in enumerate(PROTOCOL.echo_times, 1):
        for part in ('mag', 'phase'):
            stem = f'sub-01_ses-1_echo-{n}_part-{part}_MEGRE'
            image = nib.load(folder / f'{stem}.nii.gz')
            assert image.shape == PROTOCOL.shape
            np.testing.assert_allclose(image.affine, PROTOCOL.affine, atol=1e-4)
            sidecar = json.loads((folder / f'{stem}.json').read_text())
            assert sidecar['EchoTime'] == time
            assert sidecar['ImagingFrequency'] == pytest.approx(127.73, abs=0.05)
    phase = load(folder / 'sub-01_ses-1_echo-1_part-phase_MEGRE.nii.gz')
    assert phase.dtype == np.int16
    assert phase.min() >= -4096
    assert phase.max() <= 4094
    assert phase.max() > 4000
    assert (folder / 'sub-01_ses-1_T1w.nii.gz').exists()
    assert not list(dataset.glob('sub-01/ses-2/anat/*T1w*'))


def test_truth_lies_beside_the_data(dataset):
    truth = dataset / 'derivatives' / 'truth' / 'sub-02' / 'ses-1' / 'anat'
    dseg = load(truth / 'sub-02_ses-1_seg-nuclei_dseg.nii.gz')
    table = pd.read_csv(truth / 'sub-02_ses-1_seg-nuclei_dseg.tsv', sep='\t')
    assert set(np.unique(dseg)) <= {0, *table['index']}
    pallidum = table[table.region.isin(['GPe', 'GPi'])]['index']
    control = dataset / 'derivatives' / 'truth' / 'sub-01' / 'ses-1' / 'anat'
    means = [
        load(p / f'{s}_Chimap.nii.gz')[np.isin(load(p / f'{s}_seg-nuclei_dseg.nii.gz'), pallidum)].mean()
        for p, s in ((control, 'sub-01_ses-1'), (truth, 'sub-02_ses-1'))
    ]
    assert means[1] > 1.4 * means[0]
    mask = load(truth / 'sub-02_ses-1_desc-brain_mask.nii.gz')
    lesion = load(dataset / 'derivatives/lesions/sub-02/ses-1/anat/sub-02_ses-1_label-lesion_mask.nii.gz')
    assert 3 <= lesion.sum() <= 20
    assert mask[lesion > 0].all()


def test_participants(dataset, blood):
    table = pd.read_csv(dataset / 'participants.tsv', sep='\t')
    assert list(table.participant_id) == ['sub-01', 'sub-02']
    assert list(table.group) == ['control', 'patient']
    described = set(json.loads((dataset / 'participants.json').read_text()))
    assert described == {'age', 'sex', 'group', 'hematocrit', 'sao2'}
    assert table.hematocrit.tolist() == pytest.approx([blood.hematocrit] * 2, abs=1e-4)
    assert table.sao2.tolist() == pytest.approx([100 * blood.arterial] * 2, abs=0.01)


def test_veins_are_among_the_truth(dataset):
    stem = dataset / 'derivatives/truth/sub-01/ses-1/anat/sub-01_ses-1'
    share, chi, dseg = (
        load(f'{stem}_{name}.nii.gz') for name in ('label-vein_probseg', 'desc-vein_Chimap', 'seg-veins_dseg')
    )
    table = pd.read_csv(f'{stem}_seg-veins_dseg.tsv', sep='\t')
    assert set(table['index']) == set(np.unique(dseg)) - {0}
    assert np.array_equal(dseg > 0, share >= np.float32(0.02))
    assert 0.6 < share.max() <= 1
    assert 0.35 < np.median(chi[share > 0.5]) < 0.75
    brain = load(f'{stem}_desc-brain_mask.nii.gz') > 0
    assert 0.004 < share[brain].mean() < 0.02


def test_oxygen_use_is_flow_times_extraction_times_content(dataset, blood):
    """Grey matter takes 60 ml / 100 g / min and, with 8.2 umol/ml in arteries, about 190 umol of oxygen."""
    flow = nib.load(dataset / 'derivatives/perfusion/sub-01/ses-1/perf/sub-01_ses-1_space-T1w_cbf.nii.gz')
    folder = dataset / 'derivatives/truth/sub-01/ses-1/perf'
    oef, use = (load(folder / f'sub-01_ses-1_space-T1w_{n}map.nii.gz') for n in ('OEF', 'CMRO2'))
    cbf = np.asanyarray(flow.dataobj)
    t1w = nib.load(dataset / 'sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz')
    np.testing.assert_allclose(flow.affine, t1w.affine)
    assert 45 < cbf.max() <= 60
    inside = cbf > 20
    content = 0.446 * 1.34 * 33.5 * blood.hematocrit * blood.arterial
    np.testing.assert_allclose(use[inside], (cbf * oef)[inside] * content, rtol=1e-5)
    low, high = (1 - y / blood.arterial for y in (blood.deep, blood.cortical))
    assert np.percentile(oef[inside], 5) == pytest.approx(low, abs=0.02)
    assert np.percentile(oef[inside], 95) == pytest.approx(high, abs=0.02)
    assert not list(dataset.glob('derivatives/*/sub-01/ses-2/perf'))


def test_the_same_seed_gives_the_same_bytes(dataset, tmp_path):
    """Also where people are simulated side by side."""
    visits = [VISITS[0], Visit('03', None, 5, replace(PROTOCOL, voxel_size=(8.0, 8.0, 8.0)), None)]
    again = write_dataset(tmp_path, visits, participants=PEOPLE, spacing=2.0, perfusion=True, nprocs=2)
    assert len(list(again.glob('sub-03/anat/*.nii.gz'))) == 4
    files = sorted(p.relative_to(again) for p in again.rglob('*_ses-1_*') if p.is_file())
    assert len(files) > 20
    for file in files:
        assert (again / file).read_bytes() == (dataset / file).read_bytes(), file


@pytest.mark.parametrize('part', ['.', 'derivatives/truth', 'derivatives/lesions', 'derivatives/perfusion'])
def test_validator_finds_no_error(dataset, part):
    validator = Path(sys.executable).with_name('bids-validator-deno')
    if not validator.exists():
        pytest.skip('bids-validator-deno is not installed')
    result = subprocess.run(
        [validator, dataset / part, '--json'], capture_output=True, text=True, check=False
    )
    issues = json.loads(result.stdout)['issues']['issues']
    errors = [i for i in issues if i['severity'] == 'error']
    assert not errors, errors
