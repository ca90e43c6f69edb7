"""Names of the nuclei that susceptibility shows, and of their parts, in atlases."""

import re

NUCLEI = {
    'Caudate': 'caudate caudatenucleus ca caud cau',
    'Putamen': 'putamen pu put',
    'Striatum': 'striatum str',
    'GP': 'gp gpe gpi globuspallidus pallidum externalglobuspallidus internalglobuspallidus',
    'RN': 'rn rednucleus rubernucleus nucleusruber',
    'SN': 'sn snc snr substantianigra',
    'STN': 'stn sth subthalamicnucleus nucleussubthalamicus',
    'Thalamus': 'thalamus thalamusproper th tha thal',
    'Dentate': 'dentate dentatenucleus dn',
}
"""Nucleus -> names of it or its parts in atlases."""

_BODY = {alias: body for body, aliases in NUCLEI.items() for alias in aliases.split()}


def body_of(region: str):
    """Name of the nucleus that a region is, or is a part of; other regions keep their name.

    >>> body_of('GPi'), body_of('Substantia Nigra'), body_of('Hypothalamus')
    ('GP', 'SN', 'Hypothalamus')
    """
    return _BODY.get(re.sub('[^a-z]', '', str(region).lower()), str(region))
