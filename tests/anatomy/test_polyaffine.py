import numpy as np

from bids_qsm.anatomy.nucleus_names import body_of
from bids_qsm.anatomy.polyaffine import Body, flow
from bids_qsm.anatomy.register import fade
from bids_qsm.anatomy.transform import grid_points, transform_points
from tests.anatomy.nuclei import AFFINE, LABELS, SHAPE, SHIFTS, STAY, amounts


def carried():
    share, rows = amounts(STAY), LABELS.assign(body=LABELS['region'].map(body_of))
    bodies = [
        Body(np.minimum(sum(share[i] for i in parts), 1), np.array(SHIFTS[name]))
        for name, parts in rows.groupby(['body', 'hemisphere'])['index']
    ]
    return bodies, flow(bodies, AFFINE, fade(SHAPE, 8.0))


def test_every_body_goes_its_own_way():
    bodies, (there, _) = carried()
    for body in bodies:
        inside = there.field[body.share > 0.9]
        np.testing.assert_allclose(np.median(inside, axis=0), body.shift, atol=0.3)


def test_the_inverse_leads_back_and_nothing_folds():
    _, (there, back) = carried()
    points = grid_points(SHAPE, AFFINE)[::7]
    np.testing.assert_allclose(transform_points(points, [there, back]), points, atol=0.25)
    rows = np.stack([np.stack(np.gradient(there.field[..., d]), -1) for d in range(3)], -2)
    assert np.linalg.det(rows + np.eye(3)).min() > 0


def test_the_faces_of_the_box_stay():
    _, displacements = carried()
    for d in displacements:
        for axis in range(3):
            assert not d.field.take([0, -1], axis).any()
