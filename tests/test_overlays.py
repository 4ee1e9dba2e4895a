"""Echo area and burned-in marks: drawn frames whose truth is known, then the real ones."""

import cv2
import numpy as np
import pytest

from thyroid_utils.data.images import read_gray, read_mask
from thyroid_utils.data.overlays import Box, echo_mask, find_echo, find_echo_area, find_overlays

WHITE = 255


def speckle(shape: tuple[int, int], seed: int, level: float = 90.0) -> np.ndarray:
    """Log-compressed Rayleigh speckle with grains of about three pixels, uint8; the lower left quarter is darker."""
    rng = np.random.default_rng(seed)
    field = rng.normal(size=(*shape, 2))
    field = cv2.GaussianBlur(field, (0, 0), 1.2)
    envelope = np.hypot(field[..., 0], field[..., 1]) / field.std()
    gray = level + 255 / 60 * 20 * np.log10(np.maximum(envelope, 1e-3) / 1.41)
    gray[shape[0] // 2 :, : shape[1] // 2] -= 40
    return np.clip(gray, 0, 255).astype(np.uint8)


def frame(outline: np.ndarray, seed: int = 0, shape: tuple[int, int] = (360, 480)) -> tuple[np.ndarray, np.ndarray]:
    """A black frame with speckle inside the polygon `outline` ((n, 2) of x, y), and the polygon as a mask."""
    truth = np.zeros(shape, np.uint8)
    cv2.fillPoly(truth, [np.round(outline).astype(np.int32)], 1)
    return speckle(shape, seed) * truth, truth.astype(bool)


def rectangle(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    return np.array([(left, top), (right - 1, top), (right - 1, bottom - 1), (left, bottom - 1)])


def fan(centre_x: float = 240, apex_y: float = -60, near: float = 100, far: float = 380, half_angle: float = 0.55) -> np.ndarray:
    angles = np.linspace(-half_angle, half_angle, 60)
    arc = [(centre_x + near * np.sin(a), apex_y + near * np.cos(a)) for a in angles]
    return np.array(arc + [(centre_x + far * np.sin(a), apex_y + far * np.cos(a)) for a in angles[::-1]])


SLANTED = np.array([(90, 40), (420, 70), (390, 310), (60, 290)])


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


def decorate(gray: np.ndarray) -> np.ndarray:
    """Scanner text, a gray bar and depth ticks in the border; the pixels they changed."""
    before = gray.copy()
    for line, text in enumerate(["P100", "12L6", "9.0", "31fps"]):
        cv2.putText(gray, text, (440, 14 + 14 * line), cv2.FONT_HERSHEY_SIMPLEX, 0.36, WHITE, 1, cv2.LINE_AA)
    cv2.putText(gray, "TIRADS 4A", (120, 345), cv2.FONT_HERSHEY_SIMPLEX, 0.45, WHITE, 1, cv2.LINE_AA)
    gray[150:250, 4:14] = np.linspace(255, 60, 100)[:, None]
    gray[20:320:40, 20:23] = WHITE
    return gray != before


@pytest.mark.parametrize("bounds", [(20, 320, 40, 420), (6, 310, 85, 472), (0, 360, 0, 480), (0, 300, 60, 430)])
def test_a_rectangle_of_speckle_is_found_to_the_pixel(bounds):
    gray, truth = frame(rectangle(*bounds))
    assert np.abs(np.subtract(find_echo_area(gray), bounds)).max() <= 1
    assert overlap(echo_mask(gray), truth) > 0.985


@pytest.mark.parametrize("outline", [fan(), SLANTED], ids=["fan", "slanted"])
def test_a_fan_and_a_slanted_field_are_found(outline):
    gray, truth = frame(outline)
    rows, columns = np.flatnonzero(truth.any(1)), np.flatnonzero(truth.any(0))
    assert np.abs(np.subtract(find_echo_area(gray), (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1))).max() <= 6
    assert overlap(echo_mask(gray), truth) > 0.95


def test_that_no_echo_image_is_found_is_said():
    page = np.zeros((360, 480), np.uint8)
    cv2.putText(page, "DOE JANE 1961", (20, 60), cv2.FONT_HERSHEY_SIMPLEX, 1.0, WHITE, 2, cv2.LINE_AA)
    assert find_echo(page) is None and echo_mask(page).all()
    assert find_echo_area(speckle((200, 260), 1)) == Box(0, 200, 0, 260)
    for shape in [(1, 1), (9, 200)]:
        assert find_overlays(np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)).mask.shape == shape
    assert find_echo_area(np.zeros((64, 80), np.uint8)) == Box(0, 64, 0, 80)


def test_text_in_the_border_is_found_and_speckle_and_bright_dots_are_left_alone():
    gray, truth = frame(rectangle(20, 320, 40, 420))
    drawn = decorate(gray) & ~truth
    strong = drawn & (gray > 100)  # anti-aliased rims fade into the border
    found = find_overlays(gray)
    assert (found.mask & strong).sum() / strong.sum() > 0.99
    assert (found.mask & drawn).sum() / found.mask.sum() > 0.95
    assert found.callipers == 0 and found.text_regions >= 6  # four lines at the right may merge with each other
    # Punctate echogenic foci are a sign of cancer: they must not be painted over.
    for seed in range(4):
        gray, truth = frame(rectangle(20, 320, 40, 420), seed)
        dotted = gray.copy()
        for row, column in np.random.default_rng(seed).integers((80, 100), (260, 360), (25, 2)):
            cv2.circle(dotted, (int(column), int(row)), 1, WHITE, -1)
        for found in (find_overlays(gray), find_overlays(dotted)):
            assert found.callipers == 0 and found.mask[truth].mean() < 0.002


def cross(gray: np.ndarray, x: int, y: int, size: int, diagonal: bool = False) -> None:
    kind = cv2.MARKER_TILTED_CROSS if diagonal else cv2.MARKER_CROSS
    cv2.drawMarker(gray, (x, y), WHITE, kind, size, 1)


@pytest.mark.parametrize("diagonal", [False, True], ids=["plus", "x"])
@pytest.mark.parametrize("size", [9, 13])
def test_callipers_are_counted_and_covered_and_so_is_text_beside_them(size, diagonal):
    counts, recalls = [], []
    for seed in range(4):
        gray, _ = frame(rectangle(20, 320, 40, 420), seed)
        before = gray.copy()
        for x, y in [(120, 90), (250, 95), (180, 60), (190, 200)]:
            cross(gray, x, y, size, diagonal)
        cv2.putText(gray, "NODULO", (220, 250), cv2.FONT_HERSHEY_SIMPLEX, 0.4, WHITE, 1)
        found = find_overlays(gray)
        drawn = (gray != before) & (before < 150)
        counts.append(found.callipers)
        recalls.append((found.mask & drawn).sum() / drawn.sum())
    assert np.mean(np.array(counts) == 4) >= 0.75, counts
    assert np.mean(recalls) > 0.85, recalls


def test_real_crops_keep_the_nodules_and_real_callipers_are_found(real_data):
    kept, nodule, area = 0, 0, []
    for path in sorted((real_data / "ddti" / "image").glob("*.PNG"))[::8]:
        gray, mask = read_gray(path), read_mask(path.parents[1] / "mask" / path.name)
        box = find_echo_area(gray)
        kept, nodule = kept + box.crop(mask).sum(), nodule + mask.sum()
        lost = mask & ~echo_mask(gray)
        assert lost.sum() == 0 or np.median(gray[lost]) <= 3, f"{path.name}: tissue was cropped"
        area.append(np.prod(box.shape) / gray.size)
    assert kept / nodule > 0.999  # a few truths were drawn one to three pixels out into the border
    assert 0.4 < np.mean(area) < 0.75  # 560×360 and 280×360 frames whose echo image fills about a half and three quarters
    for name, callipers in [("10034", 2), ("20065", 3), ("20034", 4), ("10420", 2)]:  # counted by eye
        gray = read_gray(real_data / "ddti" / "image" / f"{name}.PNG")
        found = find_overlays(gray)
        assert found.callipers == callipers and found.mask[echo_mask(gray)].mean() < 0.02, name
