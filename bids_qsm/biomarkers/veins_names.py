"""Names of the large veins by their course in template space."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

from bids_qsm.anatomy.transform import transform_points

NAMES = {
    1: 'superior_sagittal_sinus',
    2: 'straight_sinus',
    3: 'vein_of_galen',
    4: 'internal_cerebral_vein',
    5: 'cortical_vein',
    6: 'deep_vein',
    7: 'transverse_sinus',
}
"""Labels of veins. Cortical and deep veins are named by their depth in the brain, others by their course."""
CORTICAL_MM = 12.0
"""Depth (mm) in the mask of the maps up to which a vein without a name is cortical: cortex is 3 mm thick, and
sulci are filled with it."""


@dataclass(frozen=True)
class Course:
    """Course of a vein: waypoints (mm of MNI152NLin2009cAsym), and how far a person's may lie from it.

    ``within`` is the distance (mm) that a point may have, ``aside`` that from the midline.
    """

    name: str
    waypoints: tuple[tuple[float, float, float], ...]
    within: float
    aside: float


COURSES = (
    Course(
        'straight_sinus',
        ((0, -49, 15), (0, -58, 7), (0, -67, -2), (0, -76, -11), (0, -84, -18)),
        within=8.0,
        aside=6.0,
    ),
    Course('vein_of_galen', ((0, -34, 7), (0, -40, 5), (0, -46, 9), (0, -49, 15)), within=6.0, aside=5.0),
    Course(
        'internal_cerebral_vein',
        ((3, 1, 9), (3, -8, 13), (3, -17, 14), (3, -26, 11), (1, -34, 7)),
        within=6.0,
        aside=8.0,
    ),
    Course(
        'internal_cerebral_vein',
        ((-3, 1, 9), (-3, -8, 13), (-3, -17, 14), (-3, -26, 11), (-1, -34, 7)),
        within=6.0,
        aside=8.0,
    ),
    Course(
        'superior_sagittal_sinus',
        (
            *((0, 68, 12), (0, 61, 30), (0, 46, 50), (0, 25, 66), (0, 0, 76), (0, -25, 80)),
            *((0, -50, 75), (0, -76, 59), (0, -92, 36), (0, -100, 10), (0, -97, -10)),
        ),
        within=9.0,
        aside=7.0,
    ),
    *(
        Course(
            'transverse_sinus',
            (
                *((side * 2, -98, -18), (side * 13, -97, -21), (side * 26, -94, -24), (side * 38, -88, -24)),
                *((side * 45, -82, -23), (side * 50, -76, -23), (side * 54, -69, -24), (side * 56, -62, -26)),
                (side * 57, -55, -31),
            ),
            within=8.0,
            aside=62.0,
        )
        for side in (1, -1)
    ),
)
"""Read off the mid-sagittal plane of the template's T1w image, for this project: the straight sinus is the
line at which the tentorium meets the falx; the vein of Galen bends around the splenium; the internal cerebral
veins lie in the roof of the third ventricle; the superior sagittal sinus follows the outline of the brain;
transverse sinuses lie 3 mm beside the notch of its brain mask between cerebrum and cerebellum."""
LEAST_ALONG = 0.6
"""Least mean cosine between a segment and the course."""
SINUS_MM = 2.5
"""Diameter (mm) of a sinus, whatever that of other veins: in coarse voxels, only wide ones are found."""


def name_segments(
    points: Sequence[np.ndarray],
    depth_mm: Sequence[float],
    diameter_mm: Sequence[float],
    to_template: Sequence,
):
    """Name segments.

    A segment gets the name of a course if most of its points (two of three, in template space) lie near it,
    and it runs along it. Sinuses must also be wider than three of four segments, or than `SINUS_MM`. A
    segment that fits several courses gets that which is nearest. All others are cortical or deep veins by
    their median depth.

    Parameters
    ----------
    points : list of ndarray, shape (n, 3)
        Of each segment, scanner coordinates (RAS, mm).
    depth_mm : list of float
        Median depth (mm) of its points in the mask of the maps.
    diameter_mm : list of float
    to_template : sequence of ndarray (4, 4) or Displacement
        Takes points of the scanner to the template; without any, no segment gets the name of a course.

    Returns
    -------
    list of str
        Values of `NAMES`.
    """
    names = [NAMES[5] if depth <= CORTICAL_MM else NAMES[6] for depth in depth_mm]
    if not len(to_template) or not points:
        return names
    wide = min(float(np.quantile(diameter_mm, 0.75)), SINUS_MM)
    placed = np.split(
        transform_points(np.concatenate(points), list(to_template)),
        np.cumsum([len(p) for p in points])[:-1],
    )
    for n, place in enumerate(placed):
        fits = [
            (distance, course.name)
            for course in COURSES
            if (distance := _misfit(place, course)) is not None
            and ('sinus' not in course.name or diameter_mm[n] >= wide)
        ]
        if fits:
            names[n] = min(fits)[1]
    return names


def _misfit(points: np.ndarray, course: Course):
    """Median distance (mm) of points from a course, None where they are no part of it."""
    line, along = fine_course(course.waypoints)
    distance, at = KDTree(line).query(points)
    near = (distance <= course.within) & (np.abs(points[:, 0]) <= course.aside)
    if near.mean() < 2 / 3 or len(points) < 2:
        return None
    smooth = ndimage.gaussian_filter1d(points, 2, axis=0, mode='nearest')
    step = np.gradient(smooth, axis=0)
    step /= np.maximum(np.linalg.norm(step, axis=1, keepdims=True), 1e-9)
    if np.abs((step * along[at]).sum(1))[near].mean() < LEAST_ALONG:
        return None
    return float(np.median(distance))


def fine_course(waypoints: Sequence[Sequence[float]]):
    """Points every half mm of a course, and its unit tangents."""
    corner = np.array(waypoints, float)
    at = np.r_[0, np.cumsum(np.linalg.norm(np.diff(corner, axis=0), axis=1))]
    fine = np.arange(0, at[-1], 0.5)
    line = np.stack([np.interp(fine, at, corner[:, axis]) for axis in range(3)], 1)
    line = ndimage.gaussian_filter1d(line, 6, axis=0, mode='nearest')
    along = np.gradient(line, axis=0)
    return line, along / np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
