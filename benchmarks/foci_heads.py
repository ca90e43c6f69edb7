"""Heads with foci for benchmarks/foci.py: acquired once, reconstructed by the default chain, kept on disk."""

from dataclasses import replace

import numpy as np
from chain import Chain
from conditions import grid_of_conditions

from bids_qsm.phantom.foci import label_foci, plan_foci, put_foci
from bids_qsm.phantom.gre import simulate
from bids_qsm.phantom.head import make_head
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.magnitude import combine

QUIET = 1e6
"""Signal-to-noise ratio of the scan before foci and noise are added."""


def condition_of(voxel, snr):
    return replace(grid_of_conditions()['base'], voxel_size=tuple(voxel), snr=snr)


def acquired(seed, condition, family, keep):
    """A head, its signal without noise, and the truth."""
    head = make_head(seed, spacing=1.0 if min(condition.voxel_size) < 3 else 2.0, family=family)
    protocol = replace(condition.protocol, snr=QUIET)
    path = keep / f'head_{family}_{seed}_{"x".join(f"{v:g}" for v in condition.voxel_size)}.npz'
    if not path.exists():
        made = simulate(head, protocol, seed)
        keep.mkdir(parents=True, exist_ok=True)
        white = head.sample(protocol.shape, protocol.affine, ('white',))['white'] > 0.9
        np.savez(
            path,
            signal=(made.magnitude * np.exp(1j * made.phase)).astype(np.complex64),
            mask=made.truth['mask'],
            dseg=made.truth['dseg'].astype(np.int32),
            white=white,
        )
    return head, protocol, dict(np.load(path))


def reconstructed(seed, condition, family, keep):
    """Foci, and the maps of the default chain with the truth."""
    head, protocol, base = acquired(seed, condition, family, keep)
    shape, affine = protocol.shape, protocol.affine
    planned = plan_foci(seed, head, shape, affine, large=seed % 2)
    size = 'x'.join(f'{v:g}' for v in condition.voxel_size)
    path = keep / f'maps_{family}_{seed}_{size}_{condition.snr:g}_{len(planned)}.npz'
    drawn = np.array([(*f.centre, f.radius, f.moment) for f in planned])
    if path.exists():
        kept = dict(np.load(path))
        if np.array_equal(kept['drawn'], drawn):
            return head, planned, kept | {'foci': label_foci(planned, shape, affine)}
    signal = base['signal']
    sigma = np.abs(signal[..., 0])[base['white']].mean() / condition.snr
    put_foci(signal, planned, protocol)
    rng = np.random.default_rng([seed, 22])
    for channel in (signal.real, signal.imag):
        channel += np.float32(sigma) * rng.standard_normal(signal.shape, dtype=np.float32)
    data = {
        'magnitude': np.asfortranarray(np.abs(signal), np.float32),
        'phase': np.asfortranarray(np.angle(signal), np.float32),
        'echo_times': list(condition.echo_times),
        'field_strength': condition.field_strength,
        'grid': Grid.from_affine(shape, affine),
        'brain': base['mask'],
    }
    chain = Chain(data).run()
    kept = {
        'chi': chain.data['chi'] - np.float32(chain.data['offset']),
        'localfield': chain.data['local'],
        'field': chain.data['total'],
        'r2star': chain.data['r2star'],
        'swi': chain.data['swi'],
        'magnitude': combine(data['magnitude']),
        'mask': chain.chi_mask,
        'affine': affine,
        'dseg': base['dseg'],
        'brain': base['mask'],
        'drawn': drawn,
    }
    np.savez(path, **kept)
    return head, planned, kept | {'foci': label_foci(planned, shape, affine)}
