"""Measures of nodules: by hand, against geometry, against skimage, and that nothing but the nodule decides them."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.spatial.distance import pdist
from skimage.measure import find_contours

from thyroid_utils.inference.nodule_measures import MEASURES, nodule_measures


def ellipse(a: float, b: float, angle: float = 0.0, side: int = 201, centre: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """Half axes a and b in pixels; `angle` turns a from the columns."""
    y, x = np.mgrid[:side, :side] - side // 2 - np.array(centre)[:, None, None]
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    return (along / a) ** 2 + (across / b) ** 2 <= 1


def star(amplitude: float, bumps: int = 9, radius: float = 60, side: int = 201) -> np.ndarray:
    y, x = np.mgrid[:side, :side] - side // 2
    return np.hypot(x, y) < radius * (1 + amplitude * np.cos(bumps * np.arctan2(y, x)))


def test_a_block_by_hand_and_of_two_nodules_the_largest_wherever_it_lies():
    mask = np.zeros((20, 30), bool)
    mask[3:7, 5:15] = True  # 4 rows, 10 columns
    found = nodule_measures(mask)
    assert list(found) == list(MEASURES)
    assert (found["area_px"], found["nodules"], found["specks"], found["touches_border"]) == (40, 1, 0, 0)
    assert (found["height_over_width"], found["taller_than_wide"]) == (0.4, 0)
    # The outline's farthest points: the middles of the outer edges of pixels at opposite corners, 10 and 3 or 9 and 4 apart.
    assert found["long_axis_px"] == pytest.approx(np.hypot(10, 3)) and found["short_axis_px"] == pytest.approx(4)
    in_mm = nodule_measures(mask, spacing=(0.5, 0.1))  # 2 mm high and 1 mm wide
    assert in_mm["area_mm2"] == pytest.approx(40 * 0.05)
    assert (in_mm["height_over_width"], in_mm["taller_than_wide"]) == (pytest.approx(2), 1)
    assert in_mm["long_axis_mm"] == pytest.approx(np.hypot(4 * 0.5, 9 * 0.1)) and in_mm["short_axis_mm"] == pytest.approx(1)
    assert nodule_measures(mask.T)["taller_than_wide"] == 1
    assert nodule_measures(mask[:, 5:])["touches_border"] == 1
    for given in ((np.zeros((4, 4)),), (np.zeros((4, 4), bool), np.zeros((4, 5), np.uint8))):
        with pytest.raises(ValueError, match=r"expected (bool|uint8)"):
            nodule_measures(*given)
    one, small = ellipse(30, 20, centre=(-50, -50)), ellipse(15, 15, centre=(50, 50))
    both = one | small
    both[0, 0] = True
    found, alone = nodule_measures(both), nodule_measures(np.roll(one, (7, 11), (0, 1)))
    nothing = nodule_measures(np.zeros((9, 9), bool), np.zeros((9, 9), np.uint8), 0.1)
    assert (nothing.pop("nodules"), nothing.pop("specks")) == (0, 0) and np.isnan(list(nothing.values())).all()
    assert (found.pop("nodules"), found.pop("specks")) == (2, 1)
    assert found == pytest.approx({name: alone[name] for name in found}, nan_ok=True)


@pytest.mark.parametrize("angle", [0.0, 0.4, 1.1, np.pi / 2])
def test_axes_of_ellipses_at_every_angle(angle):
    for a, b in ((50, 20), (30, 25), (12, 6)):
        mask = ellipse(a, b, angle, centre=(0.3, -0.2))
        found = nodule_measures(mask)
        # A pixel outline reaches up to half a pixel beyond the ellipse on either side.
        assert -0.3 < found["long_axis_px"] - 2 * a < 1.1 and -0.6 < found["short_axis_px"] - 2 * b < 1.1
        contour = np.concatenate(find_contours(np.pad(mask, 1).astype(float), 0.5))
        assert found["long_axis_px"] == pytest.approx(pdist(contour).max(), abs=1e-3)
        assert abs(found["margin_irregularity"]) < 0.03


def test_circularity_falls_with_length_irregularity_with_bumps_and_neither_with_pixels_shape():
    disc, oval = nodule_measures(ellipse(40, 40)), nodule_measures(ellipse(60, 20))
    assert disc["circularity"] == pytest.approx(1, abs=0.02)
    around = quad(lambda t: np.hypot(60 * np.sin(t), 20 * np.cos(t)), 0, 2 * np.pi)[0]
    assert oval["circularity"] == pytest.approx(4 * np.pi * np.pi * 60 * 20 / around**2, abs=0.02)
    assert abs(oval["margin_irregularity"]) < 0.01
    for amplitude in (0.05, 0.1, 0.2):
        length = quad(lambda t, e=amplitude: np.hypot(1 + e * np.cos(9 * t), 9 * e * np.sin(9 * t)), 0, 2 * np.pi, limit=200)[0]
        moment = quad(lambda t, e=amplitude: (1 + e * np.cos(9 * t)) ** 4 / 4, 0, 2 * np.pi)[0]
        area = quad(lambda t, e=amplitude: (1 + e * np.cos(9 * t)) ** 2 / 2, 0, 2 * np.pi)[0]
        circle = np.sqrt(2 * moment / area)  # of equal second moments: r² / 2 = ∫r² dA / A
        found = nodule_measures(star(amplitude))["margin_irregularity"]
        assert found == pytest.approx(length / (2 * np.pi * circle) - 1, abs=0.03), amplitude
    found = nodule_measures(ellipse(20, 40), spacing=(0.1, 0.2))  # 4 mm in radius both ways
    assert found["height_over_width"] == pytest.approx(1, abs=0.02)
    assert found["long_axis_mm"] == pytest.approx(8, abs=0.25) and found["short_axis_mm"] == pytest.approx(8, abs=0.25)
    assert found["circularity"] > 0.92 and abs(found["margin_irregularity"]) < 0.05
    assert found["area_mm2"] == pytest.approx(np.pi * 16, rel=0.02)
    line = np.zeros((80, 9), bool)
    line[5:75, 4] = True
    for mask, spacing in ((line, (0.1, 0.15)), (np.eye(80, dtype=bool), (0.2, 0.1))):
        found = nodule_measures(mask, spacing=spacing)
        assert np.isnan(found["circularity"]) and np.isnan(found["margin_irregularity"])
        assert found["area_mm2"] == pytest.approx(mask.sum() * np.prod(spacing)) and found["long_axis_mm"] > 6.9
    assert nodule_measures(line, spacing=0.1)["circularity"] < 0.5, "square pixels are counted as they are"


def test_brightness_against_the_ring_alone_and_the_edge_of_a_sector():
    mask, other = ellipse(30, 25), ellipse(6, 6, centre=(0, 40))
    gray = np.full(mask.shape, 120, np.uint8)
    gray[:20], gray[-20:], gray[:, :20], gray[:, -20:] = 0, 0, 0, 0  # around the echo image
    gray[mask], gray[other] = 50, 255  # the second nodule lies in the ring and must not count
    found = nodule_measures(mask | other, gray)
    assert (found["echo_inside"], found["echo_around"], found["echo_difference"]) == (50, 120, -70)
    edge = ellipse(30, 25, centre=(0, -52))  # its ring reaches the black frame, which is no tissue
    gray[mask | other], gray[edge] = 120, 50
    assert nodule_measures(edge, gray)["echo_around"] == pytest.approx(120, abs=5)  # not the 60 of a ring half black
    assert np.isnan(nodule_measures(np.ones((40, 40), bool), np.full((40, 40), 9, np.uint8))["echo_around"])
    # A disc of radius 20 in a fan on black: at 40 pixels from its straight side, and moved along until it meets it.
    y, x = np.mgrid[:300, :400]
    fan = (np.abs(np.degrees(np.arctan2(x - 200, y + 40))) < 35) & (np.hypot(x - 200, y + 40) < 320)
    gray = np.where(fan, np.random.default_rng(0).integers(60, 160, fan.shape), 0).astype(np.uint8)
    edges = [np.flatnonzero(fan[150])[0] + away for away in (64, 26, 20, 10)]
    found = [nodule_measures(np.hypot(y - 150, x - edge) <= 20, gray)["touches_border"] for edge in edges]
    assert found == [0, 1, 1, 1] or found == [0, 0, 1, 1]
    assert nodule_measures(np.hypot(y - 150, x - edges[3]) <= 20)["touches_border"] == 0, "unknown without gray levels"
