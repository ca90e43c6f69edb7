"""Differences on a masked grid and the primal-dual steps of one-step TGV, fused into two passes.

Arrays have a border of at least one voxel outside the mask. The unit of length is the geometric mean of the
voxel's edges; ``slopes`` is this unit over each edge. The primal variables are chi, its slope w and the
residual field psi, the dual ones p, q and eta. The operator is

.. math:: K (\\chi, w, \\psi) = (\\nabla \\chi - w, \\; E w, \\; \\Delta \\psi + \\square \\chi)

with forward differences in the gradient and symmetrised backward ones in E; p and q are 0 where a
difference leaves the mask, eta outside the ``inner`` mask, which lies one voxel deeper.
"""

from collections.abc import Sequence

import numba
import numpy as np

from bids_qsm.recon.arrays import Array, either, namespace
from bids_qsm.recon.fused_kernels import add_up

# half of the 27 neighbours; the other half are their mirror images
HALF = tuple((i, j, k) for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1) if (i, j, k) > (0, 0, 0))
PAIRS = ((0, 1), (0, 2), (1, 2))


def wave_stencil(
    voxel_size: tuple[float, float, float], b0_dir: tuple[float, float, float], *, samples: int = 16
):
    r"""Coefficients of :math:`\square = \Delta D` on 27 neighbours, centre first, then those of HALF.

    A least-squares fit in k-space to the dipole times the discrete Laplacian, relative to that Laplacian at
    each frequency, and exact for smooth fields. It needs no FFT and allows any direction of B0.
    """
    size = np.prod(voxel_size) ** (1 / 3)
    turn = [2 * np.pi * (np.arange(samples) + 0.5) / samples - np.pi for _ in range(3)]
    theta = np.stack(np.meshgrid(*turn, indexing='ij')).reshape(3, -1)
    k = theta / np.array(voxel_size)[:, None]
    dipole = 1 / 3 - (np.array(b0_dir) @ k) ** 2 / (k**2).sum(0)
    energy = ((2 - 2 * np.cos(theta)) * (size / np.array(voxel_size)[:, None]) ** 2).sum(0)
    # the coefficients sum to 0, which gives that of the centre
    waves = 2 * np.cos(np.array(HALF) @ theta).T - 2
    # exact for smooth fields: there it is a quadratic form, with its entries in six rows
    inverse = size / np.array(voxel_size)
    form = np.diag(inverse**2) / 3 - np.outer(inverse * b0_dir, inverse * b0_dir)
    entries = np.triu_indices(3)
    exact = np.array([np.outer(n, n)[entries] for n in HALF]).T
    rows = np.concatenate([waves / energy[:, None], 1e4 * exact])
    fitted = np.linalg.lstsq(rows, np.concatenate([-dipole, 1e4 * form[entries]]), rcond=None)[0]
    return np.concatenate([[-2 * fitted.sum()], fitted]).astype(np.float32)


@numba.njit(cache=True, fastmath=True)
def _near(x: Array, i: int, j: int, k: int, c: Array):
    """The 27 neighbours of a voxel, weighted."""
    total = c[0] * x[i, j, k]
    total += c[1] * (x[i, j, k + 1] + x[i, j, k - 1])
    total += c[2] * (x[i, j + 1, k - 1] + x[i, j - 1, k + 1])
    total += c[3] * (x[i, j + 1, k] + x[i, j - 1, k])
    total += c[4] * (x[i, j + 1, k + 1] + x[i, j - 1, k - 1])
    total += c[5] * (x[i + 1, j - 1, k - 1] + x[i - 1, j + 1, k + 1])
    total += c[6] * (x[i + 1, j - 1, k] + x[i - 1, j + 1, k])
    total += c[7] * (x[i + 1, j - 1, k + 1] + x[i - 1, j + 1, k - 1])
    total += c[8] * (x[i + 1, j, k - 1] + x[i - 1, j, k + 1])
    total += c[9] * (x[i + 1, j, k] + x[i - 1, j, k])
    total += c[10] * (x[i + 1, j, k + 1] + x[i - 1, j, k - 1])
    total += c[11] * (x[i + 1, j + 1, k - 1] + x[i - 1, j - 1, k + 1])
    total += c[12] * (x[i + 1, j + 1, k] + x[i - 1, j - 1, k])
    return total + c[13] * (x[i + 1, j + 1, k + 1] + x[i - 1, j - 1, k - 1])


@numba.njit(cache=True, fastmath=True)
def _laplacian(x: Array, i: int, j: int, k: int, a: float, b: float, c: float):
    here = np.float32(2) * x[i, j, k]
    total = a * (x[i + 1, j, k] + x[i - 1, j, k] - here)
    total += b * (x[i, j + 1, k] + x[i, j - 1, k] - here)
    return total + c * (x[i, j, k + 1] + x[i, j, k - 1] - here)


@numba.njit(cache=True, parallel=True, fastmath=True)
def _ascend(
    chi: Array,
    w: Array,
    psi: Array,
    p: Array,
    q: Array,
    eta: Array,
    source: Array,
    inside: Array,
    inner: Array,
    wave: Array,
    slopes: Sequence[float],
    steps: Sequence[float],
    limits: Sequence[float],
):
    """Dual step: add ``steps`` times K x (less ``source``) to p, q and eta; project p and q to ``limits``."""
    nx, ny, nz = chi.shape
    one, half = np.float32(1), np.float32(0.5)
    rx, ry, rz = np.float32(slopes[0]), np.float32(slopes[1]), np.float32(slopes[2])
    xx, yy, zz = rx * rx, ry * ry, rz * rz
    sp, sq, se = np.float32(steps[0]), np.float32(steps[1]), np.float32(steps[2])
    lp, lq = np.float32(limits[0]), np.float32(limits[1])
    for i in numba.prange(1, nx - 1):
        for j in range(1, ny - 1):
            for k in range(1, nz - 1):
                m = np.float32(inside[i, j, k])
                here = chi[i, j, k]
                u, v, s = w[0, i, j, k], w[1, i, j, k], w[2, i, j, k]
                px, py = m * np.float32(inside[i + 1, j, k]), m * np.float32(inside[i, j + 1, k])
                pz = m * np.float32(inside[i, j, k + 1])
                a = (p[0, i, j, k] + sp * ((chi[i + 1, j, k] - here) * rx - u)) * px
                b = (p[1, i, j, k] + sp * ((chi[i, j + 1, k] - here) * ry - v)) * py
                c = (p[2, i, j, k] + sp * ((chi[i, j, k + 1] - here) * rz - s)) * pz
                cut = lp / max(lp, np.sqrt(a * a + b * b + c * c))
                p[0, i, j, k], p[1, i, j, k], p[2, i, j, k] = cut * a, cut * b, cut * c

                mx, my = m * np.float32(inside[i - 1, j, k]), m * np.float32(inside[i, j - 1, k])
                mz = m * np.float32(inside[i, j, k - 1])
                vx, sx = (v - w[1, i - 1, j, k]) * rx, (s - w[2, i - 1, j, k]) * rx
                uy, sy = (u - w[0, i, j - 1, k]) * ry, (s - w[2, i, j - 1, k]) * ry
                uz, vz = (u - w[0, i, j, k - 1]) * rz, (v - w[1, i, j, k - 1]) * rz
                a = (q[0, i, j, k] + sq * (u - w[0, i - 1, j, k]) * rx) * mx
                b = (q[1, i, j, k] + sq * (v - w[1, i, j - 1, k]) * ry) * my
                c = (q[2, i, j, k] + sq * (s - w[2, i, j, k - 1]) * rz) * mz
                d = (q[3, i, j, k] + sq * half * (uy + vx)) * mx * my
                e = (q[4, i, j, k] + sq * half * (uz + sx)) * mx * mz
                f = (q[5, i, j, k] + sq * half * (vz + sy)) * my * mz
                norm = np.sqrt(a * a + b * b + c * c + np.float32(2) * (d * d + e * e + f * f))
                cut = lq / max(lq, norm)
                q[0, i, j, k], q[1, i, j, k], q[2, i, j, k] = cut * a, cut * b, cut * c
                q[3, i, j, k], q[4, i, j, k], q[5, i, j, k] = cut * d, cut * e, cut * f

                rest = _laplacian(psi, i, j, k, xx, yy, zz) + _near(chi, i, j, k, wave) - source[i, j, k]
                eta[i, j, k] = (eta[i, j, k] + se * rest) * np.float32(inner[i, j, k])
    return one


@numba.njit(cache=True, parallel=True, fastmath=True)
def _descend(
    chi: Array,
    w: Array,
    psi: Array,
    p: Array,
    q: Array,
    eta: Array,
    ahead: Array,
    weight: Array,
    inside: Array,
    wave: Array,
    slopes: Sequence[float],
    steps: Sequence[float],
):
    """Primal step of chi, w and psi along the adjoint of K; ``ahead`` is their extrapolation.

    Returns the squared norms of the change of chi and of chi.
    """
    nx, ny, nz = chi.shape
    two, one = np.float32(2), np.float32(1)
    rx, ry, rz = np.float32(slopes[0]), np.float32(slopes[1]), np.float32(slopes[2])
    xx, yy, zz = rx * rx, ry * ry, rz * rz
    tc, tw, tp = np.float32(steps[0]), np.float32(steps[1]), np.float32(steps[2])
    sums = np.zeros((nx, 2))
    for i in numba.prange(1, nx - 1):
        moved, size = 0.0, 0.0
        for j in range(1, ny - 1):
            row_moved, row_size = np.float32(0), np.float32(0)
            for k in range(1, nz - 1):
                m = np.float32(inside[i, j, k])
                a, b, c = p[0, i, j, k], p[1, i, j, k], p[2, i, j, k]
                pull = (
                    (p[0, i - 1, j, k] - a) * rx + (p[1, i, j - 1, k] - b) * ry + (p[2, i, j, k - 1] - c) * rz
                )
                step = tc * m * (pull + _near(eta, i, j, k, wave))
                new = chi[i, j, k] - step
                chi[i, j, k] = new
                ahead[0, i, j, k] = new - step
                row_moved += step * step
                row_size += new * new

                d, e, f = q[3, i, j, k], q[4, i, j, k], q[5, i, j, k]
                bend = (q[0, i, j, k] - q[0, i + 1, j, k]) * rx + (d - q[3, i, j + 1, k]) * ry
                step = tw * m * (bend + (e - q[4, i, j, k + 1]) * rz - a)
                new = w[0, i, j, k] - step
                w[0, i, j, k], ahead[1, i, j, k] = new, new - step
                bend = (d - q[3, i + 1, j, k]) * rx + (q[1, i, j, k] - q[1, i, j + 1, k]) * ry
                step = tw * m * (bend + (f - q[5, i, j, k + 1]) * rz - b)
                new = w[1, i, j, k] - step
                w[1, i, j, k], ahead[2, i, j, k] = new, new - step
                bend = (e - q[4, i + 1, j, k]) * rx + (f - q[5, i, j + 1, k]) * ry
                step = tw * m * (bend + (q[2, i, j, k] - q[2, i, j, k + 1]) * rz - c)
                new = w[2, i, j, k] - step
                w[2, i, j, k], ahead[3, i, j, k] = new, new - step

                old = psi[i, j, k]
                new = (old - tp * _laplacian(eta, i, j, k, xx, yy, zz)) * m / (one + tp * weight[i, j, k])
                psi[i, j, k], ahead[4, i, j, k] = new, two * new - old
            moved += np.float64(row_moved)
            size += np.float64(row_size)
        sums[i, 0], sums[i, 1] = moved, size
    return add_up(sums)


def _shift(x: Array, i: int, j: int, k: int):
    """The neighbour (i, j, k) of each voxel."""
    return namespace(x).roll(x, (-i, -j, -k), axis=(0, 1, 2))


def _near_any(x: Array, wave: Array):
    total = float(wave[0]) * x
    for c, (i, j, k) in zip(wave[1:], HALF, strict=True):
        total += float(c) * (_shift(x, i, j, k) + _shift(x, -i, -j, -k))
    return total


def _along(x: Array, axis: int, step: int):
    return namespace(x).roll(x, -step, axis=axis)


def _laplacian_any(x: Array, slopes: Sequence[float]):
    return sum((_along(x, a, 1) + _along(x, a, -1) - 2 * x) * r**2 for a, r in enumerate(slopes))


def _ascend_any(
    chi: Array,
    w: Array,
    psi: Array,
    p: Array,
    q: Array,
    eta: Array,
    source: Array,
    inside: Array,
    inner: Array,
    wave: Array,
    slopes: Sequence[float],
    steps: Sequence[float],
    limits: Sequence[float],
):
    xp = namespace(chi)
    for a, r in enumerate(slopes):
        p[a] += steps[0] * ((_along(chi, a, 1) - chi) * r - w[a])
        p[a] *= inside * _along(inside, a, 1)
    p /= xp.clip(xp.sqrt(xp.sum(p * p, axis=0)) / limits[0], 1, None)
    back = [inside * _along(inside, a, -1) for a in range(3)]
    for a, r in enumerate(slopes):
        q[a] += steps[1] * (w[a] - _along(w[a], a, -1)) * r
        q[a] *= back[a]
    for n, (a, b) in enumerate(PAIRS, 3):
        mixed = (w[a] - _along(w[a], b, -1)) * slopes[b] + (w[b] - _along(w[b], a, -1)) * slopes[a]
        q[n] += 0.5 * steps[1] * mixed
        q[n] *= back[a] * back[b]
    norm = xp.sqrt(xp.sum(q[:3] ** 2, axis=0) + 2 * xp.sum(q[3:] ** 2, axis=0))
    q /= xp.clip(norm / limits[1], 1, None)
    eta += steps[2] * (_laplacian_any(psi, slopes) + _near_any(chi, wave) - source)
    eta *= inner


def _descend_any(
    chi: Array,
    w: Array,
    psi: Array,
    p: Array,
    q: Array,
    eta: Array,
    ahead: Array,
    weight: Array,
    inside: Array,
    wave: Array,
    slopes: Sequence[float],
    steps: Sequence[float],
):
    xp = namespace(chi)
    pull = _near_any(eta, wave)
    for a, r in enumerate(slopes):
        pull += (_along(p[a], a, -1) - p[a]) * r
    step = steps[0] * inside * pull
    chi -= step
    ahead[0] = chi - step
    for a, r in enumerate(slopes):
        bend = (q[a] - _along(q[a], a, 1)) * r - p[a]
        for n, pair in enumerate(PAIRS, 3):
            if a in pair:
                b = pair[0] + pair[1] - a
                bend += (q[n] - _along(q[n], b, 1)) * slopes[b]
        bend *= steps[1] * inside
        w[a] -= bend
        ahead[1 + a] = w[a] - bend
    new = (psi - steps[2] * _laplacian_any(eta, slopes)) * inside / (1 + steps[2] * weight)
    ahead[4] = 2 * new - psi
    psi[...] = new
    return float(xp.sum(step * step)), float(xp.sum(chi * chi))


ascend = either(_ascend, _ascend_any)
descend = either(_descend, _descend_any)
