"""The digital head: tissue of a person in template space, with an individual pose and warp."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

import numpy as np
from nilearn import datasets
from scipy import ndimage

from bids_qsm.anatomy import atlas
from bids_qsm.phantom import tissue as t
from bids_qsm.phantom.blood import Blood, draw_blood
from bids_qsm.phantom.dura import draw_dura
from bids_qsm.phantom.families import FAMILIES, Family, draw_solids, traits
from bids_qsm.phantom.fibres import Fibres, fibre_field
from bids_qsm.phantom.lesions import Lesion, draw_lesion
from bids_qsm.phantom.nuclei import Nucleus, clear, draw_nuclei
from bids_qsm.phantom.sampling import Volume, Warp, coordinates, expand, pull, spline_basis, undo
from bids_qsm.phantom.skull import draw_surroundings
from bids_qsm.phantom.tissue import CHANNELS
from bids_qsm.phantom.veins import draw_veins
from bids_qsm.phantom.vessels import Segment

BOX = ((-104, -136, -112), (104, 116, 104))
"""Corners (mm) of the drawn part of template space; the neck continues below it."""


@dataclass(frozen=True)
class Head:
    """Tissue in template space, resampled through warp and pose onto any grid.

    ``pose`` (4, 4) maps scanner coordinates to template coordinates (mm), to which the warp adds its
    displacement. ``shapes`` are the nuclei in their positions. Without ``fibres`` the susceptibility of white
    matter is the same along all axes.
    """

    tissue: Volume
    veins: Volume
    warp: Warp
    pose: np.ndarray
    nuclei: tuple[Nucleus, ...]
    lesions: tuple[Lesion, ...] = ()
    shapes: tuple[atlas.Shape, ...] = field(default_factory=lambda: tuple(atlas.ellipsoids()))
    tree: tuple[Segment, ...] = ()
    blood: Blood = field(default_factory=Blood)
    vein_gain: float = 1.0
    fibres: Fibres | None = None

    @property
    def air_chi(self):
        """Susceptibility (ppm) of the air around the head."""
        return t.TISSUES['air'].chi

    def to_template(self, shape: tuple[int, ...], affine: np.ndarray):
        """Template coordinates (mm) of every voxel of a scanner grid, shape (x, y, z, 3)."""
        return coordinates(shape, self.pose @ affine, self.warp)

    def to_scanner(self, points: np.ndarray):
        """Scanner coordinates (mm) of points of template space, shape (n, 3)."""
        inverse = np.linalg.inv(self.pose)
        return undo(np.asarray(points, float), self.warp) @ inverse[:3, :3].T + inverse[:3, 3]

    def vessels(self):
        """Veins in scanner space; their radii are those of template space."""
        return self._vessels

    @cached_property
    def _vessels(self):
        if not self.tree:
            return ()
        points = self.to_scanner(np.concatenate([s.points for s in self.tree]))
        parts = np.split(points, np.cumsum([len(s.points) for s in self.tree])[:-1])
        gain = self.vein_gain
        return tuple(
            Segment(p, s.radius, 1 - gain * (1 - s.oxygenation), gain * s.chi, s.kind, s.index, s.downstream)
            for s, p in zip(self.tree, parts, strict=True)
        )

    def bloodless(self):
        """Return the same head without its veins."""
        none = np.zeros((2, 2, 2, *self.veins.data.shape[3:]), self.veins.data.dtype)
        return replace(self, veins=replace(self.veins, data=none), tree=())

    def sample(self, shape: tuple[int, ...], affine: np.ndarray, names: Sequence[str] = CHANNELS):
        """Tissue on a scanner grid, by name.

        Names are those of CHANNELS (chi in ppm; r2star and r1 in 1/s at 3 T; shares else), 'blood' (share)
        and 'vein_chi' (ppm, of the blood itself; 0 where there is none).
        """
        matrix = self.pose @ affine
        painted = [n for n in names if n in CHANNELS]
        wanted = [CHANNELS.index(n) for n in painted]
        air = [t.TISSUES['air'].chi if CHANNELS[c] == 'chi' else 0.0 for c in wanted]
        air = [20.0 if CHANNELS[c] in ('r2star', 'r1') else a for c, a in zip(wanted, air, strict=True)]
        *values, blood, iron = pull(shape, matrix, self.warp, self.tissue, wanted, air, self.veins)
        found = dict(zip(painted, values, strict=True))
        iron *= np.float32(self.vein_gain)
        venous = t.TISSUES['blood']
        if 'chi' in found:
            found['chi'] += iron - blood * found['chi']
        for name in ('r2star', 'density', 't1w'):
            if name in found:
                found[name] += blood * (getattr(venous, name) - found[name])
        if 'r1' in found:
            found['r1'] += blood * (1 / venous.t1 - found['r1'])
        for name in ('fat', 'csf', 'white'):
            if name in found:
                found[name] *= 1 - blood
        if 'blood' in names:
            found['blood'] = blood
        if 'vein_chi' in names:
            found['vein_chi'] = iron / np.maximum(blood, np.float32(1e-6))
        return found

    def fibre_maps(self, shape: tuple[int, ...], affine: np.ndarray):
        """Fractional anisotropy, and unit vectors along the axes of the scanner (..., 3), on a scanner grid.

        Both are 0 outside white matter.
        """
        assert self.fibres is not None
        white = self.sample(shape, affine, ('white',))['white']
        there = white > 0
        vectors = np.zeros((*shape, 3), np.float32)
        found, fractions = fibre_field(self.to_template(shape, affine)[there], self.fibres.seed)
        # the rotation in the pose, without the size and the shear of the head
        u, _, vt = np.linalg.svd(self.pose[:3, :3])
        vectors[there] = found @ (u @ vt).astype(np.float32)
        white[there] *= fractions
        return white, vectors

    def labels(self, shape: tuple[int, ...], affine: np.ndarray):
        """Nuclei of the built-in atlas on a scanner grid (int16); none in CSF."""
        dseg = atlas.classify(self.to_template(shape, affine), self.shapes)
        dseg[self.sample(shape, affine, ('csf',))['csf'] > 0.5] = 0
        return dseg

    def lesion_labels(self, shape: tuple[int, ...], affine: np.ndarray):
        """Lesions on a scanner grid (int16), numbered from 1 in their order."""
        found = np.zeros(shape, np.int16)
        if not self.lesions:
            return found
        points = self.to_template(shape, affine)
        for n, lesion in enumerate(self.lesions, 1):
            found[lesion.signed(points) <= 0] = n
        return found

    def moved(self, rotation: Sequence[float] | np.ndarray, translation: Sequence[float] | np.ndarray):
        """Return the same head turned by ``rotation`` (degrees about x, y, z), then shifted (mm)."""
        return replace(self, pose=self.pose @ np.linalg.inv(rigid(rotation, translation)))

    def scaled(self, size: float):
        """Return the same head ``size`` times as large along each axis, about the origin of scanner space."""
        return replace(self, pose=self.pose @ np.diag([1 / size, 1 / size, 1 / size, 1.0]))

    def changed(self, effects: Mapping[str, float], lesions: Sequence[Lesion] = ()):
        """Return the same person at another time.

        Parameters
        ----------
        effects : dict of str to float
            Factor on the susceptibility of a region of the built-in atlas, SN, GP or Vein; R2* of tissue
            follows, and the deoxygenation of veins.
        lesions : sequence of Lesion
            Added to existing lesions.
        """
        factors = _expand(effects)
        if not factors and not lesions:
            return self
        volume = replace(self.tissue, data=self.tissue.data.copy())
        put, nuclei = t.channels(volume.data), []
        for n in self.nuclei:
            gain = n.chi * (factors.get(n.region, 1.0) - 1)
            first = np.round((n.origin - volume.origin) / volume.spacing).astype(int)
            box = tuple(slice(a, a + m) for a, m in zip(first, n.amount.shape, strict=True))
            kind = t.NUCLEI[n.region]
            put['chi'][box] += n.amount * gain
            put['r2star'][box] += n.amount * n.grain * (0.5 * kind.r2star * gain / kind.chi)
            nuclei.append(replace(n, chi=n.chi + gain))
        for lesion in lesions:
            draw_lesion(volume, lesion)
        return replace(
            self,
            tissue=volume,
            nuclei=tuple(nuclei),
            lesions=(*self.lesions, *lesions),
            vein_gain=self.vein_gain * factors.get('Vein', 1.0),
        )


def rigid(rotation: Sequence[float] | np.ndarray, translation: Sequence[float] | np.ndarray = (0, 0, 0)):
    """Matrix (4, 4) that turns by ``rotation`` (degrees about x, then y, then z) and shifts (mm)."""
    matrix = np.eye(4)
    for axis, angle in enumerate(np.radians(rotation)):
        turn = np.eye(4)
        a, b = [k for k in range(3) if k != axis]
        c, s = np.cos(angle), np.sin(angle) * (-1 if axis == 1 else 1)
        turn[a, a], turn[a, b], turn[b, a], turn[b, b] = c, -s, s, c
        matrix = turn @ matrix
    matrix[:3, 3] = translation
    return matrix


def make_head(
    seed: int,
    *,
    spacing: float = 1.0,
    effects: Mapping[str, float] | None = None,
    lesions: Sequence[Lesion] = (),
    warp_mm: float = 2.5,
    variation: float = 0.1,
    family: str | Family = 'atlas',
    blood: Blood | None = None,
):
    """Make the head of a person: ``seed`` determines anatomy, tissue, veins, skull and cavities.

    Parameters
    ----------
    seed : int
        Of the person; the same seed with other ``effects`` or ``lesions`` is the same person at another time.
    spacing : float
        Of the lattice (mm): 1, or 2, which is enough for grids of 3 mm and more, and much faster.
    effects, lesions
        See Head.changed.
    warp_mm : float
        Standard deviation (mm) of the displacement along each axis.
    variation : float
        Relative standard deviation of the susceptibility of nuclei between persons.
    family : str or Family
        What its nuclei and their surroundings are like: a key of families.FAMILIES, or one of your own.
        Effects come on top of those of its age and disease.
    blood : Blood, optional
        Hematocrit and oxygenation; by default drawn at random, as the anatomy is.
    """
    family = FAMILIES[family] if isinstance(family, str) else family
    plain = family == FAMILIES['atlas']
    streams = [np.random.default_rng([seed, n]) for n in range(6)]
    person = np.random.default_rng([seed, 6])
    origin = np.array(BOX[0], float)
    shape = tuple(int((b - a) / spacing) + 1 for a, b in zip(*BOX, strict=True))
    t1w, grey, white, mask = (_template(load, shape, spacing) for load in _TEMPLATES)
    volume = Volume(np.zeros((*shape, len(CHANNELS)), np.float32), origin, spacing)
    draw_surroundings(volume, mask, _textures(shape, spacing, streams[0]), streams[1])
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    box = tuple(slice(max(b.start - 4, 0), b.stop + 4) for b in box)
    first = origin + spacing * np.array([b.start for b in box])
    inner = Volume(volume.data[box], first, spacing)
    texture = _textures(inner.data.shape[:3], spacing, streams[2])
    _draw_brain(inner.data, t1w[box], grey[box], white[box], mask[box], texture)
    shapes = draw_solids(family, person)
    own = traits(family, person)
    if not plain:
        # a template's nuclei that are not where this person's are would be seen as others
        seen = ('chi', 'r2star', 'density', 'r1', *(('t1w',) if family.t1w != 'template' else ()))
        clear(inner, atlas.shapes(), seen)
        _roughen(inner.data, family, texture)
    nuclei = draw_nuclei(inner, shapes, texture, streams[3], variation, family)
    put = t.channels(inner.data)
    blood = blood or draw_blood(np.random.default_rng([seed, 7]))
    brain = replace(inner, data=np.ascontiguousarray(put['brain']))
    veins, tree = draw_veins(brain, put['white'], put['csf'], blood, streams[4])
    draw_dura(inner)
    warp, pose = _shape(streams[5], warp_mm)
    if family.ventricles:
        _widen(warp, family.ventricles * person.uniform(0.5, 1))
    head = Head(volume, veins, warp, pose, nuclei, shapes=shapes, tree=tree, blood=blood)
    return head.changed(own).changed(effects or {}, lesions)


_TEMPLATES = (
    datasets.load_mni152_template,
    datasets.load_mni152_gm_template,
    datasets.load_mni152_wm_template,
    datasets.load_mni152_brain_mask,
)


@lru_cache(maxsize=len(_TEMPLATES))
def _template(load: Callable, shape: tuple[int, ...], spacing: float):
    """One of nilearn's bundled ICBM152 2009a maps on the head's lattice; the next head is given it too."""
    image = load(resolution=1)
    start = (np.array(BOX[0], float) - image.affine[:3, 3]).astype(int)
    step = round(spacing)
    result = np.zeros(shape, np.float32)
    data = np.asarray(image.dataobj, dtype=np.float32)
    if step > 1:
        data = ndimage.uniform_filter(data, step)
    source, target = [], []
    for n, size, first in zip(data.shape, shape, start, strict=True):
        at = first + step * np.arange(size)
        inside = np.flatnonzero((at >= 0) & (at < n))
        source.append(slice(at[inside[0]], at[inside[-1]] + 1, step))
        target.append(slice(inside[0], inside[-1] + 1))
    result[tuple(target)] = data[tuple(source)]
    result.setflags(write=False)
    return result


def _textures(shape: tuple[int, ...], spacing: float, rng: np.random.Generator):
    """Return a function that makes random fields of unit variance and a given smoothness (mm)."""

    def texture(sigma: float, shape: tuple[int, ...] = shape):
        coarse = [int(np.ceil(n * spacing / sigma)) + 4 for n in shape]
        # a quadratic B-spline keeps 11/20 of the variance of white noise along each axis
        field = rng.standard_normal(coarse, dtype=np.float32) * np.float32(0.55**-1.5)
        starts = rng.uniform(1, 2, 3)
        at = [start + np.arange(n) * spacing / sigma for start, n in zip(starts, shape, strict=True)]
        return expand(field, [spline_basis(a, c) for a, c in zip(at, coarse, strict=True)])

    return texture


def _draw_brain(
    data: np.ndarray,
    t1w: np.ndarray,
    grey: np.ndarray,
    white: np.ndarray,
    mask: np.ndarray,
    texture: Callable,
):
    """Fill the brain from tissue maps, with the contrast of the template and random texture."""
    total = np.maximum(grey + white, 1)
    grey, white = mask * grey / total, mask * white / total
    csf = mask - grey - white
    shares = {'csf': csf, 'grey': grey, 'white': white}

    def mix(quantity: str):
        return sum(amount * np.float32(getattr(t.TISSUES[n], quantity)) for n, amount in shares.items())

    solid = grey + white
    # the residual contrast of the template, which is mostly myelin
    detail = mask * np.clip(t1w - mix('t1w'), -0.2, 0.2)
    grain = 0.004 * texture(1.5) + 0.004 * texture(4.0) + 0.006 * white * texture(9.0)
    values = {
        'chi': mix('chi') + solid * (grain - 0.08 * detail),
        'r2star': mix('r2star') * (1 + 0.06 * solid * texture(5.0)) + 15 * solid * detail,
        'density': mix('density') * (1 + 0.03 * texture(6.0)),
        'r1': t.brain_r1(t1w),
        'fat': np.float32(0),
        't1w': t1w,
    }
    put = t.channels(data)
    for name, value in values.items():
        put[name] += mask * (value - put[name])
    put['brain'][:], put['csf'][:], put['white'][:] = mask, csf, white


def _roughen(data: np.ndarray, family: Family, texture: Callable):
    """Give cortex and white matter, in place, texture at the scale of a voxel; that of R2* is independent."""
    put = t.channels(data)
    solid = put['brain'] * (1 - put['csf'])
    put['chi'] += family.roughness * solid * texture(1.0)
    if family.free_r2star:
        put['r2star'] *= 1 + 0.08 * solid * texture(1.2)


def _widen(warp: Warp, amount: float):
    """Widen the lateral ventricles, in place: points near their middle come from nearer to it."""
    axes = [o + warp.spacing * np.arange(n) for o, n in zip(warp.origin, warp.nodes.shape, strict=False)]
    points = np.stack(np.meshgrid(*axes, indexing='ij'), -1)
    for side in (-1, 1):
        offset = points - np.array([11.0 * side, -8.0, 17.0])
        near = np.exp(-0.5 * np.square(offset / (15.0, 32.0, 15.0)).sum(-1, keepdims=True))
        warp.nodes[...] -= (amount * offset * near).astype(np.float32)


def _expand(effects: Mapping[str, float]):
    """Expand composite regions to their parts; an unknown name is an error."""
    known = set(t.NUCLEI) | {'Vein'}
    expanded = {}
    for name, factor in effects.items():
        for part in t.COMPOSITE.get(name, (name,)):
            if part not in known:
                raise ValueError(f'no region {part!r}; known are {sorted(known | set(t.COMPOSITE))}')
            expanded[part] = factor
    return expanded


def _shape(rng: np.random.Generator, warp_mm: float):
    """Warp and pose of a person: size and shear of the head, position in the scanner, displacement."""
    spacing = 5.0
    low, high = np.array(BOX[0]) - 10.0, np.array(BOX[1]) + 10.0
    shape = tuple(((high - low) / spacing).astype(int) + 1)
    nodes = np.empty((*shape, 3), np.float32)
    for axis in range(3):
        noise = rng.standard_normal([n + 24 for n in shape])
        # two scales: position of lobes, and shape of gyri and ventricles
        for sigma, amount in ((22.0, 0.85), (11.0, 0.4)):
            part = ndimage.gaussian_filter(noise, sigma / spacing)[12:-12, 12:-12, 12:-12]
            part *= amount * warp_mm / part.std()
            nodes[..., axis] = part if sigma == 22.0 else nodes[..., axis] + part
            noise = rng.standard_normal(noise.shape)
    size = np.eye(4)
    size[:3, :3] = np.diag(1 / rng.normal(1, 0.03, 3)) + rng.normal(0, 0.015, (3, 3)) * (1 - np.eye(3))
    place = rigid(rng.normal(0, 3, 3), rng.normal(0, 4, 3))
    # the centre of the brain is near the isocentre
    centre = np.eye(4)
    centre[:3, 3] = (0, -18, 8)
    return Warp(nodes, low, spacing), centre @ size @ np.linalg.inv(place)
