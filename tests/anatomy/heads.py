"""Magnitudes of a digital head as scanners give them: bright scalp, shaded by the coils, of a part of it."""

from functools import cache

import numpy as np

from bids_qsm.phantom.head import make_head, rigid


@cache
def _person(seed):
    return make_head(seed, spacing=2.0)


def magnitude(
    *,
    voxel=(3.0, 3.0, 3.0),
    fov=(204.0, 240.0, 180.0),
    shift=(0.0, 0.0, 0.0),
    rotation=(0.0, 0.0, 0.0),
    flip=15.0,
    fat=1.3,
    bias=3.0,
    snr=40.0,
    stripped=False,
):
    """Magnitude (float32), affine and true brain.

    Without fat suppression, times ``fat``, fat is three times as bright as the brain. The rim of the head is
    ``bias`` times as bright as its middle. Of a ``stripped`` head the brain alone is left.
    """
    head, size = _person(1), np.array(voxel)
    shape = np.round(np.array(fov) / size).astype(int)
    affine = np.eye(4)
    affine[:3, :3] = rigid(rotation)[:3, :3] * size
    affine[:3, 3] = np.array(shift) - affine[:3, :3] @ ((shape - 1) / 2)
    # a thick slice is the mean of thin ones
    parts = np.maximum(np.round(size / 2), 1).astype(int)
    thin = affine.copy()
    thin[:3, :3] /= parts
    thin[:3, 3] -= affine[:3, :3] @ ((parts - 1) / (2 * parts))
    found = head.sample(tuple(shape * parts), thin, ('r2star', 'density', 'r1', 'fat', 'brain'))
    angle, decay = np.radians(flip), np.exp(-0.03 * found['r1'])
    signal = found['density'] * np.sin(angle) * (1 - decay) / (1 - np.cos(angle) * decay)
    signal = signal * np.exp(-0.005 * found['r2star']) * (1 + (fat - 1) * found['fat'])

    def sampled(fine):
        pairs = np.stack([shape, parts], 1).ravel()
        return fine.reshape(pairs).mean((1, 3, 5))

    image, share = sampled(signal), sampled(found['brain'])
    if stripped:
        image = image * (share > 0.3)
    places = np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    away = (((places - (0, -10, 10)) / (75, 90, 75)) ** 2).sum(-1)
    image = image * bias ** np.minimum(away, 2)
    rng = np.random.default_rng(0)
    noise = image[share > 0.5].mean() / snr
    image = np.hypot(image + noise * rng.standard_normal(shape), noise * rng.standard_normal(shape))
    return image.astype(np.float32), affine, share > 0.5
