"""Masks of where the field can be trusted."""

from nipype.interfaces.base import traits
from scipy import ndimage

from bids_qsm.errors import UserError
from bids_qsm.interfaces.device import call_method
from bids_qsm.interfaces.step import Data, Step, image, inputs, mask, methods_or_plugins, outputs, record
from bids_qsm.plugins.flags import findings_of
from bids_qsm.recon.masking import MASK, merge_two_pass, refine, strict, support, widen
from bids_qsm.recon.masking.morphology import largest, not_empty
from bids_qsm.recon.misfit import DOUBTFUL, HOPELESS, Misfit, find_misfit
from bids_qsm.recon.registry import call


class MakeMask(Step):
    """Make the mask of the reconstruction."""

    input_spec = inputs(
        magnitude=image('magnitude of all echoes (4D)'),
        quality=image('reliability of the phase (0 to 1)'),
        brain=mask('brain mask on the same grid', optional=True),
        **methods_or_plugins(MASK),
    )
    output_spec = outputs(
        mask=mask('where to reconstruct'),
        wide=mask('the mask and what lies round it with good phase'),
        plugin=record('what the plug-in that made it says of itself', optional=True),
    )

    def compute(self, data: Data):
        made, plugin = call_method('cpu', MASK, self.inputs.method, data, self.inputs.params)
        if plugin is not None:
            made = ndimage.binary_fill_holes(largest(made))
            not_empty(made, f'what the network {plugin["Name"]} finds')
            usual = call(next(iter(MASK.values())), data, {})
            shared = 2 * int((made & usual).sum()) / (int(made.sum()) + int(usual.sum()))
            plugin = {**plugin, 'DiceWithDefault': round(shared, 4)}
        return made, widen(made, data['quality'], data['grid']), plugin


class RefineMask(Step):
    """Judge the fit of the field, take off the rim of a mask where it failed, and find where it went well."""

    input_spec = inputs(
        mask=mask('where to reconstruct'),
        wide=mask('where the field was fitted'),
        residual=image('root mean square residual of the field fit (rad)'),
        noise=image('standard deviation of the field (ppm)'),
        magnitude=image('magnitude, echoes last'),
        earlier=record('what was found before', optional=True),
        plugin=record('what the plug-in that made the mask says', optional=True),
        as_given=traits.Bool(False, usedefault=True, desc='leave the mask as it is'),
    )
    output_spec = outputs(
        mask=mask('where to reconstruct'),
        support=mask('where the field is measured: the mask and what is good round it'),
        notes=record('how well the field fits the phase'),
    )

    def compute(self, data: Data):
        finding = judge(find_misfit(data['residual'], data['magnitude'], data['mask']))
        refined, fit = data['mask'], (data['residual'], data['noise'])
        if not self.inputs.as_given:
            refined = refine(refined, *fit, data['grid'])
        earlier = data['earlier']['findings'] if data['earlier'] else []
        earlier += findings_of(data['plugin']) if data['plugin'] else []
        notes = {'findings': [*earlier, *([finding] if finding else [])]}
        return refined, support(refined, data['wide'], *fit), notes


def judge(misfit: Misfit | None):
    """The finding on a fit, None where there is one echo only."""
    if misfit is None:
        return None
    evidence = (
        f'In {misfit.share:.1%} of the mask the phase departs from one field by more than noise and usual '
        f'effects explain (median {misfit.residual:.3f} rad, of noise {misfit.expected:.3f} rad).'
    )
    if misfit.share > HOPELESS:
        raise UserError(
            f'The echoes do not agree with one field. {evidence} Check that echo times, units, sign and '
            'order of the phase images are right for every echo.'
        )
    doubtful = misfit.share > DOUBTFUL
    return {
        'what': 'Field fit',
        'found': (
            'The echoes do not agree with one field: susceptibility is doubtful.'
            if doubtful
            else 'The phase of the echoes agrees with one field.'
        ),
        'action': (
            'None: check echo times, units, sign and order of the phase images.'
            if doubtful
            else 'None needed.'
        ),
        'evidence': evidence,
        'level': 'warning' if doubtful else 'info',
    }


class StrictMask(Step):
    """Leave strong sources out of a mask, for the first of two passes."""

    input_spec = inputs(
        quality=image('reliability of the phase (0 to 1)'), mask=mask('mask of the second pass')
    )
    output_spec = outputs(mask=mask('mask of the first pass'))

    def compute(self, data: Data):
        return strict(data['quality'], data['mask'])


class MergePasses(Step):
    """Join the susceptibility of two passes, the first without strong sources and their streaks."""

    input_spec = inputs(
        chi_strict=image('susceptibility of the first pass (ppm)'),
        chi_filled=image('susceptibility of the second pass (ppm)'),
        strict=mask('where the first pass gives susceptibility'),
    )
    output_spec = outputs(chi=image('susceptibility (ppm)'))

    def compute(self, data: Data):
        return merge_two_pass(data['chi_strict'], data['chi_filled'], data['strict'], data['grid'])
