"""Methods of a registry (a plain dict, name -> function): their facts, and how they are called."""

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from bids_qsm.errors import UserError

LARGEST = sys.float_info.max


@dataclass(frozen=True)
class Need:
    """Memory of a step: GB whatever the sizes, and how many images of each kind it holds at a time.

    ``volume`` is one volume of the series, ``padded`` one with the margins of Fourier transforms,
    ``cubes`` that in voxels of 1 mm, ``echoes``
    all echoes, ``stored`` all echoes of all receive coils, ``anat`` the anatomical image, ``run`` all frames
    of a BOLD run; all as float32.
    Measure it with benchmarks/memory.py.
    """

    fixed: float = 0.05
    volume: float = 0
    padded: float = 0
    echoes: float = 0
    stored: float = 0
    anat: float = 0
    run: float = 0
    cubes: float = 0

    def __add__(self, other: 'Need') -> 'Need':
        """What both hold at a time."""
        return Need(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True)
class Facts:
    """What the workflows must know of a method beside its signature, see :func:`method`."""

    memory: Need
    prose: str
    single_echo: str
    slow: float


def method(*, memory: Need, prose: str, single_echo: str = '', slow: float = 1.0) -> Callable:
    """Attach facts to a method, for :func:`facts` to read.

    Parameters
    ----------
    memory : Need
    prose : str
        The method in the methods text, with its citations: 'TV [@tv]'. The keys are those of references.bib.
    single_echo : str
        The same for series of a single echo, where it differs.
    slow : float
        Time of a whole series, in times of that with the default methods, where it is much longer: for the
        time limits of SLURM. Read of methods of inversion.
    """

    def attach(function: Callable) -> Callable:
        function.facts = Facts(memory, prose, single_echo or prose, slow)
        return function

    return attach


def facts(function: Callable) -> Facts:
    """What :func:`method` attached to ``function``."""
    return function.facts


def parameters(function: Callable) -> dict[str, Any]:
    """Keyword-only parameters of a method, name -> default."""
    return {
        name: p.default
        for name, p in inspect.signature(function).parameters.items()
        if p.kind is p.KEYWORD_ONLY
    }


def needs(function: Callable, *, optional: bool = True) -> list[str]:
    """Names of the data that a method asks for, with or without those that may be None by default.

    >>> needs(lambda field, mask, r2star=None, *, gain=2: None)
    ['field', 'mask', 'r2star']
    >>> needs(lambda field, mask, r2star=None, *, gain=2: None, optional=False)
    ['field', 'mask']
    """
    data = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.KEYWORD_ONLY]
    return [p.name for p in data if optional or p.default is p.empty]


def is_within(value: object, low: float = -LARGEST, high: float = LARGEST) -> bool:
    """Whether a value that was read is a finite number from ``low`` to ``high``.

    >>> is_within(0, 0, 1), is_within(True, 0, 1), is_within(float('nan')), is_within(float('inf'))
    (True, False, False, False)
    """
    return not isinstance(value, bool) and isinstance(value, int | float) and low <= value <= high


def check_params(name: str, function: Callable, params: Mapping[str, Any]) -> None:
    """Raise UserError where ``params`` names a parameter that ``function`` lacks."""
    known = parameters(function)
    for key in params:
        if key not in known:
            listed = ', '.join(f'{k}={v}' for k, v in known.items()) or 'none'
            raise UserError(f'{name} has no parameter {key!r}; its parameters are: {listed}.')


def call(function: Callable, data: Mapping[str, Any], params: Mapping[str, Any]) -> Any:
    """Call a method with those entries of ``data`` that its signature names, and its parameters.

    >>> call(lambda field, *, gain=2: field * gain, {'field': 3, 'mask': None}, {'gain': 3})
    9
    """
    check_params(function.__name__, function, params)
    return function(*(data[n] for n in needs(function)), **params)
