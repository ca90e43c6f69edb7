"""Calling the methods of a registry (a plain dict, name -> function) by name."""

import inspect
from dataclasses import dataclass

from bids_qsm.errors import UserError


@dataclass(frozen=True)
class Need:
    """Memory of a step: GB whatever the sizes, and how many images of each kind it holds at a time."""

    fixed: float
    volume: float = 0
    padded: float = 0
    echoes: float = 0
    stored: float = 0
    anat: float = 0


def parameters(function):
    """Keyword-only parameters of a method, name -> default."""
    return {
        name: p.default
        for name, p in inspect.signature(function).parameters.items()
        if p.kind is p.KEYWORD_ONLY
    }


def needs(function):
    """Names of the data that a method asks for.

    >>> needs(lambda field, mask, *, gain=2: None)
    ['field', 'mask']
    """
    return [n for n, p in inspect.signature(function).parameters.items() if p.kind is not p.KEYWORD_ONLY]


def check_params(name, function, params):
    """Raise UserError where ``params`` names a parameter that ``function`` lacks."""
    known = parameters(function)
    for key in params:
        if key not in known:
            listed = ', '.join(f'{k}={v}' for k, v in known.items()) or 'none'
            raise UserError(f'{name} has no parameter {key!r}; its parameters are: {listed}.')


def call(function, data, params):
    """Call a method with those entries of ``data`` that its signature names, and its parameters.

    >>> call(lambda field, *, gain=2: field * gain, {'field': 3, 'mask': None}, {'gain': 3})
    9
    """
    check_params(function.__name__, function, params)
    return function(*(data[n] for n in needs(function)), **params)
