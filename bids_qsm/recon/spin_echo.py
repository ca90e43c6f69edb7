"""R2 from a train of spin echoes whose refocusing pulses are not perfect."""

from dataclasses import dataclass, replace

import numpy as np
from numba import njit, prange
from scipy import ndimage, optimize

from bids_qsm.recon.noise import DEAD

T1 = 1.0
"""T1 of all tissue (s): stimulated echoes decay with it between pulses."""
R2_RANGE = (0.3, 100.0)
B1_RANGE = (0.3, 1.3)
"""Relative transmit fields among which one is fitted."""
GIVEN_B1_RANGE = (0.3, 1.6)
"""The same of one that is given; beyond it the nearest of these stands for it."""
SMOOTH_MM = 10.0
"""Length over which the transmit field is taken to be the same."""
WIDEST = 2.0
"""Steepest fall of the angle across a slice, see `Train.sliced`."""
_STEPS, _B1_STEP = 320, 0.01


@dataclass(frozen=True)
class Train:
    """A train of spin echoes.

    Attributes
    ----------
    spacing : float
        Time between echoes, and from the excitation to the first (s).
    n : int
        Echoes.
    refocusing : float
        Nominal angle of the refocusing pulses (degrees).
    profile : tuple of float
        Angle of the pulses across half a slice over that in its middle; one number where they excite all.
    """

    spacing: float
    n: int
    refocusing: float = 180.0
    profile: tuple[float, ...] = (1.0,)

    def __post_init__(self):
        if self.n < 2 or self.spacing <= 0:
            raise ValueError('a train has two echoes or more, and a positive spacing')

    def signal(self, r2: np.ndarray, b1: np.ndarray, *, t1: float = T1):
        r"""Echo amplitudes of unit magnetisation by the extended phase graph [1]_.

        Excitation and refocusing angles are ``b1`` times the nominal, and the mean is taken over the
        ``profile``; gradients crush what is not on the pathway of Carr, Purcell, Meiboom and Gill.

        Parameters
        ----------
        r2, b1 : ndarray of float
            Transverse relaxation (1/s) and relative transmit field, of shapes that broadcast to s.
        t1 : float
            (s).

        Returns
        -------
        ndarray of float32, shape ``(*s, n)``

        References
        ----------
        .. [1] Weigel (2015), JMRI 41:266. doi:10.1002/jmri.24619

        Examples
        --------
        >>> [round(float(v), 3) for v in Train(0.01, 3).signal(np.array(10.0), np.array(1.0))]
        [0.905, 0.819, 0.741]
        """
        r2, b1 = np.broadcast_arrays(np.asarray(r2, float), np.asarray(b1, float))
        total = np.zeros((r2.size, self.n), np.float32)
        for part in self.profile:
            out = np.empty((r2.size, self.n), np.float32)
            angles = (angle * part * b1.ravel() for angle in (np.pi / 2, np.radians(self.refocusing)))
            _echoes(r2.ravel(), *angles, 1 / t1, self.spacing, out)
            total += out / np.float32(len(self.profile))
        return total.reshape(*r2.shape, self.n)

    def sliced(self, width: float):
        """The same train by pulses whose angle falls off across half a slice, 1 at x = 0, as exp(-width x^2).

        >>> [round(p, 2) for p in Train(0.01, 3).sliced(0.5).profile]
        [1.0, 0.99, 0.95, 0.88, 0.8, 0.71, 0.61]
        """
        x = np.linspace(0, 1, 7)
        return replace(self, profile=tuple(np.exp(-width * x**2).tolist()) if width > 0 else (1.0,))


@njit(cache=True)
def _echoes(
    r2: np.ndarray, excite: np.ndarray, refocus: np.ndarray, r1: float, spacing: float, out: np.ndarray
):
    """Amplitudes of all trains. With the magnetisation along the axis of refocusing all states are real."""
    n = out.shape[1]
    size = 2 * n + 2
    for i in range(r2.size):
        up, down, along = np.zeros((3, size))
        up[0] = down[0] = np.sin(excite[i])
        decay, recover = np.exp(-r2[i] * spacing / 2), np.exp(-r1 * spacing / 2)
        near, far = np.cos(refocus[i] / 2) ** 2, np.sin(refocus[i] / 2) ** 2
        sine, cosine = np.sin(refocus[i]), np.cos(refocus[i])
        for echo in range(n):
            for half in range(2):
                for k in range(size - 1, 0, -1):
                    up[k] = decay * up[k - 1]
                for k in range(size - 1):
                    down[k] = decay * down[k + 1]
                down[size - 1] = 0
                up[0] = down[0]
                for k in range(size):
                    along[k] *= recover
                if half == 0:
                    for k in range(size):
                        a, b, z = up[k], down[k], along[k]
                        up[k] = near * a + far * b + sine * z
                        down[k] = far * a + near * b - sine * z
                        along[k] = 0.5 * sine * (b - a) + cosine * z
            out[i, echo] = np.abs(up[0])


def fit_r2(
    echoes: np.ndarray,
    mask: np.ndarray,
    train: Train,
    *,
    noise: float,
    voxel_size: tuple[float, float, float],
    b1: np.ndarray | None = None,
    t1: float = T1,
):
    r"""Fit R2 and the signal at echo time zero to a train of spin echoes.

    .. math:: \min_{S_0, R_2} \sum_n (s_n - S_0 \, e_n(R_2, b))^2

    with the echoes :math:`e_n` of `Train.signal`. The transmit field b varies slowly. Where it is not
    given, it is that with the least sum of squares over all voxels within some 10 mm, each with its own best
    R2. With refocusing pulses of 180 degrees b and 2 - b give the same train, and b stands for both. Echoes
    below the noise floor (3 standard deviations) and all after them are left out.

    Parameters
    ----------
    echoes : ndarray of float32, shape (x, y, z, n)
        Magnitude.
    mask : ndarray of bool, shape (x, y, z)
    train : Train
    noise : float
        Standard deviation of one channel (units of ``echoes``).
    voxel_size : tuple of float
        (mm).
    b1 : ndarray of float32, shape (x, y, z), optional
        Relative transmit field.
    t1 : float
        (s).

    Returns
    -------
    r2, sd, s0, b1 : ndarray of float32, shape (x, y, z)
        R2 and its standard deviation (1/s) from noise alone, signal at echo time zero, relative transmit
        field; 0 outside the mask and where fewer than two echoes are above the noise floor.
    """
    tables = _Tables(train, t1, B1_RANGE if b1 is None else GIVEN_B1_RANGE)
    used = _above_floor(echoes, noise)
    inside = mask & (used >= 2)
    if b1 is None:
        b1 = _transmit(echoes, inside, used, _Tables(train, t1, every=4), voxel_size)
    out = np.zeros((3, *mask.shape), np.float32)
    at = np.flatnonzero(inside)
    places = tables.places(np.asarray(b1).ravel()[at])
    flat = echoes.reshape(-1, train.n)
    values = _fit_all(flat, at, used.ravel(), places, tables.table, np.log(tables.rates), noise)
    out.reshape(3, -1)[:, at] = values
    r2, sd, s0 = out
    return r2, sd, s0, np.where(mask, b1, 0).astype(np.float32)


def _above_floor(echoes: np.ndarray, noise: float):
    """Number of echoes of each voxel before the first below the noise floor."""
    return np.minimum.accumulate(echoes > DEAD * noise, axis=-1).sum(-1)


class _Tables:
    """Trains by transmit field, in steps of ``every`` hundredth or so, and by R2.

    ``folded`` tells that a field b stands for 2 - b too, and the table ends at 1.
    """

    def __init__(self, train: Train, t1: float, limits: tuple[float, float] = B1_RANGE, *, every: int = 1):
        self.rates = np.geomspace(*R2_RANGE, _STEPS)
        self.folded = abs(train.refocusing - 180) <= 1 and train.profile == (1.0,)
        low, high = (limits[0], 1.0) if self.folded else limits
        self.fields = np.linspace(low, high, 1 + round((high - low) / (every * _B1_STEP)))
        self.table = train.signal(self.rates, self.fields[:, None], t1=t1)

    @property
    def step(self):
        return self.fields[1] - self.fields[0]

    def places(self, b1: np.ndarray):
        """Where fields lie in the table, in its steps (float32)."""
        b1 = np.where(b1 > 1, 2 - b1, b1) if self.folded else b1
        return np.clip((b1 - self.fields[0]) / self.step, 0, len(self.fields) - 1).astype(np.float32)


def train_noise(
    echoes: np.ndarray,
    mask: np.ndarray,
    train: Train,
    *,
    noise: float,
    voxel_size: tuple[float, float, float],
    t1: float = T1,
):
    """Standard deviation of the noise of a train from what its fits leave, where that is more than ``noise``.

    Echoes have noise of their own also where the scanner interpolated each of them, which `noise_level` does
    not see. What the model misses counts as noise. Parameters as in `fit_r2`.
    """
    # R2, signal and transmit field are fitted: a voxel needs more echoes than these
    few = tuple(slice(None, None, 1 + int(SMOOTH_MM / 2 / v)) for v in voxel_size)
    used = _above_floor(echoes[few], noise)
    free = used - 3
    there = mask[few] & (free > 0)
    if not there.any():
        return noise
    at = np.flatnonzero(there)
    part = np.ascontiguousarray(echoes[few]).reshape(-1, train.n)
    left = _misfits(part, at, used.ravel(), _Tables(train, t1, every=4).table).min(0)
    free = free[there]
    # the median of a sum of squares is less than its mean (Wilson and Hilferty)
    variance = np.median(left / (free * (1 - 2 / (9 * free)) ** 3))
    return max(noise, float(np.sqrt(max(variance, 0))))


def find_profile(
    echoes: np.ndarray,
    mask: np.ndarray,
    train: Train,
    *,
    noise: float,
    voxel_size: tuple[float, float, float],
    b1: np.ndarray | None = None,
    t1: float = T1,
):
    """Profile of selective pulses that leaves the least sum of squares over a volume.

    The angle falls off across the slice as a Gaussian, whose width is searched for; each voxel has its own R2
    and, where ``b1`` is not given, each place its own transmit field. Parameters as in `fit_r2`.

    Profiles of other shapes leave a part of the bias: simulated ones 0.1 to 2.3 of 3.6 to 5.6 %. Where pulses
    are not selective and the field is fitted too, a slight profile fits as well as none, and takes 1 % off
    R2: ask for it in 2D alone then.

    Returns
    -------
    Train
        ``train.sliced`` with the best width.
    """
    few = tuple(slice(None, None, 1 + int(SMOOTH_MM / 4 / v)) for v in voxel_size)
    sides = [v * (1 + int(SMOOTH_MM / 4 / v)) for v in voxel_size]
    part = np.ascontiguousarray(echoes[few])
    used = _above_floor(part, noise)
    there = mask[few] & (used >= 2)
    if not there.any():
        return train
    at, flat = np.flatnonzero(there), part.reshape(-1, train.n)

    def left(width: float):
        if b1 is not None:
            tables = _Tables(train.sliced(width), t1, GIVEN_B1_RANGE, every=4)
            places = tables.places(b1[few][there])
            return float(_misfits_at(flat, at, used.ravel(), places, tables.table).mean(dtype=float))
        tables = _Tables(train.sliced(width), t1, every=4)
        totals, _ = _smooth_misfits(part, there, used, tables, sides)
        return float(totals.min(0)[there].mean(dtype=float))

    found = optimize.minimize_scalar(left, bounds=(0, WIDEST), method='bounded', options={'xatol': 0.03})
    return train.sliced(float(found.x))


def _smooth_misfits(
    echoes: np.ndarray, there: np.ndarray, used: np.ndarray, tables: _Tables, sides: list[float]
):
    """Sum of squares by transmit field, smoothed over `SMOOTH_MM`; the share of voxels that are there."""
    at = np.flatnonzero(there)
    misfit = np.zeros((len(tables.fields), there.size), np.float32)
    misfit[:, at] = _misfits(
        echoes.reshape(-1, echoes.shape[-1]), at, np.ascontiguousarray(used).ravel(), tables.table
    )
    sigma = [SMOOTH_MM / 2.355 / side for side in sides]
    smooth = [ndimage.gaussian_filter(one.reshape(there.shape), sigma) for one in misfit]
    return np.stack(smooth), ndimage.gaussian_filter(there.astype(np.float32), sigma)


def _transmit(
    echoes: np.ndarray,
    inside: np.ndarray,
    used: np.ndarray,
    tables: _Tables,
    voxel_size: tuple[float, float, float],
):
    """Relative transmit field of least misfit over `SMOOTH_MM`."""
    step = [max(int(SMOOTH_MM / 4 / v), 1) for v in voxel_size]
    few = tuple(slice(None, None, s) for s in step)
    there = inside[few]
    if not there.any():
        return np.ones(inside.shape, np.float32)
    sides = [v * s for v, s in zip(voxel_size, step, strict=True)]
    total, weight = _smooth_misfits(np.ascontiguousarray(echoes[few]), there, used[few], tables, sides)
    fields = tables.fields
    if tables.folded:  # beyond 1 the same comes again
        total = np.concatenate([total, total[-2:-1]])
    best = np.clip(total[: len(fields)].argmin(0), 1, len(total) - 2)
    left, middle, right = (np.take_along_axis(total, best[None] + k, 0)[0] for k in (-1, 0, 1))
    bend = left - 2 * middle + right
    shift = np.where(bend > 0, 0.5 * (left - right) / np.where(bend > 0, bend, 1), 0)
    found = fields[best] + np.clip(shift, -1, 1) * tables.step
    found = np.minimum(found, fields[-1])
    sigma = [SMOOTH_MM / 2.355 / side for side in sides]
    found = ndimage.gaussian_filter(found * weight, sigma) / np.maximum(
        ndimage.gaussian_filter(weight, sigma), 1e-6
    )
    points = [np.arange(n) / s for n, s in zip(inside.shape, step, strict=True)]
    grid = np.meshgrid(*points, indexing='ij')
    return ndimage.map_coordinates(found.astype(np.float32), grid, order=1, mode='nearest')


@njit(cache=True)
def _search(signal: np.ndarray, n: int, table: np.ndarray):
    """Index of the rate whose train fits best, and the sum of squares left; by thirds, then one by one."""
    power = 0.0
    for k in range(n):
        power += signal[k] * signal[k]
    low, high = 0, table.shape[0] - 1
    best, least = 0, np.inf
    # the misfit has one minimum over the rate
    while high - low > 2:
        third = (high - low) // 3
        a, b = low + third, high - third
        left, right = _left(signal, n, table[a], power), _left(signal, n, table[b], power)
        if left < right:
            high = b
        else:
            low = a
        if third == 0:
            break
    for r in range(low, high + 1):
        rest = _left(signal, n, table[r], power)
        if rest < least:
            best, least = r, rest
    return best, least


@njit(cache=True)
def _left(signal: np.ndarray, n: int, train: np.ndarray, power: float):
    """Sum of squares that the best multiple of a train leaves."""
    cross = own = 0.0
    for k in range(n):
        cross += signal[k] * train[k]
        own += train[k] * train[k]
    return power - cross * cross / own


@njit(cache=True, parallel=True)
def _misfits(echoes: np.ndarray, at: np.ndarray, used: np.ndarray, table: np.ndarray):
    """Sum of squares of each voxel by transmit field, each at its best rate; shape (fields, voxels)."""
    out = np.empty((table.shape[0], at.size), np.float32)
    for i in prange(at.size):
        for b in range(table.shape[0]):
            out[b, i] = _search(echoes[at[i]], used[at[i]], table[b])[1]
    return out


@njit(cache=True, parallel=True)
def _misfits_at(echoes: np.ndarray, at: np.ndarray, used: np.ndarray, places: np.ndarray, table: np.ndarray):
    """Sum of squares of each voxel at its place in the table, at its best rate."""
    out = np.empty(at.size, np.float32)
    for i in prange(at.size):
        lower = min(int(places[i]), table.shape[0] - 2)
        share = places[i] - np.float32(lower)
        trains = table[lower] + share * (table[lower + 1] - table[lower])
        out[i] = _search(echoes[at[i]], used[at[i]], trains)[1]
    return out


@njit(cache=True, parallel=True)
def _fit_all(
    echoes: np.ndarray,
    at: np.ndarray,
    used: np.ndarray,
    places: np.ndarray,
    table: np.ndarray,
    logs: np.ndarray,
    noise: float,
):
    """Rate, its standard deviation and signal at echo time zero of each voxel at its place in the table."""
    out = np.zeros((3, at.size), np.float32)
    fields, rates, n_echoes = table.shape
    step = logs[1] - logs[0]
    for i in prange(at.size):
        v = at[i]
        signal, n = echoes[v], used[v]
        lower = min(int(places[i]), fields - 2)
        share = places[i] - lower
        nearest = table[lower + (1 if share > 0.5 else 0)]
        best = min(max(_search(signal, n, nearest)[0], 1), rates - 2)
        power = 0.0
        for k in range(n):
            power += signal[k] * signal[k]
        rest = np.empty(3)
        trains = np.empty((3, n_echoes))
        for _ in range(3):
            for j in range(3):
                for k in range(n_echoes):
                    a, b = table[lower, best - 1 + j, k], table[lower + 1, best - 1 + j, k]
                    trains[j, k] = a + share * (b - a)
                rest[j] = _left(signal, n, trains[j], power)
            if rest[0] < rest[1] and best > 1:
                best -= 1
            elif rest[2] < rest[1] and best < rates - 2:
                best += 1
            else:
                break
        bend = rest[0] - 2 * rest[1] + rest[2]
        shift = 0.5 * (rest[0] - rest[2]) / bend if bend > 0 else 0.0
        shift = min(max(shift, -1.0), 1.0)
        rate = np.exp(logs[best] + shift * step)
        cross = own = mixed = change = 0.0
        for k in range(n):
            train = trains[1, k] + shift * 0.5 * (trains[2, k] - trains[0, k])
            slope = (trains[2, k] - trains[0, k]) / (2 * step * rate)
            cross += signal[k] * train
            own += train * train
            mixed += train * slope
            change += slope * slope
        amplitude = cross / own
        across = change - mixed * mixed / own
        out[0, i] = rate
        out[1, i] = noise / (abs(amplitude) * np.sqrt(across)) if across > 0 and amplitude != 0 else 0.0
        out[2, i] = amplitude
    return out
