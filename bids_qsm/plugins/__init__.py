"""Methods that a folder brings: a network (ONNX), and a manifest that says what it takes and gives.

Nothing of a plug-in is run in the process that reads it: the model goes as bytes to a process of its own
with limits (`sandbox`), which checks it (`graphs`) before onnxruntime sees it (`worker`). Units, axes, voxel
size and the direction of B0 (`frame`), tiles (`tiles`) and the physics of unrolled networks (`network`) are
ours.
"""

PREFIX = 'onnx:'
"""How the names of plug-ins begin, which the folder follows."""


def is_plugin(name: str | None) -> bool:
    """Whether the name of a method is that of a plug-in.

    >>> is_plugin('onnx:/plugins/mynet'), is_plugin('tv'), is_plugin(None)
    (True, False, False)
    """
    return name is not None and name.startswith(PREFIX)
