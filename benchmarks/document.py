"""Render docs/benchmarks.md and its figures from the results: python benchmarks/document.py."""

import argparse
import json
import re
from pathlib import Path

import figures
import numpy as np
import pandas as pd
import peers
from results import FOLDER, defaults

TEMPLATE = Path(__file__).with_name('template.md')
DOCS = Path(__file__).parent.parent / 'docs'
CHI = {
    'nrmse': 'NRMSE %',
    'detrended': 'detrended %',
    'hfen': 'HFEN %',
    'xsim': 'XSIM',
    'deep_grey': 'deep grey %',
    'slope': 'slope',
    'intercept_ppb': 'intercept ppb',
    'coverage': 'coverage',
    'stone': 'calcification %',
    'vein_ppb': 'veins ppb',
}
"""Columns of every table of susceptibility."""
DIGITS = {'XSIM': 2, 'slope': 2, 'coverage': 3, 'mask Dice': 3, 'mask coverage': 3}

HELD = ('7 T', 'SNR 20', 'voxel 1x1x2', '1 echo', 'tilt 25', 'hard')
"""Conditions under which nothing may break."""


class Results:
    """Tables of a folder of results; those of accuracy of one voxel size (mm).

    ``machine`` is what they were measured on, ``defaults`` the methods that were the defaults then.
    """

    def __init__(self, folder, voxel):
        self.folder, self.voxel = Path(folder), voxel
        accuracy = self.table('accuracy')
        self.accuracy = accuracy[accuracy['voxel'] == voxel] if len(accuracy) else accuracy
        path = self.folder / 'machine.json'
        self.machine = json.loads(path.read_text()) if path.exists() else {}
        self.defaults = self.machine.get('defaults', defaults())

    def table(self, name):
        """A table, empty where it was not measured."""
        path = self.folder / f'{name}.tsv'
        return pd.read_csv(path, sep='\t', na_values='n/a') if path.exists() else pd.DataFrame()

    def part(self, part, condition='base'):
        """Means by method over the seeds that all of them have, of one part under one condition."""
        frame = self.accuracy
        if not len(frame):
            return frame
        frame = frame[(frame['part'] == part) & (frame['condition'] == condition)]
        seeds = [set(group['seed']) for _, group in frame.groupby('method')]
        frame = frame[frame['seed'].isin(set.intersection(*seeds))] if seeds else frame
        numbers = frame.select_dtypes('number').columns.difference(['voxel', 'seed'])
        return frame.groupby('method', sort=False)[list(numbers)].mean()

    def seeds(self, part, method, condition='base'):
        """Rows of all seeds of one method."""
        frame = self.accuracy
        chosen = (frame['part'] == part) & (frame['condition'] == condition) & (frame['method'] == method)
        return frame[chosen]

    def seconds(self):
        """CPU seconds of one thread by (step, method)."""
        frame = self.table('speed')
        if not len(frame):
            return {}
        frame = frame[frame['threads'] == 1]
        return dict(zip(zip(frame['step'], frame['method'], strict=True), frame['cpu'], strict=True))


def number(value, digits):
    """A number for a table; a dash where there is none."""
    return '–' if value is None or pd.isna(value) else f'{value:.{digits}f}'


def brief(value):
    """A time or an amount with about two digits."""
    return (
        '–'
        if value is None or pd.isna(value)
        else f'{value:.{max(0, 1 - int(np.floor(np.log10(max(value, 1e-3)))))}f}'
    )


def markdown(head, rows):
    """A table; columns of numbers to the right."""
    if not rows:
        return '*Not measured.*'
    lines = [f'| {" | ".join(head)} |', f'|---|{"---:|" * (len(head) - 1)}']
    return '\n'.join([*lines, *(f'| {" | ".join(row)} |' for row in rows)])


def scores(frame, columns, default, *, label='method', more=None):
    """Table of a part: one row a method, best NRMSE first, the default in bold.

    ``more`` are further columns, title -> function of the method's name.
    """
    more = more or {}
    if not len(frame):
        return '*Not measured.*'
    rows = []
    for name, row in frame.sort_values('nrmse', na_position='last').iterrows():
        cells = [number(row.get(key), DIGITS.get(title, 1)) for key, title in columns.items()]
        cells += [function(name) for function in more.values()]
        rows.append([f'**{name}**' if name == default else str(name), *cells])
    return markdown([label, *columns.values(), *more], rows)


def inversion(results):
    seconds = results.seconds()
    more = {
        'peer %': lambda n: number(peers.NRMSE.get(n), 1),
        's': lambda n: brief(seconds.get(('inversion', n))),
    }
    columns = {k: v for k, v in CHI.items() if k != 'coverage'}
    return scores(results.part('inversion'), columns, results.defaults['inversion'], more=more)


def background(results):
    seconds = results.seconds()
    more = {'s': lambda n: brief(seconds.get(('background', n)))}
    columns = {'field_nrmse': 'field %', 'field_nrmse_deep': 'field, 6 mm inside %', **CHI}
    return scores(results.part('background'), columns, results.defaults['background'], more=more)


def exchanged(results, step, columns):
    """Chains that differ from the default one in one step alone."""
    frame = results.part('chain')
    if not len(frame):
        return '*Not measured.*'
    own = [n for n in frame.index if n == 'default' or n.startswith(f'{step}: ')]
    default = results.defaults[step]
    frame = frame.loc[own].rename(index=lambda n: default if n == 'default' else n.partition(': ')[2])
    return scores(frame, columns, default)


def mask(results):
    columns = {'mask_dice': 'mask Dice', 'mask_coverage': 'mask coverage', **CHI}
    return exchanged(results, 'mask', columns)


def unwrap(results):
    columns = {'wraps_mean': 'wrong wraps %', 'wraps_last': 'last echo %', 'total_ppb': 'field error ppb'}
    return exchanged(results, 'unwrap', {**columns, 'nrmse': 'NRMSE %'})


def field(results):
    return exchanged(results, 'field', {'total_ppb': 'field error ppb', **CHI})


def chain(results):
    return scores(results.part('chain'), CHI, 'default', label='chain')


def conditions(results):
    frame = results.accuracy
    names = list(dict.fromkeys(frame['condition'])) if len(frame) else []
    rows = []
    for name in names:
        parts = {part: results.part(part, name) for part in ('inversion', 'background', 'chain')}
        cells = [name]
        for part, method, columns in (
            ('chain', 'default', ('mask_dice', 'coverage', 'nrmse', 'xsim', 'deep_grey', 'slope')),
            ('inversion', results.defaults['inversion'], ('nrmse',)),
            ('inversion', 'tkd', ('nrmse',)),
            ('background', results.defaults['background'], ('field_nrmse', 'nrmse')),
        ):
            found = parts[part]
            row = found.loc[method] if len(found) and method in found.index else {}
            cells += [
                number(
                    row.get(c), 3 if c in ('mask_dice', 'coverage') else 2 if c in ('xsim', 'slope') else 1
                )
                for c in columns
            ]
        rows.append(cells)
    head = ('mask Dice', 'coverage', 'NRMSE %', 'XSIM', 'deep grey %', 'slope')
    steps = ('inversion alone %', 'TKD alone %', 'background: field %', 'background: χ %')
    return markdown(['condition', *head, *steps], rows)


def must(results):
    """What was asked for at 1 mm, 3 T, SNR 70, and what was reached."""
    whole, single = results.part('chain'), results.part('inversion')
    if 'default' not in whole.index or results.defaults['inversion'] not in single.index:
        return '*Not measured.*'
    alone, plain = (
        results.seeds('inversion', method)['nrmse'].mean()
        for method in (results.defaults['inversion'], 'tkd')
    )
    ratio = results.seeds('chain', 'default')['nrmse'].mean() / alone
    best = single['nrmse'].idxmin()
    best_ratio = single.loc[best, 'nrmse'] / single['nrmse'].get('tkd', np.nan)

    def over_seeds(column, digits, unit=''):
        found = results.seeds('chain', 'default')[column]
        low, high = number(found.min(), digits), number(found.max(), digits)
        spread = f' ({low} – {high})' if len(found) > 1 else ''
        return f'{number(found.mean(), digits)}{spread}{unit}'

    lines = [
        ('NRMSE of the default chain, own mask', '≤ 45 %', over_seeds('nrmse', 1, ' %')),
        ('over the same inversion from the true local field', '≤ 1.25', f'{ratio:.2f}'),
        ('coverage', '≥ .97', over_seeds('coverage', 3)),
        ('deep-grey NRMSE', '≤ 15 %', over_seeds('deep_grey', 1, ' %')),
        ('slope of regional means', '.95 – 1.05', over_seeds('slope', 3)),
        ('Dice of the mask', '≥ .96', over_seeds('mask_dice', 3)),
        ('default inversion over TKD, true local field', '≤ .6', f'{alone / plain:.2f}'),
        ('best inversion over TKD', '≤ .5', f'{best_ratio:.2f} ({best})'),
    ]
    for name in HELD:
        held = results.part('chain', name)
        if 'default' in held.index:
            found = held.loc['default']
            reached = f'{found["mask_dice"]:.3f}; {found["slope"]:.2f}'
            lines.append((f'{name}: Dice of the mask; slope', '≥ .93; .85 – 1.15', reached))
    return markdown(['', 'asked', 'reached'], [list(line) for line in lines])


def families(results, measured='families'):
    """Families one after the other, each with its chains, best first; then the means over families.

    Chains that were measured on fewer heads than another are left out: means of unlike heads do not compare.
    """
    frame = results.table(measured)
    if not len(frame):
        return '*Not measured.*'
    heads = frame['chain'].map(frame['chain'].value_counts())
    frame = frame[heads == heads.max()]
    columns = {'nrmse': 'NRMSE %', 'slow_ppb': 'slow ppb', 'hfen': 'HFEN %', 'nuclei_ppb': 'nuclei ppb'}
    columns |= {'slope': 'slope', 'kept': 'gradient kept %'}
    digits = {'slope': 2, 'kept': 0}
    keys = ['family', 'chain']
    means = frame.groupby(keys, sort=False).agg({'seed': 'count'} | dict.fromkeys(columns, 'mean'))
    means = means.reset_index()
    overall = means.groupby('chain', sort=False).agg({'seed': 'sum'} | dict.fromkeys(columns, 'mean'))
    # only one family has a gradient
    overall = overall.reset_index().assign(family='all', kept=np.nan)
    rows = []
    for name, group in pd.concat([means, overall]).groupby('family', sort=False):
        for n, (_, row) in enumerate(group.sort_values('nrmse').iterrows()):
            chain = f'**{row["chain"]}**' if row['chain'] == 'default' else row['chain']
            cells = [number(row[key], digits.get(key, 1)) for key in columns]
            rows.append(['' if n else name, chain, str(row['seed']), *cells])
    return markdown(['family', 'chain', 'heads', *columns.values()], rows)


def families_former(results):
    """The same of all chains, on the heads that were drawn before veins had realistic numbers and widths."""
    return families(results, 'families_former')


def veins_in_bold(results):
    """What excluding and regressing veins changes, over heads: means, and the worst head in brackets."""
    frame = results.table('fmri')
    if not len(frame):
        return '*Not measured.*'
    columns = {'moved_mm': 'moved mm', 'off_mm': 'off mm', 'response': 'response', 'false_%': 'false %'}
    columns['excluded'] = 'grey matter excluded %'
    frame = frame.assign(excluded=100 * frame['gm_excluded'])
    rows = []
    for (veins, way), group in frame.groupby(['veins', 'way'], sort=False):
        cells = [f'{number(group[key].mean(), 2)} ({number(_worst(group[key]), 2)})' for key in columns]
        rows.append([veins, way, str(len(group)), *cells])
    return markdown(['veins', 'voxels and model', 'heads', *columns.values()], rows)


def _worst(values):
    """The value farthest from what is asked for: 1 for the response, 0 for all else."""
    return values.iloc[(values - (values.name == 'response')).abs().argmax()]


def r2star(results):
    columns = {'nrmse': 'NRMSE %', 'median_error': 'median error 1/s', 'outliers': 'off by 20/s or more %'}
    columns |= {'deep_grey': 'deep grey %', 'slope': 'slope'}
    return scores(results.part('r2star'), columns, results.defaults['r2star'])


def swi(results):
    columns = {'contrast': 'contrast of veins', 'contrast_to_noise': 'contrast to noise'}
    frame = results.part('swi')
    rows = [
        [
            f'**{name}**' if name == results.defaults['swi'] else name,
            *(number(row.get(c), 2) for c in columns),
        ]
        for name, row in frame.iterrows()
    ]
    return markdown(['method', *columns.values()], rows)


def speed(results):
    frame = results.table('speed')
    rows, total = [], 0.0
    for (step, method), group in frame.groupby(['step', 'method'], sort=False) if len(frame) else ():
        by = group.set_index('threads')
        one, two = (by.loc[n] if n in by.index else {} for n in (1, 2))
        peer, mine = peers.SECONDS.get((step, method)), one.get('cpu')
        gain = brief(peer / mine) if peer and mine else '–'
        cells = [brief(mine), brief(two.get('seconds')), brief(one.get('pairs'))]
        cells += [number(one.get('bytes_per_voxel'), 0), brief(peer), gain]
        bold = method == results.defaults.get(step)
        rows.append([step, f'**{method}**' if bold else method, *cells])
        total += mine if mine and (step == 'offset' or (bold and step in ('unwrap', 'field'))) else 0
    if rows:
        gain = brief(peers.FIELD_MAPPING / total) if total else '–'
        sums = ['–', '–', '–', brief(peers.FIELD_MAPPING), gain]
        rows.append(['offset + unwrap + field', 'default', brief(total), *sums])
    head = ['step', 'method', '1 thread', '2 threads', 'FFT pairs', 'bytes/voxel', 'peer', 'times faster']
    return markdown(head, rows)


def speed_chain(results):
    frame = results.table('speed_chain')
    if not len(frame):
        return '*Not measured.*'
    threads = sorted(frame['threads'].unique())
    rows = []
    for step, group in frame.groupby('step', sort=False):
        by = group.set_index('threads')
        name = by['method'].iloc[0]
        cells = [brief(by['seconds'].get(n)) for n in threads]
        cells.append(number(by['peak_gib'].max(), 2))
        rows.append([step, '' if pd.isna(name) else str(name), *cells])
    sums = [brief(frame.loc[frame['threads'] == n, 'seconds'].sum()) for n in threads]
    rows.append(['all', '', *sums, number(frame['peak_gib'].max(), 2)])
    rows.append(
        [
            'strongest peer, without R2* and SWI',
            '',
            *(brief(peers.CHAIN) if n == 2 else '–' for n in threads),
            '–',
        ]
    )
    titles = [f'{n} thread{"s" if n > 1 else ""}, s' for n in threads]
    return markdown(['step', 'method', *titles, 'peak GiB'], rows)


def speed_fft(results):
    frame = results.table('speed_fft')
    if not len(frame):
        return '*Not measured.*'
    wide = frame.pivot_table('ms', 'engine', ['shape', 'threads'], sort=False)
    titles = [f'{shape.replace("x", " x ")}, {n} thread{"s" if n > 1 else ""}' for shape, n in wide.columns]
    rows = [
        [engine, *(number(v, 0) for v in row)]
        for engine, row in zip(wide.index, wide.to_numpy(), strict=True)
    ]
    return markdown(['engine', *titles], rows)


def machine(results):
    m = results.machine
    if not m:
        return ''
    return (
        f'Measured {m["date"]} with bids_qsm {m["bids_qsm"]} on {m["cores"]} cores of an {m["processor"]}\n'
        f'(Python {m["python"]}, NumPy {m["numpy"]}, SciPy {m["scipy"]}, numba {m["numba"]}).'
    )


TABLES = (
    *(machine, must, mask, unwrap, field, background, inversion, chain, families, families_former),
    *(conditions, veins_in_bold, r2star, swi),
    *(speed, speed_chain, speed_fft),
)


def render(template, results):
    """The template with its {{name}} replaced by tables, without comments to its authors."""
    text = re.sub(r'<!-- why: .*? -->\n*', '', template)
    for table in TABLES:
        text = text.replace('{{' + table.__name__ + '}}', table(results))
    left = re.findall(r'\{\{(\w+)\}\}', text)
    if left:
        raise ValueError(f'the template names {left[0]!r}, which is none of the tables')
    return text


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--results', type=Path, default=FOLDER)
    parser.add_argument('--docs', type=Path, default=DOCS)
    parser.add_argument('--voxel', type=float, default=1.0, help='base condition to show (mm)')
    args = parser.parse_args(words)
    results = Results(args.results, args.voxel)
    figures.draw(results, args.docs / 'figures')
    page = render(TEMPLATE.read_text(encoding='utf-8'), results)
    (args.docs / 'benchmarks.md').write_text(page, encoding='utf-8')


if __name__ == '__main__':
    main()
