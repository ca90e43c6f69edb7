"""The reconstruction of one series, step by step, as the workflows do it."""

import time

import numpy as np

from bids_qsm.app.methods import Method, registries
from bids_qsm.plugins.methods import find_method
from bids_qsm.recon.curvature import remove_curvature
from bids_qsm.recon.harmonic_susceptibility import harmonic_susceptibility
from bids_qsm.recon.magnitude import combine
from bids_qsm.recon.masking import merge_two_pass, refine, strict, support, widen
from bids_qsm.recon.phase import remove_offset
from bids_qsm.recon.registry import call, needs
from bids_qsm.recon.swi import minip
from bids_qsm.recon.units import ppm_per_radian
from bids_qsm.recon.unwrap import voxel_quality
from bids_qsm.workflows.field import AS_GIVEN

STEPS = (
    'offset',
    'quality',
    'mask',
    'unwrap',
    'field',
    'refine',
    'r2star',
    'background',
    'inversion',
    'reference',
    'swi',
)


class Chain:
    """Chain of the default methods, but for those that ``choices`` names (step -> 'name:param=value').

    Every step leaves its results in ``data``, which starts as the data of a scan, its time in ``seconds``,
    and what there was before it in ``before``.
    """

    def __init__(self, data, choices=None):
        self.data = dict(data)
        self.seconds, self.before = {}, {}
        known = registries()
        chosen = {step: next(iter(methods)) for step, methods in known.items()} | (choices or {})
        self.methods = {step: Method.parse(text, known[step], step=step) for step, text in chosen.items()}
        self.functions = {
            step: find_method(known[step], method.name) for step, method in self.methods.items()
        }

    @property
    def is_one_step(self):
        """Whether the inversion takes the total field."""
        return 'total' in needs(self.functions['inversion'])

    @property
    def steps(self):
        """Names of the steps that this chain and this series have."""
        without = {'r2star'} if len(self.data['echo_times']) < 2 else set()
        without |= {'background'} if self.is_one_step else set()
        return tuple(step for step in STEPS if step not in without)

    def run(self, steps=None):
        """Run the steps, all unless named; return this chain."""
        for step in self.steps if steps is None else steps:
            self.before[step] = dict(self.data)
            start = time.perf_counter()
            getattr(self, f'_{step}')()
            self.seconds[step] = time.perf_counter() - start
        return self

    def branch(self, choices):
        """Another chain, which shares what this one has done before the first step that differs."""
        other = Chain(self.data, {step: str(method) for step, method in self.methods.items()} | choices)
        differs = min((STEPS.index(step) for step in choices), default=len(STEPS))
        done = [step for step in self.seconds if STEPS.index(step) < differs]
        left = [step for step in self.seconds if STEPS.index(step) >= differs]
        if left:
            other.data = dict(self.before[left[0]])
        other.seconds = {step: self.seconds[step] for step in done}
        return other

    def _call(self, step, **changed):
        return call(self.functions[step], {**self.data, **changed}, self.methods[step].as_dict)

    def _offset(self):
        # over all that gives signal: the mask comes later
        self.data['phase'], _ = call(remove_offset, {**self.data, 'mask': None}, {})

    def _quality(self):
        self.data['quality'] = call(voxel_quality, self.data, {})

    def _mask(self):
        data = self.data
        data['mask'] = self._call('mask')
        data['wide'] = widen(data['mask'], data['quality'], data['grid'])

    def _unwrap(self):
        self.data['unwrapped'] = self._call('unwrap', mask=self.data['wide'])

    def _field(self):
        data = self.data
        total, data['noise'], data['residual'] = self._call('field', mask=data['wide'])
        if len(data['echo_times']) == 1:
            total, *_ = remove_curvature(total, data['wide'], data['grid'], *data['echo_times'])
        data['total'] = total

    def _refine(self):
        data = self.data
        maps = (data['residual'], data['noise'])
        if self.methods['mask'].name not in AS_GIVEN:
            data['mask'] = refine(data['mask'], *maps, data['grid'])
        data['support'] = support(data['mask'], data['wide'], *maps)

    def _r2star(self):
        self.data['r2star'] = self._call('r2star', field=self.data['total'])[0]

    def _background(self):
        local, mask, *noise = self._call(
            'background',
            field=self.data['total'],
            mask=self.data['support'],
            r2star=self.data.get('r2star'),
        )
        self.data.update(local=local, inner_mask=mask, local_noise=(noise or [self.data['noise']])[0])

    def _inversion(self):
        self._invert()
        if self.methods['mask'].name == 'two_pass':
            self._second_pass()

    def _second_pass(self):
        """Do background and inversion again without strong sources, and join the maps."""
        data = self.data
        filled = {
            name: data[name]
            for name in (
                *('mask', 'support', 'chi'),
                *(() if self.is_one_step else ('inner_mask', 'local_noise')),
            )
        }
        data['mask'] = data['support'] = strict(data['quality'], data['mask'])
        if not self.is_one_step:
            self._background()
        self._invert()
        chi = merge_two_pass(data['chi'], filled['chi'], self.chi_mask, data['grid'])
        data.update(filled, chi=chi)

    def _invert(self):
        data = self.data
        effective = float(np.sqrt(np.mean(np.square(data['echo_times']))))
        field = (
            {'mask': data['support']}
            if self.is_one_step
            else {'field': data['local'], 'mask': data['inner_mask'], 'noise': data['local_noise']}
        )
        chi = self._call(
            'inversion',
            **field,
            magnitude=combine(data['magnitude']),
            radians_per_ppm=1 / ppm_per_radian(data['field_strength'], effective),
            r2star=data.get('r2star'),
        )
        data['chi'] = chi * self.chi_mask
        if self.methods['background'].name == 'levelled' and not self.is_one_step and 'r2star' in data:
            smooth, _ = harmonic_susceptibility(
                data['chi'], self.chi_mask, data['r2star'], data['grid'], with_uncertainty=False
            )
            data['chi'] = np.where(self.chi_mask, data['chi'] - smooth, 0)

    def _reference(self):
        self.data['offset'] = self._call('reference', mask=self.chi_mask, r2star=self.data.get('r2star'))[0]

    def _swi(self):
        self.data['swi'] = self._call('swi')
        self.data['minip'] = minip(self.data['swi'], self.data['grid'])

    @property
    def chi_mask(self):
        """Where susceptibility is given."""
        return self.data['mask'] & self.data['support' if self.is_one_step else 'inner_mask']
