"""The pieces that let networks made for one image size take every size, each against the library's own."""

import copy

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional
from torchvision.models.inception import InceptionAux
from torchvision.models.vision_transformer import VisionTransformer

from thyroid_utils.models import any_size

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("size", [(7, 7), (1, 1), (3, 5), (16, 9)])
def test_adaptive_pool_is_pytorchs_in_value_and_gradient(size):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 3, *size, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 3, 7, 7, generator=generator, dtype=torch.float64)
    ours, theirs = any_size.AdaptivePool(7)(maps), functional.adaptive_avg_pool2d(maps, 7)
    # The pooling matrix is made in float32: 1/3 carries an error of 1e-8.
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
    gradients = [torch.autograd.grad((result * weights).sum(), maps)[0] for result in (ours, theirs)]
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("kind", "mode"), [("linear", "bilinear"), ("cubic", "bicubic")])
def test_resampling_is_pytorchs_interpolation(kind, mode):
    maps = torch.randn(1, 4, 7, 6, generator=torch.Generator().manual_seed(0))
    for size in [(7, 6), (3, 4), (12, 9), (7, 20)]:
        expected = functional.interpolate(maps, size=size, mode=mode)
        torch.testing.assert_close(any_size.resampled(maps, size, kind), expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize(("rows", "height"), [(5, 5), (5, 8), (5, 41), (2, 9), (1, 6)])
def test_mirrored_is_numpys_reflection_however_wide_the_border(rows, height):
    maps = np.random.default_rng(0).normal(size=(2, 3, rows, 4))
    above = (height - rows) // 2
    border = [(0, 0), (0, 0), (above, height - rows - above), (3, 3)]
    if rows == 1:  # which numpy has nothing to reflect
        expected = np.pad(np.repeat(maps, height, 2), [*border[:2], (0, 0), (3, 3)], "reflect")
    else:
        expected = np.pad(maps, border, mode="reflect")
    result = any_size.mirrored(torch.from_numpy(maps), height, 10)
    np.testing.assert_array_equal(result.numpy(), expected)
    np.testing.assert_array_equal(any_size.cropped(result, rows, 4).numpy(), maps)


def small_transformer(kind: type = any_size.AnySizeTransformer, side: int = 32) -> VisionTransformer:
    torch.manual_seed(0)
    model = kind(image_size=side, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=3)
    nn.init.normal_(model.heads.head.weight)
    return model.eval()


def test_transformer_and_auxiliary_of_any_size_are_torchvisions():
    """torchvision interpolates the embedding in the weights; the network of that size then gives the same logits."""
    ours, images = small_transformer(), torch.randn(2, 3, 48, 48)
    torch.testing.assert_close(ours(images[..., :32, :32]), small_transformer(VisionTransformer)(images[..., :32, :32]))
    larger = small_transformer(VisionTransformer, 48)
    state = copy.deepcopy(ours.state_dict())
    larger.load_state_dict(torchvision.models.vision_transformer.interpolate_embeddings(48, 8, state))
    # torchvision aligns the corners of the two grids, we the centres of their places: close, not equal.
    torch.testing.assert_close(ours(images), larger(images), atol=0.05, rtol=0.05)
    part = images[:, :, :41, :45]
    torch.testing.assert_close(ours(part), ours(functional.pad(part, (0, 3, 0, 7))))
    torch.manual_seed(0)
    ours, theirs = any_size.AnySizeAuxiliary(8, 2).eval(), InceptionAux(8, 2).eval()
    theirs.load_state_dict(ours.state_dict())
    for size in [(17, 17), (23, 26)]:
        maps = torch.randn(2, 8, *size)
        torch.testing.assert_close(ours(maps), theirs(maps))
    small = torch.randn(2, 8, 3, 4)
    torch.testing.assert_close(ours(small), theirs(functional.interpolate(small, size=(17, 17), mode="bilinear")))
