import numpy as np
import pytest

from bids_qsm.biomarkers.lesions import label_lesions


@pytest.mark.parametrize('value', [1, 3, 255])
def test_a_mask_of_any_one_value_is_binary(value):
    mask = np.zeros((6, 6, 6))
    mask[1, 1, 1] = mask[2, 2, 2] = mask[4:, 4, 4] = value
    found = label_lesions(mask)
    assert found[1, 1, 1] == found[2, 2, 2] == 1, 'pieces that touch at a corner are one'
    assert found[4, 4, 4] == found[5, 4, 4] == 2
    assert np.count_nonzero(found) == 4


def test_labels_and_empty_masks_are_kept():
    labels = np.zeros((4, 4, 4), np.int16)
    assert not label_lesions(labels).any()
    labels[0, 0, 0], labels[3, 3, 3] = 7, 2
    np.testing.assert_array_equal(label_lesions(labels), labels)
