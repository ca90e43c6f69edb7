"""Arrays of any library: the numerics take NumPy, PyTorch or CuPy arrays and give back the same kind."""

from collections.abc import Callable
from typing import Any

import array_api_compat
import numpy as np

Array = Any
"""An array of NumPy, PyTorch or CuPy; its library is known when it runs."""


def namespace(x: Array):
    """The functions of the array API standard for the library of ``x``.

    >>> bool(namespace(np.zeros(3)).all(np.ones(3) > 0))
    True
    """
    return array_api_compat.array_namespace(x)


def is_numpy(x: Array):
    """Whether ``x`` is a NumPy array, which numba and SciPy need."""
    return array_api_compat.is_numpy_array(x)


def to_numpy(x: Array):
    """``x`` as a NumPy array, without a copy if it is one already."""
    if is_numpy(x):
        return x
    if array_api_compat.is_cupy_array(x):
        return x.get()
    return np.asarray(array_api_compat.to_device(x, 'cpu'))


def like(array: Array, reference: Array | None):
    """A NumPy array moved to the library and device of ``reference``; None is NumPy."""
    if reference is None or is_numpy(reference):
        return array
    xp = namespace(reference)
    return xp.asarray(np.ascontiguousarray(array), device=array_api_compat.device(reference))


def either(compiled: Callable, general: Callable):
    """A function that calls ``compiled`` where its first argument is a NumPy array, else ``general``."""

    def chosen(first: Array, *rest: Any):
        return (compiled if is_numpy(first) else general)(first, *rest)

    chosen.__doc__ = compiled.__doc__
    return chosen
