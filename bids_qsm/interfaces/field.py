"""Field mapping."""

from nipype.interfaces.base import traits

from bids_qsm.interfaces.step import (
    ECHO_TIMES,
    FIELD_STRENGTH,
    Data,
    Step,
    image,
    inputs,
    mask,
    methods,
    outputs,
    record,
)
from bids_qsm.recon.arrays import Array
from bids_qsm.recon.curvature import remove_curvature
from bids_qsm.recon.field import FIELD
from bids_qsm.recon.registry import call


class FitField(Step):
    """Fit the field to the phase of all echoes."""

    input_spec = inputs(
        unwrapped=image('unwrapped phase (rad), echoes last'),
        magnitude=image('magnitude, echoes last'),
        mask=mask('where to fit'),
        echo_times=ECHO_TIMES,
        field_strength=FIELD_STRENGTH,
        phase=image('wrapped phase (rad), echoes last'),
        is_head=traits.Bool(True, usedefault=True, desc='whether it shows a head'),
        **methods(FIELD),
    )
    output_spec = outputs(
        field=image('field (ppm)'),
        noise=image('standard deviation of the field (ppm)'),
        residual=image('root mean square residual of the phase (rad)'),
        notes=record('what was taken off the field'),
    )

    def compute(self, data: Data):
        field, *quality = call(FIELD[self.inputs.method], data, self.inputs.params)
        findings = []
        if len(data['echo_times']) == 1 and self.inputs.is_head:
            field, finding = self._without_offset(field, data)
            findings.append(finding)
        return field, *quality, {'findings': findings}

    def _without_offset(self, field: Array, data: Data):
        """The field less what the phase offset of coils leaves in it, and what to say of that."""
        (echo_time,) = data['echo_times']
        flat, curvature, plausible = remove_curvature(field, data['mask'], data['grid'], echo_time)
        found = (
            'A single echo cannot tell the phase offset of the coils from the field. The Laplacian of that '
            f'offset is {1e3 * curvature:.3g} ppb/mm².'
        )
        if not plausible:
            action = 'None, as it is more than conducting tissue explains: slow changes of χ are doubtful.'
            return flat, {'what': 'Phase offset', 'found': found, 'level': 'warning', 'action': action}
        return flat, {'what': 'Phase offset', 'found': found, 'level': 'info', 'action': 'Subtracted.'}
