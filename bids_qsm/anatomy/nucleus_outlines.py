"""Outlines of the deep grey nuclei of a person: pose and surface are fitted to the maps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numba import njit
from scipy import ndimage, special

from bids_qsm.anatomy.nucleus_shapes import Nucleus, extent
from bids_qsm.anatomy.transform import Displacement, apply_affine, spacing_of, transform_points
from bids_qsm.recon.arrays import Array
from bids_qsm.recon.blocks import block_means, linear_basis

_REACH_MM = 7.0
"""Distance (mm) from the start up to which the pose of a nucleus is fitted."""
_LOCAL_MM = 2.5
"""Distance (mm) over which a nucleus has one level."""
_ROUGH = 0.1
"""What the model leaves of a map, relative to the contrast of the nucleus there."""
_LONG = ('Putamen', 'Caudate', 'Striatum')
"""Nuclei that a search leaves off along their length, and that a blurred map brings nearer."""


@dataclass(eq=False)
class Scene:
    """The maps in a box of the grid, and where its voxels lie in template space."""

    channels: dict
    signal: np.ndarray
    points: np.ndarray
    axes: np.ndarray
    seen: np.ndarray
    size: np.ndarray
    noise: dict = field(default_factory=dict)

    @property
    def shape(self):
        return self.seen.shape

    def near(self, nucleus: Nucleus, reach_mm: float):
        """Voxels (flat indices) that lie in the brain and within ``reach_mm`` of the posed surface."""
        half = np.abs(np.linalg.inv(nucleus.matrix)) @ extent(nucleus) + reach_mm + 1
        centre = apply_affine(np.linalg.inv(nucleus.back), nucleus.centre[None])[0]
        index = np.flatnonzero(_within(self.points, centre - half, centre + half) & self.seen.ravel())
        return index[nucleus.distance(self.points[index]) < reach_mm]

    def blur(self, image: Array, mm: float):
        return ndimage.gaussian_filter(image, mm / self.size, truncate=3.0)


@njit(cache=True)
def _within(points: Array, low: Array, high: Array):
    """Whether points (n, 3) lie in a box."""
    out = np.empty(points.shape[0], np.bool_)
    for p in range(points.shape[0]):
        inside = True
        for d in range(3):
            inside &= low[d] < points[p, d] < high[d]
        out[p] = inside
    return out


def make_scene(
    channels: Mapping[str, Array],
    signal: Array,
    affine: Array,
    mask: Array,
    to_template: list[Array | Displacement],
    nuclei: Sequence[Nucleus],
    noise: Mapping[str, float],
    margin: float = 10.0,
):
    """Crop the maps to a box around the nuclei, and find its voxels in template space."""
    low = np.min([n.centre - extent(n) for n in nuclei], 0) - margin
    high = np.max([n.centre + extent(n) for n in nuclei], 0) + margin
    step = 4
    coarse = np.stack(np.meshgrid(*[np.arange(0, n, step) for n in mask.shape], indexing='ij'), -1)
    place = transform_points(apply_affine(affine, coarse.reshape(-1, 3)), to_template)
    inside = ((place > low) & (place < high)).all(1).reshape(coarse.shape[:3])
    (box,) = ndimage.find_objects(inside.astype(np.uint8))
    box = tuple(
        slice(max(step * (b.start - 1), 0), min(step * (b.stop + 1), n))
        for b, n in zip(box, mask.shape, strict=True)
    )
    voxels = np.stack(np.meshgrid(*[np.arange(b.start, b.stop) for b in box], indexing='ij'), -1)
    points = transform_points(apply_affine(affine, voxels.reshape(-1, 3)), to_template)
    shape = voxels.shape[:3]
    grid = points.reshape(*shape, 3)
    middle = tuple(n // 2 for n in shape)
    axes = np.stack(
        [grid[tuple(m + (d == a) for d, m in enumerate(middle))] - grid[middle] for a in range(3)], 1
    )
    return box, Scene(
        {name: np.ascontiguousarray(image[box], np.float32) for name, image in channels.items()},
        np.ascontiguousarray(signal[box], np.float32),
        points,
        axes,
        mask[box],
        spacing_of(affine),
        dict(noise),
    )


def _surface(scene: Scene, nucleus: Nucleus, points: Array, blur_mm: float):
    """Distance (mm) of points (n, 3) to a posed surface, width (mm) of its edge there, and the gradient."""
    found = nucleus.slope(points)
    normal = found[:, 1:]
    along = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-3)
    along = along @ (nucleus.matrix @ scene.axes)
    return found[:, 0], np.sqrt((along**2).sum(1) / 12 + blur_mm**2), normal


def _steepness(z: Array, width: Array):
    """Derivative of the share of a voxel by the distance to the surface, ``z`` of its widths away."""
    return -np.exp(-0.5 * z**2) / (width * np.sqrt(2 * np.pi))


def _standing_out(share: Array, value: Array, total: Array, filled: Array, ground: Array):
    """Contrast of a nucleus to what would be there without it: a neighbour, or the background."""
    others = total - share
    rest = filled - share * value
    rest = rest + np.maximum(1 - others, 0) * ground
    return value - rest / np.maximum(others, 1)


def _background(scene: Scene, shares: Array, mm: float = 3.0, images: Mapping | None = None):
    """Each channel where there is no nucleus, as the tissue around has it; vessels count little.

    On a grid of about 2 mm, as it is smooth.
    """
    factor = np.maximum(np.rint(2.0 / scene.size), 1).astype(int)
    size = scene.size * factor
    clear = ((shares < 0.05) & scene.seen).astype(np.float32)
    count = block_means(clear, factor)
    images = {
        name: block_means(clear * image, factor) / np.maximum(count, 1e-6)
        for name, image in (images or scene.channels).items()
    }
    chi = images['chi']
    middle = _around(chi, count, size, mm)
    spread = 1.4826 * np.median(np.abs((chi - middle)[count > 0.5])) + 1e-6
    count = count / (1 + ((chi - middle) / (3 * spread)) ** 2) ** 2
    return {
        name: _upsample(_around(image, count, size, mm), factor, scene.shape)
        for name, image in images.items()
    }


def _upsample(image: Array, factor: Array, shape: tuple[int, ...]):
    """Linear interpolation of block means at the voxels."""
    bases = [
        linear_basis((np.arange(n) - (f - 1) / 2) / f, m).astype(np.float32)
        for n, f, m in zip(shape, factor, image.shape, strict=True)
    ]
    for axis, basis in enumerate(bases):
        image = np.moveaxis(np.tensordot(basis, image, (1, axis)), 0, axis)
    return np.ascontiguousarray(image, np.float32)


def _around(image: Array, weight: Array, size: Array, mm: float):
    """Mean of an image around each voxel, near voxels first."""
    near, wide = (ndimage.gaussian_filter(weight, f * mm / size, truncate=3.0) for f in (1, 3))
    part = image * weight
    mean = ndimage.gaussian_filter(part, mm / size, truncate=3.0) / np.maximum(near, 1e-6)
    far = ndimage.gaussian_filter(part, 3 * mm / size, truncate=3.0) / np.maximum(wide, 1e-6)
    trust = np.clip(near / 0.05, 0, 1)
    return trust * mean + (1 - trust) * far


def _core_means(scene: Scene, index: Array, share: Array):
    """Mean of each channel over the voxels (flat indices) that lie well inside a nucleus."""
    core = share > min(0.9, float(np.quantile(share, 0.98)))
    return {
        name: np.average(image.ravel()[index], weights=core + 1e-9) for name, image in scene.channels.items()
    }


def fit_poses(
    scene: Scene,
    nuclei: Sequence[Nucleus],
    covariance: Array,
    *,
    blur_mm: float,
    shape_sd: float = 0.12,
    correlated_mm: float = 4.0,
    rigid: bool = False,
    ground_mm: float = 3.0,
    iterations: int = 12,
):
    r"""Fit pose and size of every nucleus to the maps.

    .. math:: I_c(x) = m_{0c}(x) + \sum_k s_k(x) \, (m_{kc} - m_{0c}(x)) + \epsilon

    with the share :math:`s_k` of voxel x that lies in nucleus k, whose surface is that of the atlas after an
    affine map, the background :math:`m_0` as the tissue around has it, and the mean :math:`m_k` of the core
    of the nucleus in each channel c. Gauss-Newton steps on twelve parameters a nucleus, with a normal prior
    on shift and matrix; residuals beyond about 2.5 sigma have low weight. ``rigid`` fits shifts
    alone, of long nuclei.
    """
    inflation = max(correlated_mm**3 / np.prod(scene.size), 1.0)
    where = [scene.near(n, _REACH_MM) for n in nuclei]
    known = [k for k, n in enumerate(nuclei) if n.is_known]
    held = np.array([rigid and nuclei[k].name not in _LONG for k in known])
    size = 3 if rigid else 12
    prior = np.zeros((size * len(known),) * 2)
    ties = np.linalg.inv(covariance)
    for d in range(3):
        prior[d::size, d::size] = ties
    if not rigid:
        for d in range(3, 12):
            np.fill_diagonal(prior[d::size, d::size], shape_sd**-2)
    starts = [nuclei[k].shift for k in known]
    for count in range(iterations):
        surfaces = [_surface(scene, n, scene.points[i], blur_mm) for n, i in zip(nuclei, where, strict=True)]
        shares = [special.ndtr(-distance / width) for distance, width, _ in surfaces]
        total = np.zeros(scene.seen.size, np.float32)
        for share, index in zip(shares, where, strict=True):
            total[index] += share
        if count % 3 == 0:
            ground = _background(scene, total.reshape(scene.shape), ground_mm)
            ground = {name: image.ravel() for name, image in ground.items()}
        insides = [_core_means(scene, i, s) for s, i in zip(shares, where, strict=True)]
        crowd = np.maximum(total, 1)
        filled = {name: np.zeros_like(total) for name in ground}
        for share, index, values in zip(shares, where, insides, strict=True):
            for name, value in values.items():
                filled[name][index] += share * value
        free = np.maximum(1 - total, 0)
        model = {name: (filled[name] + free * g) / crowd for name, g in ground.items()}
        near = np.unique(np.concatenate([i[s > 0.02] for s, i in zip(shares, where, strict=True)]))
        residual = {name: image.ravel() - model[name] for name, image in scene.channels.items()}
        weight = _weights(scene, residual, near, _contrast(shares, where, insides, ground))
        state = np.concatenate([_parameters(nuclei[k], a)[:size] for k, a in zip(known, starts, strict=True)])
        matrix, right = prior.copy(), -prior @ state
        for row, k in enumerate(known):
            if held[row]:
                continue
            nucleus, index, values = nuclei[k], where[k], insides[k]
            share, (distance, width, normal) = shares[k], surfaces[k]
            slope = _steepness(-distance / width, width)
            offset = scene.points[index] - nucleus.centre
            basis = np.concatenate(
                [normal, (normal[:, :, None] * offset[:, None, :]).reshape(len(index), 9)], 1
            )[:, :size]
            block = slice(size * row, size * row + size)
            for name, value in values.items():
                step = _standing_out(share, value, total[index], filled[name][index], ground[name][index])
                j = basis * (slope * step)[:, None]
                w = weight[name][index] / inflation
                matrix[block, block] += (j * w[:, None]).T @ j
                right[block] += (j * w[:, None]).T @ residual[name][index]
        free = np.repeat(~held, size)
        changes = np.zeros(len(right))
        changes[free] = np.linalg.solve(matrix[np.ix_(free, free)], right[free])
        largest = 0.0
        for change, k in zip(changes.reshape(len(known), size), known, strict=True):
            change[:3] /= max(1.0, float(np.linalg.norm(change[:3])))
            nuclei[k].shift = nuclei[k].shift + change[:3]
            if not rigid:
                nuclei[k].matrix = nuclei[k].matrix + np.clip(change[3:], -0.1, 0.1).reshape(3, 3)
            largest = max(largest, np.abs(change[:3]).max())
        if largest < 0.05:
            break


def _contrast(shares: Sequence[Array], where: Sequence, insides: Sequence[Mapping], ground: Mapping):
    """Largest difference of a nucleus to the background at each voxel that it reaches, by channel."""
    found = {}
    for name, image in ground.items():
        most = np.zeros_like(image)
        for share, at, values in zip(shares, where, insides, strict=True):
            most[at] = np.maximum(most[at], (share > 0.02) * np.abs(values[name] - image[at]))
        found[name] = most
    return found


def _weights(scene: Scene, residual: Mapping[str, Array], near: Array, contrast: Mapping[str, Array]):
    """Weight of each voxel in each channel: what is far from the model in one counts little in all."""
    squares, sigmas = 0.0, {}
    for name, r in residual.items():
        noise = max(1.4826 * np.median(np.abs(r[near])), scene.noise[name])
        sigmas[name] = np.hypot(noise, _ROUGH * contrast[name])
        squares = squares + (r / (2.5 * sigmas[name])) ** 2
    seen = scene.seen.reshape(np.shape(squares))
    return {name: seen / (1 + squares) ** 2 / sigma**2 for name, sigma in sigmas.items()}


def _parameters(nucleus: Nucleus, start: Array):
    """Shift (from the start) and matrix of a pose, less what the prior has."""
    return np.r_[nucleus.shift - start, (nucleus.matrix - nucleus.rest).ravel()]


@dataclass(eq=False)
class Outline:
    """A nucleus in its box of the scene: distance (mm) to the posed surface, and how far it was moved."""

    nucleus: Nucleus
    box: tuple
    distance: np.ndarray
    width: np.ndarray
    moved: np.ndarray

    @property
    def z(self):
        return (self.distance + self.moved) / self.width

    @property
    def share(self):
        """Share of each voxel of the box that lies in the nucleus."""
        return special.ndtr(-self.z).astype(np.float32)


def _outline(scene: Scene, nucleus: Nucleus, blur_mm: float, reach_mm: float):
    places = np.array(np.unravel_index(scene.near(nucleus, reach_mm), scene.shape))
    box = tuple(slice(int(a), int(b) + 1) for a, b in zip(places.min(1), places.max(1), strict=True))
    points = scene.points.reshape(*scene.shape, 3)[box]
    distance, width, _ = _surface(scene, nucleus, np.ascontiguousarray(points.reshape(-1, 3)), blur_mm)
    distance = np.ascontiguousarray(distance.reshape(points.shape[:3]))
    width = width.reshape(points.shape[:3]).astype(np.float32)
    return Outline(nucleus, box, distance, width, np.zeros_like(distance))


def deform(
    scene: Scene,
    nuclei: Sequence[Nucleus],
    *,
    blur_mm: float,
    edge_mm: float = 0.3,
    shape_mm: float = 1.5,
    smooth_mm: float = 1.5,
    correlated_mm: float = 2.0,
    reach_mm: float = 6.0,
    iterations: int = 12,
    ground_mm: float = 3.0,
):
    r"""Move the surface of every nucleus along its normals to where the maps have it.

    Each surface moves by a field u (mm) that is smooth over ``smooth_mm``, by Gauss-Newton steps on the
    misfit of the maps plus :math:`\tfrac{1}{2} u^2 / \sigma^2` with a standard deviation of ``shape_mm``.
    Errors of the maps go together over ``correlated_mm``.

    Returns
    -------
    list of Outline
    """
    outlines = [_outline(scene, n, edge_mm, reach_mm) for n in nuclei]
    voxel = np.prod(scene.size)
    kernel = (2 * np.pi * smooth_mm**2) ** 1.5 / voxel
    stiff = max(correlated_mm**3 / voxel, 1.0) / kernel / shape_mm**2
    for count in range(iterations):
        total = np.zeros(scene.shape, np.float32)
        sharp = [o.share for o in outlines]
        shares = [scene.blur(share, blur_mm) for share in sharp]
        for o, share in zip(outlines, shares, strict=True):
            total[o.box] += share
        if count % 3 == 0:
            ground = _background(scene, total, ground_mm)
            around = _background(scene, total, images={'chi': scene.channels['chi'], 'signal': scene.signal})
            around = around['signal']
        crowd = np.maximum(total, 1)
        insides = [_middles(scene, o, share) for o, share in zip(outlines, sharp, strict=True)]
        weights = [_signal_ratio(scene, o, share, around) for o, share in zip(outlines, sharp, strict=True)]
        filled = {name: np.zeros_like(total) for name in ground}
        model = {name: g.copy() for name, g in ground.items()}
        for o, share, values, ratio in zip(outlines, shares, insides, weights, strict=True):
            for name, value in values.items():
                part = share / crowd[o.box]
                if name == 'chi':
                    part = part * ratio / (part * ratio + 1 - part)
                model[name][o.box] += part * (value - ground[name][o.box])
                filled[name][o.box] += share * value
        near = total > 0.02
        residual = {name: image - model[name] for name, image in scene.channels.items()}
        boxes = [o.box for o in outlines]
        weight = _weights(scene, residual, near, _contrast(shares, boxes, insides, ground))
        force = {name: scene.blur(weight[name] * r, blur_mm) for name, r in residual.items()}
        largest = 0.0
        for o, share, values in zip(outlines, shares, insides, strict=True):
            if not o.nucleus.is_known:
                continue
            slope = _steepness(o.z, o.width)
            up = np.zeros(o.distance.shape, np.float32)
            down = np.zeros(o.distance.shape, np.float32)
            for name, value in values.items():
                there = (total[o.box], filled[name][o.box], ground[name][o.box])
                j = slope * _standing_out(share, value, *there)
                up += j * force[name][o.box]
                down += weight[name][o.box] * j * j
            up, down = scene.blur(up, smooth_mm), scene.blur(down, smooth_mm)
            change = np.clip((up - stiff * o.moved) / (down + stiff), -0.4, 0.4)
            o.moved = o.moved + change
            largest = max(largest, float(np.abs(change[np.abs(o.z) < 1]).max(initial=0)))
        if largest < 0.05:
            break
    return outlines


def _signal_ratio(scene: Scene, outline: Outline, share: Array, around: Array):
    """Weight of a nucleus over that of its surroundings in the susceptibility of a voxel that has both.

    Phases add by signal there; but most of what a voxel's susceptibility does is seen in the voxels around.
    The cube root fits the profiles of nuclei of half and of two thirds of the signal around them.
    """
    core = share * scene.seen[outline.box] + 1e-9
    inside = np.average(scene.signal[outline.box], weights=core**4)
    outside = np.average(around[outline.box], weights=share * (1 - share) + 1e-9)
    return float(np.clip(inside / max(outside, 1e-9), 0.3, 1.5) ** (1 / 3)) if outside > 0 else 1.0


def _middles(scene: Scene, outline: Outline, share: Array):
    """Each channel inside a nucleus, as its core has it near each voxel."""
    depth = outline.distance + outline.moved
    core = (share > 0.5) * np.clip(-depth / (outline.width * 1.5), 0.02, 1) ** 2
    core = (core * scene.seen[outline.box]).astype(np.float32)
    values = {}
    near = scene.blur(core, _LOCAL_MM)
    for name, image in scene.channels.items():
        image = image[outline.box]
        mean = np.average(image, weights=core + 1e-9)
        local = (scene.blur(core * image, _LOCAL_MM) + 0.05 * mean) / (near + 0.05)
        values[name] = local.astype(np.float32)
    return values


def divide(scene: Scene, outline: Outline, points: Array, share: Array):
    """Index of the part of a nucleus that each of some points lies in.

    The atlas divides it; where there are two parts of different susceptibility, the border between them is
    shifted and tilted to where the map has it, with a prior of 1 mm each.

    Parameters
    ----------
    points : ndarray (n, 3)
        Template points of voxels (mm).
    share : ndarray, shape of the box of the outline
        Share of each voxel that lies in the nucleus; that of the points is over 0.01.
    """
    nucleus = outline.nucleus
    away = np.stack([nucleus.distance(points, levels) for levels in nucleus.parts.values()])
    if len(away) != 2:
        return away.argmin(0)
    border = 0.5 * (away[0] - away[1])
    inside = share[share > 0.01] > 0.9
    chi = scene.channels['chi'][outline.box][share > 0.01].astype(float)
    place = (points - nucleus.centre - nucleus.moved) / extent(nucleus)
    basis = np.concatenate([np.ones((len(points), 1)), place], 1)
    width = np.sqrt((scene.size**2).mean() / 12 + 0.3**2)
    inflation = max(4.0**3 / np.prod(scene.size), 1.0)
    moved = np.zeros(4)
    for _ in range(10):
        z = (border + basis @ moved) / width
        second = special.ndtr(z)[inside]
        if min(second.sum(), (1 - second).sum()) < 5:
            return away.argmin(0)
        design = np.stack([1 - second, second], 1)
        levels = np.linalg.lstsq(design, chi[inside], rcond=None)[0]
        left = chi[inside] - design @ levels
        sigma = max(1.4826 * np.median(np.abs(left)), scene.noise['chi'])
        weight = 1 / (1 + (left / (2.5 * sigma)) ** 2) ** 2 / sigma**2 / inflation
        slope = _steepness(z[inside], width) * (levels[0] - levels[1])
        j = basis[inside] * slope[:, None]
        change = np.linalg.solve(
            (j * weight[:, None]).T @ j + np.eye(4), (j * weight[:, None]).T @ left - moved
        )
        moved = moved + np.clip(change, -0.5, 0.5)
        if np.abs(change).max() < 0.02:
            break
    return (border + basis @ moved > 0).astype(int)
