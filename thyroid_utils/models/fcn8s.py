"""FCN-8s of Long, Shelhamer and Darrell (CVPR 2015), which paper 003 compares with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional

from thyroid_utils.models.segnet import VGG16_WIDTHS, vgg16_features

_SCORE_SD = 0.01  # of the first values of the scoring convolutions


class FCN8s(nn.Module):
    """VGG16 as a fully convolutional network, with the scores of pool3 and pool4 added to those of its end (Figure 3).

    (batch, in_channels, height, width) → logits (batch, classes, height, width): VGG16's convolutions; its two dense layers as
    convolutions (7×7 and 1×1); a score a class at 1/32 of the size, doubled and added to pool4's scores at 1/16, doubled and
    added to pool3's at 1/8, and enlarged eight times. Enlarging is a transposed convolution that begins as bilinear
    interpolation; the first two learn, the last stays as it is (section 3.3 and 4.3 of the paper).

    `encoder`, `dense6` and `dense7` have the shapes of torchvision's vgg16, so that its ImageNet weights fit
    (`encoder_values`), as the paper begins. Other choices:

    - The authors pad the image by 100 pixels and crop at the end. Here 7×7 is padded by 3, and an enlarged map continues its
      outermost values beyond the border, which leaves nothing to crop.
    - The paper's scoring layers begin at zero, so that nothing beneath them moves in the first step; here with small values.
    - The paper trains FCN-32s, then 16s, then 8s; here all at once.
    - No batch normalisation, as in the paper.

    134 million parameters, as in the paper's Table 1 (with 21 classes).

    Args:
        in_channels: channels of the images.
        classes: number of logits a pixel, 1 or 2.
        widths: channels of VGG16's five stages.
        hidden: channels of the two former dense layers.
        dropout: share of values dropped behind each of them.
    """

    multiple = 32
    minimum = 32

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 1,
        widths: Sequence[int] = VGG16_WIDTHS,
        hidden: int = 4096,
        dropout: float = 0.5,
    ):
        super().__init__()
        self.encoder = vgg16_features(in_channels, widths, batch_norm=False)
        self.dense6 = nn.Conv2d(widths[4], hidden, 7, padding=3)
        self.dense7 = nn.Conv2d(hidden, hidden, 1)
        self.dropout = nn.Dropout(dropout)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)
        self.score3, self.score4, self.score7 = (nn.Conv2d(width, classes, 1) for width in (widths[2], widths[3], hidden))
        for score in (self.score3, self.score4, self.score7):
            nn.init.normal_(score.weight, std=_SCORE_SD)
            nn.init.zeros_(score.bias)
        self.up7 = BilinearUp(classes, 2)
        self.up4 = BilinearUp(classes, 2)
        self.up3 = BilinearUp(classes, 8, learns=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = images
        pools = []
        for layer in self.encoder:
            maps = layer(maps)
            if isinstance(layer, nn.MaxPool2d):
                pools.append(maps)  # (batch, widths[number], height / 2^(number + 1), width / 2^(number + 1))
        maps = self.dropout(torch.relu(self.dense6(maps)))  # (batch, hidden, height / 32, width / 32)
        maps = self.dropout(torch.relu(self.dense7(maps)))
        scores = self.up7(self.score7(maps)) + self.score4(pools[3])  # (batch, classes, height / 16, width / 16)
        scores = self.up4(scores) + self.score3(pools[2])  # (batch, classes, height / 8, width / 8)
        return self.up3(scores)

    def encoder_values(self, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """From torchvision's state dict of vgg16 what belongs into this network's, under its names.

        The dense layers are among it where `hidden` is VGG16's 4096.
        """
        values = {f"encoder.{key.removeprefix('features.')}": state[key] for key in state if key.startswith("features.")}
        for name, published in (("dense6", "classifier.0"), ("dense7", "classifier.3")):
            weight = self.get_submodule(name).weight
            if weight.shape[0] == len(state[f"{published}.bias"]):
                values[f"{name}.weight"] = state[f"{published}.weight"].reshape(weight.shape)
                values[f"{name}.bias"] = state[f"{published}.bias"]
        return values


class BilinearUp(nn.Module):
    """Maps (batch, channels, height, width) enlarged `factor` times by a transposed convolution that begins as bilinear.

    Beyond its border a map is taken to continue with its outermost values; a plain transposed convolution takes zeros and lets
    the scores fade there.

    Args:
        channels: of the maps.
        factor: an even number.
        learns: whether training changes the kernel, which then may mix channels.
    """

    def __init__(self, channels: int, factor: int, learns: bool = True):
        super().__init__()
        self.factor = factor
        self.groups = 1 if learns else channels
        kernel = bilinear_kernel(factor)
        if learns:
            weight = torch.zeros(channels, channels, *kernel.shape)
            weight[range(channels), range(channels)] = kernel
            self.weight = nn.Parameter(weight)
        else:
            self.register_buffer("weight", kernel.repeat(channels, 1, 1, 1), persistent=False)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        maps = torch.cat([maps[..., :1, :], maps, maps[..., -1:, :]], dim=-2)
        maps = torch.cat([maps[..., :1], maps, maps[..., -1:]], dim=-1)
        # Half a kernel's overhang and the one added value are cut off on each side.
        cut = self.factor // 2 + self.factor
        return functional.conv_transpose2d(maps, self.weight, stride=self.factor, padding=cut, groups=self.groups)


def bilinear_kernel(factor: int) -> torch.Tensor:
    """The kernel (2 factor, 2 factor) whose transposed convolution of stride `factor` interpolates bilinearly.

    Along each axis 1 - |t| / factor, where t is the distance from the kernel's middle.
    """
    places = torch.arange(2 * factor, dtype=torch.float32) - (factor - 0.5)
    line = 1 - places.abs() / factor
    return torch.outer(line, line)
