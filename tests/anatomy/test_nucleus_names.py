from bids_qsm.anatomy.nucleus_names import body_of


def test_parts_and_long_names_are_known():
    assert {body_of(name) for name in ('SNc', 'SNr', 'Substantia nigra', 'SN')} == {'SN'}
    assert body_of('Globus_Pallidus') == 'GP'
    assert body_of('nucleus of nobody') == 'nucleus of nobody'
