"""Probability maps on disk, written a batch at a time: however many images there are, one batch is in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from thyroid_utils.common.files import atomic_path
from thyroid_utils.training.ledger import MAPS_TENSOR
from thyroid_utils.training.tasks import WriteMaps


@contextmanager
def maps_file(target: Path, shape: tuple[int, int, int]) -> Iterator[WriteMaps]:
    """Write a safetensors file that holds uint8 `shape` under `MAPS_TENSOR`, by calls that take rows in their order.

    The safetensors library writes whole tensors only; its format is a length (8 bytes), a header in JSON, and the bytes.
    `target` is there when the block has ended well, and not before.

    Raises:
        ValueError: more or fewer rows than `shape` has, or of another kind.
    """
    count = int(np.prod(shape))
    header = json.dumps({MAPS_TENSOR: {"dtype": "U8", "shape": list(shape), "data_offsets": [0, count]}}).encode()
    header += b" " * (-len(header) % 8)  # the data begin at a multiple of 8
    written = 0
    with atomic_path(target) as temporary:
        with temporary.open("wb") as stream:
            stream.write(len(header).to_bytes(8, "little") + header)

            def write(maps: np.ndarray) -> None:
                nonlocal written
                if maps.dtype != np.uint8 or maps.shape[1:] != tuple(shape[1:]):
                    raise ValueError(
                        f"{target.name}: expected uint8 maps {tuple(shape[1:])}; found {maps.dtype} {maps.shape[1:]}"
                    )
                stream.write(np.ascontiguousarray(maps))
                written += len(maps)

            yield write
        if written != shape[0]:
            raise ValueError(f"{target.name}: {written} maps were written, {shape[0]} expected")
