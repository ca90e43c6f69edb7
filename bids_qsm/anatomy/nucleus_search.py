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
_TOGETHER_MM = 6.0
"""Longest shift (mm) of all together."""
_ALONE_MM = 7.0
"""Longest shift (mm) of each, beyond that of all."""
_PLACED_MM = 1.0
"""Standard deviation (mm) along an axis of the place that a segmentation of T1w gives."""
_SATURATED = 5.0
"""Contrast over its noise beyond which a nucleus is no better for more: the brightest is not all."""


def coupling(nuclei: Sequence[Nucleus], *, common_mm: float, near_mm: float, own_mm: float):
    """Covariance (n, n; mm^2) of the shifts of nuclei along an axis: all go together, neighbours more so."""
    centres = np.array([n.centre for n in nuclei])
    apart = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    return common_mm**2 + near_mm**2 * np.exp(-0.5 * (apart / 20.0) ** 2) + own_mm**2 * np.eye(len(nuclei))


def shifts_alone(shifts: Array, covariance: Array) -> Array:
    """Distance (n; mm) of each of ``shifts`` (n, 3) from what the others let expect, by `coupling`."""
    ties = np.linalg.inv(covariance)
    return np.linalg.norm(ties @ shifts / np.diag(ties)[:, None], axis=1)


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


def find_common(view: _Template, nuclei: Sequence[Nucleus], covariance: Array):
    """Find the shift of all nuclei together, by search, and put them there.

    The score of a shift is what the nuclei, of free contrast each, explain of the maps over their noise.
    """
    lag = int(np.ceil(_TOGETHER_MM / view.step))
    tried = _lattice(lag)
    explained = [
        _explained(view.height, _stamp(view, n), lag)[0][_at(tried, lag)] for n in nuclei if n.is_known
    ]
    cost = 0.5 * ((tried * view.step) ** 2).sum(1) / covariance.mean()
    common = tried[(np.sum(explained, 0) / view.inflation - cost).argmax()] * view.step
    for n in nuclei:
        n.shift = -n.matrix @ common


class _Search:
    """Search for the shift of one nucleus at a time, in what the others leave of the maps."""

    def __init__(self, view: _Template, nuclei: Sequence[Nucleus], covariance: Array):
        self.view = view
        self.nuclei = [n for n in nuclei if n.is_known]
        self.covariance = covariance
        self.start = np.array([n.moved for n in self.nuclei])
        self.midline = _midline(self.nuclei)
        self.stamps = [_stamp(view, n) for n in self.nuclei]
        self.lag = int(np.ceil(_ALONE_MM / view.step))
        self.tried = _lattice(self.lag)
        self.left = {name: h.copy() for name, h in view.height.items()}
        self.taken = np.zeros(view.shape, np.float32)
        self.places: dict[int, np.ndarray] = {}
        self.levels: dict[int, dict] = {}

    def cost(self, k: int, at: Array, places: dict[int, Array]):
        """Cost of shifts (n, 3; voxels) of a nucleus, as those of the others let expect it."""
        if self.nuclei[k].placed is not None:
            return 0.5 * ((at * self.view.step) ** 2).sum(1) / _PLACED_MM**2
        others = [j for j in places if j != k]
        centre, variance = self.start.mean(0), self.covariance[k, k]
        if others:
            gain = np.linalg.solve(self.covariance[np.ix_(others, others)], self.covariance[others, k])
            there = np.array([self.start[j] + places[j] * self.view.step for j in others])
            centre = gain @ there + (1 - gain.sum()) * there.mean(0)
            variance = variance - gain @ self.covariance[others, k]
        away = self.start[k] + at * self.view.step - centre
        return 0.5 * (away**2).sum(1) / variance

    def put(self, k: int, place: Array, levels: dict[str, float]):
        """Draw a nucleus."""
        self.places[k], self.levels[k] = place, levels
        self._draw(k, 1)

    def take(self, k: int):
        """Take a nucleus away."""
        if k in self.places:
            self._draw(k, -1)
            del self.places[k], self.levels[k]

    def _draw(self, k: int, sign: int):
        box, share = _shifted(self.stamps[k], self.places[k], self.view.shape)
        if self.nuclei[k].name not in _FAINT:
            self.taken[box] += sign * share
        for name, image in self.left.items():
            image[box] -= np.float32(sign * self.levels[k][name]) * share

    def free(self, margin: int = 0):
        """What is left of the maps where there is no other nucleus, nor within some voxels of one."""
        taken = ndimage.maximum_filter(self.taken, 2 * margin + 1) if margin else self.taken
        free = np.clip(1 - taken, 0, 1)
        return {name: image * free for name, image in self.left.items()}

    def seek(self, k: int, among: Array, margin: int = 0):
        """Put a nucleus where it explains most of what is left, among shifts (n, 3; voxels)."""
        self.take(k)
        score, levels = _explained(self.free(margin), self.stamps[k], self.lag)
        at = _at(among, self.lag)
        best = (score[at] / self.view.inflation - self.cost(k, among, self.places)).argmax()
        self.put(k, among[best], {name: level[at][best] for name, level in levels.items()})

    def own_side(self, k: int):
        """Shifts that keep a nucleus on its side."""
        away = self.nuclei[k].centre[0] - self.midline
        x = away + (self.start[k] - self.start.mean(0))[0] + self.tried[:, 0] * self.view.step
        return self.tried[x * np.sign(away) > 1.5]

    def seek_large(self, *, first: bool):
        """Put all but those of the midbrain in turn; at ``first`` faint ones follow the others."""
        large = [k for k, n in enumerate(self.nuclei) if not is_small(n)]
        for k in sorted(large, key=lambda k: _ORDER.get(self.nuclei[k].name, 9)):
            among = self.own_side(k)
            if first and self.nuclei[k].name in _FAINT:
                among = among[[self.cost(k, among, self.places).argmin()]]
            self.seek(k, among)

    def seek_midbrain(self, side: str):
        """Put those of the midbrain of a side together, as they look alike."""
        group = [k for k, n in enumerate(self.nuclei) if is_small(n) and n.hemisphere == side]
        if not group:
            return
        # not the rim that an imperfect shape leaves of a bright neighbour
        options, free = [], self.free(1)
        for k in group:
            own = self.own_side(k)
            cost = self.cost(k, own, self.places)
            at = _at(own, self.lag)
            value = np.full((2 * self.lag + 1,) * 3, -np.inf)
            value[at] = _standing_out(free, self.stamps[k], self.lag)[at] / self.view.inflation - cost
            options.append(np.vstack([own[cost.argmin()], _peaks(value, 12) - self.lag]))
        region = self._region(group)
        target = {name: image[region] for name, image in free.items()}
        drawn = [
            [_drawn(self.stamps[k], t, self.view.shape, region) for t in tries]
            for k, tries in zip(group, options, strict=True)
        ]
        best, chosen, contrast = -np.inf, {}, {}
        for pick in np.ndindex(*[len(o) for o in options]):
            given = dict(self.places)
            cost = 0.0
            for k, tries, p in zip(group, options, pick, strict=True):
                cost += self.cost(k, tries[p][None], given)[0]
                given[k] = tries[p]
            basis = np.stack([d[p] for d, p in zip(drawn, pick, strict=True)])
            twice = np.clip(basis.sum(0) - 1, 0, 1)
            basis = basis / np.maximum(basis.sum(0), 1)
            gram = basis @ basis.T + 1e-3 * np.eye(len(basis))
            gain, amounts = 0.0, {}
            for name, t in target.items():
                right = basis @ t
                amount = np.maximum(np.linalg.solve(gram, right), 0)
                amounts[name] = amount
                gain += amount @ right - 0.5 * amount @ gram @ amount
                # a voxel that lies in two of them explains nothing, the more so
                gain -= twice @ (amount @ basis) ** 2
            # each has some of the susceptibility by which it is known
            value = gain / self.view.inflation - cost - 1e6 * (amounts['chi'].min() <= 0)
            if value > best:
                best, chosen, contrast = value, given, amounts
        for i, k in enumerate(group):
            self.put(k, chosen[k], {name: amount[i] for name, amount in contrast.items()})
        # then each alone, as the others are in place
        for k in (*group, *group):
            self.seek(k, self.own_side(k), 1)

    def _region(self, group: Sequence[int]):
        """Voxels (indices) that the nuclei of a group can cover."""
        near = np.zeros(self.view.shape, bool)
        for k in group:
            box, share = _shifted(self.stamps[k], np.zeros(3), self.view.shape)
            near[box] |= share > 0.5
        return np.nonzero(ndimage.binary_dilation(near, iterations=self.lag))

    def settle(self):
        """Put all but those of the midbrain where they are, with the contrast that they have there."""
        for _ in range(2):
            for k, n in enumerate(self.nuclei):
                if not is_small(n):
                    self.seek(k, np.zeros((1, 3), int))

    def apply(self):
        """Move the nuclei to where they were found."""
        for k, place in self.places.items():
            n = self.nuclei[k]
            n.shift = n.shift - n.matrix @ (place * self.view.step)


def _midline(nuclei: Sequence[Nucleus]):
    """Where the midline of the atlas lies (mm, first axis), by nuclei of which it has both sides."""
    places = {(n.name, n.hemisphere): n.centre[0] for n in nuclei}
    pairs = [
        (x, places[name, 'R']) for (name, side), x in places.items() if side == 'L' and (name, 'R') in places
    ]
    return float(np.mean(pairs)) if pairs else 0.0


def is_small(nucleus: Nucleus):
    """Whether a nucleus is one of those of the midbrain, which the others locate."""
    return nucleus.name in _MIDBRAIN


def locate_large(view: _Template, nuclei: Sequence[Nucleus], covariance: Array):
    """Find the shift of each nucleus but those of the midbrain by search.

    The score of a shift is what a nucleus of free contrast explains of the maps there, over their noise; the
    prior ties it to those that were found before.
    """
    search = _Search(view, nuclei, covariance)
    for sweep in range(2):
        search.seek_large(first=sweep == 0)
    search.apply()


def locate_small(view: _Template, nuclei: Sequence[Nucleus], covariance: Array):
    """Find the shifts of red nucleus, substantia nigra and subthalamic nucleus in what the others leave.

    They look alike, and so those of a side are searched together. Those of the other side, which may touch
    them, do not take their place.
    """
    for side in ('L', 'R'):
        search = _Search(view, nuclei, covariance)
        search.settle()
        search.seek_midbrain(side)
        search.apply()


def _lattice(lag: int):
    """Whole shifts (n, 3) within a ball."""
    axis = np.arange(-lag, lag + 1)
    found = np.stack(np.meshgrid(axis, axis, axis, indexing='ij'), -1).reshape(-1, 3)
    return found[np.linalg.norm(found, axis=1) <= lag]


def _at(shifts: Array, lag: int):
    return tuple((shifts + lag).T)


def _stamp(view: _Template, nucleus: Nucleus):
    """First voxel of a box around a nucleus on the grid, and its share of the voxels there."""
    reach = np.abs(np.linalg.inv(nucleus.matrix)) @ extent(nucleus) + 2
    centre = nucleus.centre + nucleus.moved
    low = np.floor((centre - reach - view.affine[:3, 3]) / view.step).astype(int)
    high = np.ceil((centre + reach - view.affine[:3, 3]) / view.step).astype(int) + 1
    axes = [np.arange(a, b) for a, b in zip(low, high, strict=True)]
    voxels = np.stack(np.meshgrid(*axes, indexing='ij'), -1)
    distance = nucleus.distance(apply_affine(view.affine, voxels.reshape(-1, 3))).reshape(voxels.shape[:3])
    return low, special.ndtr(-distance / (0.5 * view.step)).astype(np.float32)


def _explained(height: Mapping[str, Array], stamp: tuple, lag: int):
    """What a nucleus explains after each shift up to ``lag`` voxels, and its contrast, (2 lag + 1)^3."""
    low, share = stamp
    square = float((share**2).sum())
    score, levels = 0.0, {}
    for name, image in height.items():
        sums = _correlated(image, share, low, lag)
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
        sums = _correlated(image, pattern, low - 3, lag)
        score = score + 0.5 * np.maximum(sums, 0) ** 2 / square
    return score


def _correlated(image: Array, pattern: Array, low: Array, lag: int):
    """Sum of the image times a pattern, of first voxel ``low``, after each shift, (2 lag + 1)^3."""
    around = _cut(image, low - lag, low + np.array(pattern.shape) + lag)
    shape = [fft.next_fast_len(int(n), real=True) for n in around.shape]
    product = fft.rfftn(around, shape) * np.conj(fft.rfftn(pattern, shape))
    return fft.irfftn(product, shape)[tuple(slice(0, 2 * lag + 1) for _ in range(3))]


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
    low = np.min([n.centre - extent(n) for n in known], 0) - _TOGETHER_MM - 6
    high = np.max([n.centre + extent(n) for n in known], 0) + _TOGETHER_MM + 6
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
        height = _SATURATED * np.tanh((image - ground) / noise[name] / _SATURATED)
        # iron makes tissue dark
        height = -height if name == 'signal' else height
        view.height[name] = (height * seen).astype(np.float32)
    return view
