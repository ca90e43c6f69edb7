"""The table of maps: names, files and figures."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bids_qsm.plotting.maps import Look
from bids_qsm.plugins import is_plugin
from bids_qsm.plugins.methods import find_method
from bids_qsm.recon.inversion import INVERSION
from bids_qsm.recon.registry import needs

if TYPE_CHECKING:
    from bids_qsm.layout.series import Series


@dataclass(frozen=True)
class Product:
    """A map of a series on the grid of the GRE."""

    about: str
    """For its sidecar."""
    units: str
    look: Look | None = None
    """How the report shows it; None where it does not."""
    caption: str = ''
    """Under its figure."""
    suffix: str = ''
    """Of its file; a map without one is only shown."""
    step: str = ''
    """Option whose method made it: it stands in the sidecar."""
    in_template: bool = False
    """Whether it is also saved in template space."""
    column: str = ''
    """Name in tables of regions; a map without one is not tabulated."""
    symbol: str = ''
    """Name in charts and pages."""
    echoes: int = 1
    """Echoes that it takes."""
    one_step: bool = True
    """Whether it is there where inversion takes the total field."""
    compared: bool = False
    """Whether it is there only where a plug-in has a part in susceptibility."""
    levelled: bool = False
    """Whether it is there only where the slowly varying part of susceptibility is told from R2*."""


PRODUCTS = {
    'magnitude': Product(
        'Magnitude combined over echoes',
        'arbitrary',
        Look('Magnitude', 'arbitrary', masked=False),
        'Magnitude combined over echoes. Check for motion, signal loss near the sinuses, and regions outside '
        'the field of view.',
    ),
    'phase': Product(
        'Wrapped phase after corrections',
        'rad',
        # no interpolation, which would be wrong at wraps
        Look('Wrapped phase', 'rad', 'twilight', (-np.pi, np.pi), smooth=False),
        'First, middle and last echo after corrections, in rad. Wraps are sharp, closed lines. A wrap that '
        'ends inside tissue is a sign of an error in coil combination.',
    ),
    'field': Product(
        'Total field',
        'ppm',
        Look('Total field', 'ppm', 'RdBu_r', symmetric=True),
        'Deviation of the field from B0 in ppm, fitted over all echoes. Sharp steps are unwrapping errors.',
    ),
    'residual': Product(
        'Residual of the field fit',
        'rad',
        Look('Residual of the field fit', 'rad', 'viridis', (0.0, 1.0)),
        'Deviation of the phase of the echoes from a line through zero, in rad. High near flow, unwrapping '
        'errors and signal loss near air. Susceptibility is not reliable where the residual is large.',
        echoes=2,
    ),
    'localfield': Product(
        'Local field',
        'ppm',
        Look('Local field', 'ppm', window=(-0.1, 0.1)),
        'Field of the sources inside the mask, in ppm, after background field removal.',
        one_step=False,
    ),
    'chi': Product(
        'Magnetic susceptibility',
        'ppm',
        Look('Susceptibility', 'ppm', window=(-0.1, 0.2)),
        'Magnetic susceptibility in ppm, relative to the reference stated above. Bright: paramagnetic (iron, '
        'veins). Dark: diamagnetic (myelin, calcium).',
        suffix='Chimap',
        step='inversion',
        in_template=True,
        column='chi',
        symbol='χ',
    ),
    'classical': Product(
        'Susceptibility of the classical methods',
        'ppm',
        Look('Susceptibility of the classical methods', 'ppm', window=(-0.1, 0.2)),
        'Magnetic susceptibility by the default methods in place of the plug-ins, with the same reference.',
        compared=True,
    ),
    'departure': Product(
        'Susceptibility of the plug-in less that of the classical methods',
        'ppm',
        Look('Plug-in less classical', 'ppm', 'RdBu_r', (-0.1, 0.1)),
        'Susceptibility of the plug-in less that of the classical methods. Structures that only one of them '
        'shows need a look at the field.',
        compared=True,
    ),
    'slow_sd': Product(
        'Standard deviation of the error of the slowly varying part of susceptibility, which the field does '
        'not tell and R2* settles',
        'ppm',
        suffix='Chisdmap',
        step='inversion',
        echoes=2,
        one_step=False,
        levelled=True,
    ),
    'r2star': Product(
        'Effective transverse relaxation rate',
        '1/s',
        Look('R2*', '1/s', 'inferno', (0.0, 60.0)),
        'Effective transverse relaxation rate in 1/s.',
        suffix='R2starmap',
        step='r2star',
        in_template=True,
        column='R2star',
        symbol='R2*',
        echoes=2,
    ),
    't2star': Product(
        'Effective transverse relaxation time', 's', suffix='T2starmap', step='r2star', echoes=2
    ),
    's0': Product('Signal at echo time zero', 'arbitrary', suffix='S0map', step='r2star', echoes=2),
    'swi': Product(
        'Susceptibility-weighted magnitude',
        'arbitrary',
        Look('Susceptibility-weighted image', 'arbitrary'),
        'Magnitude weighted by a mask of the filtered phase. Veins and iron are dark.',
        suffix='swi',
        step='swi',
    ),
    'minip': Product(
        'Minimum-intensity projection of the susceptibility-weighted magnitude',
        'arbitrary',
        Look('Minimum-intensity projection', 'arbitrary'),
        'Minimum over a slab of 10 mm along head-foot of the susceptibility-weighted image. Veins are dark '
        'lines.',
        suffix='minIP',
        step='swi',
    ),
}
"""Port of the graph -> map, in the order of the report."""

LOOKS = {port: one.look for port, one in PRODUCTS.items() if one.look is not None}
"""Port -> how the report shows it, of the maps that it shows."""

SYMBOLS = {one.column: one.symbol for one in PRODUCTS.values() if one.column}
"""Name of a map in tables of regions -> in charts and pages."""


def is_one_step(inversion: str) -> bool:
    """Whether a method of inversion takes the total field, so that no local field is made."""
    return 'total' in needs(find_method(INVERSION, inversion))


def is_levelled(background: str | None, inversion: str) -> bool:
    """Whether R2* settles the slowly varying part of susceptibility, which inversion may have freed again."""
    return background == 'levelled' and not is_one_step(inversion)


def is_compared(background: str | None, inversion: str) -> bool:
    """Whether a plug-in has a part in susceptibility, so that a classical map goes beside it."""
    return is_plugin(inversion) or (is_plugin(background) and not is_one_step(inversion))


def products_of(series: 'Series', *, background: str, inversion: str) -> dict[str, Product]:
    """The maps that a series gives with these methods.

    One echo leaves no residual and no decay. A series that starts from maps of another tool has these, and
    what can be made of them.
    """
    n_echoes, given = len(series.echo_times), set(series.given_ports)
    if not given:
        there = {port for port, one in PRODUCTS.items() if n_echoes >= one.echoes}
    else:
        there = {*series.maps, *(given & {'field'})}
        there |= {'magnitude'} if series.magnitude else set()
        there |= {'t2star', 's0'} if n_echoes else set()
        there |= {'localfield'} if given & {'field', 'local_field'} else set()
        settled = given & {'field', 'local_field'} == {'field'} and (n_echoes or 'r2star' in there)
        there |= {'slow_sd'} if settled else set()
    of_field = not given or bool(given & {'field', 'local_field'})
    removes = None if 'local_field' in given else background
    if of_field and is_compared(removes, inversion):
        there |= {port for port, one in PRODUCTS.items() if one.compared}
    else:
        there -= {port for port, one in PRODUCTS.items() if one.compared}
    if not is_levelled(background, inversion):
        there = {port for port in there if not PRODUCTS[port].levelled}
    if is_one_step(inversion) and 'local_field' not in given:
        there = {port for port in there if PRODUCTS[port].one_step}
    return {port: one for port, one in PRODUCTS.items() if port in there}
