import io

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb
from PIL import Image

from bids_qsm.plotting import planes
from bids_qsm.plotting.maps import Look
from bids_qsm.plotting.planes import DOT, plot_planes

LABELS = pd.DataFrame({'index': [1, 2], 'name': ['yes', 'no']})
LOOK = Look('Susceptibility', 'ppm')


def drawn(numbers, marks=None):
    data = np.random.default_rng(0).normal(size=numbers.shape).astype(np.float32)
    png = plot_planes(
        data,
        np.eye(4),
        look=LOOK,
        numbers=numbers,
        dseg=(numbers > 0) + (numbers > 1),
        labels=LABELS,
        marks=marks,
    )
    return np.asarray(Image.open(io.BytesIO(png)).convert('RGB')).astype(int)


def test_each_thing_has_three_tiles_and_marks_are_dotted():
    numbers = np.zeros((20, 18, 16), int)
    numbers[2:6, 3:7, 3:7], numbers[12:16, 10:14, 9:13] = 1, 2
    marks = np.zeros(numbers.shape, bool)
    marks[4, :, 5] = True
    picture = drawn(numbers, marks)
    dot = 255 * np.array(to_rgb(DOT))
    assert (np.abs(picture - dot).sum(-1) < 60).any()
    assert not (np.abs(drawn(numbers) - dot).sum(-1) < 60).any()


def test_only_the_first_of_many_are_shown(monkeypatch):
    monkeypatch.setattr(planes, 'MOST', 3)
    numbers = np.zeros((20, 6, 6), int)
    for n in range(5):
        numbers[2 * n + 2, 3, 3] = n + 1
    few = np.where(numbers <= 3, numbers, 0)
    assert drawn(numbers).shape == drawn(few).shape
