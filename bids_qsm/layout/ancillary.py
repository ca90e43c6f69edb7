"""What goes with a subject's series: its T1w image, earlier derivatives, lesion masks."""

from dataclasses import dataclass
from pathlib import Path

from bids_qsm.errors import UserError
from bids_qsm.layout import checks
from bids_qsm.layout.names import LONG_NAMES, entities_of, suffix_of


@dataclass(frozen=True)
class _Anatomy:
    t1w: Path | None
    t1w_preproc: Path | None
    brain_mask: Path | None
    template_xfm: tuple[tuple[str, Path, Path], ...]
    notes: tuple[str, ...]


def find_ancillary(series, t1w: list[Path], options):
    """For each of ``series`` (all of one subject) what to set in it; UserError where a file is unusable."""
    anatomy = _find_anatomy(series, t1w, options.derivatives)
    lesions = _find_lesions(series[0].subject, options)
    for one in series:
        on_anat, on_gre, notes = _place_lesions(one, lesions, anatomy, series)
        yield (
            one,
            {
                't1w': anatomy.t1w,
                't1w_preproc': anatomy.t1w_preproc,
                'brain_mask': anatomy.brain_mask,
                'template_xfm': anatomy.template_xfm,
                'mask': _find_mask(one, options.mask),
                'lesions_anat': on_anat,
                'lesions_gre': on_gre,
                'notes': (*one.notes, *anatomy.notes, *notes),
            },
        )


def _find_mask(one, choice):
    """The file that ``--mask`` names for a series, its words in braces filled in; None for other masks."""
    if choice.name != 'file':
        return None
    pattern = choice.as_dict['path']
    words = {'series': one.name, **{LONG_NAMES.get(k, k): v for k, v in one.entities}}
    try:
        path = Path(pattern.format_map(words))
    except (KeyError, ValueError, IndexError):
        raise UserError(
            f'--mask {pattern}: {one.name} has no entity of that name; known words are: '
            f'{", ".join(f"{{{word}}}" for word in words)}.'
        ) from None
    if not path.is_file():
        raise UserError(f'the mask {path} of {one.name} is not there; add it, or choose another with --mask.')
    problem = checks.image_problem(path)
    if problem:
        raise UserError(f'the mask {problem}')
    return path


def _find_anatomy(series, images, derivatives):
    """One anatomy for all series of a subject, whichever of them are run: of the first session and run."""
    notes = []

    def rank(path):
        labels = dict(entities_of(path))
        # contrast agent changes what tissue looks like
        return 'ce' in labels, labels.get('ses', ''), labels.get('run', '').zfill(4), path.name

    images = sorted(images, key=rank)
    t1w = images[0] if images else None
    if t1w:
        problem = checks.image_problem(t1w)
        if problem:
            raise UserError(f'the T1w image {problem}')
        if len(images) > 1:
            notes.append(f'There are {len(images)} T1w images; {t1w.name} is used.')
    session = _session(t1w)
    for name, root in derivatives:
        files = [p for p in root.glob(f'sub-{series[0].subject}/**/anat/*') if p.name[0] != '.']
        files.sort(key=lambda p: (_session(p) not in (session, None), rank(p)))
        mask = _first(files, suffix='mask', desc='brain', space=None)
        preproc = _first(files, suffix='T1w', desc='preproc', space=None)
        transforms = _find_transforms(files)
        if not (mask or preproc or transforms):
            if not any(suffix_of(p) in ('mask', 'roi') for p in files):
                notes.append(f'The derivatives {name} hold nothing for sub-{series[0].subject}.')
            continue
        base = preproc or t1w
        if base is None:
            raise UserError(
                f'the derivatives {name} hold transforms or masks of sub-{series[0].subject}, but neither '
                'they nor the dataset hold the T1w image these belong to.'
            )
        for path in filter(None, (preproc, mask)):
            problem = checks.image_problem(path) or (path is mask and checks.grid_problem(mask, base))
            if problem:
                raise UserError(f'in the derivatives {name}, {problem}')
        notes += [
            f'{what} of the derivatives {name} is used.'
            for what, found in (('The brain mask', mask), ('The preprocessed T1w image', preproc))
            if found
        ]
        if transforms:
            spaces = ', '.join(space for space, _, _ in transforms)
            notes.append(f'Transforms of the derivatives {name} to these spaces can be used: {spaces}.')
        return _Anatomy(t1w, preproc, mask, transforms, tuple(notes))
    if t1w is None:
        notes.append('There is no T1w image; the magnitude of the series itself is the anatomical image.')
    return _Anatomy(t1w, None, None, (), tuple(notes))


def _session(path):
    return dict(entities_of(path)).get('ses') if path else None


def _first(files, *, suffix, **wanted):
    for path in files:
        labels = dict(entities_of(path))
        is_kind = path.name.endswith(('.nii', '.nii.gz')) and suffix_of(path) == suffix
        if is_kind and all(labels.get(key) == value for key, value in wanted.items()):
            return path
    return None


def _find_transforms(files):
    """(space, T1w-to-space, space-to-T1w) of each space that has both."""
    there, back = {}, {}
    for path in files:
        labels = dict(entities_of(path))
        if suffix_of(path) == 'xfm' and path.suffix == '.h5' and labels.get('mode') == 'image':
            if labels.get('from') == 'T1w':
                there.setdefault(labels.get('to'), path)
            elif labels.get('to') == 'T1w':
                back.setdefault(labels.get('from'), path)
    return tuple((space, there[space], back[space]) for space in sorted(there) if space in back)


def _find_lesions(subject, options):
    """Lesion masks of a subject: in the dataset, in its derivatives/, in the derivatives given."""
    roots = [
        options.bids_dir,
        *sorted(options.bids_dir.glob('derivatives/*')),
        *(p for _, p in options.derivatives),
    ]
    found = {}
    for root in roots:
        if root.is_relative_to(options.output_dir):
            continue
        for path in sorted(root.glob(f'sub-{subject}/**/*.nii*')):
            label = dict(entities_of(path)).get('label', '')
            if suffix_of(path) in ('mask', 'roi') and label.lower().startswith('lesion'):
                found[path.resolve()] = path
    return list(found.values())


def _place_lesions(one, lesions, anatomy, series):
    """Lesion masks that concern a series, by the image they were drawn on: the T1w image or the series."""
    on_anat, on_gre, notes = [], [], []
    own = dict(one.entities)
    anat = anatomy.t1w_preproc or anatomy.t1w
    session = _session(anatomy.t1w_preproc) or _session(anatomy.t1w)
    for path in lesions:
        labels = dict(entities_of(path))
        if labels.get('ses', one.session) != one.session:
            continue
        problem = checks.image_problem(path)
        if problem:
            raise UserError(f'the lesion mask {problem}')
        space = labels.get('space', 'T1w' if '_T1w_' in path.name else None)
        of_other = any(labels[k] != own.get(k) for k in ('acq', 'ce', 'rec', 'run', 'inv') if k in labels)
        if space == 'T1w' and anat:
            if labels.get('ses', session) == session or checks.same_grid(path, anat):
                on_anat.append(path)
            else:
                notes.append(
                    f'The lesion mask {path.name} was drawn on the T1w image of session {labels["ses"]}, but '
                    f'{anat.name} is the one in use, on another grid; the mask is not used.'
                )
        elif space not in (None, 'orig', 'MEGRE', 'GRE', 'T2starw'):
            notes.append(f'The lesion mask {path.name} is in the space {space} and is not used.')
        elif checks.same_grid(path, one.files[0]):
            if not of_other:
                on_gre.append(path)
        elif space in (None, 'orig') and anat and checks.same_grid(path, anat):
            on_anat.append(path)
        elif not (of_other and any(checks.same_grid(path, other.files[0]) for other in series)):
            notes.append(
                f'The lesion mask {path.name} lies neither on the grid of the series nor on that of the T1w '
                'image and is not used; if it was drawn on the T1w image, name it space-T1w.'
            )
    return tuple(on_anat), tuple(on_gre), tuple(notes)
