"""Write what pyradiomics asks for: a table of cases, one a region, and a file of settings for maps in ppm.

python examples/radiomics.py /out /radiomics [nuclei]
pyradiomics /radiomics/cases.csv --param /radiomics/params.yaml -o /radiomics/features.csv -f csv --jobs 4

Maps and labels of a series are on one grid, so nothing is resampled. The last argument is the name of an
atlas or of a segmentation (seg- in the names of the outputs).
"""

import csv
import sys
from pathlib import Path

PARAMS = """\
imageType:
  Original: {}
featureClass:
  firstorder:
  shape:
  glcm:
  glrlm:
  glszm:
  gldm:
  ngtdm:
setting:
  # of ppm; the default of 25 would put a whole map into one bin
  binWidth: 0.01
  geometryTolerance: 0.0001
  # quantitative values are not scaled
  normalize: false
"""


def cases(out: Path, atlas: str):
    """Rows of the table: each region of each susceptibility map."""
    for dseg in sorted(out.glob(f'sub-*/**/anat/*_seg-{atlas}_dseg.nii.gz')):
        stem = dseg.name.removesuffix(f'_seg-{atlas}_dseg.nii.gz')
        chi = dseg.with_name(f'{stem}_Chimap.nii.gz')
        if 'space-' in stem or not chi.exists():
            continue
        with dseg.with_name(dseg.name.replace('.nii.gz', '.tsv')).open(newline='') as table:
            for row in csv.DictReader(table, delimiter='\t'):
                yield {'ID': stem, 'Region': row['name'], 'Image': chi, 'Mask': dseg, 'Label': row['index']}


def main(out: str, folder: str, atlas: str = 'nuclei'):
    rows = list(cases(Path(out).resolve(), atlas))
    if not rows:
        sys.exit(
            f'{out} holds no labels *_seg-{atlas}_dseg.nii.gz beside a *_Chimap.nii.gz; run bids_qsm first.'
        )
    Path(folder).mkdir(parents=True, exist_ok=True)
    with Path(folder, 'cases.csv').open('w', newline='') as table:
        writer = csv.DictWriter(table, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    Path(folder, 'params.yaml').write_text(PARAMS)
    print(f'{len(rows)} regions: {folder}/cases.csv, {folder}/params.yaml')


if __name__ == '__main__':
    main(*sys.argv[1:])
