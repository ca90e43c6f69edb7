"""What the strongest peers need, to be set beside our figures.

One thread, CPU seconds, 160 x 160 x 128, 4 echoes: QSM.rs, but for MEDI (Cornell's toolbox in Octave).
NRMSE (%) is from the true local field of another phantom: a hint, no comparison.
"""

SECONDS = {
    ('unwrap', 'romeo'): 1.4,
    ('background', 'sharp'): 0.5,
    ('background', 'vsharp'): 4.1,
    ('background', 'resharp'): 8.9,
    ('background', 'ismv'): 7.7,
    ('background', 'lbv'): 2.1,
    ('background', 'pdf'): 200.0,
    ('inversion', 'tkd'): 0.18,
    ('inversion', 'rts'): 3.7,
    ('inversion', 'tv'): 7.0,
    ('inversion', 'hdqsm'): 13.2,
    ('inversion', 'medi'): 153.0,
    ('inversion', 'nltv'): 72.0,
    ('inversion', 'l1qsm'): 38.0,
    ('inversion', 'ilsqr'): 34.6,
    ('inversion', 'tgv'): 96.0,
    ('swi', 'clearswi'): 0.53,
}
FIELD_MAPPING = 1.8
"""Seconds of phase offset, ROMEO and field together."""
CHAIN = 34.0
"""Seconds of the strongest peer's default chain, 1 mm head, 5 echoes, 2 cores; without R2* and SWI."""
NRMSE = {
    'tkd': 35.0,
    'rts': 29.8,
    'tv': 23.5,
    'hdqsm': 24.4,
    'medi': 13.4,
    'nltv': 20.2,
    'l1qsm': 16.6,
    'ilsqr': 52.5,
}
