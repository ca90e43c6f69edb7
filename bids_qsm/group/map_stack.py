"""The maps of a cohort in template space: find, read and pack them; draw and save results."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from scipy import ndimage

from bids_qsm.anatomy.transform import Displacement, regrid, resample, spacing_of
from bids_qsm.cohort.tables import named, relative_to, series_columns
from bids_qsm.cohort.voxelwise import smooth_within
from bids_qsm.derivatives.files import atomic_write, sidecar, sidecar_path, write_json
from bids_qsm.derivatives.products import LOOKS
from bids_qsm.entities import entities_of
from bids_qsm.interfaces.xfm import load_xfm
from bids_qsm.plotting.maps import Look
from bids_qsm.plotting.mosaic import Mosaic, canonical, rows_of
from bids_qsm.plotting.mosaic import box_of as extent_of
from bids_qsm.reports.html import natural, read_json

_MARGIN_MM = 10.0


def find_maps(
    output_dir: str | Path,
    suffix: str,
    table: pd.DataFrame | None,
    space: str,
    notes: list,
    *,
    shifted: bool = False,
):
    """Template space, and the paths of the maps in it for each participant of ``table``.

    Different reference regions are noted, unless the maps will be shifted.
    """
    sessions, people = None, None if table is None else set(table['participant_id'])
    if table is not None and 'session_id' in table:
        sessions = set(zip(table['participant_id'], table['session_id'].fillna(''), strict=True))
    found = defaultdict(lambda: defaultdict(list))
    for path in sorted(Path(output_dir).glob(f'sub-*/**/sub-*_space-*_{suffix}.nii.gz'), key=str):
        entities = entities_of(path)
        name, visit = f'sub-{entities["sub"]}', f'ses-{entities["ses"]}' if 'ses' in entities else ''
        if 'desc' in entities or (people is not None and name not in people):
            continue
        if sessions is None or (name, visit) in sessions:
            found[entities['space']][name].append(path)
    if not found:
        return space, {}
    ranked = sorted(found, key=lambda name: (-len(found[name]), natural(name)))
    space = space or ranked[0]
    if len(ranked) > 1:
        notes.append(f'Maps of the space {space} were used; there are also {", ".join(ranked[1:])}.')
    zeros = defaultdict(int)
    for paths in found[space].values():
        for path in paths:
            zeros[read_json(sidecar_path(path), {}).get('ReferenceRegion', 'not stated')] += 1
    if suffix == 'Chimap' and len(zeros) > 1 and not shifted:
        told = ', '.join(f'{name} ({n} series)' for name, n in sorted(zeros.items()))
        notes.append(f'The maps do not have the same zero: {told}.')
    return space, dict(found.get(space, {}))


def zeros_of(table: pd.DataFrame, region: str, paths: Mapping[str, list[Path]], notes: list):
    """What to subtract from each map so that a region of the same series has a mean of zero.

    Parameters
    ----------
    table : DataFrame
        Long table of the cohort.
    region
        See :func:`bids_qsm.cohort.tables.relative_to`.
    paths : dict of str to list of Path
        Maps of each participant.

    Returns
    -------
    zeros : dict of Path to float
    paths : dict of str to list of Path
        Maps that have a zero.
    """
    shifted, _ = relative_to(table, region)
    keys = series_columns(table)
    rows = table.loc[table['map'] == 'chi', [*keys, *(c for c in ['atlas'] if c in table)]].assign(
        zero=pd.to_numeric(table['mean'], errors='coerce') - shifted['mean']
    )
    rows = rows.dropna(subset=['zero'])
    if 'atlas' in rows and rows['atlas'].nunique() > 1:
        first = min(rows['atlas'].astype(str))
        rows = rows[rows['atlas'].astype(str) == first]
        notes.append(f'{region} is that of the atlas {first}.')
    rows = rows.drop_duplicates(keys)
    labels = zip(*(rows[key].astype(object).fillna('').astype(str) for key in keys), strict=True)
    known = dict(zip(labels, rows['zero'], strict=True))
    zeros, kept, lacking = {}, {}, []
    for name, files in paths.items():
        for path in files:
            own = named(entities_of(path))
            zero = known.get(tuple(own.get(key, '') for key in keys))
            if zero is None:
                lacking.append(path.name.partition('_space-')[0])
            else:
                zeros[path] = float(zero)
                kept.setdefault(name, []).append(path)
    notes.append(f'Susceptibility is relative to {region} of the same series.')
    if lacking:
        notes.append(f'Left out, for their tables have no {region}: {", ".join(lacking)}.')
    return zeros, kept


def on_one_grid(paths: Mapping[str, list[Path]], notes: list):
    """Participants whose maps are on the most common grid."""
    grids = {}
    for name, files in paths.items():
        images = [nib.load(file) for file in files]
        keys = {(image.shape, tuple(np.round(image.affine, 3).ravel())) for image in images}
        grids[name] = keys.pop() if len(keys) == 1 else None
    several = [grid for grid in grids.values() if grid is not None]
    common = max(several, key=several.count) if several else None
    others = [name for name, grid in grids.items() if grid != common or grid is None]
    if others:
        notes.append(f'Left out, as their maps are on another grid: {", ".join(others)}.')
    return [name for name in paths if name not in others]


def slug(text: str) -> str:
    """A label of letters and digits.

    >>> slug('group patient - control')
    'groupPatientControl'
    """
    words = re.findall('[A-Za-z0-9]+', text)
    return ''.join([words[0], *(word[0].upper() + word[1:] for word in words[1:])]) if words else 'x'


def slugs(texts: Iterable[str]) -> list[str]:
    """A label of letters and digits for each text; repeated labels are numbered.

    >>> slugs(['group PKAN+ - control', 'group PKAN- - control', 'age'])
    ['groupPKANControl', 'groupPKANControl2', 'age']
    """
    found, taken = [], set()
    for text in texts:
        first = label = slug(text)
        number = 2
        while label.casefold() in taken:
            label, number = f'{first}{number}', number + 1
        taken.add(label.casefold())
        found.append(label)
    return found


def load_mean(paths: Sequence[Path]):
    """Mean of maps on one grid over the series of a participant, and where all maps have values."""
    images = [nib.load(path) for path in paths]
    total, count = np.zeros(images[0].shape, np.float32), np.zeros(images[0].shape, np.uint8)
    for image in images:
        data = np.nan_to_num(np.asarray(image.dataobj, np.float32))
        total += data
        # voxels at the rim are interpolated with zeros
        count += ndimage.binary_erosion(ndimage.binary_fill_holes(data != 0))
    mask = count == len(paths)
    return np.where(mask, total / len(paths), 0).astype(np.float32), mask


def box_of(masks: Sequence[np.ndarray], affine: np.ndarray):
    """Slices of the bounding box of all masks, with a margin."""
    spacing = spacing_of(affine)
    union = np.any(masks, 0)
    box = []
    for axis in range(3):
        inside = np.flatnonzero(union.any(tuple(a for a in range(3) if a != axis)))
        first, last = (inside[0], inside[-1]) if inside.size else (0, union.shape[axis] - 1)
        extra = int(np.ceil(_MARGIN_MM / spacing[axis]))
        box.append(slice(max(int(first) - extra, 0), min(int(last) + extra + 1, union.shape[axis])))
    return tuple(box)


@dataclass(frozen=True)
class Packed:
    """Arrays of one shape, stored only inside a mask and unpacked on access."""

    shape: tuple[int, ...]
    masks_only: bool = False
    values: list[np.ndarray] = field(default_factory=list)
    bits: list[np.ndarray] = field(default_factory=list)

    def masks(self):
        return replace(self, masks_only=True)

    def append(self, image: np.ndarray, mask: np.ndarray):
        self.values.append(image[mask])
        self.bits.append(np.packbits(mask))

    def __len__(self):
        return len(self.bits)

    def __getitem__(self, i: int):
        n = int(np.prod(self.shape))
        mask = np.unpackbits(self.bits[i], count=n).reshape(self.shape).astype(bool)
        if self.masks_only:
            return mask
        image = np.zeros(self.shape, np.float32)
        image[mask] = self.values[i]
        return image


class Cohort:
    """Smoothed maps of the participants on the grid of a test, and the mean of the unsmoothed maps."""

    def __init__(self, images: Packed, affine: np.ndarray, mean: np.ndarray):
        self.images, self.masks, self.affine, self.mean = images, images.masks(), affine, mean
        self.shape = mean.shape

    @classmethod
    def read(
        cls,
        paths: Sequence[Sequence[Path]],
        smoothing_mm: float,
        spacing_mm: float,
        zeros: Mapping[Path, float] | None = None,
    ):
        """Read the maps, all on one grid; ``paths`` has a list of files for each participant.

        ``zeros`` maps files to the value to subtract.
        """
        first = nib.load(paths[0][0])
        size = spacing_of(first.affine)
        box = box_of([load_mean(paths[0])[1]], first.affine)
        fine = first.affine.copy()
        fine[:3, 3] += fine[:3, :3] @ [part.start for part in box]
        grid = tuple(part.stop - part.start for part in box), fine
        if (size < 0.99 * spacing_mm).all():
            grid = regrid(*grid, spacing_mm)
        images, total, count = Packed(grid[0]), np.zeros(grid[0]), np.zeros(grid[0])
        for files in paths:
            chi, mask = load_mean(files)
            if zeros:
                chi = np.where(mask, chi - np.float32(np.mean([zeros[file] for file in files])), 0)
            chi, mask = chi[box], mask[box]
            share = resample(mask, fine, *grid, [])
            inside = share > 0.5
            smooth, sharp = (
                np.divide(resample(v, fine, *grid, []), share, out=np.zeros_like(share), where=inside)
                for v in (smooth_within(chi, mask, size, smoothing_mm), chi)
            )
            images.append(smooth, inside)
            total += sharp
            count += inside
        mean = np.divide(total, count, out=np.zeros_like(total), where=count > 0)
        return cls(images, grid[1], mean.astype(np.float32))


class Subjects:
    """Images of participants in template space, cropped to the brain.

    ``all(part)`` is the sequence of one image a participant: chi, mask, t1w or t1w_mask (None without a T1w
    image). The images of one participant are held at a time.
    """

    def __init__(self, output_dir: str | Path, space: str, paths: Mapping[str, list[Path]]):
        first = nib.load(next(iter(paths.values()))[0])
        self.grid = first.shape, first.affine
        self._heads = [(files, t1w_of(output_dir, name, space, files)) for name, files in paths.items()]
        self.has_t1w = np.array([t1w is not None for _, t1w in self._heads])
        # brains in template space have similar sizes: a few of them give the box
        self._box = box_of([load_mean(files)[1] for files in list(paths.values())[:5]], first.affine)
        self.affine = first.affine.copy()
        self.affine[:3, 3] += self.affine[:3, :3] @ [part.start for part in self._box]
        self._last: list[tuple] = [(None, None), (None, None)]

    def __len__(self):
        return len(self._heads)

    def __getstate__(self):
        return {**self.__dict__, '_last': [(None, None), (None, None)]}

    def all(self, part: str):
        return _Part(self, part)

    def whole(self, cropped: np.ndarray):
        """An array of the box on the whole grid."""
        full = np.zeros(self.grid[0], cropped.dtype)
        full[self._box] = cropped
        return full

    def load(self, i: int, part: str):
        # the T1w image is slower to load, and needed less often than susceptibility
        kind = part.startswith('t1w')
        if self._last[kind][0] != i:
            load = self._load_t1w if kind else self._load_chi
            self._last[kind] = i, load(*self._heads[i])
        return self._last[kind][1][part]

    def _load_chi(self, files: Sequence[Path], _: object):
        chi, mask = load_mean(files)
        return {'chi': chi[self._box], 'mask': mask[self._box]}

    def _load_t1w(self, _: object, t1w: tuple[Path, Path, tuple[Path, ...]] | None):
        if t1w is None:
            return {'t1w': None, 't1w_mask': None}
        chain = [transform for path in t1w[2] for transform in load_xfm(path)]
        shape = tuple(part.stop - part.start for part in self._box)
        found = []
        for path, order in zip(t1w[:2], (3, 1), strict=True):
            volume = nib.load(path)
            data = np.asarray(volume.dataobj, np.float32)
            found.append(resample(data, volume.affine, shape, self.affine, chain, order=order))
        return {'t1w': found[0], 't1w_mask': found[1] > 0.5}


class _Part(Sequence):
    def __init__(self, subjects: Subjects, part: str):
        self._subjects, self._part = subjects, part

    def __len__(self):
        return len(self._subjects)

    def __getitem__(self, i: Any):
        return self._subjects.load(i, self._part)


def t1w_of(output_dir: str | Path, name: str, space: str, files: Sequence[Path]):
    """Paths of the T1w image of a participant, of its brain mask, and of the transforms to them, or None."""
    stem = Path(output_dir) / name / 'anat' / name
    image = Path(f'{stem}_desc-preproc_T1w.nii.gz')
    ways = [Path(f'{stem}_from-T1w_to-{space}_mode-image_xfm{end}') for end in ('.nii.gz', '.h5', '.txt')]
    way = next((path for path in ways if path.exists()), None)
    brain = Path(f'{stem}_space-T1w_desc-brain_mask.nii.gz')
    if way is None or not (image.exists() and brain.exists()):
        return None
    # maps were resampled with the refinement of the deep grey matter, if there is one
    refined = f'_from-{space}_to-{space}_mode-image_desc-refine_xfm.nii.gz'
    refine = Path(str(files[0]).replace(f'_space-{space}_Chimap.nii.gz', refined))
    return image, brain, (*([refine] if refine.exists() else []), way)


class OnDisk(MutableMapping):
    """Displacements stored in a folder: those of hundreds of participants do not fit into memory."""

    def __init__(self, folder: str | Path):
        self._folder, self._affines = Path(folder), {}

    def __getitem__(self, i: int):
        affine = self._affines[i]
        return Displacement(np.load(self._folder / f'{i}.npy').astype(np.float32), affine)

    def __setitem__(self, i: int, displacement: Displacement):
        # half precision: 0.01 mm up to 16 mm
        np.save(self._folder / f'{i}.npy', displacement.field.astype(np.float16))
        self._affines[i] = displacement.affine

    def __delitem__(self, i: int):
        del self._affines[i]
        (self._folder / f'{i}.npy').unlink()

    def __iter__(self):
        return iter(self._affines)

    def __len__(self):
        return len(self._affines)


def save_image(
    stem: str | Path,
    data: np.ndarray,
    affine: np.ndarray,
    description: str,
    unit: str | None,
    **others: Any,
):
    """Write ``stem``.nii.gz in template space with its sidecar; return the path."""
    path = Path(f'{stem}.nii.gz')
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units('mm')
    image.set_qform(affine, code=4)
    image.set_sform(affine, code=4)
    # nibabel derives the format from the extension, which the temporary name keeps
    atomic_write(path, lambda p: nib.save(image, p))
    write_json(sidecar_path(path), sidecar(description, units=unit, skull_stripped=True, **others))
    return path


def plot_overlay(
    background: np.ndarray,
    affine: np.ndarray,
    overlay: np.ndarray,
    mask: np.ndarray,
    *,
    title: str,
    unit: str,
    marks: np.ndarray | None = None,
) -> bytes:
    """Draw a signed map, where it is not zero, over the mean susceptibility.

    Parameters
    ----------
    background, overlay : ndarray, 3D
        On the grid of ``affine``.
    mask : ndarray of bool
        Part of the background to show.
    marks : ndarray of int, optional
        Labels whose slices are shown; by default slices are spread over the mask.

    Returns
    -------
    PNG file.
    """
    turned = [canonical(a, affine) for a in (background, overlay, mask)]
    grid = turned[0][1]
    background, overlay, mask = (array for array, _ in turned)
    labels = None if marks is None or not np.any(marks) else canonical(marks, affine)[0]
    box = extent_of(mask, grid)
    mosaic = Mosaic(rows_of(box, axial=(6, 6), coronal=3, sagittal=3, regions=labels), box, grid, title)
    inside = np.abs(background[mask])
    high = float(np.percentile(inside, 99)) if inside.size else 1.0
    mosaic.show([np.where(mask, background, np.nan)], LOOKS['chi'], -0.6 * high, 1.4 * high, bar=False)
    shown = np.where(overlay != 0, overlay, np.nan)
    peak = float(np.nanpercentile(np.abs(shown), 99.5)) if np.isfinite(shown).any() else 1.0
    signed = Look(title, unit, 'coolwarm', symmetric=True, smooth=False)
    mosaic.show([shown], signed, -peak, peak)
    return mosaic.png()
