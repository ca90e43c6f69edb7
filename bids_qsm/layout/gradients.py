"""Gradients of diffusion images: where their tables are, and whether a tensor can be fitted by them."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bids_qsm.anatomy.diffusion import FEWEST, UNIT, UNWEIGHTED, Gradients, vectors_of
from bids_qsm.entities import entities_of, entity_set, suffix_of
from bids_qsm.errors import UserError
from bids_qsm.interfaces.io import read_numbers
from bids_qsm.layout import checks, series
from bids_qsm.layout.index import Index


def read_gradients(paths: Sequence[Path], index: Index) -> tuple[dict[Path, series.Gradients], list[str]]:
    """Diffusion images -> their tables, and what is wrong with images of no use."""
    found, problems = {}, []
    for path in (path for path in paths if entities_of(path).get('part') in (None, 'mag')):
        try:
            found[path] = _read(path, index)
        except UserError as error:
            problems.append(str(error))
    return found, problems


def _read(path: Path, index: Index) -> series.Gradients:
    problem = checks.image_problem(path, has_frames=True)
    if problem:
        raise UserError(problem)
    shape = checks.load_header(path).shape
    root = next((one for one in path.parents if (one / 'dataset_description.json').is_file()), index.root)
    bval, bvec = (_table(path, root, extension) for extension in ('.bval', '.bvec'))
    bvals, bvecs = read_numbers(bval).ravel(), vectors_of(read_numbers(bvec))
    if bvecs is None:
        raise UserError(f'{bvec.name} is no table of three rows (x, y, z); write it again.')
    bvecs = np.nan_to_num(bvecs)  # some write NaN where there is no weighting
    for table, what, count in ((bval, 'b-values', len(bvals)), (bvec, 'directions', len(bvecs))):
        if count != shape[3]:
            raise UserError(
                f'{table.name} has {count} {what}, and {path.name} has {shape[3]} volumes; give the table of '
                'this image.'
            )
    table = Gradients(bvals, bvecs)
    if not table.unweighted.any():
        raise UserError(
            f'{bval.name} has no b-value up to {UNWEIGHTED:g} s/mm^2; add an image without diffusion '
            f'weighting to {path.name}.'
        )
    sizes = np.linalg.norm(bvecs[table.shell], axis=1)
    if sizes.size and np.abs(sizes - 1).max() > UNIT:
        raise UserError(
            f'{bvec.name} has directions of length {sizes[np.abs(sizes - 1).argmax()]:.2g}, where unit '
            'are expected; write it again.'
        )
    if table.directions < FEWEST:
        raise UserError(
            f'{path.name} has {table.directions} directions in its best shell, and a tensor needs {FEWEST} '
            'that do not lie in one plane or cone; give more directions, or take it out.'
        )
    return series.Gradients(bval, bvec, (*shape[:3], int(table.used.sum())))


def _table(path: Path, root: Path, extension: str) -> Path:
    """Table of an image by the inheritance principle: the nearest whose entities are all of the image."""
    own, suffix = entity_set(path), suffix_of(path)
    for folder in path.parents[: len(path.relative_to(root).parts)]:
        fitting = [
            folder / name
            for name in sorted(os.listdir(folder))
            if name.endswith(extension)
            and suffix_of(folder / name) == suffix
            and entity_set(folder / name) <= own
        ]
        if fitting:
            return max(fitting, key=lambda one: len(entity_set(one)))
    name = path.name.partition('.')[0] + extension
    raise UserError(f'{path.name} has no {extension}; add {name}, which its directions are read from.')
