"""Maps are those of the papers' equations, for every network, and the network does not notice."""

import copy
import functools
import warnings

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from training_project import register_tiny, register_tiny_segmenter

from thyroid_utils.inference.cam import (
    CAM_METHODS,
    CamMaps,
    TargetLayer,
    _enlarged,
    cam_maps,
    cam_parts,
    covered,
    map_layers,
    target_layer,
)
from thyroid_utils.models.classifiers import CLASSIFIERS
from thyroid_utils.models.networks import build_classifier, build_segmenter
from thyroid_utils.models.segmenters import SEGMENTERS


@pytest.fixture(autouse=True)
def tiny_networks(monkeypatch):
    register_tiny(functools.partial(monkeypatch.setitem, CLASSIFIERS))
    register_tiny_segmenter(functools.partial(monkeypatch.setitem, SEGMENTERS))


def built(build, name: str, **options) -> nn.Module:
    torch.manual_seed(0)
    return build(name, **options).eval()


@pytest.fixture(scope="module")
def resnet18() -> nn.Module:
    return built(build_classifier, "resnet18")


def pictures(count: int, height: int, width: int | None = None, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, channels, height, width or height)).astype(np.float32)


def hooks(network: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._backward_hooks) for module in network.modules())


def paper_grad_cam(network: nn.Module, layer: nn.Module, images: torch.Tensor, score) -> np.ndarray:
    """Selvaraju et al. 2017, equations 1 and 2."""
    kept = []
    handle = layer.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    total = score(network(images)).sum()
    handle.remove()
    (activations,) = kept
    (gradients,) = torch.autograd.grad(total, activations)
    alphas = gradients.mean(dim=(2, 3), keepdim=True)
    maps = functional.relu((alphas * activations).sum(dim=1, keepdim=True))
    return functional.interpolate(maps, images.shape[-2:], mode="bilinear")[:, 0].detach().numpy()


@pytest.mark.parametrize("target", [0, 1])
def test_grad_cam_is_that_of_the_papers_two_equations(resnet18, target):
    inputs = pictures(3, 128)
    found = cam_maps(resnet18, inputs, target=target, batch_size=2)
    expected = paper_grad_cam(resnet18, resnet18.network.layer4, torch.from_numpy(inputs), lambda logits: logits[:, target])
    peak = expected.max(axis=(1, 2))
    assert (peak > 0).all() and expected.std() > 0.1 * expected.max()
    np.testing.assert_allclose(found.maps, expected / peak[:, None, None], rtol=0, atol=1e-5)
    assert not found.blank.any() and (found.maps.max(axis=(1, 2)) == 1).all()


def test_a_map_is_made_of_its_parts_at_each_layer_on_the_way(resnet18):
    image, layers = pictures(1, 64)[0], map_layers(resnet18, 64)
    assert list(layers.values()) == ["layer4", "layer3", "layer2", "layer1", "relu"]
    assert list(layers)[1] == "layer3, 4×4"
    for path in layers.values():
        maps, weights = cam_parts(resnet18, image, layer=path)
        made = cv2.resize(np.maximum(np.tensordot(weights, maps, 1), 0), (64, 64))
        np.testing.assert_allclose(cam_maps(resnet18, image[None], layer=path).maps[0], made / made.max(), atol=1e-5)


QUICK = {name: {"hidden": 64} for name in ("alexnet", "vgg16", "vgg19", "fcn8s")} | {"transunet": {"width": 96, "layers": 2}}
QUICK |= {name: {"widths": (4, 8, 16, 32, 64)} for name in ("unet", "attention_unet")}


def small(name: str) -> tuple[int, int]:
    """Sides of images that give every classifier more than one place; one set is not square."""
    return {"inception_v3": (139, 139), "alexnet": (96, 96), "vit_b_16": (64, 48)}.get(name, (64, 64))


def explained(network: nn.Module, images: np.ndarray, **options) -> tuple[CamMaps, torch.Size]:
    """Maps, and the form of what the layer puts out."""
    module, reshape = target_layer(network, images.shape[-2:])
    seen, before = [], hooks(network)
    with module.register_forward_hook(lambda _module, _inputs, output: seen.append(reshape(output).shape)):
        found = cam_maps(network, images, **options)
    assert hooks(network) == before and found.maps.shape == (len(images), *images.shape[-2:])
    return found, seen[-1]


@pytest.mark.parametrize("name", [*(name for name in CLASSIFIERS if name != "tiny"), "timm:test_resnet"])
def test_every_classifier_has_a_layer_and_a_map(name):
    network = built(build_classifier, name, **QUICK.get(name, {}))
    found, (batch, channels, rows, columns) = explained(network, pictures(1, *small(name)), method="layer_cam")
    assert batch == 1 and channels >= 64 and rows * columns > 1 and found.blank[0] == (not found.maps[0].any())


SEGMENTED = [(name, QUICK.get(name, {})) for name in SEGMENTERS if name != "tiny_segmenter"]
UNDECLARED = [("smp:fpn:resnet18", {})]  # explained at its coarsest map


@pytest.mark.parametrize(("name", "options"), SEGMENTED + UNDECLARED)
def test_every_segmenter_has_a_layer_and_a_map(name, options):
    _, form = explained(built(build_segmenter, name, **options), pictures(1, 64))
    assert form[2:] in ((2, 2), (4, 4), (8, 8))


@pytest.mark.parametrize("classes", [1, 2])
def test_a_segmenter_is_explained_by_the_pixels_that_it_calls_nodule(classes):
    network = built(build_segmenter, "tiny_segmenter", classes=classes)
    inputs = pictures(2, 32)
    images, layer = torch.from_numpy(inputs), target_layer(network).module
    with torch.no_grad():
        if classes == 1:
            network.network[8].bias -= network(images).median()
        logits = network(images)
        called = logits[:, -1] >= (logits[:, 0] if classes == 2 else 0)
    assert 0 < called.float().mean() < 1
    score = lambda logits: (logits[:, -1] * called).sum(dim=(1, 2)) / called.sum(dim=(1, 2))  # noqa: E731
    found = cam_maps(network, inputs, target="nodule")
    expected = paper_grad_cam(network, layer, images, score)
    np.testing.assert_allclose(found.maps, expected / expected.max(axis=(1, 2), keepdims=True), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found.maps, cam_maps(network, inputs).maps)
    assert not found.none_called.any()


def test_a_blank_map_is_counted_and_a_layer_changed_in_place_explained_as_it_was():
    network, inputs = built(build_classifier, "tiny"), pictures(3, 32)
    inputs[1, 0, 0, 0] = np.nan
    found = cam_maps(network, inputs)  # values that are no numbers make a blank map
    assert found.blank[1] and not found.maps[1].any() and np.isfinite(found.maps).all()
    with torch.no_grad():
        network.network[9].weight[1] = 0  # nothing speaks for or against malignant
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        for method in ("grad_cam", "grad_cam_pp", "layer_cam"):
            found = cam_maps(network, pictures(3, 32), method=method)
            assert found.blank.all() and not found.maps.any()
    assert found.summary() == "3 maps of 3×3 places, 3 of them blank"
    # The library keeps the output itself, which the ReLU behind it overwrites.
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 4, 3)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    network = nn.Sequential(convolution, nn.ReLU(inplace=True), head)
    apart = nn.Sequential(convolution, nn.ReLU(), head)
    inputs = pictures(2, 12)
    expected = paper_grad_cam(apart, convolution, torch.from_numpy(inputs), lambda logits: logits[:, 1])
    found = cam_maps(network, inputs, layer=TargetLayer(convolution))
    np.testing.assert_allclose(found.maps, expected / expected.max(axis=(1, 2), keepdims=True), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", CAM_METHODS)
@pytest.mark.parametrize(("build", "name"), [(build_classifier, "tiny"), (build_segmenter, "tiny_segmenter")])
def test_every_method_gives_maps_and_the_network_back_as_it_was(build, name, method):
    network = built(build, name).train()
    network.network[1].eval()
    network.network[0].weight.grad = torch.full_like(network.network[0].weight, 3.0)
    network.network[3].weight.requires_grad_(False)
    modes, state = [module.training for module in network.modules()], copy.deepcopy(network.state_dict())
    generator = torch.get_rng_state()
    found = cam_maps(network, pictures(3, 32), method=method, batch_size=2)
    assert found.maps.shape == (3, 32, 32) and found.maps.dtype == np.float32
    assert found.maps.min() >= 0 and set(found.maps.max(axis=(1, 2))) <= {0, 1}
    assert (found.blank == ~found.maps.any(axis=(1, 2))).all() and not found.blank.all()
    assert [module.training for module in network.modules()] == modes and hooks(network) == 0
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert [parameter.requires_grad for parameter in network.parameters()].count(False) == 1
    assert (network.network[0].weight.grad == 3).all() and network.network[9 if name == "tiny" else 8].weight.grad is None
    assert torch.equal(torch.get_rng_state(), generator)


def test_batches_layers_by_name_and_eigen_cams_component_give_the_same_maps(resnet18):
    inputs = pictures(3, 64)
    found = cam_maps(resnet18, inputs).maps
    done = []
    one_by_one = cam_maps(resnet18, inputs, batch_size=1, progress=lambda *step: done.append(step)).maps
    np.testing.assert_allclose(one_by_one, found, atol=1e-4)
    assert done == [(1, 3), (2, 3), (3, 3)]
    np.testing.assert_array_equal(cam_maps(resnet18, inputs, layer="layer4").maps, found)
    np.testing.assert_array_equal(cam_maps(resnet18, inputs, layer=TargetLayer(resnet18.network.layer4)).maps, found)
    assert np.abs(cam_maps(resnet18, inputs, layer="layer3.-1").maps - found).max() > 0.1
    inputs = pictures(2, 128)
    with torch.no_grad():
        features = nn.Sequential(*list(resnet18.network.children())[:-2])(torch.from_numpy(inputs)).numpy()
    found = cam_maps(resnet18, inputs, method="eigen_cam")
    for map_, feature in zip(found.maps, features, strict=True):
        places = feature.reshape(len(feature), -1).T
        left, sizes, _ = np.linalg.svd(places - places.mean(axis=0), full_matrices=False)
        component = (left[:, 0] * sizes[0]).reshape(feature.shape[1:])
        component *= np.sign(component.ravel()[np.abs(component).argmax()])
        enlarged = functional.interpolate(torch.from_numpy(np.maximum(component, 0))[None, None], (128, 128), mode="bilinear")
        np.testing.assert_allclose(map_, enlarged[0, 0] / enlarged.max(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("build", "name", "options", "message"),
    [
        (build_classifier, "tiny", {"method": "gradcam"}, "known: grad_cam, "),
        (build_classifier, "tiny", {"target": 2}, "a classifier needs a class, 0 to 1"),
        (build_classifier, "tiny", {"layer": "layer9"}, "inside it there are: 0, 1"),
        (build_classifier, "tiny", {"layer": "9"}, r"layer Linear gives \(1, 2\)"),
        (build_segmenter, "tiny_segmenter", {"target": 0}, "nodule pixels only"),
        (build_segmenter, "tiny_segmenter", {"method": "eigen_cam"}, "80×80 is too fine"),
    ],
)
def test_what_cannot_be_explained_is_refused(build, name, options, message):
    network = built(build, name)
    with pytest.raises(ValueError, match=message):
        cam_maps(network, pictures(1, 160), **options)
    assert hooks(network) == 0


def test_tokens_come_back_row_by_row_and_maps_lie_where_the_image_was_put():
    hybrid, tokens = built(build_classifier, "resnet18_transformer"), torch.arange(7.0)[None, :, None]
    assert target_layer(hybrid, (64, 96)).reshape(tokens)[0, 0].tolist() == [[1, 2, 3], [4, 5, 6]]
    with pytest.raises(ValueError, match="6 tokens are no grid of 2×2"):
        target_layer(hybrid).reshape(tokens)
    for unknown in (nn.Linear(2, 2), built(build_classifier, "timm:test_vit")):
        with pytest.raises(ValueError, match="name one of its modules"):
            target_layer(unknown)
    unet = built(build_segmenter, "unet_resnet18")  # mirrors to multiples of 32, on both sides
    assert covered(unet, (50, 60), (2, 2)) == (64, 64, 7, 2)
    valid = built(build_segmenter, "unet", widths=(2, 2, 2), valid=True)
    assert covered(valid, (50, 60), (16, 18)) == (64, 72, 7, 6)
    assert covered(built(build_classifier, "tiny"), (50, 60), (3, 3)) == (50, 60, 0, 0)
    raw = np.zeros((4, 4), np.float32)
    raw[1, 2] = 1  # centre of the place: row 24, column 40 of 64, of which 7 rows and 2 columns are above and left
    moved = _enlarged(unet, raw, (50, 60))
    assert moved.shape == (50, 60)
    assert {*np.argwhere(moved == moved.max()).ravel()} == {16, 17, 37, 38}
