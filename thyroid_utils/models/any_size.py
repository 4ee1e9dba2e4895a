"""What lets architectures that were made for one image size take every size.

Each change leaves the arithmetic at the original size as it is, so that published weights keep their meaning.
"""

import torch
from torch import nn
from torch.nn import functional
from torchvision.models.inception import InceptionAux
from torchvision.models.vision_transformer import VisionTransformer

# Side of the map that Inception's auxiliary head was made for (images of 299 pixels)
_AUXILIARY_MAP = 17


def resampled(maps: torch.Tensor, size: tuple[int, int], kind: str) -> torch.Tensor:
    """Maps on another grid.

    Rows and columns are multiplied by constant matrices: PyTorch's own pooling and resizing to an arbitrary size have no
    deterministic gradient on a GPU.

    Args:
        maps: float (..., height, width).
        size: wanted (height, width).
        kind: "average" (adaptive average pooling), "linear" or "cubic" (interpolation, pixel centres aligned).

    Returns:
        float (..., *size); `maps` itself where the size is right already.
    """
    if maps.shape[-2:] == size:
        return maps
    rows = _matrix(maps.shape[-2], size[0], kind, maps)
    columns = _matrix(maps.shape[-1], size[1], kind, maps)
    return rows @ maps @ columns.T


def _matrix(length: int, new: int, kind: str, like: torch.Tensor) -> torch.Tensor:
    """(new, length): what the unit vectors become is what any row of values becomes."""
    # (1, channel, length): one unit vector a channel
    unit = torch.eye(length, device=like.device)[None]
    if kind == "average":
        moved = functional.adaptive_avg_pool1d(unit, new)
    elif kind == "linear":
        moved = functional.interpolate(unit, size=new, mode="linear")
    else:
        moved = functional.interpolate(unit[..., None], size=(new, 1), mode="bicubic")[..., 0]
    return moved[0].T.to(like.dtype)


def resampled_positions(positions: torch.Tensor, grid: tuple[int, int], new_grid: tuple[int, int]) -> torch.Tensor:
    """Position embedding of a token grid for a grid of another size, by cubic interpolation.

    Args:
        positions: (1, rows · columns, width), row by row.
        grid, new_grid: (rows, columns) of `positions` and of the result.
    """
    if grid == new_grid:
        return positions
    maps = positions.transpose(1, 2).unflatten(2, grid)  # (1, width, rows, columns)
    return resampled(maps, new_grid, "cubic").flatten(2).transpose(1, 2)


def mirrored(images: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Images in the middle of a larger frame, extended by mirroring at their outermost rows and columns.

    PyTorch's own mirroring stops at a border as wide as the image, and its gradient on a GPU is not deterministic.

    Args:
        images: (batch, channels, rows, columns).
        height, width: of the result, at least those of the images.
    """
    for axis, length in ((-2, height), (-1, width)):
        images = images.index_select(axis, _mirror_indices(images.shape[axis], length).to(images.device))
    return images


def _mirror_indices(size: int, length: int) -> torch.Tensor:
    period = max(1, 2 * (size - 1))  # there and back again
    places = (torch.arange(length) - (length - size) // 2) % period
    return torch.minimum(places, period - places)


def cropped(maps: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The middle of maps (batch, channels, rows, columns)."""
    top, left = (maps.shape[-2] - height) // 2, (maps.shape[-1] - width) // 2
    return maps[..., top : top + height, left : left + width]


class AdaptivePool(nn.Module):
    """Adaptive average pooling to a square map, with a deterministic gradient on every device."""

    def __init__(self, side: int):
        super().__init__()
        self.side = side

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return resampled(maps, (self.side, self.side), "average")


class AnySizeAuxiliary(InceptionAux):
    """Inception's auxiliary head; maps of fewer than 17×17 positions are enlarged first, which it could not pool otherwise."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = (max(x.shape[-2], _AUXILIARY_MAP), max(x.shape[-1], _AUXILIARY_MAP))
        return super().forward(resampled(x, size, "linear"))


class AnySizeTransformer(VisionTransformer):
    """torchvision's vision transformer for images of any size.

    Right and bottom are filled up with zeros to whole patches, and the position embedding is interpolated to their number.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[-2:]
        patches = self.conv_proj(functional.pad(x, (0, -width % self.patch_size, 0, -height % self.patch_size)))
        tokens = patches.flatten(2).transpose(1, 2)  # (batch, patches, width)
        tokens = torch.cat([self.class_token.expand(len(x), -1, -1), tokens], dim=1)
        side = self.image_size // self.patch_size
        embedding = self.encoder.pos_embedding
        positions = resampled_positions(embedding[:, 1:], (side, side), tuple(patches.shape[-2:]))
        tokens = tokens + torch.cat([embedding[:, :1], positions], dim=1)
        encoded = self.encoder.ln(self.encoder.layers(self.encoder.dropout(tokens)))
        return self.heads(encoded[:, 0])
