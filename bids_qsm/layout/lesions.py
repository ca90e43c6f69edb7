"""Lesion masks: where they are, and which image of the subject each was drawn on."""

from dataclasses import dataclass
from pathlib import Path

from bids_qsm.entities import OF_SERIES, entities_of, session_of, suffix_of
from bids_qsm.errors import UserError
from bids_qsm.layout import checks
from bids_qsm.layout.index import EXTENSIONS

OWN_SPACES = (None, 'orig', 'MEGRE', 'GRE', 'T2starw', 'MPM')
"""Values of the entity space- that may mean the series itself."""


@dataclass(frozen=True)
class Places:
    """Lesion masks of one series by the image that they were drawn on, and what to say of the others."""

    anat: tuple[Path, ...]
    gre: tuple[Path, ...]
    flair: tuple[Path, ...]
    notes: tuple[str, ...]


def is_lesions(path) -> bool:
    """Whether a file is a lesion mask, or an image of numbered lesions.

    >>> is_lesions(Path('sub-01_label-lesion_mask.nii.gz')), is_lesions(Path('sub-01_desc-brain_mask.nii.gz'))
    (True, False)
    """
    label = entities_of(path).get('label', '')
    return suffix_of(path) in ('mask', 'roi', 'dseg') and label.lower().startswith('lesion')


def find_lesions(subject, options, index):
    """Lesion masks of a subject: in the dataset, in its derivatives/, in the derivatives given."""
    given = [options.bids_dir, *(p for _, p in options.derivatives)]
    beside = [p for p in sorted(options.bids_dir.glob('derivatives/*')) if p.is_dir()]
    found = {}
    for root in (given[0], *beside, *given[1:]):
        if root.is_relative_to(options.output_dir):
            continue
        if root not in given and subject in index.files(root).problems:  # nobody asked for it
            continue
        for path in index.files(root).of(subject, extension=[*EXTENSIONS]):
            if is_lesions(path):
                found[path.resolve()] = path
    return list(found.values())


def choose_flair(one, flairs, lesions, anatomy):
    """The FLAIR image of a series: of its session first, and one that masks were drawn on before others.

    None where there is none; one that cannot be read is an error only once masks lie on it.
    """

    def rank(path):
        labels = entities_of(path)
        return 'ce' in labels, labels.get('run', '').zfill(4), labels.get('ses', ''), path.name

    own = [p for p in flairs if session_of(p) == one.session] or flairs
    ranked = sorted(own, key=rank)
    sound = [path for path in ranked if checks.image_problem(path) is None]
    drawn = [path for path in lesions if _may_be_on_flair(path, one, anatomy.images)]
    fits = [path for path in sound if any(checks.same_grid(mask, path) for mask in drawn)]
    return next(iter((*fits, *sound, *ranked)), None)


def _may_be_on_flair(path, one, anat):
    if session_of(path) not in (None, one.session):
        return False
    space = drawn_space(path)
    if space not in (None, 'orig', 'FLAIR') or checks.image_problem(path):
        return False
    others = (one.files[0], *anat) if space != 'FLAIR' else ()
    return not any(checks.same_grid(path, other) for other in others)


def drawn_space(path):
    """Space that a mask names: its entity space-, or the image in its name; None where it names none."""
    named = next((image for image in ('T1w', 'FLAIR') if f'_{image}_' in path.name), None)
    return entities_of(path).get('space', named)


def place_lesions(one, lesions, anatomy, flair, series, scanned) -> Places:
    """Lesion masks that concern a series, by the image they were drawn on; an empty mask is one too.

    ``scanned`` are the sessions that have an image of their own, by suffix ('T1w', 'FLAIR').
    """
    placed = {'anat': [], 'gre': [], 'flair': []}
    notes = []
    for path in lesions:
        if session_of(path) not in (None, one.session):
            continue
        problem = checks.image_problem(path)
        if problem:
            raise UserError(f'the lesion mask {problem}')
        where, note = _place(path, one, anatomy, flair, series, scanned)
        if where:
            placed[where].append(path)
        elif note:
            notes.append(f'The lesion mask {path.name} {note}')
    problem = placed['flair'] and checks.image_problem(flair)
    if problem:
        raise UserError(f'the FLAIR image {problem}')
    return Places(*(tuple(placed[key]) for key in placed), tuple(notes))


def _place(path, one, anatomy, flair, series, scanned):
    """Image that a mask was drawn on ('anat', 'gre', 'flair' or None), and a note where it is not used."""
    space = drawn_space(path)
    named = {
        'T1w': ('anat', anatomy.images, anatomy.session),
        'FLAIR': ('flair', (flair,) if flair else (), session_of(flair)),
    }
    if space in named:
        where, images, in_use = named[space]
        if not images:
            return None, f'was drawn on the {space} image, which is not there; the mask is not used.'
        session = session_of(path)
        # a mask that names no session is of the one in use
        if session in (None, in_use):
            return where, None
        alike = any(_lies_on(path, image) for image in images)
        if alike and not is_of_other_scan(path, in_use, scanned[space]):
            return where, None
        why = 'and the head lies elsewhere in it' if alike else 'on another grid'
        return None, (
            f'was drawn on the {space} image of session {session}, but {images[0].name} is the one in use, '
            f'{why}; the mask is not used.'
        )
    if space not in OWN_SPACES:
        return None, f'is in the space {space} and is not used.'
    of_other = is_of_other(path, one)
    if _lies_on(path, one.files[0]):
        return (None if of_other else 'gre'), None
    note = None
    for kind, (where, images, in_use) in named.items():
        if space not in (None, 'orig') or not any(_lies_on(path, image) for image in images):
            continue
        if not is_of_other_scan(path, in_use, scanned[kind]):
            return where, None
        if note is None:
            note = (
                f'is of session {session_of(path)}, which has a {kind} image of its own, but '
                f'{images[0].name} is the one in use, and the head lies elsewhere in it; the mask is not '
                'used.'
            )
    if note:
        return None, note
    if of_other and any(_lies_on(path, other.files[0]) for other in series):
        return None, None
    return None, (
        'lies neither on the grid of the series nor on that of the T1w or FLAIR image and is not used; if it '
        'was drawn on one of these, name it space-T1w or space-FLAIR.'
    )


def _lies_on(path, image):
    return checks.image_problem(image) is None and checks.same_grid(path, image)


def is_of_other_scan(path, in_use, sessions) -> bool:
    """Whether a file names another session than that ``in_use``, which has an image of its own.

    Equal grids then say nothing: a protocol gives all its sessions the same one, and the head moves between
    them.
    """
    own = session_of(path)
    return None not in (own, in_use) and own != in_use and own in sessions


def is_of_other(path, one) -> bool:
    """Whether a file names another acquisition than a series does."""
    labels, own = entities_of(path), dict(one.entities)
    return any(labels[k] != own.get(k) for k in OF_SERIES if k in labels)
