"""Alignment of images: rigid within a subject, affine and deformable to a template."""

import itertools
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from bids_qsm.anatomy.align import Similarity, coarsen, matrix_of, refine
from bids_qsm.anatomy.bias import foreground
from bids_qsm.anatomy.brainmask import cut_ends, lay_brain
from bids_qsm.anatomy.elastic import deform
from bids_qsm.anatomy.transform import (
    Displacement,
    apply_affine,
    compose,
    invert,
    regrid,
    resample,
    spacing_of,
)
from bids_qsm.errors import UserError
from bids_qsm.recon.arrays import Array
from bids_qsm.recon.registry import Need, method

DEEP_GREY = ((-44.0, -48.0, -36.0), (44.0, 36.0, 36.0))
"""Corners (mm, MNI space) of a box around basal ganglia, thalamus and midbrain, with a margin."""


def rigid(
    moving: Array,
    moving_affine: Array,
    fixed: Array,
    fixed_affine: Array,
    fixed_mask: Array | None = None,
    *,
    affine: bool = False,
):
    """Rigid (or ``affine``) alignment of two images of one person, whatever their contrast and field of view.

    The search starts from the scanner's coordinates, from shifts up to 15 mm with rotations up to 12 degrees,
    and from the centres of mass; the best by normalised mutual information are refined from coarse to fine.

    Parameters
    ----------
    moving, fixed : ndarray, 3D
        Without bias; they must overlap in 30 % of the fixed mask or more.
    moving_affine, fixed_affine : ndarray (4, 4)
        Voxel to world (mm).
    fixed_mask : ndarray of bool, optional
        Where to compare, dilated by 4 mm: the brain. The default is all tissue.

    Returns
    -------
    ndarray (4, 4)
        Maps fixed points to moving points: it resamples the moving image onto the fixed one.
    """
    overlap = 0.3
    mask = foreground(fixed) if fixed_mask is None else fixed_mask
    still, still_affine = coarsen(fixed, fixed_affine, 2.0)
    other, other_affine = coarsen(moving, moving_affine, 1.5)
    inside = coarsen(mask, fixed_affine, 2.0)[0] > 0.5
    center = apply_affine(still_affine, [ndimage.center_of_mass(inside)])[0]
    where = ndimage.binary_dilation(inside, iterations=2)
    coarse, middle, fine = (
        Similarity(still, still_affine, where, other, other_affine, n_points=n, sigma=s)
        for n, s in ((4000, 5.0), (15000, 2.5), (60000, 0.8))
    )
    mass = np.eye(4)
    mass[:3, 3] = apply_affine(other_affine, [ndimage.center_of_mass(foreground(other))])[0] - center
    shifts, turns = (-15, 0, 15), tuple(np.radians((-12, 0, 12)) * 60.0)
    around = [matrix_of(np.array(p, float), center) for p in itertools.product(*[shifts] * 3, *[turns] * 3)]
    ranked = sorted(around, key=lambda m: coarse(m, overlap), reverse=True)[:4]
    climbed = [
        refine(coarse, start, center, n_parameters=6, step=4.0, tolerance=0.3, overlap=overlap)
        for start in (np.eye(4), mass, *ranked)
    ]
    climbed = [
        refine(middle, c[0], center, n_parameters=6, step=2.0, tolerance=0.1, overlap=overlap)
        for c in sorted(climbed, key=lambda c: c[1], reverse=True)[:2]
    ]
    best = max(climbed, key=lambda c: c[1])[0]
    best = refine(fine, best, center, n_parameters=6, step=0.5, tolerance=0.02, overlap=overlap)[0]
    if affine:
        best = refine(fine, best, center, n_parameters=12, step=0.5, tolerance=0.02, overlap=overlap)[0]
    return best


def _affine(
    image: Array,
    image_affine: Array,
    mask: Array,
    template: Array,
    template_affine: Array,
    template_mask: Array,
):
    """Affine map of template to image points, between two brains.

    Where the mask covers a part of a brain, the template is laid onto the image instead (`lay_brain`): the
    whole template would shrink to that part.
    """
    if cut_ends(mask, image_affine):
        return lay_brain(image, image_affine, template, template_affine, template_mask)
    brain, brain_affine = coarsen(image * mask, image_affine, 2.0)
    fixed, fixed_affine = coarsen(template * template_mask, template_affine, 2.0)
    inside = coarsen(template_mask, template_affine, 2.0)[0] > 0.5
    center = apply_affine(fixed_affine, [ndimage.center_of_mass(inside)])[0]
    matrix = np.eye(4)
    matrix[:3, 3] = apply_affine(image_affine, [ndimage.center_of_mass(mask)])[0] - center
    around = ndimage.binary_dilation(inside, iterations=3)
    for n_points, sigma, step in ((10000, 4.0, 5.0), (30000, 1.0, 1.0)):
        similarity = Similarity(
            fixed, fixed_affine, around, brain, brain_affine, n_points=n_points, sigma=sigma
        )
        matrix = refine(similarity, matrix, center, n_parameters=12, step=step, tolerance=step / 20)[0]
    return matrix


@method(memory=Need(0.36, anat=4), prose='dipy [@dipy]')
def dipy(
    image: Array,
    image_affine: Array,
    mask: Array,
    template: Array,
    template_affine: Array,
    template_mask: Array,
    init: Array | None = None,
    same_contrast: bool = True,
    *,
    whole_mm: float = 2.0,
    whole_iterations: tuple = (60, 40, 15),
    box_mm: float = 1.0,
    box_iterations: tuple = (30, 12),
    box: tuple = DEEP_GREY,
):
    """Affine and symmetric diffeomorphic alignment by DIPY: the whole brain, then a finer box in it.

    The second stage starts from the map of the first, and its displacement decreases to zero over the outer
    8 mm of the box. There are no random numbers: the result is the same in every run.

    Local correlation fails where contrasts differ. Without ``same_contrast``, as for a gradient-echo
    magnitude and a T1w template, the image is deformed by mutual information instead, in one smooth stage
    that is less accurate.

    Parameters
    ----------
    image, template : ndarray, 3D
        Without bias; T1w or magnitude.
    image_affine, template_affine : ndarray (4, 4)
        Voxel to world (mm).
    mask, template_mask : ndarray of bool
        Brains.
    init : ndarray (4, 4), optional
        Affine map of template to image points, where it is known.
    same_contrast : bool
        Whether image and template have the same contrast.
    whole_mm, box_mm : float
        Grids of the two stages.
    whole_iterations, box_iterations : tuple of int
        Iterations from coarse to fine; each level has half the voxel size of the one before.
    box : tuple
        Lower and upper corner (mm, template space).

    Returns
    -------
    image_to_template, template_to_image : Displacement
        The first resamples the image onto the template: it maps template points to image points, on a
        grid of ``whole_mm`` over the template. The second is its inverse, on such a grid over the image.

    References
    ----------
    Garyfallidis et al. (2014), Front Neuroinform 8:8. doi:10.3389/fninf.2014.00008
    """
    from bids_qsm.anatomy.syn import syn

    if init is None:
        init = _affine(image, image_affine, mask, template, template_affine, template_mask)
    brain = np.asarray(image * mask, np.float32)
    static = np.asarray(template * template_mask, np.float32)

    fixed, grid = coarsen(static, template_affine, whole_mm)
    if not same_contrast:
        warp = _by_information(image, image_affine, template, template_affine, template_mask, init)
        return _both_ways([warp], fixed.shape, grid, init, image.shape, image_affine, whole_mm)
    moving = _pull(brain, image_affine, fixed.shape, grid, [init], whole_mm)
    forward, backward = syn(fixed, moving, grid, iterations=whole_iterations)

    shape, box_grid = grid_of_box(box, box_mm)
    fixed_box = resample(static, template_affine, shape, box_grid, [])
    moving_box = _pull(brain, image_affine, shape, box_grid, [forward, init], box_mm)
    finer = syn(fixed_box, moving_box, box_grid, iterations=box_iterations)[0]
    finer = Displacement(finer.field * fade(shape, 8.0 / box_mm)[..., None], box_grid)

    return _both_ways(
        [finer, forward], fixed.shape, grid, init, image.shape, image_affine, whole_mm, start=backward
    )


@method(memory=Need(0.4, anat=20), prose='greedy [@greedy]')
def greedy(
    image: Array,
    image_affine: Array,
    mask: Array,
    template: Array,
    template_affine: Array,
    template_mask: Array,
    init: Array | None = None,
    same_contrast: bool = True,
    *,
    spacing_mm: float = 1.0,
    iterations: str = '100x60x20',
    radius: int = 2,
):
    """Affine alignment, then deformable alignment by greedy (the optional extra ``greedy``).

    Data, results and the stage without ``same_contrast`` are those of `dipy`. ``iterations`` and ``radius``
    (voxels, of the local correlation) are passed to greedy, which runs on one thread, so that its result is
    the same in every run.

    Raises
    ------
    UserError
        Where picsl-greedy is not installed.

    References
    ----------
    Yushkevich et al. (2016), Alzheimers Dement 12:P126. doi:10.1016/j.jalz.2016.06.205
    """
    try:
        import SimpleITK as sitk
        from picsl_greedy import Greedy3D
    except ImportError as error:
        raise UserError(
            "The registration engine 'greedy' is not installed: run `pip install bids_qsm[greedy]`, "
            "or choose 'dipy'."
        ) from error
    if init is None:
        init = _affine(image, image_affine, mask, template, template_affine, template_mask)
    brain = np.asarray(image * mask, np.float32)
    fixed, grid = coarsen(template * template_mask, template_affine, spacing_mm)
    if not same_contrast:
        warp = _by_information(image, image_affine, template, template_affine, template_mask, init)
        return _both_ways([warp], fixed.shape, grid, init, image.shape, image_affine, spacing_mm)
    moving = _pull(brain, image_affine, fixed.shape, grid, [init], spacing_mm)

    def itk(array: Array):
        # without origin and direction, so that vectors are in mm along the voxel axes
        volume = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
        volume.SetSpacing([spacing_mm] * 3)
        return volume

    engine = Greedy3D()
    engine.execute(
        f'-d 3 -m NCC {radius}x{radius}x{radius} -i fixed moving -n {iterations} '
        '-s 2vox 0.5vox -threads 1 -V 0 -o warp',
        fixed=itk(fixed),
        moving=itk(moving),
        warp=None,
    )
    vectors = np.transpose(sitk.GetArrayFromImage(engine['warp']), (2, 1, 0, 3))
    axes = grid[:3, :3] / spacing_mm
    warp = Displacement(np.ascontiguousarray(vectors @ axes.T, dtype=np.float32), grid)
    return _both_ways([warp], warp.field.shape[:3], grid, init, image.shape, image_affine, spacing_mm)


REGISTER = {'dipy': dipy, 'greedy': greedy}


def _by_information(
    image: Array,
    image_affine: Array,
    template: Array,
    template_affine: Array,
    template_mask: Array,
    init: Array | None,
):
    """Smooth displacement of template points that maximises mutual information with an image of a head."""
    head, head_affine = coarsen(image, image_affine, 1.5)
    fixed, grid = coarsen(template * template_mask, template_affine, 2.0)
    inside = ndimage.binary_dilation(coarsen(template_mask, template_affine, 2.0)[0] > 0.5, iterations=2)
    similarity = Similarity(fixed, grid, inside, head, head_affine, n_points=80000, sigma=1.0)
    return deform(similarity, init, fixed.shape, grid)


def _both_ways(
    warps: Sequence[Displacement],
    shape: tuple[int, ...],
    grid: Array,
    init: Array,
    image_shape: tuple[int, ...],
    image_affine: Array,
    spacing: float,
    start: Displacement | None = None,
):
    """Maps of template to image points and back, as one displacement each."""
    warp = compose(warps, shape, grid)
    unwarp = invert(warp, shape, grid, start=start)
    there = compose([warp, init], shape, grid)
    image_shape, image_grid = regrid(image_shape, image_affine, spacing)
    return there, compose([np.linalg.inv(init), unwarp], image_shape, image_grid)


def _pull(
    image: Array,
    image_affine: Array,
    shape: tuple[int, ...],
    affine: Array,
    transforms: list[Array | Displacement],
    spacing: float,
):
    """Resample an image onto a coarser grid, after smoothing for its voxel size."""
    size = spacing_of(image_affine)
    sigma = np.sqrt(np.maximum((spacing / size) ** 2 - 1, 0)) / 2.355
    return resample(ndimage.gaussian_filter(image, sigma), image_affine, shape, affine, transforms)


def grid_of_box(box: tuple[Sequence[float], Sequence[float]], spacing: float):
    """Shape and affine of a grid of ``spacing`` (mm) from one corner of a box (mm) to the other."""
    low, high = np.asarray(box, float)
    shape = tuple(int(n) for n in np.ceil((high - low) / spacing) + 1)
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = low
    return shape, affine


def fade(shape: tuple[int, ...], width: float):
    """One inside a box, falling to zero on its faces over ``width`` voxels."""
    ramps = [np.clip(np.minimum(np.arange(n), n - 1 - np.arange(n)) / width, 0, 1) for n in shape]
    smooth = [(3 * r**2 - 2 * r**3).astype(np.float32) for r in ramps]
    return smooth[0][:, None, None] * smooth[1][None, :, None] * smooth[2][None, None, :]
