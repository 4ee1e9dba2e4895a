"""Where the echo image lies in a scanner's frame, and what was burned into it: text, depth ticks, gray bar, callipers.

A frame is a flat border with the echo image in it: a rectangle, a fan or a slanted parallelogram full of speckle. Nothing
about its place is assumed. The border's level is read from the frame, and the echo image is what differs from it densely;
letters, ticks and bars differ too, but thinly, and a morphological opening removes them.
"""

from typing import NamedTuple

import cv2
import numpy as np

_CROSS_MATCH = 0.70  # correlation with a drawn cross; the best match in frames without callipers stays near 0.5 to 0.6
_CROSS_HINT = 0.58  # enough for a further cross in a frame that has a sure one
_MARK_CONTRAST = 55  # a burned-in stroke rises at least this many gray levels above its surroundings


class Box(NamedTuple):
    """Half-open pixel bounds: `gray[top:bottom, left:right]`."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return self.bottom - self.top, self.right - self.left

    def crop(self, array: np.ndarray) -> np.ndarray:
        """A view of `array` (height, width, ...) inside the box."""
        return array[self.top : self.bottom, self.left : self.right]


class Overlays(NamedTuple):
    """What is burned into a frame.

    mask: bool (height, width), the drawn pixels. text_regions: number of separate blocks of text and marks.
    callipers: number of calliper crosses inside the echo image.
    """

    mask: np.ndarray
    text_regions: int
    callipers: int


def find_echo_area(gray: np.ndarray) -> Box:
    """The smallest box around the echo image.

    Args:
        gray: uint8 (height, width), a whole frame.

    Returns:
        `Box`; the whole frame where no flat border is found.
    """
    return mask_box(echo_mask(gray))


def echo_mask(gray: np.ndarray) -> np.ndarray:
    """The region of the echo image: bool (height, width).

    Dark areas inside the echo image (cysts, shadows) belong to it. The whole frame where nothing stands out of the border.
    """
    echo = find_echo(gray)
    return np.ones(gray.shape, bool) if echo is None else echo


def find_echo(gray: np.ndarray) -> np.ndarray | None:
    """As `echo_mask`, but None where nothing stands out of the border: an empty frame, or a page of text."""
    height, width = gray.shape
    size = max(7, min(height, width) // 20) | 1  # odd
    contrast = _contrast(gray)
    seed = _opened(_dense(contrast > 8, size, 0.6), size)
    seed = _large_parts(seed, 0.01 * height * width)
    if seed.mean() < 0.02:
        return None
    region = _hull(seed)
    weak = _dense((contrast > 0) & ~region, size, 0.3) & ~region
    region |= _calm_neighbours(_opened(weak, size), region, contrast, size)
    region = _hull(region)
    # The wide windows above retreat from the true edge by a pixel or two; a narrow one puts it back.
    sharp = _opened(_dense(contrast > 3, 5, 0.48), 7) & _grown(region, size)
    return _below_top_profile(_hull(region | sharp), sharp)


def mask_box(mask: np.ndarray) -> Box:
    """The smallest box around a boolean mask (height, width) that is true somewhere."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return Box(int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1)


def _grown(mask: np.ndarray, size: int) -> np.ndarray:
    """A boolean mask dilated by a square of side `size`."""
    return cv2.dilate(mask.astype(np.uint8), np.ones((size, size), np.uint8)).astype(bool)


def _contrast(gray: np.ndarray) -> np.ndarray:
    """How far each pixel lies from the border: the commonest gray level along the frame's edge, 0 where none is common."""
    edge = np.concatenate([gray[0], gray[-1], gray[:, 0], gray[:, -1]])
    counts = np.bincount(edge, minlength=256)
    level = int(counts.argmax()) if counts.max() > 0.2 * edge.size else 0
    return cv2.absdiff(gray, np.full_like(gray, level))


def _dense(lit: np.ndarray, size: int, share: float) -> np.ndarray:
    """Where at least `share` of the pixels in a size × size window are lit."""
    return cv2.blur(lit.astype(np.uint8) * 255, (size, size), borderType=cv2.BORDER_CONSTANT) >= share * 255


def _opened(mask: np.ndarray, size: int) -> np.ndarray:
    kernel = np.ones((size, size), np.uint8)
    # OpenCV opens as if the mask went on beyond the frame's edge, and a tick mark at the edge would survive.
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), size, size, size, size, cv2.BORDER_CONSTANT, value=0)
    opened = cv2.morphologyEx(padded, cv2.MORPH_OPEN, kernel)
    return opened[size:-size, size:-size].astype(bool)


def _large_parts(mask: np.ndarray, area: float) -> np.ndarray:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    keep = stats[:, cv2.CC_STAT_AREA] >= area
    keep[0] = False
    return keep[labels]


def _hull(mask: np.ndarray) -> np.ndarray:
    rows = np.flatnonzero(mask.any(1))
    first, last = mask[rows].argmax(1), mask.shape[1] - 1 - mask[rows, ::-1].argmax(1)
    points = np.concatenate([np.stack([first, rows], 1), np.stack([last, rows], 1)]).astype(np.int32)
    filled = np.zeros(mask.shape, np.uint8)
    cv2.fillConvexPoly(filled, cv2.convexHull(points), 1)
    return filled.astype(bool)


def _calm_neighbours(weak: np.ndarray, region: np.ndarray, contrast: np.ndarray, size: int) -> np.ndarray:
    """Parts of `weak` that touch `region` and are hardly bright: deep, dark echo, not the haze that compression leaves
    around bright text."""
    count, labels = cv2.connectedComponents(weak.astype(np.uint8))
    if count == 1:
        return weak
    touching = np.bincount(labels[_grown(region, size) & weak], minlength=count) > 0
    parts = labels[weak]
    bright = np.bincount(parts, weights=contrast[weak] > 120, minlength=count)
    keep = touching & (bright < 0.02 * np.maximum(np.bincount(parts, minlength=count), 1))
    keep[0] = False
    return keep[labels]


def _below_top_profile(hull: np.ndarray, region: np.ndarray) -> np.ndarray:
    """`hull` without the void above a convex probe's arc: the one place where an echo image is not convex."""
    height, width = hull.shape
    top = hull.argmax(0)
    # The hull closes the arc with a straight line between its two ends: those columns and no others hold the void.
    span = np.flatnonzero(hull.any(0) & (top <= top[hull.any(0)].min() + 2))
    if len(span) < 0.1 * width:
        return hull
    first = np.where(region.any(0), region.argmax(0), top)[span]
    # A lost contact leaves dark columns beneath the probe; an arc is smooth. A quadratic follows the one and not the other.
    x = np.linspace(-1, 1, len(span))
    arc = np.polyval(np.polyfit(x, first, 2), x)
    if arc.max() - max(arc[0], arc[-1]) < 0.02 * height or np.abs(arc - first).mean() > 0.01 * height:
        return hull
    cut = hull.copy()
    cut[:, span] &= np.arange(height)[:, None] >= arc[None, :]
    return cut


def find_overlays(gray: np.ndarray, echo: np.ndarray | None = None) -> Overlays:
    """Text, ticks, bars and callipers that the scanner drew into the frame.

    Outside the echo image everything that stands out of the border was drawn. Inside it a mark must look drawn: a cross that
    correlates with a calliper's, a letter beside such a cross, a letter or arrow in the outermost tenth of the echo image,
    or three and more letters in a row. Single bright dots are never taken for marks: they may be calcifications.

    Args:
        gray: uint8 (height, width), a whole frame.
        echo: the result of `echo_mask` where it is known already; else it is found.

    Returns:
        `Overlays`.
    """
    echo = echo_mask(gray) if echo is None else echo
    contrast = _contrast(gray)
    drawn = _grown((contrast > _MARK_CONTRAST) & ~_grown(echo, 3), 3)
    outside = drawn & (contrast > 12) & ~echo
    strokes = _strokes(gray, echo)
    rows = _in_rows(strokes)
    crosses, centres = _crosses(gray, echo, text=_grown(rows[strokes.labels], 7))
    marks = rows | (strokes.strong & _in_margin(echo, strokes) & (strokes.width <= 1.6 * strokes.height))
    for row, column, size in centres:
        marks |= strokes.glyph & strokes.near(row, column, 2.5 * size)
    letters = _grown(marks[strokes.labels], 3) & echo
    blocks = cv2.morphologyEx((outside | letters).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 13), np.uint8))
    regions = cv2.connectedComponents(blocks)[0] - 1
    return Overlays(outside | crosses | letters, regions, len(centres))


def _cross(size: int, diagonal: bool) -> np.ndarray:
    drawn = np.zeros((size, size), np.float32)
    if diagonal:
        drawn[np.arange(size), np.arange(size)] = drawn[np.arange(size), np.arange(size)[::-1]] = 1
    else:
        drawn[size // 2] = drawn[:, size // 2] = 1
    return drawn


def _crosses(gray: np.ndarray, echo: np.ndarray, text: np.ndarray) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    """Calliper crosses away from `text`: their pixels and a list of (row, column, size)."""
    box = mask_box(echo)
    patch = box.crop(gray)
    found = []  # (match, diagonal, row, column, size)
    for size in (9, 13, 17):
        if min(patch.shape) <= 3 * size or (size > 9 and not found):
            break  # the middle of a large cross is a small one: without those there are no others
        for diagonal in (False, True):
            template = _cross(size, diagonal)
            match = cv2.matchTemplate(patch, template.astype(np.uint8) * 255, cv2.TM_CCOEFF_NORMED)
            hints = match > _CROSS_HINT
            if not hints.any():
                continue
            peaks = hints & (match == cv2.dilate(match, np.ones((size, size), np.uint8)))
            for row, column in np.argwhere(peaks):
                window = patch[row : row + size, column : column + size]
                rise = window[template > 0].mean() - window[template == 0].mean()
                centre = box.top + row + size // 2, box.left + column + size // 2
                if rise > 0.6 * _MARK_CONTRAST and echo[centre] and not text[centre]:
                    found.append((float(match[row, column]), diagonal, row + box.top, column + box.left, size))
    mask, centres = np.zeros_like(echo), []
    sure = max(found, default=(0, False))
    if sure[0] < _CROSS_MATCH:
        return mask, centres
    alike = [cross for cross in found if cross[1] == sure[1]]  # a scanner draws one kind of cross
    for _, _, row, column, size in sorted(alike, reverse=True):
        centre = (row + size // 2, column + size // 2)
        gaps = [(max(abs(centre[0] - r), abs(centre[1] - c)), (size + s) // 2) for r, c, s in centres]
        same = any(gap <= 1 for gap, _ in gaps)  # matched at another size already
        if same or all(gap > reach for gap, reach in gaps):
            if not same:
                centres.append((*centre, size))
            mask[row : row + size, column : column + size] |= _grown(_cross(size, sure[1]), 3)
    return mask, centres


class _Strokes(NamedTuple):
    """Thin bright parts of the echo image that have a letter's size; row 0 of every array is the background."""

    labels: np.ndarray
    left: np.ndarray
    top: np.ndarray
    width: np.ndarray
    height: np.ndarray
    glyph: np.ndarray  # bool: of a letter's size and density
    strong: np.ndarray  # bool: also bright enough to be a letter without other evidence

    def near(self, row: int, column: int, distance: float) -> np.ndarray:
        return np.hypot(self.top + self.height / 2 - row, self.left + self.width / 2 - column) < distance


def _strokes(gray: np.ndarray, echo: np.ndarray) -> _Strokes:
    hat = cv2.morphologyEx(gray, cv2.MORPH_TOPHAT, np.ones((7, 7), np.uint8))
    # Fine speckle has strokes of its own: what is drawn must rise above nearly all of them.
    histogram = cv2.calcHist([hat], [0], echo.astype(np.uint8), [256], [0, 256]).ravel()
    usual = int(np.searchsorted(np.cumsum(histogram), 0.98 * histogram.sum()))
    thin = (hat > max(_MARK_CONTRAST, usual + 15)) & echo
    count, labels, stats, _ = cv2.connectedComponentsWithStats(thin.astype(np.uint8), connectivity=8)
    left, top, width, height, area = stats.T
    glyph = (height >= 5) & (height <= 24) & (width >= 2) & (width <= 24) & (area >= 8) & (area > 0.2 * width * height)
    glyph[0] = False
    rise = np.bincount(labels[thin], weights=hat[thin], minlength=count) / area
    return _Strokes(labels, left, top, width, height, glyph, glyph & (rise > 1.5 * _MARK_CONTRAST))


def _in_margin(echo: np.ndarray, strokes: _Strokes) -> np.ndarray:
    """Which strokes lie wholly in the outermost tenth of the echo image, where scanners put their marks."""
    box = mask_box(echo)
    tall, wide = box.shape
    _, left, top, width, height, *_ = strokes
    return (
        (top + height <= box.top + 0.1 * tall)
        | (top >= box.bottom - 0.1 * tall)
        | (left + width <= box.left + 0.1 * wide)
        | (left >= box.right - 0.1 * wide)
    )


def _in_rows(strokes: _Strokes) -> np.ndarray:
    """Which strong strokes stand beside others of the same height on the same line, at least three in a row."""
    from scipy.sparse.csgraph import connected_components  # a tenth of a second to load

    keep = np.zeros(len(strokes.strong), bool)
    members = np.flatnonzero(strokes.strong)
    left, top, width, height = strokes.left[members], strokes.top[members], strokes.width[members], strokes.height[members]
    size = np.minimum(height[:, None], height[None, :])
    level = np.abs(top[:, None] - top[None, :]) <= 0.25 * size
    level &= np.abs(height[:, None] - height[None, :]) <= 0.25 * size
    gap = left[None, :] - (left + width)[:, None]  # from the right side of one to the left side of the next
    count, runs = connected_components(level & (gap >= -1) & (gap <= 1.2 * size), directed=False)
    keep[members[np.bincount(runs, minlength=count)[runs] >= 3]] = True
    return keep
