import nibabel as nib
import numpy as np
import pytest

from bids_qsm.templates.atlases import get_atlas
from bids_qsm.templates.chi_prior import get_chi
from bids_qsm.templates.spaces import get_template
from tests.templates.images import write


def test_the_prior_follows_the_atlas(homes):
    """A mended label table makes another prior; the same one is kept."""
    template = get_template('MNI152NLin2009aSym', homes / 'cache')
    affine = nib.load(template.t1w).affine
    dseg = np.zeros(nib.load(template.t1w).shape, np.uint8)
    at = np.rint(np.linalg.inv(affine) @ [20, -2, 0, 1])[:3].astype(int)
    dseg[tuple(slice(a - 3, a + 4) for a in at)] = 1
    path = write(homes / 'tpl-MNI152NLin2009aSym_atlas-mine_dseg.nii.gz', dseg, affine)
    values = []
    for region in ('glob_pall', 'GP', 'GP'):
        path.with_name('tpl-MNI152NLin2009aSym_atlas-mine_dseg.tsv').write_text(
            f'index\tname\tregion\n1\tx\t{region}\n'
        )
        found = get_chi(None, template, get_atlas(path, homes / 'cache'), homes / 'cache')
        values.append((found, float(np.asarray(nib.load(found).dataobj)[tuple(at)])))
    assert values[1] == values[2] != values[0]
    assert values[1][1] == pytest.approx(0.131, abs=0.01)
