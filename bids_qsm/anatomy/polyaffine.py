"""A smooth invertible displacement that moves several bodies, each by its own shift."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from bids_qsm.anatomy.transform import Displacement, grid_points, transform_points
from bids_qsm.recon.arrays import Array


@dataclass(frozen=True, eq=False)
class Body:
    """What moves as a rigid piece: its share (0 to 1) of each voxel, and its shift (mm, template space)."""

    share: np.ndarray
    shift: np.ndarray


def flow(
    bodies: list[Body],
    grid: Array,
    fade: Array,
    *,
    steps: int = 8,
    reach: float = 4.0,
    power: float = 3.0,
):
    """Displacement by the flow of a velocity field that moves each body by its shift, smoothly between them.

    At each time the velocity at a point is the mean of the shifts of the bodies, weighted by the inverse
    ``power`` of the distance to their current positions [1]_; it decreases over ``reach`` from all of them.
    Such a flow is invertible, and its inverse is the flow backwards in time.

    Parameters
    ----------
    bodies : sequence of Body
        On a grid of voxels of 1 mm; shifts in mm.
    grid : ndarray (4, 4)
        Voxel to template points.
    fade : ndarray
        Factor on the velocity over the grid: zero on its faces.
    steps : int
        Number of time steps.
    reach : float
        Voxels.

    Returns
    -------
    forward, backward : Displacement
        The first maps a point of a body to its position in the person.

    References
    ----------
    .. [1] Arsigny et al. (2009), J Math Imaging Vis 33:222. doi:10.1007/s10851-008-0135-9
    """
    shape = fade.shape
    pad = int(np.ceil(3 * reach + max(np.linalg.norm(b.shift) for b in bodies)))
    near = [_distance(body, pad) for body in bodies]

    def velocity(time: float):
        total = np.zeros((*shape, 3), np.float32)
        sum_weights = np.full(shape, 1e-9, np.float32)
        nearest = np.full(shape, 10 * reach, np.float32)
        for body, (box, distance) in zip(bodies, near, strict=True):
            away = ndimage.shift(distance, time * body.shift, order=1, mode='nearest')
            weight = np.exp(-0.5 * (away / reach) ** 2) / (away + 0.5) ** power
            total[box] += weight[..., None] * body.shift.astype(np.float32)
            sum_weights[box] += weight
            nearest[box] = np.minimum(nearest[box], away)
        total *= (fade * np.exp(-0.5 * (nearest / reach) ** 2) / sum_weights / steps)[..., None]
        return total

    points = grid_points(shape, grid)
    velocities = [velocity((n + 0.5) / steps) for n in range(steps)]
    there, back = points, points
    for now in velocities:
        there = _step(there, Displacement(now, grid))
    for now in reversed(velocities):
        back = _step(back, Displacement(-now, grid))
    return tuple(
        Displacement((moved - points).reshape(*shape, 3).astype(np.float32), grid) for moved in (there, back)
    )


def _step(points: Array, velocity: Displacement):
    """One time step along a velocity, by the midpoint rule."""
    half = points + (transform_points(points, [velocity]) - points) / 2
    return points + transform_points(half, [velocity]) - half


def _distance(body: Body, pad: int):
    """Box around a body, and the distance (voxels) to the body in it."""
    (box,) = ndimage.find_objects((body.share > 0.5).astype(np.uint8))
    box = tuple(
        slice(max(b.start - pad, 0), min(b.stop + pad, n)) for b, n in zip(box, body.share.shape, strict=True)
    )
    distance = ndimage.distance_transform_edt(body.share[box] <= 0.5)
    return box, np.maximum(distance - 0.5, 0).astype(np.float32)
