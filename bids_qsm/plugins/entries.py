"""Entries of a JSON object, taken one by one; what is wrong with each is noted in one sentence."""

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

from bids_qsm.errors import plain
from bids_qsm.recon.registry import is_within


class Reader:
    """An object of a JSON file: its entries are taken one by one; what is wrong is noted.

    ``what`` is the file in sentences: 'a manifest'. Objects inside it note their faults in its list.
    """

    def __init__(self, content: Any, what: str, where: str = '', faults: list[str] | None = None):
        self.faults = [] if faults is None else faults
        self.what, self.where = what, where
        if not isinstance(content, dict):
            self.fault(f'{where} must be an object {{...}}, not {shown(content)}.')
            content = {}
        self.content = dict(content)

    def fault(self, sentence: str):
        self.faults.append(sentence)

    def name_of(self, key: str):
        return f'{self.where}.{key}' if self.where else key

    def take(
        self, key: str, default: Any, is_right: Callable[[Any], bool], what: str, *, needed: bool = True
    ):
        """The entry ``key`` where ``is_right``, else a fault and ``default``."""
        if key not in self.content:
            if needed:
                self.fault(f'{self.name_of(key)} is missing; give {what}.')
            return default
        value = self.content.pop(key)
        try:
            right = is_right(value)
        except (TypeError, ValueError, OverflowError):
            right = False
        if not right:
            self.fault(f'{self.name_of(key)} is {shown(value)}; it must be {what}.')
            return default
        return value

    def inner(self, key: str, *, needed: bool = True) -> 'Reader | None':
        """The object under ``key``."""
        if key not in self.content:
            if needed:
                self.fault(f'{self.name_of(key)} is missing; give an object {{...}}.')
            return None
        return self.within(self.content.pop(key), key)

    def within(self, content: Any, key: str) -> 'Reader':
        """A reader of ``content``, which stands at ``key`` or deeper."""
        return Reader(content, self.what, self.name_of(key), self.faults)

    def end(self):
        """Note what is left over."""
        for key in self.content:
            self.fault(
                f'{plain(self.name_of(key))} is not a field of {self.what}; remove it or correct its name.'
            )


def shown(value: Any) -> str:
    """A value in a sentence, cut short."""
    text = plain(json.dumps(value, ensure_ascii=False))
    return text if len(text) <= 60 else f'{text[:60]}...'


def is_whole(low: int, high: int) -> Callable[[Any], bool]:
    """A whole number from ``low`` to ``high``."""
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def is_one_of(names: Iterable[str]) -> Callable[[Any], bool]:
    """One of some texts."""
    names = tuple(names)
    return lambda value: isinstance(value, str) and value in names


def is_text(longest: int) -> Callable[[Any], bool]:
    """A printable text that is not empty."""
    # it stands in sidecars, reports and methods texts, where [@ would be taken for a citation of ours
    return lambda text: (
        isinstance(text, str) and 0 < len(text.strip()) <= longest and text.isprintable() and '[@' not in text
    )


def are_numbers(count: int, low: float, high: float) -> Callable[[Any], bool]:
    """A list of ``count`` numbers from ``low`` to ``high``."""
    return lambda value: (
        isinstance(value, list) and len(value) == count and all(is_within(v, low, high) for v in value)
    )


def is_range(value: Any) -> bool:
    """Two numbers, the lowest first."""
    return isinstance(value, list) and len(value) == 2 and all(map(is_within, value)) and value[0] <= value[1]


def is_name(longest: int) -> Callable[[Any], bool]:
    """A name of letters, digits, ., _, + and -."""
    return lambda text: (
        isinstance(text, str) and re.fullmatch(rf'[0-9A-Za-z][\w.+-]{{0,{longest}}}', text, re.A) is not None
    )


def listed(names: Iterable[str]) -> str:
    """Some texts in a sentence."""
    return f'one of: {", ".join(names)}'
