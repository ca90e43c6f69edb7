"""Tensor white matter: directions, their turns with the head, and the field that they make."""

from dataclasses import replace

import numpy as np
import pytest

from bids_qsm.phantom.dataset import write_dataset
from bids_qsm.phantom.fibres import Fibres, fibre_field
from bids_qsm.phantom.forward import dipole_field, field_of_fibres, moment_field
from bids_qsm.phantom.gre import Protocol
from bids_qsm.phantom.head import rigid
from bids_qsm.phantom.positions import head_turns, positions
from bids_qsm.recon.grid import Grid


def test_directions_are_unit_vectors_and_smooth():
    points = np.stack(np.meshgrid(*[np.arange(-60, 60, 4.0)] * 3, indexing='ij'), -1)
    vectors, fractions = fibre_field(points, 3)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1, atol=1e-5)
    assert 0.35 <= fractions.min() < 0.5 < 0.7 < fractions.max() <= 0.85
    cosine = np.abs((vectors[1:] * vectors[:-1]).sum(-1))
    assert np.degrees(np.arccos(np.minimum(cosine, 1))).mean() < 15
    assert not np.allclose(vectors, fibre_field(points, 4)[0], atol=0.1)


def test_moments_along_b0_have_the_field_of_a_scalar():
    grid = Grid((16, 18, 14), (1.0, 1.5, 2.0), (0.6, 0.0, 0.8))
    chi = np.zeros(grid.shape, np.float32)
    chi[5:9, 6:12, 4:9] = 1
    moments = chi[..., None] * np.array(grid.b0_dir, np.float32)
    np.testing.assert_allclose(moment_field(moments, grid), dipole_field(chi, grid), atol=1e-6)


def test_directions_turn_with_the_head(head):
    one = replace(head, fibres=Fibres(1))
    turn = rigid((20, 0, 15))
    shape, affine = (24, 28, 22), np.diag([8.0, 8, 8, 1])
    affine[:3, 3] = (-92, -108, -84)
    _, before = one.fibre_maps(shape, affine)
    # the grid turns with the head: its voxels show the same places
    _, after = one.moved((20, 0, 15), (0, 0, 0)).fibre_maps(shape, turn @ affine)
    np.testing.assert_allclose(after, before @ turn[:3, :3].T, atol=1e-3)


def test_the_field_depends_on_the_angle_to_b0(head):
    shape, affine = (32, 38, 30), np.diag([6.0, 6, 6, 1])
    affine[:3, 3] = (-93, -111, -87)
    fields = {}
    for name, fibres in (('bulk', Fibres(1)), ('none', Fibres(1, 0.0)), ('all', Fibres(1, 0.02, -0.02))):
        fields[name] = field_of_fibres(replace(head, fibres=fibres), shape, affine)
    assert not fields['none'].any()
    fractions, vectors = replace(head, fibres=Fibres(1)).fibre_maps(shape, affine)
    added = fields['all'] - fields['bulk']
    expected = -0.02 * fractions / 0.6 * (1 - vectors[..., 2] ** 2)
    np.testing.assert_allclose(added, expected, atol=1e-6)
    assert 5e-4 < fields['bulk'][fractions > 0.3].std() < 5e-3


def test_a_session_of_several_positions(head, tmp_path, monkeypatch):
    monkeypatch.setattr('bids_qsm.phantom.dataset.make_head', lambda *_, **__: head)
    turns = head_turns(2)
    protocol = Protocol((8.0, 8.0, 8.0), echo_times=(0.01,))
    visits = positions('01', 1, turns, protocol, session='a', fibres=Fibres(1), t1w=None)
    root = write_dataset(tmp_path / 'ds', visits, spacing=2.0)
    names = sorted(path.name for path in (root / 'sub-01/ses-a/anat').glob('*phase_MEGRE.nii.gz'))
    assert names == [f'sub-01_ses-a_acq-pos{n}_echo-1_part-phase_MEGRE.nii.gz' for n in (1, 2)]
    truth = root / 'derivatives/truth/sub-01/ses-a/anat'
    for suffix in ('Chimap', 'V1map', 'FAmap', 'desc-msa_Chimap'):
        assert (truth / f'sub-01_ses-a_acq-pos2_{suffix}.nii.gz').exists()
    with pytest.raises(ValueError, match='12 turns'):
        head_turns(13)
