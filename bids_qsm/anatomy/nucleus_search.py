"""Where the deep grey nuclei of a person lie: a search over shifts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage, special

from bids_qsm.anatomy.nucleus_shapes import Nucleus, extent
from bids_qsm.anatomy.transform import Displacement, apply_affine, resample
from bids_qsm.recon.arrays import Array

_MIDBRAIN = ('SN', 'RN', 'STN')
"""Nuclei that look alike and lie close together."""
_ORDER = {'GP': 0, 'Putamen': 1, 'Dentate': 2, 'Caudate': 3, 'Striatum': 3, 'Thalamus': 4}
"""Order of the search of the others."""
_FAINT = ('Thalamus',)
"""Nuclei of low contrast: they are searched once the others are in place."""
_SEARCH_MM = 6.0
"""Longest shift (mm) of all together, and of each."""


def coupling(nuclei: Sequence[Nucleus], *, common_mm: float, near_mm: float, own_mm: float):
    """Covariance (n, n; mm^2) of the shifts of nuclei along an axis: all go together, neighbours more so."""
    centres = np.array([n.centre for n in nuclei])
    apart = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    return common_mm**2 + near_mm**2 * np.exp(-0.5 * (apart / 20.0) ** 2) + own_mm**2 * np.eye(len(nuclei))


@dataclass(eq=False)
class _Template:
    """Maps resampled to a grid of template space, less the tissue around the nuclei, over their noise."""

    height: dict
    shape: tuple
    affine: np.ndarray
    inflation: float

    @property
    def step(self):
        return float(self.affine[0, 0])


def locate(view: _Template, nuclei: Sequence[Nucleus], covariance: Array):
    """Find the shift of each nucleus by search: that of all together, of the large ones, of the midbrain.

    The score of a shift is what a nucleus of free contrast explains of the maps there, over their noise; the
    prior ties it to those that were found before. Red nucleus, substantia nigra and subthalamic nucleus look
    alike, and so their shifts are searched together.
    """
    known = [k for k, n in enumerate(nuclei) if n.is_known]
    row = {k: i for i, k in enumerate(known)}
    stamps = {k: _stamp(view, nuclei[k]) for k in known}
    lag = int(np.ceil(_SEARCH_MM / view.step))
    tried = _lattice(lag)
    maps = {k: _explained(view.height, stamps[k], lag)[0][_at(tried, lag)] for k in known}
    away = tried * view.step
    total = sum(maps.values()) / view.inflation - 0.5 * (away**2).sum(1) / covariance.mean()
    common = tried[total.argmax()]
    places = {}
    model = {name: np.zeros_like(h) for name, h in view.height.items()}

    def rest():
        return {name: h - model[name] for name, h in view.height.items()}

    def prior(k: int, at: Array, given: dict):
        others = [j for j in given if j != k]
        centre, variance = common * 1.0, covariance[row[k], row[k]]
        if others:
            rows = [row[j] for j in others]
            gain = np.linalg.solve(covariance[np.ix_(rows, rows)], covariance[rows, row[k]])
            centre = gain @ np.array([given[j] for j in others]) + (1 - gain.sum()) * common
            variance -= gain @ covariance[rows, row[k]]
        return 0.5 * (((at - centre) * view.step) ** 2).sum(1) / variance

    def put(k: int, shift: Array, sign: int):
        box, share = _shifted(stamps[k], shift, view.shape)
        for name, m in model.items():
            m[box] += sign * np.float32(levels[k][name]) * share

    def seek(k: int, among: Array):
        score, level = _explained(rest(), stamps[k], lag)
        best = (score[_at(among, lag)] / view.inflation - prior(k, among, places)).argmax()
        places[k] = among[best]
        levels[k] = {name: v[_at(among, lag)][best] for name, v in level.items()}
        put(k, places[k], 1)

    def midline(k: int):
        """Shifts that keep a nucleus on its side."""
        x = nuclei[k].centre[0] + (tried[:, 0] - common[0]) * view.step
        return tried[x * np.sign(nuclei[k].centre[0]) > 1.5]

    levels = {}
    large = [k for k in known if nuclei[k].name not in _MIDBRAIN]
    large.sort(key=lambda k: _ORDER.get(nuclei[k].name, 9))
    for sweep in range(2):
        for k in large:
            if k in levels:
                put(k, places.pop(k), -1)
            # a faint one follows its neighbours
            faint = sweep == 0 and nuclei[k].name in _FAINT
            seek(k, tried[[prior(k, tried, places).argmin()]] if faint else tried)
    for side in ('L', 'R', 'L'):
        group = [k for k in known if nuclei[k].name in _MIDBRAIN and nuclei[k].hemisphere == side]
        if not group:
            continue
        for k in group:
            if k in levels:
                put(k, places.pop(k), -1)
        left = rest()
        options = []
        for k in group:
            score = _standing_out(left, stamps[k], lag) / view.inflation
            value = np.full(score.shape, -np.inf)
            own = midline(k)
            cost = prior(k, own, places)
            value[_at(own, lag)] = score[_at(own, lag)] - cost
            options.append(np.vstack([own[cost.argmin()], _peaks(value, 12) - lag]))
        best, chosen, contrast = -np.inf, places, {}
        region = _region(view, [nuclei[k] for k in group], common, lag)
        target = {name: h[region] for name, h in left.items()}
        drawn = [
            [_drawn(stamps[k], t, view.shape, region) for t in tries]
            for k, tries in zip(group, options, strict=True)
        ]
        for pick in np.ndindex(*[len(o) for o in options]):
            given = dict(places)
            cost = 0.0
            for k, tries, p in zip(group, options, pick, strict=True):
                cost += prior(k, tries[p][None], given)[0]
                given[k] = tries[p]
            basis = np.stack([d[p] for d, p in zip(drawn, pick, strict=True)])
            basis = basis / np.maximum(basis.sum(0), 1)
            gram = basis @ basis.T + 1e-3 * np.eye(len(basis))
            gain, amounts = 0.0, {}
            for name, t in target.items():
                right = basis @ t
                amount = np.maximum(np.linalg.solve(gram, right), 0)
                amounts[name] = amount
                gain += amount @ right - 0.5 * amount @ gram @ amount
            value = gain / view.inflation - cost
            if value > best:
                best, chosen, contrast = value, given, amounts
        places.update(chosen)
        for i, k in enumerate(group):
            levels[k] = {name: amount[i] for name, amount in contrast.items()}
            put(k, places[k], 1)
        # then each alone, as the others are in place
        for k in (*group, *group):
            put(k, places.pop(k), -1)
            seek(k, midline(k))
    for k in known:
        nuclei[k].shift = -places[k] * view.step
    rest_shift = -common * view.step
    for k, n in enumerate(nuclei):
        if k not in row:
            n.shift = rest_shift * 1.0
    return common * view.step


def _lattice(lag: int):
    """Whole shifts (n, 3) within a ball."""
    axis = np.arange(-lag, lag + 1)
    found = np.stack(np.meshgrid(axis, axis, axis, indexing='ij'), -1).reshape(-1, 3)
    return found[np.linalg.norm(found, axis=1) <= lag]


def _at(shifts: Array, lag: int):
    return tuple((shifts + lag).T)


def _stamp(view: _Template, nucleus: Nucleus):
    """First voxel of a box around a nucleus on the grid, and its share of the voxels there."""
    reach = extent(nucleus) + 2
    low = np.floor((nucleus.centre - reach - view.affine[:3, 3]) / view.step).astype(int)
    high = np.ceil((nucleus.centre + reach - view.affine[:3, 3]) / view.step).astype(int) + 1
    axes = [np.arange(a, b) for a, b in zip(low, high, strict=True)]
    voxels = np.stack(np.meshgrid(*axes, indexing='ij'), -1)
    distance = nucleus.distance(apply_affine(view.affine, voxels.reshape(-1, 3))).reshape(voxels.shape[:3])
    return low, special.ndtr(-distance / (0.5 * view.step)).astype(np.float32)


def _explained(height: Mapping[str, Array], stamp: tuple, lag: int):
    """What a nucleus explains after each shift up to ``lag`` voxels, and its contrast, (2 lag + 1)^3."""
    low, share = stamp
    size = np.array(share.shape)
    square = float((share**2).sum())
    score, levels = 0.0, {}
    for name, image in height.items():
        around = _cut(image, low - lag, low + size + lag)
        shape = [fft.next_fast_len(int(n), real=True) for n in around.shape]
        product = fft.rfftn(around, shape) * np.conj(fft.rfftn(share, shape))
        sums = fft.irfftn(product, shape)[tuple(slice(0, 2 * lag + 1) for _ in range(3))]
        level = np.maximum(sums / square, 0)
        levels[name] = level
        score = score + 0.5 * level**2 * square
    return score, levels


def _standing_out(height: Mapping[str, Array], stamp: tuple, lag: int):
    """The same of a nucleus with a dark shell around it, which neighbours of its kind do not attract."""
    low, share = stamp
    wide = np.pad(share, 3)
    shell = ndimage.grey_dilation(wide, size=5) - wide
    pattern = wide - shell * (wide.sum() / shell.sum())
    square = float((pattern**2).sum())
    score = 0.0
    for image in height.values():
        around = _cut(image, low - 3 - lag, low - 3 + np.array(pattern.shape) + lag)
        shape = [fft.next_fast_len(int(n), real=True) for n in around.shape]
        product = fft.rfftn(around, shape) * np.conj(fft.rfftn(pattern, shape))
        sums = fft.irfftn(product, shape)[tuple(slice(0, 2 * lag + 1) for _ in range(3))]
        score = score + 0.5 * np.maximum(sums, 0) ** 2 / square
    return score


def _cut(image: Array, low: Array, high: Array):
    """Box of an image, zero beyond it."""
    before = np.maximum(-low, 0)
    after = np.maximum(high - image.shape, 0)
    inside = tuple(
        slice(max(a, 0), max(min(b, n), 0)) for a, b, n in zip(low, high, image.shape, strict=True)
    )
    return np.pad(image[inside], list(zip(before, after, strict=True)))


def _shifted(stamp: tuple, shift: Array, shape: tuple[int, ...]):
    """Box of the grid that a shifted nucleus covers, and its share there."""
    low, share = stamp
    first = low + np.asarray(shift, int)
    box, own = [], []
    for f, n, size in zip(first, share.shape, shape, strict=True):
        start, stop = max(f, 0), max(min(f + n, size), 0)
        box.append(slice(start, max(stop, start)))
        own.append(slice(start - f, max(stop, start) - f))
    return tuple(box), share[tuple(own)]


def _drawn(stamp: tuple, shift: Array, shape: tuple[int, ...], region: tuple):
    """Share of the voxels of a region (flat)."""
    whole = np.zeros(shape, np.float32)
    box, share = _shifted(stamp, shift, shape)
    whole[box] = share
    return whole[region].astype(np.float32)


def _region(view: _Template, nuclei: Sequence[Nucleus], common: Array, lag: int):
    """Voxels (indices) that the nuclei can cover."""
    near = np.zeros(view.shape, bool)
    for n in nuclei:
        box, share = _shifted(_stamp(view, n), common, view.shape)
        near[box] |= share > 0.5
    return np.nonzero(ndimage.binary_dilation(near, iterations=max(lag - 1, 1)))


def _peaks(value: Array, count: int):
    """Places (n, 3) of the highest local maxima."""
    top = (value == ndimage.maximum_filter(value, 3)) & np.isfinite(value)
    found = np.argwhere(top)
    return found[np.argsort(-value[top])[:count]]


def template_view(
    channels: Mapping[str, Array],
    affine: Array,
    mask: Array,
    from_template: list[Array | Displacement],
    nuclei: Sequence[Nucleus],
    noise: Mapping[str, float],
    *,
    step: float = 1.0,
    correlated_mm: float = 2.0,
):
    """Resample the maps to a box of template space, less the background."""
    known = [n for n in nuclei if n.is_known]
    low = np.min([n.centre - extent(n) for n in known], 0) - _SEARCH_MM - 4
    high = np.max([n.centre + extent(n) for n in known], 0) + _SEARCH_MM + 4
    grid = np.diag([step, step, step, 1.0])
    grid[:3, 3] = low
    shape = tuple(int(n) for n in np.ceil((high - low) / step) + 1)
    seen = resample(mask, affine, shape, grid, from_template) > 0.5
    near = np.zeros(shape, bool)
    view = _Template({}, shape, grid, max(correlated_mm**3 / step**3, 1.0))
    for n in known:
        box, share = _shifted(_stamp(view, n), (0, 0, 0), shape)
        near[box] |= share > 0.05
    clear = (seen & ~ndimage.binary_dilation(near, iterations=2)).astype(np.float32)
    for name, image in channels.items():
        image = resample(np.where(mask, image, 0), affine, shape, grid, from_template)
        weight = clear
        for _ in range(2):
            total = ndimage.gaussian_filter(weight, 8 / step, truncate=3)
            ground = ndimage.gaussian_filter(weight * image, 8 / step, truncate=3) / np.maximum(total, 1e-6)
            weight = clear / (1 + ((image - ground) / (3 * noise[name])) ** 2) ** 2
        height = np.clip((image - ground) / noise[name], -5, 20)
        view.height[name] = (height * seen).astype(np.float32)
    return view
