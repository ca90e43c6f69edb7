"""Compute the surfaces of the built-in atlas from the labels of CIT168.

python benchmarks/nuclei_surfaces.py DSEG TABLE OUT

DSEG and TABLE are the label image of CIT168 in MNI space (1 mm) and its table; OUT is nuclei_surfaces.npz of
bids_qsm.data. The signed distance to the surface of each nucleus, squashed beyond 3 mm, is transformed by a
cosine transform; waves shorter than 3 mm (4 mm for large nuclei) are left out.

Pauli, Nili & Tyszka (2018), Sci Data 5:180063, CC BY 4.0. doi:10.1038/sdata.2018.63
"""

import argparse
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from scipy import fft, ndimage

from bids_qsm.anatomy.atlas import REACH, UNIT, labels

MARGIN = 4


def describe(inside):
    """Coefficients (int16, of UNIT mm) of the signed distance (mm) around a nucleus on a grid of 1 mm."""
    distance = ndimage.distance_transform_edt(~inside) - ndimage.distance_transform_edt(inside)
    distance -= 0.5 * np.sign(distance)
    shortest = 3.0 if inside.sum() < 1500 else 4.0
    waves = fft.dctn(REACH * np.tanh(distance / REACH), norm='ortho')
    axes = [np.arange(n) / (2 * n) for n in waves.shape]
    frequency = np.sqrt(sum(f**2 for f in np.meshgrid(*axes, indexing='ij')))
    waves[frequency >= 1 / shortest] = 0
    kept = tuple(slice(int(2 * n / shortest) + 1) for n in waves.shape)
    return np.rint(waves[kept] / UNIT).astype(np.int16)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('dseg', type=Path)
    parser.add_argument('table', type=Path)
    parser.add_argument('out', type=Path)
    args = parser.parse_args()
    image = nib.load(args.dseg)
    dseg = np.asarray(image.dataobj).astype(int)
    known = labels().set_index('name')['index']
    found = {'index': [], 'origin': [], 'shape': []}
    waves = {}
    for name, index in pd.read_csv(args.table, sep='\t')[['name', 'index']].itertuples(index=False):
        inside = dseg == index
        (box,) = ndimage.find_objects(inside.astype(np.uint8))
        inside = np.pad(inside[box], MARGIN)
        found['index'].append(known[name])
        found['origin'].append(image.affine[:3, 3] + [b.start - MARGIN for b in box])
        found['shape'].append(inside.shape)
        waves[f'waves_{known[name]}'] = describe(inside)
    np.savez_compressed(args.out, **found, **waves)


if __name__ == '__main__':
    main()
