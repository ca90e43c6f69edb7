"""One complex image from the frames of a run of echo-planar images."""

from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage

from bids_qsm.anatomy.align import Similarity, refine
from bids_qsm.anatomy.bias import foreground
from bids_qsm.anatomy.transform import apply_affine, resample, rms_motion, spacing_of
from bids_qsm.errors import UserError
from bids_qsm.recon.arrays import Array
from bids_qsm.recon.scaling import phase_to_radians
from bids_qsm.recon.stripes import remove_stripes

CANDIDATES = 9
"""Frames, spread over the run, of which one becomes the reference."""
FARTHEST = 0.5
"""Frames farther from the reference than this share of a voxel's shortest side are left out."""
UNLIKE = 0.02
"""Frames whose likeness to the reference is this much below the median, and rare, are left out."""
MOST_VALUES = 200_000
"""About as many values of the phase tell its scale exactly, once it is known."""

Read = Callable[[int], tuple[Sequence[Array], Sequence[Array]]]
"""From the number of a frame to its magnitude and its phase as stored, a volume an echo."""


def mean_of_frames(read: Read, n_frames: int, affine: Array, *, scaling: str = 'auto'):
    r"""Average the frames of a run as complex numbers, in the pose of one of them.

    A frame S_t differs from the reference S_r by a rigid motion T_t and, in each slice k and echo, by a
    constant phase (drift of the frequency, respiration):

    .. math:: S_t(T_t x) = e^{i \delta_t(k)} S_r(x), \quad
        \delta_t(k) = \arg \sum_{x \in k} S_t(T_t x) \overline{S_r(x)}

    Motion is found from the magnitude of the first echo. Both are removed, and the frames averaged; complex
    numbers know no wraps. The mean of delta_t(k) over the frames, less that of each whole frame, is put back,
    so that the jitter of the reference does not stay. Neighbouring slices of a 2D acquisition may have any
    phase: frames are resampled without the steps of the phase between slices, which are then put back.

    Left out are frames farther than half a voxel from the reference, since motion in the field changes the
    phase itself, and those whose complex correlation with the reference is an outlier. What alternates
    between odd and even slices of the mean is removed, see `remove_stripes`.

    Parameters
    ----------
    read : callable
        See `Read`; called for each frame twice, and a few times more. One frame is held at a time.
    n_frames : int
    affine : ndarray (4, 4)
        Voxel to world (mm); slices lie along the third axis.
    scaling : str
        Of the phase, see ``phase_to_radians``; one for all frames.

    Returns
    -------
    magnitude, phase : ndarray of float32, shape (x, y, slice, echo)
        Of the mean; phase in rad.
    findings : list of dict
        What, found, action, evidence; level where it is a warning.

    Raises
    ------
    UserError
        Where the images are no magnitude and phase.
    """
    numbers = np.unique(np.linspace(0, n_frames - 1, CANDIDATES).round().astype(int)).tolist()
    scaling, note = _common_scaling([read(t)[1][0] for t in numbers], scaling)

    def frame(t: int):
        magnitude, phase = read(t)
        magnitude = np.nan_to_num(np.stack(magnitude, -1), posinf=0.0, neginf=0.0)
        return magnitude, phase_to_radians(np.stack(phase, -1), scaling=scaling)[0]

    magnitude, phase = frame(_most_typical([frame(t)[0][..., 0] for t in numbers], numbers))
    reference = _Reference(magnitude, phase, affine)
    matrices: list[Array] = [np.eye(4)]
    distances, likeness = np.zeros(n_frames), np.zeros(n_frames)
    for t in range(n_frames):
        magnitude, phase = frame(t)
        matrices.append(reference.align(magnitude[..., 0], matrices[-1]))
        distances[t] = reference.distance(matrices[-1])
        first = reference.bring(magnitude[..., :1], phase[..., :1], matrices[-1])[0]
        likeness[t] = reference.likeness(first)
    limit = FARTHEST * float(spacing_of(affine).min())
    is_near = distances <= limit
    is_good = is_near & (likeness >= _least(likeness[is_near]))
    total = np.zeros_like(reference.signal)
    offsets = np.zeros(total.shape[2:], np.complex64)
    for t in np.flatnonzero(is_good).tolist():
        magnitude, phase = frame(t)
        signal, offset = reference.bring(magnitude, phase, matrices[t + 1])
        total += signal
        offsets += offset
    total *= np.exp(1j * np.angle(offsets)).astype(np.complex64) / np.float32(is_good.sum())
    stripes = [remove_stripes(total[..., e], spacing_of(affine)) for e in range(total.shape[3])]
    findings = [
        {
            'what': 'Phase scaling',
            'found': note,
            'action': 'Converted to radians.',
            'evidence': f'The scale is one for all frames, known from {len(numbers)} of them.',
        },
        _said_of_frames(is_near, is_good, distances, limit),
        _said_of_stripes(stripes),
    ]
    return np.abs(total), np.angle(total), findings


def _common_scaling(phase: list[Array], scaling: str):
    """Values that mean -pi and pi in all frames, as phase_to_radians takes them, and what to say of them."""
    sample = np.stack(phase, -1)
    radians, note = phase_to_radians(sample, scaling=scaling)
    if scaling != 'auto':
        return scaling, note
    few = slice(None, None, max(1, sample.size // MOST_VALUES))
    sample, radians = sample.ravel()[few], radians.ravel()[few]
    stored, places = np.unique(sample[np.isfinite(sample)], return_index=True)
    # from one stored value to the next, angles rise by less than half a turn
    angles = np.unwrap(radians[np.isfinite(sample)][places].astype(float))
    low, high = len(stored) // 4, 3 * len(stored) // 4
    turn = 2 * np.pi * float(stored[high] - stored[low]) / (angles[high] - angles[low])
    zero = float(stored[low]) - angles[low] * turn / (2 * np.pi)
    return f'{float(zero - turn / 2)!r},{float(zero + turn / 2)!r}', note


def _least(likeness: Array):
    """Least likeness to the reference of a frame that is like the others."""
    middle = np.median(likeness)
    return middle - max(UNLIKE, 3 * 1.4826 * np.median(np.abs(likeness - middle)))


def _said_of_frames(is_near: Array, is_good: Array, distances: Array, limit: float):
    n_far, n_odd, n_good = int((~is_near).sum()), int((is_near & ~is_good).sum()), int(is_good.sum())
    found = {
        'what': 'Frames',
        'found': f'{n_good} of {len(is_good)} frames are alike. Farther than {limit:.1f} mm (half a voxel) '
        f'from the reference: {n_far}; others unlike it: {n_odd}.',
        'action': f'The mean of the {n_good} was taken, without motion and drift of the phase.',
        'evidence': f'Motion: {np.median(distances):.2f} mm in the median, {distances.max():.2f} mm at most.',
    }
    return found if n_good > len(is_good) / 2 else {**found, 'level': 'warning'}


def _said_of_stripes(stripes: list[tuple[float, float]]):
    said = ', '.join(f'{constant:+.2f} and {varying:.2f}' for constant, varying in stripes)
    return {
        'what': 'Odd and even slices',
        'found': f'They differ in phase, by echo: {said} rad (everywhere, and the root mean square of what '
        'varies).',
        'action': 'The difference was removed.',
        'evidence': 'Only what alternates from slice to slice, and is smooth within slices, was changed.',
    }


class _Reference:
    """The frame that others are brought to: pose, phase, and the steps of its phase between slices."""

    def __init__(self, magnitude: Array, phase: Array, affine: Array):
        self.affine = affine
        self.signal = magnitude * np.exp(1j * phase)
        self.conjugate = np.conj(self.signal)
        self.power = np.linalg.norm(self.signal[..., :1])
        self.image = np.ascontiguousarray(magnitude[..., 0])
        if not self.power:
            raise UserError('The magnitude of the run is 0 everywhere; check that it is the magnitude part.')
        self.head = ndimage.binary_dilation(foreground(self.image))
        self.points = apply_affine(affine, np.argwhere(self.head)[::50])
        self.center = self.points.mean(0)
        steps = (self.signal[:, :, 1:] * self.conjugate[:, :, :-1]).sum((0, 1))
        self.weight = (np.abs(self.signal) ** 2).sum((0, 1))
        self.flat = np.ones(self.signal.shape[2:], np.complex64)
        self.flat[1:] = np.exp(-1j * np.cumsum(np.angle(steps), 0))

    def align(self, moving: Array, start: Array):
        """Matrix (4, 4) from points of the reference to those of a frame, searched from ``start``."""
        similarity = Similarity(
            self.image, self.affine, self.head, moving, self.affine, n_points=5000, sigma=2.0
        )
        return refine(similarity, start, self.center, n_parameters=6, step=1.0, tolerance=0.02)[0]

    def distance(self, matrix: Array):
        """Root mean square of the displacement (mm) over the head."""
        return rms_motion(matrix, self.points)

    def bring(self, magnitude: Array, phase: Array, matrix: Array):
        """A frame, or its first echoes (complex64), in the pose and phase of the reference, slice by slice.

        Second, the phase that was taken off, as complex numbers of shape (slice, echo), without its mean.
        """
        signal = magnitude * np.exp(1j * phase)
        first = self._turn(signal)
        flat = self.flat[:, : signal.shape[3]]
        signal *= first * flat
        moved = np.empty_like(signal)
        for e in range(signal.shape[3]):
            for part, image in ((moved.real, signal.real), (moved.imag, signal.imag)):
                part[..., e] = resample(
                    image[..., e], self.affine, self.image.shape, self.affine, [matrix], order=3
                )
        moved *= np.conj(flat)
        second = self._turn(moved)
        moved *= second
        offset = np.conj(first * second) * self.weight[:, : signal.shape[3]]
        return moved, offset * np.exp(-1j * np.angle(offset.sum(0))).astype(np.complex64)

    def _turn(self, signal: Array):
        """Complex number that brings each slice and echo of a frame to the phase of the reference."""
        against = (signal * self.conjugate[..., : signal.shape[3]]).sum((0, 1))
        return np.exp(-1j * np.angle(against)).astype(np.complex64)

    def likeness(self, signal: Array):
        """Complex correlation (0 to 1) of the first echo of a frame with the reference."""
        power = self.power * np.linalg.norm(signal)
        return float(np.abs(np.vdot(self.signal[..., :1], signal)) / power) if power else 0.0


def _most_typical(images: list[Array], numbers: list[int]):
    """The one of ``numbers`` whose image is most like the others by correlation."""
    rows = np.stack([image.ravel() for image in images])
    rows -= rows.mean(1, keepdims=True)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return numbers[int(np.argmax(np.median(rows @ rows.T, axis=1)))]
