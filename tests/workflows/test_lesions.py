from bids_qsm.workflows.lesions import distinct_names, init_lesions_wf
from bids_qsm.workflows.memory import Sizes

SIZES = Sizes(volume=0.1, padded=0.2, echoes=0.4, stored=0.4, anat=0.1)


def test_masks_of_one_name_are_told_apart_by_their_folders():
    paths = [
        '/d/derivatives/ann/sub-01/anat/m.nii',
        '/d/derivatives/ben/sub-01/anat/m.nii',
        '/d/sub-01/anat/n.nii',
    ]
    assert distinct_names(paths) == ['ann/sub-01/anat/m.nii', 'ben/sub-01/anat/m.nii', 'n.nii']
    assert distinct_names(['/a/m.nii', '/m.nii']) == ['a/m.nii', 'm.nii']


def test_sources_of_the_table_differ(tmp_path):
    masks = []
    for rater in ('ann', 'ben'):
        path = tmp_path / rater / 'sub-01_label-lesion_mask.nii.gz'
        path.parent.mkdir()
        path.touch()
        masks.append((str(path), 'gre'))
    workflow = init_lesions_wf(
        masks=tuple(masks),
        invert=[],
        has_r2star=False,
        sizes=SIZES,
    )
    sources = workflow.get_node('table').inputs.sources
    assert sources == [f'{rater}/sub-01_label-lesion_mask.nii.gz' for rater in ('ann', 'ben')]
