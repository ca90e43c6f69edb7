"""``bids_qsm fetch``: download templates and atlases to their caches."""

import tempfile
from pathlib import Path

from bids_qsm.errors import UserError
from bids_qsm.templates.atlases import fetch_pauli
from bids_qsm.templates.spaces import EMBEDDED, get_template


def fetch(name: str) -> Path | None:
    """Download a template (by its TemplateFlow name) or the atlas CIT168; return its folder in the cache.

    None for what is built in. The caches are $TEMPLATEFLOW_HOME and $NILEARN_DATA, else below HOME.

    Raises
    ------
    UserError
        Where it cannot be downloaded, or its cache cannot be written.
    """
    if name in (EMBEDDED, 'nuclei'):
        return None
    with tempfile.TemporaryDirectory() as scratch:
        is_atlas = name == 'CIT168'
        found = Path(fetch_pauli(Path(scratch))[0] if is_atlas else get_template(name, Path(scratch)).t1w)
        if found.is_relative_to(scratch):
            variable = 'NILEARN_DATA' if is_atlas else 'TEMPLATEFLOW_HOME'
            raise UserError(f'The cache for {name} cannot be written; set {variable} to a folder that can.')
    return found.parent
