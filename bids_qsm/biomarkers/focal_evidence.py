"""Evidence about a focal source: its shape, height, decay, moment and veins; its class and certainty."""

from collections.abc import Mapping

import numpy as np
from scipy import ndimage

from bids_qsm.biomarkers.focal_brain import Brain
from bids_qsm.biomarkers.focal_sources import CUBE, FOUND, LARGE_MM, Source
from bids_qsm.biomarkers.moment import MomentFit

EVIDENCE = ('strength', 'isolation', 'roundness', 'apart', 'decay')
CLASSES = ('microbleed', 'calcification', 'large focus', 'vein', 'indeterminate')
DEFINITE = 0.5
"""Least confidence of a definite one: a harmless structure is less likely."""
BULGE = 4.0
"""How many times higher than its vein a source on it is no bulge of it."""
DENSEST = 1.0
"""Most susceptibility (ppm) of a bleed averaged over its void, which is larger than the bleed."""
MANY = 4.0
"""Standard errors of the moment of what R2* or signal loss showed: there are some 100 such places a head."""
UNLIKELY = 0.2
"""Confidence below which no moment is fitted."""
BESIDE_MM = 3.0
"""Distance (mm) up to which a focus lies beside a nucleus, as labels of nuclei are some 2 mm off."""


class Evidence:
    """Measures sources of a brain: its local field, and the total field where the mask lost them."""

    def __init__(
        self,
        brain: Brain,
        localfield: np.ndarray | None,
        field: np.ndarray | None,
        occupied: np.ndarray,
    ):
        self.brain = brain
        rest = (brain.lost, occupied, brain.grid)
        self.inside = MomentFit(localfield, brain.chi, brain.mask, *rest)
        self.inside_source = 'susceptibility' if localfield is None else 'local field'
        self.outside = None
        if field is not None:
            known = brain.whole & (field != 0)
            self.outside = MomentFit(field, np.where(brain.mask, brain.chi, 0), known, *rest, order=2)

    def row(self, source: Source):
        """Columns of a source; None where it has no measured surround, or is unlikely."""
        brain = self.brain
        crop = _crop(source.voxels, brain, 12.0)
        region = np.zeros(tuple(s.stop - s.start for s in crop), bool)
        region[tuple((source.voxels - [s.start for s in crop]).T)] = True
        distance = ndimage.distance_transform_edt(~region, sampling=brain.size)
        inner = np.linalg.norm(brain.size) + 1e-3
        shell = brain.whole[crop] & (distance > inner) & (distance <= inner + max(2.0, *brain.size))
        if not (shell & brain.mask[crop]).any():
            return None
        row = {'found_by': source.found, **self._size(source, region)}
        row |= self._susceptibility(source, crop, region, shell)
        row |= self._decay(crop, region, shell)
        row |= self._veins(source, crop, region, distance)
        row |= {name: float(np.clip(row[name], 0, 1)) for name in EVIDENCE}
        row['confidence'] = float(np.nanmin([row[name] for name in EVIDENCE]))
        if row['confidence'] < UNLIKELY:
            return None
        return row | self._moment(crop, region)

    def _size(self, source: Source, region: np.ndarray):
        brain, at = self.brain, tuple(source.voxels.T)
        volume = region.sum() * brain.grid.voxel_volume
        places = source.voxels * brain.size
        offset = places - places.mean(0)
        # the voxel size is added, so that a source of one voxel is not elongated along the slices
        inertia = offset.T @ offset / len(offset) + np.eye(3) * brain.size.max() ** 2 / 4
        axes = np.sqrt(np.linalg.eigvalsh(inertia))
        return {
            'volume_mm3': volume,
            'diameter_mm': (6 * volume / np.pi) ** (1 / 3),
            'roundness': axes[0] / axes[2],
            'dist_edge_mm': brain.to_edge[at].min(),
            'dist_vein_mm': brain.to_vein[at].min(),
            'dist_nucleus_mm': brain.to_nucleus[at].min(),
        }

    def _susceptibility(self, source: Source, crop: tuple[slice, ...], region: np.ndarray, shell: np.ndarray):
        brain = self.brain
        known = region & brain.mask[crop]
        chi, (whole, spreads) = brain.chi[crop], (brain.contrast, brain.spread)
        if source.is_large:
            whole, spreads = brain.wide_contrast, brain.wide_spread
        contrast = whole[crop]
        measured = shell & brain.mask[crop]
        row = {'chi_surround': float(np.median(chi[measured]))}
        if not known.any() or source.sign == 0:
            return row | {'strength': np.nan, 'isolation': np.nan}
        peak, spread = float(abs(whole[source.peak])), float(spreads[source.peak])
        harmless = 5 * spread
        if source.sign > 0:
            harmless = max(harmless, brain.vein_level)
            away = brain.to_nucleus[source.peak]
            if away <= BESIDE_MM:
                harmless = max(harmless, brain.nuclei_level * (2 if away == 0 else 1))
        # veins and nuclei around it are no part of it
        other = measured & ~brain.tree[crop] & ~brain.nuclei[crop]
        highest = np.abs(contrast[other]).max() if other.any() else 0.0
        return row | {
            'chi_peak': chi[tuple(np.array(source.peak) - [s.start for s in crop])],
            'chi_mean': chi[known].mean(dtype=float),
            'contrast_to_noise': peak / spread,
            'strength': peak / (peak + harmless),
            'isolation': max(1 - float(highest) / peak, 0.0),
        }

    def _moment(self, crop: tuple[slice, ...], region: np.ndarray):
        brain = self.brain
        # what lost its signal around the source belongs to its zone, and one voxel more, for its blur
        low = [s.start for s in crop]
        lost = (brain.lost[crop] & brain.whole[crop]) | ~brain.mask[crop]
        pieces, _ = ndimage.label(region | lost, CUBE)
        own = np.isin(pieces, np.unique(pieces[region]))
        reach = max(3.0, 1.5 * brain.size.max())
        zone = ndimage.binary_dilation(
            region | (own & (ndimage.distance_transform_edt(~region, sampling=brain.size) <= reach))
        )
        voxels, name = np.argwhere(zone) + low, self.inside_source
        moment = self.inside(voxels)
        # the local field lacks that of a source which the mask leaves out
        cut = not brain.mask[crop][ndimage.binary_dilation(region)].all()
        if cut and moment.sign() == 0 and self.outside is not None:
            wider = self.outside(voxels, search_mm=3.0)
            if wider.sign():
                moment, name = wider, 'total field'
        return {
            'moment': moment.value,
            'moment_se': moment.se,
            'moment_from': name if np.isfinite(moment.value) else 'n/a',
            'sign': moment.sign(),
            'zone_mm3': (zone & brain.whole[crop]).sum() * brain.grid.voxel_volume,
            'reason': moment.reason,
        }

    def _decay(self, crop: tuple[slice, ...], region: np.ndarray, shell: np.ndarray):
        brain = self.brain
        row = {'decay': np.nan, 'darkness': np.nan}
        if brain.dark is not None:
            row['darkness'] = float(brain.dark[crop][region].max())
        if brain.r2star is None:
            return row
        rate = brain.r2star[crop]
        inside, outside = (v[np.isfinite(v)] for v in (rate[region], rate[shell & ~brain.tree[crop]]))
        if inside.size and outside.size:
            middle = float(np.median(outside))
            excess = max(inside.mean(dtype=float) - middle, 0)
            noise = max(1.4826 * np.median(np.abs(outside - middle)), 1e-6)
            row['decay'] = excess / (excess + 3 * noise)
            row |= {'R2star_mean': inside.mean(dtype=float), 'R2star_surround': middle}
        return row

    def _veins(self, source: Source, crop: tuple[slice, ...], region: np.ndarray, distance: np.ndarray):
        """How a vein runs by: arms of the tree that touch the source, and whether they pass its middle."""
        brain = self.brain
        tree = brain.tree[crop]
        tubes = brain.tubes[crop]
        row = {'vesselness': float(tubes[distance <= 3].max()), 'vein_arms': 0, 'apart': 1.0}
        row |= {'vein_through': 0.0, 'vein_excess': np.inf}
        around = (distance > brain.size.max()) & (distance <= brain.size.max() + 4)
        pieces, _ = ndimage.label(tree & around, CUBE)
        near = np.unique(pieces[tree & around & (distance <= 2 * brain.size.max() + 1e-3)])
        arms = [np.argwhere(pieces == n) * brain.size for n in near if n]
        row['vein_arms'] = len(arms)
        inside = float(tubes[region].max())
        if source.sign <= 0 or not (arms or inside):
            return row
        peak = max(float(brain.contrast[source.peak]), 1e-6)
        level = float(np.median(brain.contrast[crop][tree & around])) if (tree & around).any() else 0.0
        # a vein that enters and leaves passes the middle and is about as high on both sides
        middle = (np.array(source.peak) - [s.start for s in crop]) * brain.size
        through = 0.0
        ends = [arm.mean(0) - middle for arm in arms]
        for i, a in enumerate(ends):
            for b in ends[i + 1 :]:
                cosine = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
                through = max(through, -cosine)
        row['vein_through'] = through
        row['vein_excess'] = peak / level if level > 0 else np.inf
        # much higher than its vein, it is no bulge of it
        row['apart'] = max(1 - inside, 1 - 1 / max(row['vein_excess'], 1.0))
        return row


def classify(row: Mapping, *, confidence: float):
    """Class, certainty and reason of a source by its columns; None where it is not told.

    A vein enters and leaves through the middle of the source, which is less than `BULGE` times as high.
    The sign of the moment tells bleeds from calcium. A source found by R2* or signal loss alone, which veins,
    air and bone at the edge have too, must have a moment; one that the mask cuts must be paramagnetic, as
    bone and air beyond the mask look diamagnetic, and possible for its size.
    """
    if row['confidence'] < confidence:
        return None
    certain = 'definite' if row['confidence'] >= DEFINITE else 'possible'
    if row['vein_through'] > 0.7 and row['vein_excess'] < BULGE:
        return 'vein', 'possible', 'a vein enters and leaves'
    cut = row['moment_from'] == 'total field'
    likely = not cut or 0 < row['moment'] <= DENSEST * row['zone_mm3']
    if row['found_by'] != FOUND[0]:
        # many places are tested, and veins have such R2*
        if not abs(row['moment']) > MANY * row['moment_se'] or row['dist_vein_mm'] == 0 or not likely:
            return None
    elif not likely:
        return None if certain == 'possible' else ('indeterminate', 'possible', 'cut by the edge of the mask')
    if cut:
        certain = 'possible'
    if row['dist_nucleus_mm'] == 0 and row['sign'] > 0 and certain == 'possible':
        # rather a part of the nucleus that its label missed
        return None
    if row['diameter_mm'] > LARGE_MM:
        return 'large focus', certain, ''
    if row['sign'] == 0:
        if certain == 'possible':
            return None
        reason = row['reason'] or 'moment within three standard errors of zero'
        return 'indeterminate', 'possible', reason
    return 'microbleed' if row['sign'] > 0 else 'calcification', certain, ''


def _crop(voxels: np.ndarray, brain: Brain, margin_mm: float):
    margin = np.ceil(margin_mm / brain.size).astype(int)
    low = np.maximum(voxels.min(0) - margin, 0)
    high = np.minimum(voxels.max(0) + margin + 1, brain.mask.shape)
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
