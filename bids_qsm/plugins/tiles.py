"""A volume in tiles: where they lie, and how their results are joined."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

Place = tuple[slice, slice, slice]


def starts(length: int, size: int, margin: int, blend: int, multiple: int) -> list[int]:
    """First voxels of the tiles along an axis of ``length`` voxels, all multiples of ``multiple``.

    >>> starts(64, 32, 4, 4, 4)
    [0, 20, 32]
    """
    step = max((size - 2 * margin - blend) // multiple * multiple, multiple)
    return [*range(0, length - size, step), length - size]


def weights(first: list[int], length: int, size: int, margin: int, blend: int) -> np.ndarray:
    """Weight of each voxel of each tile along one axis, of shape (tiles, ``size``); they sum to 1 everywhere.

    The margin at inner borders has none, and a ramp over ``blend`` voxels follows. The edges of the volume
    are no borders: a network sees there what it would see in the whole volume.
    """
    rising = np.clip((np.arange(size) - margin + 1) / (blend + 1), 0, 1)
    found = np.ones((len(first), size))
    total = np.zeros(length)
    for one, start in zip(found, first, strict=True):
        if start > 0:
            one *= rising
        if start + size < length:
            one *= rising[::-1]
        total[start : start + size] += one
    for one, start in zip(found, first, strict=True):
        one /= total[start : start + size]
    return found.astype(np.float32)


@dataclass(frozen=True)
class Plan:
    """Tiles of ``size`` that cover a volume of ``shape``, see `bids_qsm.plugins.manifest.Tiling`."""

    shape: tuple[int, int, int]
    size: tuple[int, int, int]
    margin: int
    blend: int
    multiple: int

    def places(self) -> Iterator[tuple[Place, tuple[np.ndarray, np.ndarray, np.ndarray]]]:
        """Where each tile lies, and the weights of its voxels along each axis."""
        axes = []
        for length, size in zip(self.shape, self.size, strict=True):
            first = starts(length, size, self.margin, self.blend, self.multiple)
            axes.append(list(zip(first, weights(first, length, size, self.margin, self.blend), strict=True)))
        (a, b, c) = self.size
        for (x, wx), (y, wy), (z, wz) in itertools.product(*axes):
            yield (slice(x, x + a), slice(y, y + b), slice(z, z + c)), (wx, wy, wz)

    def needed(self, mask: np.ndarray) -> list[int]:
        """Numbers of the tiles that give values in the mask."""
        return [
            number
            for number, (place, shares) in enumerate(self.places())
            if mask[place][np.ix_(*(share > 0 for share in shares))].any()
        ]


def run_tiled(
    function: Callable[[Place], np.ndarray], plan: Plan, numbers: list[int], channels: int
) -> np.ndarray:
    """Join what ``function`` gives for the tiles of these ``numbers``, channels first; 0 where none is."""
    joined, wanted = np.zeros((channels, *plan.shape), np.float32), set(numbers)
    for number, (place, (wx, wy, wz)) in enumerate(plan.places()):
        if number in wanted:
            found = function(place)
            found *= wx[:, None, None] * wy[:, None]
            found *= wz
            joined[(slice(None), *place)] += found
    return joined
