"""Which DICOM series a map was computed from: beyond doubt, or an error."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import NAMESPACE_OID, uuid5

import nibabel as nib
import numpy as np

import bids_qsm
from bids_qsm.derivatives.products import PRODUCTS
from bids_qsm.dicom.classify import kind_of
from bids_qsm.dicom.convert import centres_apart, distance
from bids_qsm.dicom.headers import Frame, Group
from bids_qsm.dicom.table import COMPLEX, Row
from bids_qsm.entities import OF_SERIES, entities_of, join_entities, suffix_of
from bids_qsm.errors import UserError, plain
from bids_qsm.recon.resolution import SAME

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


@dataclass(frozen=True)
class Volume:
    """A map, and the DICOM series that it was computed from."""

    path: Path
    kind: str
    """Port of the map: 'chi' or 'swi'."""
    affine: np.ndarray
    """To scanner coordinates (LPS, mm)."""
    group: Group
    source: 'Dataset'
    """Header of the first file of the series."""

    @cached_property
    def values(self) -> np.ndarray:
        """(x, y, z); susceptibility in ppm. UserError where the file is damaged."""
        try:
            return np.asarray(nib.load(self.path).dataobj, np.float32)
        except Exception as error:  # nibabel and zlib raise many kinds for damaged files
            raise _unreadable(self.path, error) from None

    @cached_property
    def digest(self) -> str:
        """Of the file of the map."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    @property
    def stem(self) -> str:
        return self.path.name.partition('.')[0]

    @property
    def orientation(self) -> list[float]:
        """Cosines of rows and columns: rows run along the first axis, columns against the second."""
        axes = self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)
        return [round(float(value), 10) for value in (*axes[:, 0], *-axes[:, 1])]

    @property
    def spacing(self) -> np.ndarray:
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def thickness(self) -> float:
        """Of the slices of the source (mm), which may overlap or leave gaps; else the distance of slices."""
        own = round(float(self.spacing[2]), 8)
        is_same = self.values.shape == self.group.size
        return (self.group.number('SliceThickness') or own) if is_same else own

    def position(self, k: int) -> list[float]:
        """Centre of the first voxel of a slice."""
        corner = self.affine[:3] @ (0, self.values.shape[1] - 1, k, 1)
        return [round(float(value), 6) for value in corner]

    def slice(self, k: int) -> np.ndarray:
        """Rows and columns of a slice."""
        return self.values[:, ::-1, k].T

    def sources(self, k: int) -> list[Frame]:
        """Images of the series within a slice, of the first echo."""
        frames, normal = self.group.echoes[min(self.group.echoes)], self.group.normal
        place, half = np.dot(self.position(k), normal), 0.49 * self.spacing[2]
        return [one for one in frames if abs(np.dot(one.position, normal) - place) <= half]

    def uid(self, *words: object) -> str:
        """The same for the same map, source and version."""
        text = ' '.join(
            map(str, (self.group.series_uid, self.digest, bids_qsm.__version__, self.kind, *words))
        )
        return f'2.25.{uuid5(NAMESPACE_OID, text).int}'


def find_maps(output_dir: Path, participants: Sequence[str]) -> list[Path]:
    """Susceptibility maps and SWI of series, on their own grid.

    Parameters
    ----------
    output_dir : Path
        Output of the participant level.
    participants : sequence of str
        Labels; all where there is none.

    Raises
    ------
    UserError
        Where there is no map, or none of one of the participants.
    """
    suffixes = {PRODUCTS[port].suffix for port in ('chi', 'swi')}
    paths = sorted(output_dir.glob('sub-*/**/anat/*.nii.gz'))
    paths = [
        path for path in paths if suffix_of(path) in suffixes and set(entities_of(path)) <= set(OF_SERIES)
    ]
    missing = set(participants) - {entities_of(path)['sub'] for path in paths}
    if missing:
        raise UserError(f'{output_dir} has no susceptibility map of sub-{min(missing)}; run it first.')
    if not paths:
        raise UserError(f'{output_dir} has no susceptibility maps; give the output of the participant level.')
    return [path for path in paths if not participants or entities_of(path)['sub'] in participants]


def require_one(maps: Sequence[Path], persons: Collection[str], has_table: bool) -> None:
    """Raise UserError where images alone do not tell whose maps these are.

    Parameters
    ----------
    maps : sequence of Path
    persons : collection of str
        Codes of the people in the DICOM folder, each once.
    has_table : bool
        Whether a table was given, which then has no rows.
    """
    subjects = {entities_of(path)['sub'] for path in maps}
    if len(persons) > 1 or len(subjects) > 1 or has_table:
        raise UserError(
            f'{len(subjects)} participants and {len(persons)} patients cannot be matched by images alone: '
            'give --table, which `bids_qsm import` wrote, or --participant-label and the folder of one '
            'patient.'
        )


def match(path: Path, groups: Sequence[Group], rows: Sequence[Row]) -> Volume:
    """A map with the series that it comes from.

    Parameters
    ----------
    path : Path
        Susceptibility map or SWI.
    groups : sequence of Group
        What the DICOM folder holds.
    rows : sequence of Row
        Rows of the table of the import; none where there is no table.

    Raises
    ------
    UserError
        Where the map cannot be read, lies where no series does, may come from several, or has a name that no
        whole series of the table has.
    """
    import pydicom

    kind = next(port for port in ('chi', 'swi') if PRODUCTS[port].suffix == suffix_of(path))
    try:
        image = nib.load(path)
    except Exception as error:  # nibabel and zlib raise many kinds for damaged files
        raise _unreadable(path, error) from None
    candidates = [
        group for group in groups if group.part in ('mag', 'real') and group.volumes == 1 and group.is_even
    ]
    if rows:
        entities = entities_of(path)
        keys = {row.key for row in rows if row.suffix in COMPLEX and row.entities == entities}
        candidates = [group for group in candidates if group.key in keys]
        if not candidates:
            raise UserError(
                f'{path.name}: the table and the DICOM folder have no whole series of '
                f'{join_entities(entities.items())}; give those that it was imported from.'
            )
    else:  # SWI of the scanner, and what was exported before, lie on the same grid
        candidates = [group for group in candidates if kind_of(group, 1).suffix == 'GRE']
    own = [group for group in candidates if image.shape == group.size and _is_at(image, group)]
    if rows:  # by its field of view alone a map may be that of another study
        own = own or [group for group in candidates if image.shape != group.size and _covers(image, group)]
    if not own:
        raise UserError(
            f'{path.name} does not lie where the DICOM series do, so that it cannot be laid over them; give '
            'all DICOM files that it was computed from, and --table for a map of other voxels (maps that '
            'were moved to another space stay out).'
        )
    # echoes may be series of their own
    own = sorted(own, key=lambda group: (group.part != 'mag', min(group.echoes)))
    if len({(group.part, min(group.echoes)) for group in own}) < len(own):
        listed = ', '.join(group.label for group in own)
        mend = 'name one otherwise in the table' if rows else 'give --table, which `bids_qsm import` wrote'
        raise UserError(f'{path.name} may come from {listed}; {mend}.')
    frames = own[0].echoes[min(own[0].echoes)]
    source = pydicom.dcmread(frames[0].path, stop_before_pixels=True)
    return Volume(path, kind, np.diag([-1.0, -1, 1, 1]) @ image.affine, own[0], source)


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f'{path} cannot be read ({plain(error)}); run its participant again.')


def _is_at(image: nib.Nifti1Image, group: Group) -> bool:
    return distance(image, group, min(group.echoes)) < 0.1


def _covers(image: nib.Nifti1Image, group: Group) -> bool:
    """Whether a map of larger voxels (--voxel-size) fills the field of view of a series, about its centre.

    It then has a grid of its own in the same frame of reference.
    """
    if image.ndim != 3 or len(group.places) < 2:
        return False
    spacing = np.linalg.norm(image.affine[:3, :3], axis=0)
    axes = np.diag([-1.0, -1, 1]) @ (image.affine[:3, :3] / spacing)
    row, column = np.reshape(group.facts['ImageOrientationPatient'], (2, 3)).astype(float)
    turn = np.abs(axes.T @ np.stack([row, column, group.normal], 1))
    between_rows, between_columns = (float(value) for value in group.facts['PixelSpacing'])
    own = np.array([between_columns, between_rows, np.diff(group.places).mean()])
    # as many voxels as fit; axes whose voxels stay must have them all, or slices of the series are missing
    fit = np.array(group.size) * own / spacing
    is_same = np.abs(spacing - own) <= SAME * own
    allowed = np.where(is_same, group.size, np.floor([fit - 0.01, fit + 0.01]))
    is_filled = (allowed == image.shape).any(0).all()
    is_parallel = np.allclose(turn, np.eye(3), atol=2e-3)
    return bool(is_parallel and is_filled and centres_apart(image, group, min(group.echoes)) < 0.1)
