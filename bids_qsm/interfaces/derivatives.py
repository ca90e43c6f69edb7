"""Results are written to the output dataset."""

import filecmp
import gzip
import json
import zlib
from collections.abc import Iterable, Mapping
from functools import partial
from itertools import zip_longest
from pathlib import Path

from nipype.interfaces.base import (
    DynamicTraitedSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)
from nipype.interfaces.base.support import Bunch
from nipype.interfaces.io import add_traits

from bids_qsm.derivatives.files import save_derivative, sidecar_path
from bids_qsm.interfaces.io import load_mask


class _SaveDerivativesInputSpec(DynamicTraitedSpec):
    paths = traits.Dict(mandatory=True, desc='port -> path of the output file')
    sidecars = traits.Dict(value={}, usedefault=True, desc='port -> sidecar')
    remove = traits.List(traits.Str, desc='output files of an earlier run that this one does not make')
    notes = traits.Dict(value={}, usedefault=True, desc='port -> port of a JSON file to add to its sidecar')


class _SaveDerivativesOutputSpec(TraitedSpec):
    saved = traits.List(File(), desc='files written')


class SaveDerivatives(SimpleInterface):
    """Copy results to their names in the output dataset, each with its sidecar.

    It has one input port for each key of ``paths``, and one for each value of ``notes``. Where a port is
    undefined, the file of an earlier run is removed: it would not belong to the other results. So it is where
    a brain mask is empty: the step that needs it says so, and the file would be taken for a result. Masks and
    labels of what was looked for and not found (candidates) are saved, as that is an answer. The interface
    always runs, so that deleted outputs are written again; identical files are left untouched.
    """

    input_spec, output_spec = _SaveDerivativesInputSpec, _SaveDerivativesOutputSpec
    _always_run = True

    def __init__(
        self,
        paths: Mapping[str, str | Path],
        sidecars: dict[str, dict] | None = None,
        notes: dict[str, str] | None = None,
        remove: Iterable[str] = (),
        **inputs: str,
    ):
        super().__init__(
            paths={port: str(path) for port, path in paths.items()},
            sidecars=sidecars or {},
            notes=notes or {},
            remove=list(remove),
        )
        add_traits(self.inputs, sorted({*paths, *(notes or {}).values()}))
        self.inputs.trait_set(trait_change_notify=False, **inputs)

    def _run_interface(self, runtime: Bunch):
        paths = sorted(self.inputs.paths.items())
        given = {port: getattr(self.inputs, port) for port, _ in paths}
        given = {
            port: source
            for port, source in given.items()
            if isdefined(source) and not _is_empty_brain(source, self.inputs.sidecars.get(port) or {})
        }
        absent = [name for port, name in paths if port not in given]
        # before anything is saved, as one sidecar may belong to an image and to a table that is absent
        for path in map(Path, [*self.inputs.remove, *absent]):
            path.unlink(missing_ok=True)
            sidecar_path(path).unlink(missing_ok=True)
        saved = []
        for port, name in paths:
            if port not in given:
                continue
            source, path = Path(given[port]), Path(name)
            sidecar = self.inputs.sidecars.get(port)
            note = getattr(self.inputs, self.inputs.notes.get(port, ''), None)
            if sidecar is not None and note is not None and isdefined(note):
                sidecar = {**sidecar, **json.loads(Path(note).read_text())}
            if not _unchanged(source, path, sidecar):
                save_derivative(source, path, sidecar)
            saved.append(name)
        self._results['saved'] = saved
        return runtime


def _is_empty_brain(source: str, sidecar: Mapping):
    return sidecar.get('Type') == 'Brain' and not load_mask(source).any()


def _unchanged(source: Path, path: Path, sidecar: dict | None):
    if not path.exists() or not _same_content(source, path):
        return False
    if sidecar is None:
        return True
    try:
        return json.loads(sidecar_path(path).read_text()) == sidecar
    except (OSError, ValueError):
        return False


def _same_content(source: Path, path: Path):
    if source.suffix == path.suffix:
        return filecmp.cmp(source, path, shallow=False)
    # outputs are compressed; a truncated one is different
    try:
        with source.open('rb') as plain, gzip.open(path) as packed:
            chunks = zip_longest(*(iter(partial(stream.read, 2**20), b'') for stream in (plain, packed)))
            return all(a == b for a, b in chunks)
    except (OSError, EOFError, zlib.error):
        return False
