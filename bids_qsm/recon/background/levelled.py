"""Background field removal that gives back the local field which looks like background."""

from bids_qsm.recon.arrays import Array, like, namespace
from bids_qsm.recon.background.vsharp import vsharp
from bids_qsm.recon.fourier import Box, convolve, dipole_kernel
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.harmonic_susceptibility import level
from bids_qsm.recon.inversion.noise_scale import PADDING, typical_noise
from bids_qsm.recon.inversion.tv import tv
from bids_qsm.recon.registry import Need, method


@method(
    memory=Need(0.1, padded=19),
    prose='V-SHARP [@vsharp], in turns with inversions whose slowly varying part, which a field map '
    'cannot tell from background [@levelled], was set so that tissue of equal R2* has equal susceptibility',
    single_echo='V-SHARP [@vsharp], the local field at the rim of the mask restored by inversion',
)
def levelled(
    field: Array,
    mask: Array,
    noise: Array,
    grid: Grid,
    r2star: Array | None = None,
    *,
    turns: int = 2,
    degree: int = 6,
):
    r"""Remove the background by V-SHARP, and give back what it took of the local field and of the rim.

    .. math:: \chi = L(\mathrm{TV}(f_L)), \quad f_L \leftarrow D \chi + V(f - D \chi)

    V is `vsharp` [1]_, TV is `tv`, L is `level`, D the dipole. V cannot tell a local field that is harmonic
    in the mask from the background [2]_; without it susceptibility comes out with a smooth bowl, which L
    takes off. In each of the ``turns`` V spares the field of what was found so far. Where V gives no field,
    at the rim of the mask, the data have no weight: total variation carries susceptibility on to the edge,
    and the field of that is the local field there. Turns, levelling and rim are ours, not the papers'.

    Parameters
    ----------
    field : array of float32, shape ``grid.shape``
        Total field (ppm).
    mask : array of bool
        Where it can be trusted; the local field is given in all of it.
    noise : array of float32
        Standard deviation of the field (ppm).
    r2star : array of float32, or None
        R2* (1/s); without it (a single echo) only the rim is restored, in one turn, and the spheres are
        smaller: the phase of the coils is then still in the field, and varies over longer ways than those.
    degree : int
        Highest degree of the polynomials of `level`.

    Returns
    -------
    local : array of float32
        Local field (ppm), 0 outside the mask.
    mask : array of bool
        ``mask`` itself.

    Raises
    ------
    UserError
        Where the mask is too thin for the smallest sphere.

    References
    ----------
    .. [1] Wu et al. (2012), MRM 67:137. doi:10.1002/mrm.23000
    .. [2] Kee et al. (2017), IEEE Trans Biomed Eng 64:2531. doi:10.1109/TBME.2017.2749298
    """
    xp = namespace(field)
    field = xp.where(mask, field, 0.0)
    spheres = {} if r2star is not None else {'max_radius': SINGLE_ECHO_RADIUS}
    local, kept = vsharp(field, mask, grid, **spheres)
    # no weight where there is no local field
    doubt = xp.where(kept, noise, 1e6 * typical_noise(noise, field, mask))
    # of a slab of a few slices most is rim, which cannot be carried on from what little is kept
    inverted = mask if 2 * int(xp.sum(kept)) > int(xp.sum(mask)) else kept
    box = Box.around(mask, grid, padding=PADDING)
    for _ in range(turns if r2star is not None else 1):
        chi = tv(local, inverted, doubt, grid, tolerance=ROUGH)
        if r2star is not None:
            chi = xp.where(inverted, chi - like(level(chi, inverted, r2star, grid, degree=degree), chi), 0.0)
        # made anew in each turn: the inversion needs the memory
        dipole = dipole_kernel(box.shape, grid.voxel_size, grid.b0_dir, reference=field)
        local = xp.where(mask, box.uncrop(convolve(box.crop(chi), dipole)), 0.0)
        del dipole, chi
        local += vsharp(field - local, mask, grid, restorations=0, **spheres)[0]
    return local, mask


SINGLE_ECHO_RADIUS = 12.0
"""Largest sphere (mm) where the phase of the coils is still in the field."""
ROUGH = 0.06
"""Relative change at which the inversions of the turns stop: what they leave, the next V-SHARP finds."""
