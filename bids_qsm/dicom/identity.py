"""Who a patient is by the headers, and when two studies are taken for those of one person."""

import hashlib
import re
import unicodedata
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


class Person(NamedTuple):
    """What the headers of a study say of its patient."""

    number: str
    """Patient ID."""
    name: str
    born: str
    sex: str

    @classmethod
    def of(cls, facts: 'Mapping[str, Any] | Dataset') -> 'Person':
        """The patient of a header."""
        return cls(*(str(facts.get(f'Patient{key}') or '') for key in ('ID', 'Name', 'BirthDate', 'Sex')))

    def is_known(self, day: str) -> bool:
        """Whether this tells one person from others; ``day`` is that of the study (YYYYMMDD), or ''.

        IDs and names alone may be those of everybody (ANON), and so may dates of birth that anonymisers
        write: those of 1 January, long ago or to come.
        """
        try:
            datetime.strptime(self.born, '%Y%m%d')
        except ValueError:
            return False
        latest = day or datetime.now().strftime('%Y%m%d')
        is_date = re.fullmatch(r'\d{8}', self.born) is not None and '19050101' < self.born <= latest
        return bool(self.number or self.name) and is_date and not self.born.endswith('0101')

    def code(self, study: str, day: str) -> str:
        """Stands for the person in tables, which so need no names.

        Who differs in ID, name, date of birth or sex may be somebody else, and so may the patient of another
        study where these do not tell.
        """
        told = [self.number.strip(), _spelt_alike(self.name), self.born, self.sex if self.sex in 'MF' else '']
        told += [] if self.is_known(day) else [study]
        # a letter first: spreadsheets take digits for numbers
        return f'p{hashlib.sha256(chr(0).join(told).encode()).hexdigest()[:12]}'

    def agreeing(self, other: 'Person') -> list[str]:
        """What two patients have in common, in words."""
        pairs = {
            'ID': (self.number.strip(), other.number.strip()),
            'name': (_spelt_alike(self.name), _spelt_alike(other.name)),
            'date of birth': (self.born, other.born),
        }
        return [what for what, (ours, theirs) in pairs.items() if ours and ours == theirs]


def _spelt_alike(name: str) -> str:
    """A name (PN) without what scanners change in it: capitals, spaces and empty parts at its end.

    >>> _spelt_alike('MUSTERMANN^Erika ^^') == _spelt_alike('Mustermann^Erika')
    True
    """
    text = re.sub(r'\s+', ' ', unicodedata.normalize('NFKC', name).casefold())
    return re.sub(r'[\^ ]+(?==|$)', '', re.sub(r' ?\^ ?', '^', text)).strip(' =')
