"""Background field removal that restores the part of the local field that is harmonic in the mask."""

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
    r"""Remove the background by V-SHARP, and restore the harmonic part and the rim of the local field.

    .. math:: \chi = L(\mathrm{TV}(f_L)), \quad f_L \leftarrow D \chi + V(f - D \chi)

    V is `vsharp` [1]_, TV is `tv`, L subtracts the result of `level`, D is the dipole. V removes the part of
    the local field that is harmonic in the mask together with the background [2]_. Without it, susceptibility
    has a smooth error, which L removes. In each of the ``turns`` the field of the susceptibility found so far
    is subtracted before V, and added after it. At the rim of the mask, where V gives no field, the data have
    weight zero: total variation extends susceptibility to the edge, and its field is the local field there.
    Turns, L and rim are ours, not the papers'.

    Data and results as :mod:`bids_qsm.recon.background` has them.

    Parameters
    ----------
    r2star : array of float32, or None
        R2* (1/s). Without it (a single echo) only the rim is restored, in one turn, and the spheres are
        smaller: the field still contains the phase of the coils, which varies over larger distances.
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
    # a slab of a few slices is mostly rim, which cannot be extended from the few voxels inside
    inverted = mask if 2 * int(xp.sum(kept)) > int(xp.sum(mask)) else kept
    box = Box.around(mask, grid, padding=PADDING)
    for _ in range(turns if r2star is not None else 1):
        chi = tv(local, inverted, doubt, grid, tolerance=ROUGH)
        if r2star is not None:
            chi = xp.where(inverted, chi - like(level(chi, inverted, r2star, grid, degree=degree), chi), 0.0)
        # computed again in each turn, as the inversion needs the memory
        dipole = dipole_kernel(box.shape, grid.voxel_size, grid.b0_dir, reference=field)
        local = xp.where(mask, box.uncrop(convolve(box.crop(chi), dipole)), 0.0)
        del dipole, chi
        local += vsharp(field - local, mask, grid, restorations=0, **spheres)[0]
    return local, mask


SINGLE_ECHO_RADIUS = 12.0
"""Largest radius (mm) where the field still contains the phase of the coils."""
ROUGH = 0.06
"""Relative change at which the inversions of the turns stop; the next V-SHARP finds the remainder."""
