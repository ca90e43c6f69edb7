"""Earlier results are used where all their files are as they were, and made again where not."""

import json
import os
import shutil

import numpy as np
import pytest
from nipype import config as nipype_config
from nipype.pipeline.engine.nodes import NodeExecutionError

from bids_qsm.execution.run_log import last_error
from bids_qsm.interfaces.anatomy import CorrectBias, IdentityTransform, RegisterRigid
from bids_qsm.interfaces.derivatives import SaveDerivatives
from bids_qsm.interfaces.io import save
from bids_qsm.workflows import engine


@pytest.fixture
def image(tmp_path):
    rng = np.random.default_rng(0)
    return save(100 + rng.random((12, 12, 12)), np.diag([4, 4, 4, 1]), tmp_path, 'image.nii')


@pytest.fixture
def node(tmp_path, image):
    """A function that makes the same step anew, as each run does."""

    def make():
        made = engine.Node(CorrectBias(image=image), name='bias', base_dir=str(tmp_path / 'work'))
        made.config = {'execution': {**nipype_config._sections['execution'], 'hash_method': 'timestamp'}}
        return made

    make().run()
    return make


def spoil(path, content):
    """Other content of the same length under the same date."""
    found = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def test_whole_results_are_used_again(node):
    assert node().is_cached() == (True, True)


def test_messages_name_the_file_of_the_user_and_not_one_of_the_working_folder(node, tmp_path, image):
    """The brain mask that a step made is of another shape than the image that another made."""
    made = node().run().outputs.image
    flat = save(np.ones((12, 12, 11)), np.eye(4), tmp_path, 'flat.nii')
    # what looks like the record of a step is none outside of the working folder
    (tmp_path / '_0x0.json').write_text(json.dumps([['image', __file__]]))
    align = engine.Node(
        RegisterRigid(moving=made, fixed=made, fixed_mask=flat), name='align', base_dir=str(tmp_path / 'work')
    )
    align.config = node().config
    with pytest.raises(NodeExecutionError) as error:
        align.run()
    kind, message = last_error(str(error.value))
    assert not kind
    wanted = f'The mask {flat} has shape (12, 12, 11), but its image image.nii.gz (made from {image}) has'
    assert message == f'{wanted} (12, 12, 12).'


@pytest.mark.parametrize('pattern', ['result_*.pklz', '_seal.json', '*.nii*'])
@pytest.mark.parametrize('how', ['removed', 'emptied', 'cut', 'touched'])
def test_a_file_that_is_not_as_it_was_has_the_step_run_again(node, tmp_path, pattern, how):
    (path,) = (tmp_path / 'work' / 'bias').glob(pattern)
    if how == 'removed':
        path.unlink()
    elif how == 'touched' and pattern != '_seal.json':
        os.utime(path, (0, 0))
    else:
        path.write_bytes(b'' if how == 'emptied' else path.read_bytes()[:-40])
    assert node().is_cached()[1] is False
    assert node().run().outputs.image
    assert node().is_cached() == (True, True)


def test_results_of_another_version_are_made_again(node, monkeypatch):
    monkeypatch.setattr(engine, '_VERSIONS', 'bids_qsm 999')
    assert node().is_cached()[1] is False


def test_input_mended_under_its_old_date_is_read_again(node, tmp_path):
    path = tmp_path / 'image.nii'
    content = bytearray(path.read_bytes())
    content[-3] ^= 64
    spoil(path, bytes(content))
    assert node().is_cached()[1] is False


def test_input_copied_with_its_date_is_not_read_again(node, tmp_path):
    path = tmp_path / 'image.nii'
    shutil.copy2(path, tmp_path / 'copy.nii')
    (tmp_path / 'copy.nii').replace(path)
    assert node().is_cached() == (True, True)


def test_steps_that_always_run_have_no_seal(tmp_path):
    sink = engine.Node(
        SaveDerivatives({'x': tmp_path / 'out' / 'x.txt'}), name='sink', base_dir=str(tmp_path / 'work')
    )
    source = engine.Node(IdentityTransform(), name='source', base_dir=str(tmp_path / 'work'))
    sink.inputs.x = source.run().outputs.xfm
    sink.run()
    assert (tmp_path / 'work' / 'source' / '_seal.json').exists()
    assert not (tmp_path / 'work' / 'sink' / '_seal.json').exists()


def test_ports_are_linked_by_name():
    inner, outer = engine.Workflow('inner_wf'), engine.Workflow('outer_wf')
    into, out = engine.inputnode('image', 'mask'), engine.outputnode('chi')
    inner.link(into, out, chi='image')
    more, end = engine.inputnode('image', 'brain'), engine.outputnode('chi', 'copy')
    outer.link(more, inner, 'image', mask='brain')
    outer.link(inner, end, 'chi', copy='chi')
    found = [sorted(data['connect']) for *_, data in outer._graph.edges(data=True)]
    assert found == [
        [('brain', 'inputnode.mask'), ('image', 'inputnode.image')],
        [('outputnode.chi', 'chi'), ('outputnode.chi', 'copy')],
    ]
    with pytest.raises(Exception, match=r'already\s+connected'):
        outer.link(more, inner, 'mask')
