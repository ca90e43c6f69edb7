"""Gradients of diffusion images: where their tables are, and whether a tensor can be fitted by them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bids_qsm.anatomy.diffusion import BEST, FEWEST, HIGHEST, UNIT, UNWEIGHTED, Gradients, vectors_of
from bids_qsm.entities import entities_of
from bids_qsm.errors import UserError
from bids_qsm.interfaces.io import read_numbers
from bids_qsm.layout import checks, series
from bids_qsm.layout.index import Index


def read_gradients(paths: Sequence[Path], index: Index) -> tuple[dict[Path, series.Tables], list[str]]:
    """Diffusion images -> their tables, and what is wrong with images of no use.

    Images come as they are preferred: those that were prepared, then those of most directions. What is wrong
    with images of most volumes comes first.
    """
    found, problems = {}, []
    for path in (path for path in paths if entities_of(path).get('part') in (None, 'mag')):
        problem = checks.image_problem(path, has_frames=True)
        if problem:
            problems.append((0, problem))
            continue
        shape = checks.load_header(path).shape
        try:
            found[path] = _read(path, shape, index)
        except UserError as error:
            problems.append((-shape[3], str(error)))

    def rank(path: Path):
        return entities_of(path).get('desc') != 'preproc', -found[path].directions

    return {path: found[path] for path in sorted(found, key=rank)}, [said for _, said in sorted(problems)]


def _read(path: Path, shape: Sequence[int], index: Index) -> series.Tables:
    bval, bvec = (_table(path, extension, index) for extension in ('.bval', '.bvec'))
    bvals, bvecs = read_numbers(bval), read_numbers(bvec)
    vectors = vectors_of(bvecs)
    if vectors is None:
        raise UserError(f'{bvec.name} is no table of three rows (x, y, z); write it again.')
    for table, what, count in ((bval, 'b-values', bvals.size), (bvec, 'directions', len(vectors))):
        if count != shape[3]:
            raise UserError(
                f'{table.name} has {count} {what}, and {path.name} has {shape[3]} volumes; give the table of '
                'this image.'
            )
    if not (bvals >= 0).all() or not np.isfinite(bvals).all():
        raise UserError(f'{bval.name} has b-values that are negative or no numbers; write it again.')
    table = Gradients.of(bvals, bvecs)
    if not table.unweighted.any():
        raise UserError(
            f'{bval.name} has no b-value up to {UNWEIGHTED:g} s/mm^2; add an image without diffusion '
            f'weighting to {path.name}.'
        )
    weighted = table.bvals[~table.unweighted]
    if not weighted.size:
        raise UserError(
            f'{bval.name} has b-values up to {table.bvals.max():g} alone, and those of images with diffusion '
            f'weighting are some {BEST:g} s/mm^2; write it in s/mm^2, or take {path.name} out.'
        )
    if not table.shells and not table.undirected[~table.unweighted].all():
        raise UserError(
            f'{bval.name} has b-values from {weighted.min():g} s/mm^2 on, and a tensor is fitted to those up '
            f'to {HIGHEST:g}; give a map of directions that was made of {path.name}, or take it out.'
        )
    sizes = np.linalg.norm(table.bvecs[table.shell], axis=1)
    if sizes.size and np.abs(sizes - 1).max() > UNIT:
        raise UserError(
            f'{bvec.name} has directions of length {sizes[np.abs(sizes - 1).argmax()]:.2g}, where unit '
            'vectors are expected; write it again.'
        )
    if table.directions < FEWEST:
        raise UserError(
            f'{path.name} has {table.directions} directions in its best shell, and a tensor needs {FEWEST} '
            'that do not lie in one plane or cone; give more directions, or take it out.'
        )
    return series.Tables(bval, bvec, (*shape[:3], int(table.used.sum())), table.directions)


def _table(path: Path, extension: str, index: Index) -> Path:
    """Table of an image by the inheritance principle: the nearest whose entities are all of the image."""
    tables = index.inherited(path, extension, index.root_of(path))
    if not tables:
        name = path.name.partition('.')[0] + extension
        raise UserError(f'{path.name} has no {extension}; add {name}, which its directions are read from.')
    return tables[-1]
