"""Dipole inversion."""

from nipype.interfaces.base import traits

from bids_qsm.interfaces.device import DEVICES, call_method
from bids_qsm.interfaces.step import (
    ECHO_TIMES,
    Data,
    Step,
    image,
    inputs,
    mask,
    methods_or_plugins,
    outputs,
    record,
)
from bids_qsm.recon.inversion import INVERSION
from bids_qsm.recon.masking.morphology import not_empty, without_specks
from bids_qsm.recon.units import effective_echo_time, ppm_per_radian

USUAL_FIELD = 3.0
"""Field strength (T) at which nonlinear methods compare phases, where it is unknown."""


class Invert(Step):
    """Turn a field map into a susceptibility map."""

    input_spec = inputs(
        field=image('local field (ppm); the total field for one-step methods'),
        mask=mask('where the field is given'),
        brain=mask('where susceptibility is wanted'),
        noise=image('standard deviation of the field (ppm)'),
        magnitude=image('magnitude of all echoes as one image'),
        r2star=image('R2* (1/s); absent with a single echo', optional=True),
        echo_times=ECHO_TIMES,
        field_strength=traits.Float(desc='B0 (T), where it is known'),
        device=traits.Enum(*DEVICES, usedefault=True, desc='where to compute'),
        **methods_or_plugins(INVERSION),
    )
    output_spec = outputs(
        chi=image('susceptibility (ppm)'),
        mask=mask('where it is given'),
        plugin=record('what the plug-in that made it says of itself', optional=True),
    )

    def compute(self, data: Data):
        time = effective_echo_time(self.inputs.echo_times)
        strength = data['field_strength']
        data['radians_per_ppm'] = 1 / ppm_per_radian(strength or USUAL_FIELD, time)
        data['total'] = data['field']
        wanted = without_specks(data['mask'] & data['brain'], data['grid'])
        not_empty(wanted, 'the local field inside the brain')
        found = (self.inputs.method, data, self.inputs.params)
        chi, plugin = call_method(self.inputs.device, INVERSION, *found, field_strength=strength)
        return chi * wanted, wanted, plugin
