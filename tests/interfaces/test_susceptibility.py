"""Interfaces from the mask to referenced susceptibility and SWI, on files."""

import json

import nibabel as nib
import numpy as np
import pytest

from bids_qsm.errors import UserError
from bids_qsm.interfaces.background import RemoveBackground
from bids_qsm.interfaces.inversion import Invert
from bids_qsm.interfaces.io import load, load_mask, save
from bids_qsm.interfaces.masking import MakeMask, MergePasses, RefineMask, StrictMask
from bids_qsm.interfaces.reference import ReferenceChi
from bids_qsm.interfaces.swi import ComputeSWI
from tests.recon import little_head


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Head as files on an oblique grid; axes of the affine agree with the head's B0."""
    head = little_head.make(step=4.0)
    folder = tmp_path_factory.mktemp('head')
    b0 = np.array(head.grid.b0_dir)
    across = np.cross(b0, [1, 0, 0])
    across /= np.linalg.norm(across)
    # rows are the scanner's axes seen from the voxels
    affine = np.eye(4)
    affine[:3, :3] = np.stack([np.cross(across, b0), across, b0]) * 4.0
    magnitude = np.where(head.head, 1, 0.01)[..., None] * np.array([1.0, 0.7])
    times = [0.01, 0.02]
    volumes = {
        'field': head.total,
        'noise': head.noise,
        'brain': head.brain,
        'quality': np.where(head.head, 0.9, 0.1),
        'magnitude': magnitude,
        'unwrapped': head.total[..., None] * np.array(times) * 802,
        'phase': np.angle(np.exp(1j * head.total[..., None] * np.array(times) * 802)),
        'combined': np.linalg.norm(magnitude, axis=-1),
        'residual': np.full(head.grid.shape, 0.05),
        'r2star': np.where(head.ventricles, 2.0, 18.0) * head.brain,
    }
    paths = {name: save(np.asarray(v), affine, folder, f'{name}.nii') for name, v in volumes.items()}
    return head, paths, times


def run(interface, folder):
    folder.mkdir(exist_ok=True)
    return interface.run(cwd=str(folder)).outputs


def test_chain_of_files(files, tmp_path):
    head, paths, times = files
    made = run(
        MakeMask(**{name: paths[name] for name in ('magnitude', 'quality', 'brain')}), tmp_path / 'mask'
    )
    mask = load_mask(made.mask)
    assert (mask & head.brain).sum() > 0.95 * head.brain.sum()
    assert load_mask(made.wide).sum() > 1.1 * mask.sum()
    maps = {name: paths[name] for name in ('residual', 'noise', 'magnitude')}
    refined = run(RefineMask(mask=made.mask, wide=made.wide, **maps), tmp_path / 'refine')
    support = load_mask(refined.support)
    assert not (load_mask(refined.mask) & ~support).any()
    assert support.sum() > mask.sum()
    maps = {name: paths[name] for name in ('noise', 'r2star')}
    removed = run(
        RemoveBackground(field=paths['field'], mask=refined.support, **maps), tmp_path / 'background'
    )
    maps |= {'magnitude': paths['combined'], 'noise': removed.noise}
    inverted = run(
        Invert(
            field=removed.local_field,
            mask=removed.mask,
            brain=refined.mask,
            echo_times=times,
            field_strength=3.0,
            **maps,
        ),
        tmp_path / 'inversion',
    )
    np.testing.assert_array_equal(load_mask(inverted.mask), load_mask(refined.mask))
    assert load(inverted.chi)[1].b0_dir == pytest.approx(head.grid.b0_dir, abs=1e-5)
    referred = run(
        ReferenceChi(chi=inverted.chi, mask=inverted.mask, r2star=paths['r2star'], levels=True),
        tmp_path / 'reference',
    )
    chi, inside = load(referred.chi)[0], load_mask(inverted.mask)
    assert not chi[~inside].any()
    assert np.corrcoef(chi[inside], head.chi[inside])[0, 1] > 0.5
    with open(referred.note) as stream:
        note = json.load(stream)
    region = load_mask(referred.region)
    assert note['ReferenceVoxels'] == region.sum() > 0
    assert note['ReferenceRegion'] == 'CSF'
    assert 'ventricles' in note['ReferenceDescription']
    assert chi[region].mean() == pytest.approx(0, abs=1e-6)
    assert load(inverted.chi)[0][inside].mean() - chi[inside].mean() == pytest.approx(
        note['ReferenceOffset'], abs=1e-5
    )


def test_background_removal_leaves_no_specks(files, tmp_path):
    """V-SHARP cuts a loose cube of the mask down to one voxel."""
    _, paths, _ = files
    image = nib.load(paths['brain'])
    mask = image.get_fdata() > 0
    before = mask.sum()
    mask[:3, :3, :3] = True
    assert mask.sum() == before + 27
    fed = save(mask, image.affine, tmp_path, 'fed.nii')
    outputs = run(
        RemoveBackground(field=paths['field'], noise=paths['noise'], mask=fed, method='vsharp'),
        tmp_path / 'vsharp',
    )
    kept, local = load_mask(outputs.mask), load(outputs.local_field)[0]
    assert kept.sum() > 0.2 * before
    assert not kept[:3, :3, :3].any()
    assert not local[~kept].any()


def test_a_map_without_a_voxel_is_an_error(files, tmp_path):
    """The field is given where the brain is not."""
    head, paths, times = files
    away = save(~head.brain, nib.load(paths['brain']).affine, tmp_path, 'away.nii')
    maps = {'noise': paths['noise'], 'magnitude': paths['combined'], 'brain': paths['brain']}
    invert = Invert(field=paths['field'], mask=away, echo_times=times, field_strength=3.0, **maps)
    with pytest.raises(UserError, match='The mask is empty: no voxel of the local field inside the brain'):
        run(invert, tmp_path / 'inversion')


def test_two_passes(files, tmp_path):
    """The strict mask leaves bad phase out; where it lies its susceptibility is taken."""
    head, paths, _ = files
    reference = nib.load(paths['brain'])
    quality = np.where(head.nuclei, 0.3, np.where(head.brain, 0.9, 0.1)).astype(np.float32)
    bad = save(quality, reference.affine, tmp_path, 'bad.nii')
    made = run(StrictMask(quality=bad, mask=paths['brain']), tmp_path / 'strict')
    strict = load_mask(made.mask)
    assert not (strict & head.nuclei).any()
    assert strict.sum() > 0.9 * head.brain.sum()
    maps = {
        'chi_strict': np.where(strict, 0.1, 0).astype(np.float32),
        'chi_filled': np.where(head.brain, 0.3, 0).astype(np.float32),
    }
    maps = {name: save(m, reference.affine, tmp_path, f'{name}.nii') for name, m in maps.items()}
    chi = load(run(MergePasses(strict=made.mask, **maps), tmp_path / 'merge').chi)[0]
    np.testing.assert_allclose(chi[head.brain], 0.1, atol=1e-6)
    assert not chi[~head.brain].any()


def test_reference_none_has_no_region(files, tmp_path):
    _, paths, _ = files
    outputs = run(ReferenceChi(chi=paths['field'], mask=paths['brain'], method='none'), tmp_path / 'none')
    assert not isinstance(outputs.region, str)
    mask = load_mask(paths['brain'])
    np.testing.assert_array_equal(load(outputs.chi)[0][mask], load(paths['field'])[0][mask])


def test_params_reach_the_method(files, tmp_path):
    _, paths, _ = files
    masks = [
        load_mask(
            run(
                MakeMask(
                    **{name: paths[name] for name in ('magnitude', 'quality', 'brain')},
                    method='brain',
                    params={'erosion_mm': erosion},
                ),
                tmp_path / f'{erosion}',
            ).mask
        )
        for erosion in (0.0, 8.0)
    ]
    assert masks[1].sum() < 0.9 * masks[0].sum()


def test_swi_and_its_projection(files, tmp_path):
    _, paths, times = files
    outputs = run(
        ComputeSWI(
            magnitude=paths['magnitude'],
            unwrapped=paths['unwrapped'],
            phase=paths['phase'],
            mask=paths['brain'],
            echo_times=times,
        ),
        tmp_path / 'swi',
    )
    image, projected = (nib.load(p) for p in (outputs.swi, outputs.minip))
    assert image.shape == projected.shape == nib.load(paths['brain']).shape
    np.testing.assert_allclose(image.affine, nib.load(paths['brain']).affine, atol=1e-5)
    assert (projected.get_fdata() <= image.get_fdata()).all()
