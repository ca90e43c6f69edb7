"""Arrays of any library: the numerics take NumPy, PyTorch or CuPy arrays and give back the same kind."""

import array_api_compat
import numpy as np


def namespace(x):
    """The functions of the array API standard for the library of ``x``.

    >>> bool(namespace(np.zeros(3)).all(np.ones(3) > 0))
    True
    """
    return array_api_compat.array_namespace(x)


def is_numpy(x):
    """Whether ``x`` lies in the memory that numba and SciPy work on."""
    return array_api_compat.is_numpy_array(x)


def to_numpy(x):
    """``x`` as a NumPy array; without a copy where it is one."""
    if is_numpy(x):
        return x
    if array_api_compat.is_cupy_array(x):
        return x.get()
    return np.asarray(array_api_compat.to_device(x, 'cpu'))


def like(array, reference):
    """A NumPy array in the library and on the device of ``reference``; None stands for NumPy."""
    if reference is None or is_numpy(reference):
        return array
    xp = namespace(reference)
    return xp.asarray(np.ascontiguousarray(array), device=array_api_compat.device(reference))


def either(compiled, general):
    """One function of two: ``compiled`` where the first argument is a NumPy array, else ``general``."""

    def chosen(first, *rest):
        return (compiled if is_numpy(first) else general)(first, *rest)

    chosen.__doc__ = compiled.__doc__
    return chosen
