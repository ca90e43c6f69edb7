import io
import re

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bids_qsm.derivatives.products import PRODUCTS
from bids_qsm.plotting.maps import Look, plot_flicker, plot_map, plot_outlines
from bids_qsm.plotting.mosaic import _WIDTH, MASK_COLOUR, canonical, few, slices_of

SHAPE = (40, 48, 36)
AFFINE = np.array([[4.0, 0, 0, -80], [0, 4, 0, -96], [0, 0, 4, -72], [0, 0, 0, 1]])


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert('RGB')).astype(int)


def near(picture, colour, tolerance=40):
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return (abs(picture - rgb) < tolerance).all(-1)


@pytest.fixture(scope='module')
def head():
    """An ellipsoid with noise, brighter on the subject's right (world x > 0), and its mask."""
    index = np.indices(SHAPE).transpose(1, 2, 3, 0)
    x, y, z = nib.affines.apply_affine(AFFINE, index).transpose(3, 0, 1, 2)
    mask = (x / 65) ** 2 + (y / 80) ** 2 + (z / 60) ** 2 < 1
    rng = np.random.default_rng(3)
    image = np.where(mask, np.where(x > 0, 1.0, 0.3), 0.0) + rng.normal(0, 0.01, SHAPE)
    return image.astype(np.float32), mask


@pytest.mark.parametrize('kind', [port for port, one in PRODUCTS.items() if one.look])
def test_every_kind_draws(head, kind):
    image, mask = head
    picture = pixels(plot_map(image, AFFINE, look=PRODUCTS[kind].look, mask=mask))
    assert picture.shape[1] == _WIDTH
    assert picture.std() > 10


@pytest.mark.parametrize('kind', ['magnitude', 'field', 'chi'])
def test_an_empty_map_without_mask_draws(kind):
    assert len(plot_map(np.zeros(SHAPE), AFFINE, look=PRODUCTS[kind].look)) > 1000


@pytest.mark.parametrize('codes', ['LPS', 'PIR'])
def test_right_of_the_subject_is_right_in_the_picture(head, codes):
    image, mask = head
    orientation = nib.orientations.axcodes2ornt(codes)
    change = nib.orientations.ornt_transform(nib.io_orientation(AFFINE), orientation)
    turned, turned_mask = (nib.apply_orientation(a, change) for a in (image, mask.astype(np.uint8)))
    affine = AFFINE @ nib.orientations.inv_ornt_aff(change, SHAPE)
    reference = pixels(plot_map(image, AFFINE, look=PRODUCTS['magnitude'].look, mask=mask))
    picture = pixels(plot_map(turned, affine, look=PRODUCTS['magnitude'].look, mask=turned_mask > 0))
    np.testing.assert_array_equal(picture, reference)
    # the middle slice of the upper row, without its letters
    tile = reference[90:180, 480:630, 0]
    left, right = tile[:, :70].mean(), tile[:, 80:].mean()
    assert right > 1.5 * left


def test_a_fraction_has_no_unit(head):
    image, mask = head
    share, plain = (
        plot_map(image, AFFINE, look=Look('Share', unit, window=(0.0, 1.0)), mask=mask) for unit in ('1', '')
    )
    assert share == plain


def test_pictures_are_the_same_each_time(head):
    image, mask = head
    assert plot_map(image, AFFINE, look=PRODUCTS['chi'].look, mask=mask) == plot_map(
        image, AFFINE, look=PRODUCTS['chi'].look, mask=mask
    )


def test_anisotropic_voxels_keep_their_shape(head):
    image, mask = head
    thick = AFFINE @ np.diag([1, 1, 3, 1])
    whole = pixels(plot_map(image, AFFINE, look=PRODUCTS['magnitude'].look, mask=mask)).shape
    part = pixels(
        plot_map(image[..., 1::3], thick, look=PRODUCTS['magnitude'].look, mask=mask[..., 1::3])
    ).shape
    assert abs(whole[0] - part[0]) < 0.08 * whole[0]


def test_a_multi_echo_series_shows_first_middle_and_last_echo(head):
    image, mask = head
    series = np.stack([image * 0 + level for level in (-3.0, 0.0, 0.0, 1.5, 3.0)], -1)
    with_middle = plot_map(series, AFFINE, look=PRODUCTS['phase'].look, mask=mask)
    series[..., 1] = 2.0
    assert plot_map(series, AFFINE, look=PRODUCTS['phase'].look, mask=mask) == with_middle
    series[..., 2] = 2.0
    assert plot_map(series, AFFINE, look=PRODUCTS['phase'].look, mask=mask) != with_middle
    assert few(5, 3) == [0, 2, 4]
    assert few(2, 3) == [0, 1]


def test_outside_of_the_mask_is_blank_and_nan_does_no_harm(head):
    image, mask = head
    dirty = np.where(mask, image, np.nan)
    noisy = np.where(mask, image, 99.0)
    assert plot_map(dirty, AFFINE, look=PRODUCTS['chi'].look, mask=mask) == plot_map(
        noisy, AFFINE, look=PRODUCTS['chi'].look, mask=mask
    )


def test_mask_outline_is_drawn_in_its_colour(head):
    image, mask = head
    outlined = near(
        pixels(plot_outlines(image, AFFINE, look=PRODUCTS['magnitude'].look, mask=mask)), MASK_COLOUR
    )
    plain = near(pixels(plot_map(image, AFFINE, look=PRODUCTS['magnitude'].look, mask=mask)), MASK_COLOUR)
    assert outlined.sum() > 1000 > plain.sum()


def test_regions_are_outlined_and_named_in_their_colours(head):
    image, mask = head
    dseg = np.zeros(SHAPE, np.int16)
    dseg[14:18, 20:28, 14:20], dseg[22:26, 20:28, 14:20], dseg[18:22, 10:14, 8:12] = 1, 2, 7
    labels = pd.DataFrame({'index': [1, 2, 7, 9], 'region': ['Putamen', 'Putamen', 'RN', 'absent']})
    picture = pixels(
        plot_outlines(image, AFFINE, look=PRODUCTS['chi'].look, mask=mask, dseg=dseg, labels=labels)
    )
    assert near(picture, '#4dabf7').sum() > 300
    assert near(picture, '#ff6b6b').sum() > 50
    assert not near(picture, '#51cf66').any()
    unnamed = plot_outlines(image, AFFINE, look=PRODUCTS['chi'].look, dseg=dseg)
    assert near(pixels(unnamed), '#51cf66').any()


def test_slices_go_where_the_regions_are():
    regions = np.zeros((4, 4, 100), int)
    regions[0, 0, 10:12], regions[1, 1, 60:90] = 1, 2
    chosen = slices_of([(0, 3), (0, 3), (0, 99)], 2, 4, regions)
    assert sum(10 <= i < 12 for i in chosen) == 2
    assert sum(60 <= i < 90 for i in chosen) == 2


def test_outlines_need_something_to_draw(head):
    image, mask = head
    with pytest.raises(ValueError, match='needs a mask or labels'):
        plot_outlines(image, AFFINE, look=PRODUCTS['chi'].look, dseg=np.zeros(SHAPE, int))
    with pytest.raises(ValueError, match='mask has shape'):
        plot_map(image, AFFINE, look=PRODUCTS['chi'].look, mask=mask[1:])
    with pytest.raises(ValueError, match='dseg has shape'):
        plot_outlines(image, AFFINE, look=PRODUCTS['chi'].look, mask=mask, dseg=np.ones((3, 3, 3), int))


def test_flicker_embeds_both_pictures_and_no_script(head):
    image, mask = head
    svg = plot_flicker(image, image[::-1], AFFINE, mask=mask, labels=('T1w', 'GRE'), title='Alignment')
    frames = re.findall(r'href="data:image/png;base64,([^"]+)"', svg)
    assert len(frames) == 2
    assert frames[0] != frames[1]
    assert '@keyframes' in svg
    assert '<script' not in svg


def test_a_noisy_whole_head_stays_small():
    rng = np.random.default_rng(0)
    noise = rng.normal(0.05, 0.05, (160, 192, 144)).astype(np.float32)
    index = np.indices(noise.shape) - np.array(noise.shape)[:, None, None, None] / 2
    mask = (index**2 / (np.array([70, 88, 65]) ** 2)[:, None, None, None]).sum(0) < 1
    assert len(plot_map(noise, np.diag([1, 1, 1, 1]), look=PRODUCTS['chi'].look, mask=mask)) < 400_000


def test_canonical_only_flips_and_permutes(head):
    image, _ = head
    affine = nib.affines.from_matvec(
        nib.eulerangles.euler2mat(0.2, 0.1, 0.3) @ np.diag([-2, 2, 3]), [5, 6, 7]
    )
    turned, new = canonical(image, affine)
    assert nib.aff2axcodes(new) == ('R', 'A', 'S')
    point = np.array([3, 4, 5])
    old = SHAPE[0] - 1 - point[0], point[1], point[2]
    assert turned[tuple(point)] == image[old]
    np.testing.assert_allclose(
        nib.affines.apply_affine(new, point), nib.affines.apply_affine(affine, old), atol=1e-9
    )
