"""Which texts of headers people write, and whether one tells who a patient is."""

import itertools
import re
import unicodedata
from collections.abc import Sequence

DECODED = ('SeriesDescription', 'ProtocolName', 'SequenceName', 'PulseSequenceName')
"""Free texts of sidecars that are read from the header itself: dcm2niix does not know its alphabet."""
FREE_TEXTS = (
    *DECODED,
    *('PulseSequenceType', 'PulseSequenceDetails', 'ReceiveCoilName', 'ReceiveCoilActiveElements'),
    *('CoilString', 'BodyPart', 'BodyPartExamined'),
)
"""Keys of sidecars whose values people may write.

All others have words of the standard or of vendors. In these a short name may stand by chance (Mary in
PRIMARY, Ge in the name of the vendor), and what they say decides on signs and filters.
"""


def names_person(text: str, person: Sequence[str]) -> bool:
    """Whether a text holds a name, the ID or the date of birth of a patient, however it is written.

    >>> person = ('77', 'Müller-Mustermann^Erika', '19640812')
    >>> names_person('QSM for MUSTERMANN', person), names_person('QSM 77', person)
    (True, False)
    >>> names_person('QSM Mueller', person), names_person('QSM 12.8.64', person)
    (True, True)
    >>> names_person('王小明 QSM', ('1', 'Wang^Xiaoming=王^小明', ''))
    True
    """
    forms = _without_accents(text)
    names = re.split(r'[\^=\s,]+', person[1])
    for name, form in itertools.product(_spellings(person[1]), forms):
        if _is_wide(name):  # each sign is a syllable or a word
            if name in re.sub(r'[\W_]', '', form):
                return True
        # short names are parts of many words
        elif len(name) > 2 and name in form:
            return True
        if len(name) == 2 and re.search(rf'(?<![^\W\d_]){name}(?![^\W\d_])', form):
            return True
    bare = re.sub('[^0-9a-z]', '', text.casefold())
    for number in (person[0].casefold(), *(name.casefold() for name in names if re.search(r'\d', name))):
        own = re.sub('[^0-9a-z]', '', number)
        if (len(number) > 2 and number in text.casefold()) or (len(own) > 4 and own in bare):
            return True
    return _has_date(text, person[2])


def _spellings(name: str) -> set[str]:
    """Words of a name (PN) in each of its alphabets, and its family and given name as one word."""
    words: set[str] = set()
    for one in name.split('='):
        parts = re.split(r'[\^\s,]+', one)
        for part in parts:
            # with digits it may be a pseudonym (QSM01), which is compared as a whole below
            least = 4 if re.search(r'\d', part) else 1
            words |= {word for word in re.findall(r'[^\W\d_]+', part) if len(word) >= least}
        first, second, *_ = [*re.findall(r'[^\W\d_]+', one), '', '']
        if second and not re.search(r'\d', one):
            words |= {first + second, second + first}
    return {form for word in words for form in _without_accents(word)}


def _is_wide(word: str) -> bool:
    """Whether a word is of signs of Chinese, Japanese or Korean."""
    return all(unicodedata.east_asian_width(c) == 'W' for c in word)


def _without_accents(text: str) -> tuple[str, ...]:
    """A text in lower case, without accents; with umlauts as one letter, and as two."""
    lower = unicodedata.normalize('NFKC', text).casefold().translate(_LETTERS)
    bare = (
        ''.join(c for c in unicodedata.normalize('NFD', form) if not unicodedata.combining(c))
        for form in (lower, lower.translate(_UMLAUTS))
    )
    return tuple(unicodedata.normalize('NFC', form) for form in bare)  # syllables of Korean


_LETTERS = str.maketrans({'ø': 'o', 'æ': 'ae', 'ł': 'l', 'đ': 'd', 'ı': 'i', 'œ': 'oe'})
_UMLAUTS = str.maketrans({'ä': 'ae', 'ö': 'oe', 'ü': 'ue', 'å': 'aa'})
_MONTHS = ('jan', 'feb', 'mar|mär', 'apr', 'may|mai', 'jun', 'jul', 'aug', 'sep', 'oct|okt', 'nov', 'dec|dez')


def _has_date(text: str, day: str) -> bool:
    """Whether a text holds a date (YYYYMMDD), in any order, with two or four digits of the year."""
    if not re.fullmatch(r'\d{8}', day) or not 1 <= int(day[4:6]) <= 12:
        return bool(day) and day in text
    y, m, d = f'(?:{day[:2]})?{day[2:4]}', day[4:6], day[6:]
    short, between = (f'0?{int(m)}', f'0?{int(d)}'), '[^0-9a-z]+'
    month = f'(?:{_MONTHS[int(m) - 1]})[a-zä]*'
    orders = [
        *(''.join(parts) for parts in ((y, m, d), (d, m, y), (m, d, y))),
        *(between.join(parts) for parts in ((y, *short), (short[1], short[0], y), (*short, y))),
        *(
            '[^0-9a-z]*'.join(parts)
            for parts in ((short[1], month, y), (month, short[1], y), (y, month, short[1]))
        ),
    ]
    return any(re.search(rf'(?<!\d){order}(?!\d)', text.lower()) for order in orders)
