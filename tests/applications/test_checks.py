"""The application: its three outputs, and the page of the cohort."""

import numpy as np
import pandas as pd

from bids_qsm.applications.checks import APPLICATION, IN_SENTENCES, compliance, measure, overview
from bids_qsm.biomarkers.consensus import CHECKS, COLUMNS
from bids_qsm.recon.grid import Grid
from tests.biomarkers.test_consensus import GOOD, SHAPE, TIMES, ball, parts


def test_what_it_gives():
    signal, inside = ball()
    magnitude, phase = parts(signal)
    grid, affine = Grid(SHAPE, (3.0, 3.0, 3.0), (0.0, 0.0, 1.0)), np.diag([3.0, 3.0, 3.0, 1.0])
    chi = np.where(inside, 0.01, 0).astype(np.float32)
    findings = [
        {'what': 'Bipolar readout', 'action': '', 'level': 'info', 'numbers': {'span': 0.5, 'share': 0.6}},
        {'what': 'High-pass filter', 'action': '', 'level': 'warning'},
    ]
    methods = {**GOOD.methods, 'software': 'bids_qsm 0'}
    of_scan = (grid, affine, TIMES, 3.0, 'csf', GOOD.sidecar, methods, findings)
    table, listed, document = measure(magnitude, phase, chi, inside, *of_scan)
    assert list(table) == list(COLUMNS)
    assert set(table['check']) == set(CHECKS)
    states = table.set_index('check')['state']
    assert states[['monopolar', 'unfiltered', 'brain_coverage', 'inversion']].tolist() == [
        *('warn', 'fail', 'pass', 'pass')
    ]
    assert document['Checks'] == states.to_dict()
    assert document['Reporting']['hardware']['Vendor'] == 'Siemens'
    assert document['Reporting']['hardware']['Scanner model'] is None
    assert document['MinimumReport'] == listed['value'].iloc[-1]
    assert listed['item'].iloc[-1] == IN_SENTENCES
    assert 'relative to csf' in document['MinimumReport']
    assert set(APPLICATION.tables[0].described()) == set(table)


def test_the_cohort_sees_which_fail():
    rows = [
        {'participant_id': f'sub-{n}', 'session_id': '1', 'check': check, 'state': state, 'severity': 'high'}
        for n, states in ((1, ('pass', 'fail')), (2, ('fail', 'fail')), (3, ('unknown', 'warn')))
        for check, state in zip(('slab', 'snr'), states, strict=True)
    ]
    table = compliance(pd.DataFrame(rows))
    assert table['check'].tolist() == ['snr', 'slab']
    assert table[['fail', 'warn', 'unknown', 'pass']].to_numpy().tolist() == [[2, 1, 0, 0], [1, 0, 1, 1]]
    assert table['fails in'].tolist() == ['sub-1_1, sub-2_1', 'sub-2_1']
    said = overview(pd.DataFrame(rows))
    assert '2 checks of 3 series' in said['answers'][0]
    assert 'snr, slab' in said['answers'][1]
