"""Workflows that link ports by name, and nodes that reuse earlier results only where those are whole."""

import json
import os
import zlib
from pathlib import Path

import nipype
from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline import engine as pe
from nipype.pipeline.engine.base import EngineBase
from nipype.pipeline.engine.nodes import NodeExecutionError

from bids_qsm.derivatives.files import software_versions
from bids_qsm.kernel_cache import use_stored_kernels

_SEAL = '_seal.json'
_VERSIONS = f'{software_versions()}, nipype {nipype.__version__}'


class Workflow(pe.Workflow):
    """A graph whose steps are connected by the names of their ports."""

    def link(self, source: EngineBase, target: EngineBase, /, *ports: str, **renamed: str):
        """Connect outputs of ``source`` to inputs of ``target``, both nodes or workflows.

        ``ports`` have one name on both sides; ``renamed`` reads like a call: input of ``target`` = output of
        ``source``. Outputs of a workflow are those of its outputnode, inputs those of its inputnode::

            workflow.link(inputnode, unwrap_phase, 'phase', 'magnitude')
            workflow.link(make_mask, unwrap_phase, mask='wide')
        """
        leave = 'outputnode.' if isinstance(source, pe.Workflow) else ''
        enter = 'inputnode.' if isinstance(target, pe.Workflow) else ''
        named = [*((port, port) for port in ports), *((output, port) for port, output in renamed.items())]
        self.connect([(source, target, [(leave + output, enter + port) for output, port in named])])


class Node(pe.Node):
    """A step whose results are used again only where its files are as they were when it ended.

    Nipype looks at one file only. The others may be cut short by a power failure, emptied by a full disk,
    damaged, deleted, or made by another version. So the step writes a seal last: a list of its files.
    """

    def is_cached(self, rm_outdated: bool = False):
        cached, updated = super().is_cached(rm_outdated)
        if not (cached and updated) or self.interface.always_run:
            return cached, updated
        folder = Path(self.output_dir())
        if _holds(folder):
            return True, True
        for path in folder.glob('_0x*.json'):
            path.unlink()
        return False, False

    def run(self, updatehash: bool = False):
        use_stored_kernels()  # here, as a plugin may run steps in any process
        try:
            result = super().run(updatehash)
        except NodeExecutionError as error:
            raise NodeExecutionError(self._in_words_of_users(str(error))) from None
        folder = Path(self.output_dir())
        if not (self.interface.always_run or (folder / _SEAL).exists()):
            _seal(folder, self._files_read())
        return result

    def _in_words_of_users(self, traceback: str):
        """The text, with files that other steps made named by their source in messages for users."""
        given = sorted({str(path) for path in _paths(self.inputs.get_traitsfree())}, key=len, reverse=True)
        work = Path(self.base_dir).resolve()
        lines = traceback.split('\n')
        for number, line in enumerate(lines):
            if 'UserError: ' in line:
                for path in given:
                    if path in line and (source := _source(Path(path), work)):
                        line = line.replace(path, f'{Path(path).name} (made from {source})')
                lines[number] = line
        return '\n'.join(lines)

    def _files_read(self):
        """Files given to this step from outside of the working folder."""
        work = Path(self.base_dir).resolve()
        given = _paths(self.inputs.get_traitsfree())
        return sorted({path for path in given if path.is_file() and not path.resolve().is_relative_to(work)})


def inputnode(*ports: str):
    """Node that holds the inputs of a workflow."""
    return Node(IdentityInterface(list(ports)), name='inputnode')


def outputnode(*ports: str):
    """Node that holds the outputs of a workflow."""
    return Node(IdentityInterface(list(ports)), name='outputnode')


def has_ended(folder: Path) -> bool:
    """Whether the step of a working folder has ended well, with these or other inputs."""
    return (folder / _SEAL).exists()


def _source(path: Path, work: Path):
    """The file from which a step below ``work`` made ``path``; None where no step did.

    Each step is followed to the first of its files, by the record that nipype keeps of them.
    """
    source = None
    while path.resolve().is_relative_to(work) and (records := [*path.parent.glob('_0x*.json')]):
        path = next((one for one in _paths(json.loads(records[0].read_text())) if one.is_file()), None)
        if path is None:
            return None
        source = path
    return source


def _paths(value: object):
    if isinstance(value, str):
        if value.startswith('/'):
            yield Path(value)
    elif isinstance(value, dict | list | tuple):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _paths(one)


def _seal(folder: Path, read: list[Path]):
    made = {}
    for path in sorted(folder.rglob('*')):
        # files of Nipype itself begin with an underscore and are not read again
        if path.is_file() and not path.relative_to(folder).parts[0].startswith('_'):
            # write files to disk before their seal: a power failure must not leave the seal alone
            with path.open('rb') as stream:
                os.fsync(stream.fileno())
            made[str(path.relative_to(folder))] = _state(path)
    content = {
        'versions': _VERSIONS,
        'made': made,
        'read': {str(path): [path.stat().st_ctime_ns, _checksum(path)] for path in read},
    }
    part = folder / f'{_SEAL}.part'
    part.write_text(json.dumps(content))
    part.replace(folder / _SEAL)


def _holds(folder: Path):
    try:
        seal = json.loads((folder / _SEAL).read_text())
        return (
            seal['versions'] == _VERSIONS
            and all(_state(folder / name) == state for name, state in seal['made'].items())
            and all(_is_same(Path(name), *state) for name, state in seal['read'].items())
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def _state(path: Path):
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def _is_same(path: Path, changed: int, checksum: int):
    """Whether a file is the one that was read; Nipype compared its size and date, which a copy can keep."""
    return path.stat().st_ctime_ns == changed or _checksum(path) == checksum


def _checksum(path: Path):
    total = 0
    with path.open('rb') as stream:
        while block := stream.read(2**20):
            total = zlib.crc32(block, total)
    return total
