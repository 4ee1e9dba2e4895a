"""What is on disk: the case table, its readers, images and masks, splits and checks."""

from thyroid_utils.common.errors import DataError, ImageError
from thyroid_utils.data.check import CheckReport, check_dataset
from thyroid_utils.data.images import image_size, read_gray, read_image, read_mask, resize_mask, write_png
from thyroid_utils.data.measure import measure_cases
from thyroid_utils.data.readers import READERS, load_cases
from thyroid_utils.data.splits import (
    assert_disjoint,
    kfold_splits,
    official_split,
    repeated_splits,
    split_cases,
    split_hash,
    split_table,
)
from thyroid_utils.data.table import data_fingerprint, make_cases, validate_cases

__all__ = [
    "READERS",
    "CheckReport",
    "DataError",
    "ImageError",
    "assert_disjoint",
    "check_dataset",
    "data_fingerprint",
    "image_size",
    "kfold_splits",
    "load_cases",
    "make_cases",
    "measure_cases",
    "official_split",
    "read_gray",
    "read_image",
    "read_mask",
    "repeated_splits",
    "resize_mask",
    "split_cases",
    "split_hash",
    "split_table",
    "validate_cases",
    "write_png",
]
