"""What a check is given, and what it says."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bids_qsm.entities import value_of
from bids_qsm.errors import size_text

STATES = ('fail', 'warn', 'unknown', 'pass')
"""What a check may say, that which matters most first."""
SEVERITIES = ('high', 'medium', 'low')
"""Susceptibility may be wrong; it is less accurate; it is harder to compare or to report."""
CONSENSUS = 'consensus, doi:10.1002/mrm.30006'
PREPRINT = f'{CONSENSUS} (tables of the preprint, arXiv:2307.02306)'
REPORTED = f'{CONSENSUS}, as the dicompare schema reports it (the paper itself not verified)'
SCHEMA = 'threshold of the dicompare schema (MIT licence)'
OWN = 'own threshold'

State = tuple[str, object]
"""One of `STATES`, and the value that was judged; '' where there is none."""
UNKNOWN: State = ('unknown', '')


@dataclass(frozen=True)
class Facts:
    """What is known of a series and of a run: nothing is assumed where something is missing."""

    sidecar: Mapping[str, object] = field(default_factory=dict)
    """Content of its sidecars."""
    echo_times: tuple[float, ...] = ()
    """Rising (s)."""
    field_strength: float | None = None
    """T."""
    shape: tuple[int, ...] = ()
    voxel_size: tuple[float, ...] = ()
    """mm."""
    b0_dir: tuple[float, ...] = ()
    """B0 in voxel axes."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """What was measured in the images, see `bids_qsm.biomarkers.consensus.measure`."""
    methods: Mapping[str, str] = field(default_factory=dict)
    """Method and parameters of each step of the run: 'inversion' -> 'tv:alpha=0.0002'."""

    def stated(self, *keys: str) -> float | None:
        """The first of the finite numbers above 0 that the sidecar has under ``keys``."""
        for key in keys:
            value = value_of(self.sidecar.get(key), float)
            if value is not None:
                return value
        return None

    def method(self, step: str) -> str:
        """Name of the method of a step, '' where it is not known."""
        return self.methods.get(step, '').partition(':')[0]


@dataclass(frozen=True)
class Check:
    """A rule, where it comes from, and what to do where it is broken."""

    title: str
    judge: Callable[[Facts], State]
    threshold: str | Callable[[Facts], str]
    severity: str
    source: str
    advice: str
    unit: str = ''
    """Of a value that is a number."""

    def row(self, name: str, facts: Facts) -> dict[str, str]:
        """The row of the table of checks."""
        state, value = self.judge(facts)
        threshold = self.threshold if isinstance(self.threshold, str) else self.threshold(facts)
        return {
            'check': name,
            'state': state,
            'value': text_of(value) + (f' {self.unit}' if self.unit and not isinstance(value, str) else ''),
            'threshold': threshold,
            'severity': self.severity,
            'source': self.source,
            'advice': self.advice if state in ('fail', 'warn') else '',
            'title': self.title,
        }


def text_of(value: object) -> str:
    """A value, or several numbers, as a cell: see `size_text`; 'n/a' for nothing.

    >>> text_of(0.123456), text_of((1.0, 2)), text_of(''), text_of('3D')
    ('0.1235', '1 x 2', 'n/a', '3D')
    """
    if isinstance(value, tuple | list):
        return size_text(value) or 'n/a'
    return f'{value:.4g}' if isinstance(value, float) else str(value) or 'n/a'


def at_most(value: float | None, passes: float, warns: float) -> State:
    """Pass up to one limit, warn up to the other; unknown without a value.

    >>> at_most(2.0, 1.0, 3.0), at_most(None, 1.0, 3.0)
    (('warn', 2.0), ('unknown', ''))
    """
    if value is None:
        return UNKNOWN
    return ('pass' if value <= passes else 'warn' if value <= warns else 'fail'), value


def at_least(value: float | None, passes: float, warns: float) -> State:
    """Pass from one limit on, warn from the other on; unknown without a value."""
    if value is None:
        return UNKNOWN
    return ('pass' if value >= passes else 'warn' if value >= warns else 'fail'), value
