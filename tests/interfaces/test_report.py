from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from traits.api import TraitError

from bids_qsm.derivatives.products import LOOKS
from bids_qsm.interfaces.io import save
from bids_qsm.interfaces.report import PlotFlicker, PlotMap, PlotOutlines

SHAPE = (24, 28, 20)
AFFINE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0, 0.1, 0.2) @ np.diag([-3.0, 3, 4]), [30, -40, -40]
)


@pytest.fixture
def images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    mask = np.zeros(SHAPE, bool)
    mask[3:-3, 3:-3, 3:-3] = True
    dseg = np.zeros(SHAPE, np.int16)
    dseg[8:12, 10:16, 8:12], dseg[14:17, 10:16, 8:12] = 1, 2
    arrays = {
        'chi': rng.normal(0.05, 0.03, SHAPE).astype(np.float32),
        'phase': rng.uniform(-3, 3, (*SHAPE, 4)).astype(np.float32),
        'mask': mask,
        'dseg': dseg,
    }
    paths = {name: save(array, AFFINE, tmp_path, f'{name}.nii.gz') for name, array in arrays.items()}
    paths['labels'] = str(tmp_path / 'labels.tsv')
    pd.DataFrame({'index': [1, 2], 'name': ['GPe_L', 'GPe_R'], 'region': ['GPe', 'GPe']}).to_csv(
        paths['labels'], sep='\t', index=False
    )
    return paths


def test_plot_map(images):
    chi = PlotMap(image=images['chi'], mask=images['mask'], kind='chi').run().outputs.figure
    assert Path(chi).read_bytes().startswith(b'\x89PNG')
    assert Path(chi).parent == Path.cwd()
    phase = PlotMap(image=images['phase'], kind='phase', title='Phase').run().outputs.figure
    assert Path(phase).name == 'figure.png'
    with pytest.raises(TraitError):
        PlotMap(kind='nonsense')
    assert set(PlotMap().inputs.traits()['kind'].trait_type.values) == set(LOOKS)


def test_plot_outlines(images):
    both = PlotOutlines(image=images['chi'], kind='chi', mask=images['mask'], dseg=images['dseg'])
    both.inputs.labels = images['labels']
    with_labels = Path(both.run().outputs.figure).read_bytes()
    only_mask = PlotOutlines(image=images['chi'], kind='chi', mask=images['mask']).run().outputs.figure
    assert with_labels.startswith(b'\x89PNG')
    assert with_labels != Path(only_mask).read_bytes()


def test_plot_flicker(images):
    plot = PlotFlicker(fixed=images['chi'], moving=images['chi'], mask=images['mask'], labels=['T1w', 'GRE'])
    figure = Path(plot.run().outputs.figure)
    assert figure.suffix == '.svg'
    assert figure.read_text().count('data:image/png') == 2
