"""The zero of susceptibility: QSM measures differences, so that a reference region is needed."""

from bids_qsm.recon.arrays import Array
from bids_qsm.recon.csf import ventricles
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.registry import Need, method


@method(
    memory=Need(volume=9.5),
    prose='Susceptibility is relative to the fluid of the ventricles [@medi0] where that could be found '
    'by its low R2*, else to the mean of the brain, as each sidecar states.',
)
def csf(
    chi: Array,
    mask: Array,
    grid: Grid,
    r2star: Array | None = None,
    *,
    r2star_ratio: float = 0.35,
    reach_mm: float = 35.0,
    below_mm: float = 5.0,
    min_ml: float = 3.0,
    max_ml: float = 120.0,
):
    """Mean over the fluid of the lateral ventricles, found by low R2* near the centre of the brain [1]_.

    The fluid is found by `ventricles`, whose parameters these are. Without R2*, or where the volume of the
    fluid is not plausible, the mean of the whole mask is used, and the note says why.

    Parameters
    ----------
    chi : ndarray of float32, shape ``grid.shape``
        Susceptibility (ppm).
    mask : ndarray of bool
    r2star : ndarray of float32 or None
        R2* (1/s).

    Returns
    -------
    offset : float
        Value (ppm) to subtract from ``chi``.
    region : ndarray of bool or None
        Where it was measured.
    name : str
        What the region is, for tables.
    note : str
        A sentence for the sidecar and the report.

    References
    ----------
    .. [1] Liu et al. (2018), MRM 79:2795. doi:10.1002/mrm.26946
    """
    if r2star is None:
        return _whole(chi, mask, 'there is no R2* map to find the ventricles by')
    region, found = ventricles(
        mask,
        r2star,
        grid,
        ratio=r2star_ratio,
        reach_mm=reach_mm,
        below_mm=below_mm,
        min_ml=min_ml,
        max_ml=max_ml,
    )
    if not region.any():
        return _whole(chi, mask, f'there is {found}')
    offset = float(chi[region].mean(dtype=float))
    note = f'Susceptibility is relative to the fluid of the ventricles (low R2*; {found}).'
    return offset, region, 'CSF', note


@method(memory=Need(volume=5), prose='Susceptibility is relative to the mean of the brain.')
def brain(chi: Array, mask: Array):
    """Mean over the whole mask; returns as `csf`."""
    note = 'Susceptibility is relative to the mean of the whole brain mask.'
    return float(chi[mask].mean(dtype=float)), mask, 'whole brain', note


@method(memory=Need(volume=5), prose='Susceptibility was not referenced to a region.')
def none():
    """Leave values as the inversion gives them, with mean zero over its volume; returns as `csf`."""
    return 0.0, None, 'none', 'Susceptibility was not referenced to a region.'


def _whole(chi: Array, mask: Array, reason: str):
    offset, region, name, note = brain(chi, mask)
    return offset, region, name, f'{note} Reference to CSF was asked for, but {reason}.'


REFERENCE = {'csf': csf, 'brain': brain, 'none': none}
