"""Proximal steps of the data term at each voxel, for four measures of the misfit.

Each step updates the ``model`` of the field in place. It lies between the measured ``field``, by its
``weight`` (0 to 1), and the field of the susceptibility: with g the over-relaxed image plus ``dual``,

.. math:: m = \\arg\\min_m \\Phi(m - f) + \\rho/2 (m - g)^2

and the new dual is g - m. Its difference from the model, the target of the next image, takes the place of
``image``. Where :math:`\\Phi` is of phase, the angle u = r (m - f) counts modulo 2 pi, and u lies between 0
and v = r (g - f), wrapped to [-pi, pi]. There the derivative is concave and has one zero: Newton's method
from the left, where the linear step ends, cannot overshoot.
"""

import numba
import numpy as np

from bids_qsm.recon.arrays import Array, either, namespace

RELAX = 1.8
"""Over-relaxation of the alternating directions."""
TURN = 2 * np.pi


SQUARES, SINES, LENGTHS, CHORDS = range(4)


def squares(penalty: float):
    r"""Half squares of the misfit: :math:`\Phi = w/2 (m - f)^2`."""
    return lambda *arrays: _step(*arrays, SQUARES, penalty, 0.0, 0.0)


def sines(penalty: float, radians: float):
    r"""Half squares of the complex misfit [1]_: :math:`\Phi = w/(2 r^2) |e^{i r m} - e^{i r f}|^2`.

    ``radians`` is r, the phase that one unit of the field gives.

    References
    ----------
    .. [1] Milovic et al. (2018), MRM 80:814. doi:10.1002/mrm.27073
    """
    return lambda *arrays: _step(*arrays, SINES, penalty, radians, 0.0)


def lengths(penalty: float, level: float):
    r"""Absolute misfit: :math:`\Phi = s \sqrt{w} |m - f|`; ``level`` is s."""
    return lambda *arrays: _step(*arrays, LENGTHS, penalty, 0.0, level)


def chords(penalty: float, radians: float, level: float):
    r"""Absolute complex misfit [1]_: :math:`\Phi = s \sqrt{w} |e^{i r m} - e^{i r f}| / r`.

    References
    ----------
    .. [1] Milovic et al. (2022), MRM 87:457. doi:10.1002/mrm.28957
    """
    return lambda *arrays: _step(*arrays, CHORDS, penalty, radians, level)


@numba.njit(cache=True, fastmath=True)
def _sine(t: float):
    """Sine of an angle of at most a quarter turn, in a form that vectorises."""
    s = t * t
    tail = np.float32(-1 / 5040) + s * (np.float32(1 / 362880) - s * np.float32(1 / 39916800))
    return t * (np.float32(1) + s * (np.float32(-1 / 6) + s * (np.float32(1 / 120) + s * tail)))


@numba.njit(cache=True, fastmath=True)
def _cosine(t: float):
    """Cosine of an angle of at most a quarter turn."""
    s = t * t
    tail = np.float32(-1 / 720) + s * (np.float32(1 / 40320) - s * np.float32(1 / 3628800))
    return np.float32(1) + s * (np.float32(-1 / 2) + s * (np.float32(1 / 24) + s * tail))


@numba.njit(cache=True, fastmath=True)
def _near_square(away: float, weight: float, penalty: float):
    return penalty * away / (weight + penalty)


@numba.njit(cache=True, fastmath=True)
def _near_sine(away: float, weight: float, penalty: float, radians: float):
    angle = radians * away
    turns = np.float32(TURN) * np.rint(angle * np.float32(1 / TURN))
    angle -= turns
    size = abs(angle)
    u = penalty * size / (weight + penalty)
    for _ in range(2):
        t = u - np.float32(np.pi / 2)
        u -= (weight * _cosine(t) + penalty * (u - size)) / (penalty - weight * _sine(t))
    return (turns + (u if angle > 0 else -u)) / radians


@numba.njit(cache=True, fastmath=True)
def _near_length(away: float, weight: float, penalty: float, level: float):
    size = max(abs(away) - level * np.sqrt(weight) / penalty, np.float32(0))
    return size if away > 0 else -size


@numba.njit(cache=True, fastmath=True)
def _near_chord(away: float, weight: float, penalty: float, radians: float, level: float):
    angle = radians * away
    turns = np.float32(TURN) * np.rint(angle * np.float32(1 / TURN))
    angle -= turns
    size = abs(angle)
    pull = radians * level * np.sqrt(weight) / penalty
    u = max(size - pull, np.float32(0))
    for _ in range(2):
        t = np.float32(0.5) * u
        slope = max(np.float32(1) - np.float32(0.5) * pull * _sine(t), np.float32(0.1))
        better = u - (pull * _cosine(t) + u - size) / slope
        u = better if pull < size else u
    return (turns + (u if angle > 0 else -u)) / radians


@numba.njit(cache=True, parallel=True, fastmath=True)
def _step_compiled(
    image: Array,
    field: Array,
    weight: Array,
    model: Array,
    dual: Array,
    kind: int,
    penalty: float,
    radians: float,
    level: float,
):
    nx, ny, nz = field.shape
    penalty, radians, level = np.float32(penalty), np.float32(radians), np.float32(level)
    relax, keep = np.float32(RELAX), np.float32(1 - RELAX)
    for i in numba.prange(nx):
        for j in range(ny):
            # the kind of misfit is tested outside the loops along a row, which then vectorise
            for k in range(nz):
                dual[i, j, k] += relax * image[i, j, k] + keep * model[i, j, k]
                model[i, j, k] = dual[i, j, k] - field[i, j, k]
            if kind == SQUARES:
                for k in range(nz):
                    model[i, j, k] = _near_square(model[i, j, k], weight[i, j, k], penalty)
            elif kind == SINES:
                for k in range(nz):
                    model[i, j, k] = _near_sine(model[i, j, k], weight[i, j, k], penalty, radians)
            elif kind == LENGTHS:
                for k in range(nz):
                    model[i, j, k] = _near_length(model[i, j, k], weight[i, j, k], penalty, level)
            else:
                for k in range(nz):
                    model[i, j, k] = _near_chord(model[i, j, k], weight[i, j, k], penalty, radians, level)
            for k in range(nz):
                model[i, j, k] += field[i, j, k]
                dual[i, j, k] -= model[i, j, k]
                image[i, j, k] = model[i, j, k] - dual[i, j, k]


def _step_any(
    image: Array,
    field: Array,
    weight: Array,
    model: Array,
    dual: Array,
    kind: int,
    penalty: float,
    radians: float,
    level: float,
):
    goal = RELAX * image + (1 - RELAX) * model + dual
    away = goal - field
    if kind == SQUARES:
        near = penalty * away / (weight + penalty)
    elif kind == SINES:
        near = _near_sine_any(away, weight, penalty, radians)
    elif kind == LENGTHS:
        near = _near_length_any(away, weight, penalty, level)
    else:
        near = _near_chord_any(away, weight, penalty, radians, level)
    model[...] = field + near
    dual[...] = goal - model
    image[...] = model - dual


_step = either(_step_compiled, _step_any)


def _parted(angle: Array):
    """Whole turns, size and sign of an angle."""
    xp = namespace(angle)
    turns = TURN * xp.round(angle / TURN)
    angle = angle - turns
    return turns, xp.abs(angle), xp.where(angle > 0, xp.ones_like(angle), -xp.ones_like(angle))


def _near_sine_any(away: Array, weight: Array, penalty: float, radians: float):
    xp = namespace(away)
    turns, size, sign = _parted(radians * away)
    u = penalty * size / (weight + penalty)
    for _ in range(2):
        u = u - (weight * xp.sin(u) + penalty * (u - size)) / (penalty + weight * xp.cos(u))
    return (turns + sign * u) / radians


def _near_length_any(away: Array, weight: Array, penalty: float, level: float):
    xp = namespace(away)
    size = xp.clip(xp.abs(away) - level * xp.sqrt(weight) / penalty, 0, None)
    return xp.where(away > 0, size, -size)


def _near_chord_any(away: Array, weight: Array, penalty: float, radians: float, level: float):
    xp = namespace(away)
    turns, size, sign = _parted(radians * away)
    pull = radians * level * xp.sqrt(weight) / penalty
    u = xp.clip(size - pull, 0, None)
    for _ in range(2):
        slope = xp.clip(1 - 0.5 * pull * xp.sin(0.5 * u), 0.1, None)
        u = xp.where(pull < size, u - (pull * xp.cos(0.5 * u) + u - size) / slope, u)
    return (turns + sign * u) / radians
