import numpy as np

from bids_qsm.applications.lesions import placed
from bids_qsm.biomarkers.lesions import Drawn


def drawn(source, labels):
    labels = np.array(labels, np.int32).reshape(-1, 1, 1)
    return Drawn(source, labels, np.eye(4), labels)


def test_lesions_have_the_names_of_their_table():
    first, second = drawn('A', [0, 1, 1, 3, 0, 0]), drawn('B', [0, 1, 0, 0, 2, 0])
    found, names = placed([first, second], (6, 1, 1))
    # the first lesion of B lies in one of A, and the image shows the latter
    assert found.ravel().tolist() == [0, 1, 1, 3, 5, 0]
    assert names == {1: 'A: 1', 3: 'A: 3', 4: 'B: 1', 5: 'B: 2'}
    assert placed([first], (6, 1, 1))[1] == {1: '1', 3: '3'}
