"""Methods by name: ``tv:strength=0.04`` is a function of a registry and its parameters."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bids_qsm.applications import application, modules
from bids_qsm.errors import UserError, nearest, plain
from bids_qsm.plugins import PREFIX, is_plugin


def expanded(path: str | Path, what: str) -> Path:
    """The whole path of a file or folder; UserError naming ``what`` where ~name is nobody here."""
    try:
        return Path(path).expanduser().resolve()
    except (RuntimeError, ValueError, OSError):  # a null byte, a loop of links
        raise UserError(f'{what}: {plain(path)} cannot be found; give its whole path.') from None


@dataclass(frozen=True)
class Method:
    """Name of a method and the parameters that differ from its defaults.

    >>> Method('tv', (('alpha', 0.0002),)).as_dict
    {'alpha': 0.0002}
    >>> str(Method('tv', (('alpha', 0.0002), ('radii', (12.0, 1.0)))))
    'tv:alpha=0.0002,radii=12.0/1.0'
    """

    name: str
    params: tuple[tuple[str, object], ...] = ()

    @property
    def as_dict(self) -> dict:
        return dict(self.params)

    @property
    def is_plugin(self) -> bool:
        return is_plugin(self.name)

    @property
    def label(self) -> str:
        """As records name it: files and folders without where they lie."""
        if self.is_plugin:
            return f'{PREFIX}{Path(self.name).name}'
        short = {key: f'{PREFIX}{Path(str(self.as_dict[key])).name}' for key in self.plugins}
        return str(Method(self.name, tuple({**self.as_dict, **short}.items())))

    @property
    def plugins(self) -> dict[str, str]:
        """Parameter -> plug-in that it names."""
        return {key: value for key, value in self.params if isinstance(value, str) and is_plugin(value)}

    def __str__(self):
        if not self.params:
            return self.name
        return f'{self.name}:{",".join(f"{key}={_format(value)}" for key, value in self.params)}'

    @classmethod
    def parse(cls, text: str, registry: dict, *, step: str = 'method'):
        """Read ``name[:param=value,...]``; UserError where the registry knows no such name or parameter.

        A value is read as the type of the parameter's default; items of a tuple are separated by '/'.
        """
        from bids_qsm.recon.registry import check_params, parameters

        name, _, rest = text.strip().partition(':')
        if f'{name}:' == PREFIX:
            return cls(_plugin(text.strip(), step))
        if name not in registry:
            raise UserError(
                f'{step}: there is no method {name!r}; known are: {", ".join(registry)}.'
                f'{nearest(name, registry)}'
            )
        words = {}
        for item in filter(None, rest.split(',')):
            key, equals, value = item.partition('=')
            if not equals and any(map(is_plugin, words.values())):
                raise UserError(_no_comma(step, text))
            if not equals:
                raise UserError(f'{step}: {item!r} in {text!r} is not of the form param=value.')
            words[key.strip()] = value.strip()
        check_params(name, registry[name], words)
        defaults = parameters(registry[name])
        params = ((key, _read(value, defaults[key], f'{step}: {name}:{key}')) for key, value in words.items())
        return cls(name, tuple(params))


def registries() -> dict[str, dict]:
    """Step -> registry (name -> function); imports the numerics, so call it only when they are needed."""
    from bids_qsm.anatomy.nuclei import REFINEMENT
    from bids_qsm.anatomy.register import REGISTER
    from bids_qsm.recon.background import BACKGROUND
    from bids_qsm.recon.field import FIELD
    from bids_qsm.recon.inversion import INVERSION
    from bids_qsm.recon.masking import MASK
    from bids_qsm.recon.reference import REFERENCE
    from bids_qsm.recon.relaxation import R2STAR
    from bids_qsm.recon.swi import SWI
    from bids_qsm.recon.unwrap import UNWRAP

    return {
        'mask': MASK,
        'unwrap': UNWRAP,
        'field': FIELD,
        'background': BACKGROUND,
        'inversion': INVERSION,
        'reference': REFERENCE,
        'r2star': R2STAR,
        'swi': SWI,
        'registration': REGISTER,
        'refinement': {**REFINEMENT, 'none': _unrefined},
    }


def applications() -> dict[str, Callable]:
    """Application -> function whose keyword-only parameters the user may set; imports the numerics."""
    return {name: application(name).measure for name in modules()}


def _plugin(text: str, where: str) -> str:
    """The name of a plug-in with its whole path, as nodes run in folders of their own."""
    folder = text.removeprefix(PREFIX)
    if not folder:
        raise UserError(f'{where} {text}: name the folder of the plug-in, as {PREFIX}/plugins/mynet.')
    found = expanded(folder, where)
    if ',' in str(found):
        raise UserError(_no_comma(where, str(found)))
    return f'{PREFIX}{found}'


def _no_comma(where: str, text: str):
    return f'{where}: the folder of a plug-in, in {text!r}, has a comma, which parts parameters; rename it.'


def _unrefined():
    """Leave the regions where registration of the whole head put them."""


def describe(step: str, registry: dict) -> str:
    """Lines for --help: each method with the first line of its docstring and its parameters' defaults."""
    from bids_qsm.recon.registry import parameters

    lines = [f'--{step} NAME[:param=value,...]']
    for name, function in registry.items():
        summary = (inspect.getdoc(function) or '').partition('\n')[0].replace(' [1]_', '')
        lines.append(f'  {name:<10} {summary}')
        defaults = ', '.join(f'{key}={_format(value)}' for key, value in parameters(function).items())
        if defaults:
            lines.append(f'             {defaults}')
    return '\n'.join(lines)


def _read(text: str, default: object, where: str):
    try:
        if isinstance(default, bool):
            return {'true': True, 'yes': True, '1': True, 'false': False, 'no': False, '0': False}[
                text.lower()
            ]
        if isinstance(default, int | float):
            return type(default)(text)
        if isinstance(default, tuple | list):
            kind = type(default[0]) if default else float
            return tuple(kind(item) for item in text.split('/'))
    except (KeyError, ValueError):
        kind = {bool: 'true or false', int: 'a whole number', float: 'a number'}.get(
            type(default), "numbers separated by '/'"
        )
        raise UserError(f'{where} takes {kind}, not {text!r}.') from None
    if default is None and text.lower() == 'none':
        return None
    if default is None:
        for kind in (int, float):
            try:
                return kind(text)
            except ValueError:
                continue
    return _plugin(text, where) if is_plugin(text) else text


def _format(value: object):
    if isinstance(value, tuple | list):
        return '/'.join(_format(item) for item in value)
    return str(value).lower() if isinstance(value, bool) else str(value)
