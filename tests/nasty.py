"""Words, values and files that nobody expects, as strategies of hypothesis."""

from hypothesis import strategies as st

NASTY = (
    *('..', '.', ' ', '', '-', '--', '_', '\n', '\t', '\x1b[2J', '\x07', '\u202e', '\u2028', '\ufeff'),
    *(
        'a b',
        'é',
        'e\u0301',
        '中文',
        '😀',
        '\udcff',
        '٣',
        '²',
        '$(touch x)',
        '`id`',
        ';',
        '%s',
        '%',
        '{series}',
    ),
    *(
        '{0}',
        "'",
        '"',
        '<img src=x onerror=alert(1)>',
        '&amp;',
        '#',
        '*',
        '[a]',
        'a|b',
        '\\',
        '~',
        '+',
        '0',
        '00',
    ),
    *('-1', '1e9', '1' * 5000, 'nan', 'None', 'a' * 150, 'sub-02', 'echo-1', 'x-y', 'CON', 'part-phase'),
)
WORDS = st.one_of(
    st.sampled_from(NASTY), st.text(st.characters(codec='utf-8', exclude_characters='/\0'), max_size=12)
)
NUMBERS = st.one_of(
    st.sampled_from([0, -1, 1e-30, 1e30, 1e400, float('nan'), -float('inf'), 10**400, 2**63, 4, 0.004, True]),
    st.floats(),
    st.integers(),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, WORDS.filter(lambda word: word.isprintable())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)
KEYS = (
    *('EchoTime', 'MagneticFieldStrength', 'ImagingFrequency', 'RepetitionTime', 'FlipAngle', 'Manufacturer'),
    *('MRAcquisitionType', 'Units', 'subject', 'suffix', 'extension', 'path', 'echo', 'part', 'datatype'),
)
JUNK = st.one_of(
    st.sampled_from(
        [
            *(
                b'',
                b'{',
                b'null',
                b'[]',
                b'"x"',
                b'{}',
                b'\xff\xfe{\x00}\x00',
                b'\xef\xbb\xbf{}',
                b'\x00' * 40,
            ),
            *(b'[' * 100_000, b'{"a":' * 50_000, b'{"EchoTime": ' + b'9' * 5000 + b'}', b'{"a": 1} {"a": 2}'),
        ]
    ),
    st.binary(max_size=60),
)
