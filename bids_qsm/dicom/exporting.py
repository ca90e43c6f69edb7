"""Maps to DICOM for radiologists: in the study that they were computed from, in the place of its series."""

from collections.abc import Sequence
from pathlib import Path

from bids_qsm.dicom.headers import MOST_PROBLEMS, read_folder
from bids_qsm.dicom.matching import find_maps, match, require_one
from bids_qsm.dicom.table import read_rows
from bids_qsm.dicom.writing import RESEARCH, write_parametric_map, write_series
from bids_qsm.errors import UserError, plain


def run_export(
    output_dir: Path,
    dicom_dir: Path,
    dest: Path,
    *,
    table: Path | None = None,
    participants: Sequence[str] = (),
) -> int:
    """Write the susceptibility maps and SWI of an output folder as DICOM; return 0.

    Parameters
    ----------
    output_dir : Path
        Output of the participant level.
    dicom_dir : Path
        The DICOM files that were imported.
    dest : Path
        Folder to write to.
    table : Path, optional
        Table of the import; without it, only one participant and one patient can be matched.
    participants : sequence of str
        Labels; all where there is none.

    Raises
    ------
    UserError
        Where a map cannot be matched with one series beyond doubt, or a file is there already.
    """
    maps = find_maps(output_dir, participants)
    if table is not None and not table.is_file():
        raise UserError(f'--table {table} is no file; give the table that `bids_qsm import` wrote.')
    _require_place(dest, output_dir, dicom_dir)
    found = read_folder(dicom_dir)
    for problem in found.problems[:MOST_PROBLEMS]:
        print(f'bids_qsm: {plain(problem)}')
    rows = read_rows(table) if table else []
    if not rows:
        require_one(maps, {group.code for group in found.groups}, bool(table))
    volumes = [match(path, found.groups, rows) for path in maps]  # all, before the first is written
    try:
        dest.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f'{dest} cannot be made ({error.strerror}); give another folder to write to.'
        ) from None
    for volume in volumes:
        for target in (dest / f'{volume.stem}_series', dest / f'{volume.stem}_map.dcm'):
            if target.exists():
                raise UserError(f'{target} is there already; remove it or choose another folder.')
    while volumes:  # whose values are read one by one
        volume = volumes.pop(0)
        folder = write_series(volume, dest / f'{volume.stem}_series')
        print(f'{plain(folder)}: {volume.values.shape[2]} images')
        if volume.kind == 'chi':
            print(f'{plain(write_parametric_map(volume, dest / f"{volume.stem}_map.dcm"))}: parametric map')
    print(f'bids_qsm: {plain(dest)} holds the identity of patients, as the DICOM files do. {RESEARCH}')
    return 0


def _require_place(dest: Path, output_dir: Path, dicom_dir: Path):
    """Raise UserError where files that name patients would lie among others."""
    place = dest.resolve()
    datasets = [one for one in (place, *place.parents) if (one / 'dataset_description.json').exists()]
    for folder in (output_dir.resolve(), dicom_dir.resolve(), *datasets):
        if place.is_relative_to(folder):
            raise UserError(
                f'{dest} lies in {folder}, but what is written names the patients and is no part of it; '
                'give another folder to write to.'
            )
