"""Interface of the regional tables."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from bids_qsm.biomarkers.regions import dictionary, region_table
from bids_qsm.interfaces.io import load, load_labels, load_mask


class _RegionTableInputSpec(BaseInterfaceInputSpec):
    chi = File(exists=True, desc='susceptibility (ppm)')
    r2star = File(exists=True, desc='R2* (1/s)')
    dseg = File(exists=True, mandatory=True, desc='labels on the grid of chi')
    labels = File(exists=True, mandatory=True, desc='their table: index, name, hemisphere, region (TSV)')
    atlas_dseg = File(
        exists=True, desc='labels in atlas space, for the coverage of regions cut by the field of view'
    )
    mask = File(exists=True, mandatory=True, desc='where chi holds')
    white_matter = File(exists=True, desc='mask of deep white matter on the grid of chi')
    reference = File(exists=True, desc='how chi was referenced (JSON with ReferenceRegion)')
    atlas = traits.Str('', usedefault=True, desc='name of the atlas')


class _RegionTableOutputSpec(TraitedSpec):
    table = File(exists=True, desc='one row a region, hemisphere and map (TSV)')
    dictionary = File(exists=True, desc='description of the columns (JSON)')


class RegionTable(SimpleInterface):
    """Tabulate susceptibility and R2* over regions."""

    input_spec, output_spec = _RegionTableInputSpec, _RegionTableOutputSpec

    def _run_interface(self, runtime):
        maps = {}
        for name, path in (('chi', self.inputs.chi), ('R2star', self.inputs.r2star)):
            if isdefined(path):
                maps[name], grid = load(path)
        labels = pd.read_csv(self.inputs.labels, sep='\t', keep_default_na=False)
        if isdefined(self.inputs.atlas_dseg):
            labels['volume_mm3'] = _volumes(self.inputs.atlas_dseg, labels['index'])
        white_matter = None
        if isdefined(self.inputs.white_matter):
            white_matter = load_labels(self.inputs.white_matter, grid) > 0
        reference = ''
        if isdefined(self.inputs.reference):
            reference = json.loads(Path(self.inputs.reference).read_text())['ReferenceRegion']
        table = region_table(
            maps,
            load_labels(self.inputs.dseg, grid),
            labels,
            load_mask(self.inputs.mask),
            grid,
            white_matter=white_matter,
            reference=reference,
        )
        cwd = Path(runtime.cwd)
        table.to_csv(cwd / 'regions.tsv', sep='\t', index=False, na_rep='n/a')
        (cwd / 'regions.json').write_text(json.dumps(dictionary(self.inputs.atlas), indent=2) + '\n')
        self._results['table'] = str(cwd / 'regions.tsv')
        self._results['dictionary'] = str(cwd / 'regions.json')
        return runtime


def _volumes(path, index):
    """Volume (mm^3) of each label of an image."""
    image = nib.load(path)
    found = np.rint(np.asanyarray(image.dataobj)).astype(np.int64).ravel()
    counts = np.bincount(found, minlength=int(index.max()) + 1)
    return counts[index] * abs(np.linalg.det(image.affine[:3, :3]))
