import numpy as np

from bids_qsm.phantom.central_veins import KINDS, centred, draw_sites, scene


def nearest(site):
    """Least distance of its first vein from the centre of a lesion, in radii."""
    lesion, vein = site.lesions[0], site.veins[0].points
    return np.linalg.norm(vein - lesion.centre, axis=1).min() / lesion.radius


def test_veins_lie_where_the_kind_says():
    sites = [site for seed in range(8) for site in scene(seed, (40, 40, 40))[0]]
    kinds = {kind: [site for site in sites if site.kind == kind] for kind in KINDS}
    assert all(kinds.values())
    # points of a vein are a millimetre apart
    assert max(nearest(site) for site in kinds['central']) < 0.35
    assert min(nearest(site) for site in kinds['off-centre']) >= 0.5
    assert min(nearest(site) for site in kinds['edge']) >= 0.95
    assert all(not site.veins for site in kinds['none'])
    assert all(len(site.veins) == 2 for site in kinds['several'])
    assert all(len(site.lesions) == 2 for site in kinds['confluent'])
    assert all(site.lesions[0].radius < 1.5 for site in kinds['small'])


def test_veins_of_others_stay_away():
    sites, bed = scene(3, (40, 40, 40))
    for site in sites:
        others = [v for v in bed.vessels() if not any(v is own for own in site.veins)]
        assert not any(site.reaches(vein.points, 1.0) for vein in others)


def test_masks_are_where_the_lesions_are():
    sites, _ = scene(1, (40, 40, 40))
    labels = draw_sites(sites, (40, 40, 40), centred((40, 40, 40)))
    for number, site in enumerate(sites, 1):
        points = np.argwhere(labels == number) - 19.5
        centre = np.mean([one.centre for one in site.lesions], axis=0) + site.drawn
        assert np.linalg.norm(points.mean(0) - centre) < 0.8
