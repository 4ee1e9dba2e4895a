"""Every classifier: shapes, sizes, gradients, learning; and the pieces that make them take any size."""

from __future__ import annotations

import copy

import cv2
import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional
from torchvision.models.inception import InceptionAux
from torchvision.models.vision_transformer import VisionTransformer

from thyroid_utils.data.phantom.cases import phantom_cases
from thyroid_utils.inference.cam import target_layer
from thyroid_utils.models.any_size import AdaptivePool, AnySizeAuxiliary, AnySizeTransformer, resampled, resampled_positions
from thyroid_utils.models.classifiers import CLASSIFIERS
from thyroid_utils.models.hybrids import ResNet18Transformer
from thyroid_utils.models.networks import architecture, build_classifier, parameter_count

pytestmark = pytest.mark.usefixtures("one_thread")

PAPERS = ("alexnet", "vgg16", "vgg19", "resnet18", "resnet34", "inception_v3", "resnet18_transformer")
BEYOND = ("mobilenet_v2", "efficientnet_b0", "convnext_tiny", "vit_b_16", "swin_t")
TIMM = ("timm:test_resnet", "timm:test_vit")

# Side in pixels, options, learning rate of Adam and steps: enough for eight images with each of four seeds that were tried.
# Without dropout the loss itself is seen; AlexNet's and VGG's narrow heads keep a step short. timm begins the last normalisation
# of each residual block at zero, so that without zero_init_last=False most parameters have no gradient in the first step.
NARROW = {"hidden": 256, "dropout": 0.0}
LEARNING = {
    "alexnet": (64, NARROW, 5e-4, 20),
    "vgg16": (32, NARROW, 8e-5, 1),
    "vgg19": (32, NARROW, 5e-5, 1),
    "resnet18": (32, {}, 1e-3, 6),
    "resnet34": (32, {}, 1e-3, 1),
    "inception_v3": (75, {"dropout": 0.0}, 3e-4, 28),
    "resnet18_transformer": (32, {"dropout": 0.0}, 3e-4, 8),
    "mobilenet_v2": (64, {"dropout": 0.0}, 2e-3, 1),
    "efficientnet_b0": (64, {"dropout": 0.0, "stochastic_depth": 0.0}, 5e-4, 1),
    "convnext_tiny": (32, {"stochastic_depth": 0.0}, 1e-3, 1),
    "vit_b_16": (32, {}, 5e-5, 10),
    "swin_t": (32, {}, 3e-4, 1),
    "timm:test_resnet": (32, {"zero_init_last": False}, 1e-3, 20),
    "timm:test_vit": (32, {}, 1e-3, 25),
}


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory) -> tuple[np.ndarray, torch.Tensor]:
    """Four benign and four malignant phantoms: float32 (8, 64, 64) with mean 0 and SD 1, and their labels."""
    cases = phantom_cases(tmp_path_factory.mktemp("phantoms"), patients=14, size=64, seed=0, views=(1, 1), workers=1)
    eight = [case for label in (0, 1) for case in cases.index[cases["label"] == label][:4]]
    images = np.stack([cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in cases.loc[eight, "image"]]).astype(np.float32)
    return (images - images.mean()) / images.std(), torch.tensor([0] * 4 + [1] * 4)


def batch_of(images: np.ndarray, side: int) -> torch.Tensor:
    resized = [cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA) for image in images]
    return torch.from_numpy(np.stack(resized))[:, None].expand(-1, 3, -1, -1)


def on_meta(name: str, **settings):
    """A model without values: shapes cost nothing."""
    with torch.device("meta"):
        return build_classifier(name, **settings)


def test_registry_holds_the_papers_classifiers_and_those_beyond():
    assert set(CLASSIFIERS) == {*PAPERS, *BEYOND} == {name for name in LEARNING if not name.startswith("timm:")}


@pytest.mark.parametrize("name", [name for name in CLASSIFIERS if name != "resnet18_transformer"])
def test_parameter_count_is_the_one_that_torchvision_publishes(name):
    published = torchvision.models.get_model_weights(name).IMAGENET1K_V1.meta["num_params"]
    assert parameter_count(on_meta(name, classes=1000)) == published


def test_parameter_count_of_the_hybrid_by_hand():
    resnet18_without_head = 11_689_512 - 513 * 1000
    layer = 4 * 512 * 513 + (512 * 2048 + 2048) + (2048 * 512 + 512) + 2 * 1024  # attention, feed-forward, two norms
    tokens, norm, head = 512 + 49 * 512, 1024, 513 * 2
    assert parameter_count(on_meta("resnet18_transformer")) == resnet18_without_head + 2 * layer + tokens + norm + head
    frozen = on_meta("resnet18_transformer")
    frozen.network.backbone.requires_grad_(False)
    assert parameter_count(frozen) == 2 * layer + tokens + norm + head


@pytest.mark.parametrize("name", [*CLASSIFIERS, *TIMM])
def test_maps_images_to_logits(name):
    size, smallest = architecture(name).size, architecture(name).minimum
    for channels, classes, height, width in [
        (3, 2, size, size),
        (1, 3, size, size),
        (5, 2, smallest, smallest),
        (3, 4, size // 16 * 16 + 32, size // 16 * 16),
    ]:
        model = on_meta(name, in_channels=channels, classes=classes)
        images = torch.empty(2, channels, height, width, device="meta")
        assert model.eval()(images).shape == (2, classes)
        result = model.train()(images)
        if model.auxiliary_weight:
            assert [logits.shape for logits in result] == [(2, classes)] * 2
        else:
            assert result.shape == (2, classes)


@pytest.mark.parametrize("name", [name for name in CLASSIFIERS if architecture(name).minimum <= 32])
def test_takes_any_height_and_width(name):
    model = on_meta(name).eval()
    for size in [(33, 47), (50, 40), (100, 63), (229, 224)]:
        assert model(torch.empty(1, 3, *size, device="meta")).shape == (1, 2)


def test_only_inception_has_an_auxiliary_head_and_only_when_wanted():
    weights = {name: on_meta(name).auxiliary_weight for name in CLASSIFIERS}
    assert weights == {**dict.fromkeys(CLASSIFIERS, 0.0), "inception_v3": 0.4}
    without = on_meta("inception_v3", auxiliary=False)
    assert without.auxiliary_weight == 0.0
    assert without.train()(torch.empty(2, 3, 299, 299, device="meta")).shape == (2, 2)


@pytest.mark.parametrize("name", LEARNING)
def test_a_step_changes_every_parameter_and_eight_phantoms_are_learnt(name, phantoms):
    """After the steps all eight are right in evaluation mode, and the loss is below a fifth of chance (ln 2 = 0.693)."""
    side, options, learning_rate, steps = LEARNING[name]
    images, labels = batch_of(phantoms[0], side), phantoms[1]
    torch.manual_seed(0)
    model = build_classifier(name, **options)
    optimiser = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for step in range(steps):
        optimiser.zero_grad()
        outputs = model(images)
        logits, auxiliary = outputs if model.auxiliary_weight else (outputs, None)
        loss = functional.cross_entropy(logits, labels)
        if auxiliary is not None:
            loss = loss + model.auxiliary_weight * functional.cross_entropy(auxiliary, labels)
        loss.backward()
        optimiser.step()
        if step == 0:
            unchanged = [key for key, value in model.named_parameters() if torch.equal(value, before[key])]
            assert not unchanged
    if steps == 1:  # torchvision's own, as they are
        return
    # A few steps are too short for running averages; with momentum 1 one more batch makes them those of the eight images.
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model(images)
        logits = model.eval()(images)
    assert torch.equal(logits.argmax(dim=1), labels)
    assert functional.cross_entropy(logits, labels) < 0.2 * np.log(2)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_image_below_the_minimum_is_refused_with_the_minimum(name):
    model, smallest = on_meta(name), architecture(name).minimum
    for height, width in [(smallest - 1, 300), (300, smallest - 1)]:
        with pytest.raises(ValueError, match=f"{name}: .*{height}×{width} pixels are too small.*{smallest}×{smallest}"):
            model(torch.empty(2, 3, height, width, device="meta"))
    model.check_size(smallest, smallest)


@pytest.mark.parametrize("name", ["alexnet", "inception_v3"])
def test_the_odd_minima_are_the_networks_own(name):
    """63 and 75 are no round numbers: one pixel less breaks the network itself."""
    network = on_meta(name).eval().network
    with pytest.raises(RuntimeError, match=r"too small|greater than actual input|can't be greater"):
        network(torch.empty(2, 3, architecture(name).minimum - 1, 300, device="meta"))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_training_batch_of_one_is_refused_where_the_batch_is_normalised(name):
    model = on_meta(name)
    image = torch.empty(1, 3, architecture(name).size, architecture(name).size, device="meta")
    if name in ("alexnet", "vgg16", "vgg19", "convnext_tiny", "vit_b_16", "swin_t"):  # no batch normalisation
        assert model.train()(image).shape == (1, 2)
    else:
        with pytest.raises(ValueError, match=f"{name}: a training batch of one image; batch normalisation needs two or more"):
            model.train()(image)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()  # frozen statistics
        outputs = model(image)
        assert (outputs[0] if model.auxiliary_weight else outputs).shape == (1, 2)
    assert model.eval()(image).shape == (1, 2)


def test_wrong_channels_and_dimensions_are_refused():
    model = on_meta("resnet18", in_channels=1)
    for shape in [(2, 3, 64, 64), (2, 64, 64), (1, 64, 64, 1)]:
        with pytest.raises(ValueError, match=r"resnet18: expected images \(batch, 1, height, width\)"):
            model(torch.empty(shape, device="meta"))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("resnet81", {}, "model 'resnet81' is unknown; did you mean resnet18"),
        ("timm:resnet_18", {}, "unknown to timm; did you mean resnet18"),
        ("timm:resnet18.nobody", {}, "timm has no weights 'nobody' of resnet18; known: .*a1_in1k"),
        ("vgg16", {"drop_out": 0.1}, "model vgg16: no option 'drop_out'; did you mean dropout"),
        ("resnet18", {"dropout": 0.1}, "model resnet18: no option 'dropout'; it has no options"),
        ("timm:test_resnet", {"nonsense": 1}, "timm refuses the options .*nonsense"),
        ("resnet18", {"classes": 1}, "classes must be a whole number from 2; found 1"),
        ("resnet18", {"in_channels": 0}, "in_channels must be a whole number from 1; found 0"),
        ("resnet18", {"in_channels": 1.5}, "in_channels must be a whole number from 1; found 1.5"),
    ],
)
def test_impossible_models_are_refused(name, settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        build_classifier(name, **settings)
    assert "\n" not in str(caught.value)


def test_the_seed_decides_the_first_values():
    def built(seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed)
        return build_classifier("mobilenet_v2", in_channels=1).state_dict()

    first, again, other = built(3), built(3), built(4)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["network.features.0.0.weight"], other["network.features.0.0.weight"])


@pytest.mark.parametrize("name", [*CLASSIFIERS, "timm:test_resnet"])
def test_what_grad_cam_looks_at_is_a_map_that_the_gradient_reaches(name):
    """Also where an in-place ReLU follows the convolution. Tokens are made a map of."""
    torch.manual_seed(0)
    model = build_classifier(name, **({"hidden": 8} if name in ("alexnet", "vgg16", "vgg19") else {})).eval()
    maps, (layer, reshape) = [], target_layer(model, (128, 160))
    layer.register_forward_hook(lambda _module, _inputs, output: maps.append(output))
    logits = model(torch.randn(1, 3, 128, 160))
    (gradient,) = torch.autograd.grad(logits[0, 1], maps[0])
    assert gradient.abs().max() > 0
    shape = (reshape(maps[0]) if reshape else maps[0]).shape
    stride = {"alexnet": 16, "vgg16": 16, "vgg19": 16, "vit_b_16": 16}.get(name, 32)
    # AlexNet and Inception do not pad their first convolutions and lose a place or two at the edge.
    assert shape[1] >= 64 and 0 <= 128 // stride - shape[2] <= 2 and 0 <= 160 // stride - shape[3] <= 2


def test_timm_transformers_take_any_size_and_fixed_ones_say_so():
    assert build_classifier("timm:test_vit").eval()(torch.zeros(1, 3, 64, 96)).shape == (1, 2)
    with pytest.raises(ValueError, match="timm:test_vit: works on tokens"):
        target_layer(build_classifier("timm:test_vit"))
    fixed = build_classifier("timm:pit_ti_224", in_channels=1)
    assert fixed.fixed_size == 224
    with pytest.raises(ValueError, match=r"takes images of 224×224 pixels only; found 96×96; .*img_size"):
        fixed(torch.zeros(2, 1, 96, 96))
    smaller = build_classifier("timm:pit_ti_224", img_size=96).eval()
    assert smaller.fixed_size == 96 and smaller(torch.zeros(1, 3, 96, 96)).shape == (1, 2)


@pytest.mark.parametrize("size", [(7, 7), (1, 1), (3, 5), (10, 9), (16, 7)])
def test_adaptive_pool_is_pytorchs_in_value_and_gradient(size):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 3, *size, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 3, 7, 7, generator=generator, dtype=torch.float64)
    ours, theirs = AdaptivePool(7)(maps), functional.adaptive_avg_pool2d(maps, 7)
    # The pooling matrix is made in float32: 1/3 carries an error of 1e-8.
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
    gradients = [torch.autograd.grad((result * weights).sum(), maps)[0] for result in (ours, theirs)]
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("kind", "mode"), [("linear", "bilinear"), ("cubic", "bicubic")])
def test_resampling_is_pytorchs_interpolation(kind, mode):
    maps = torch.randn(1, 4, 7, 6, generator=torch.Generator().manual_seed(0))
    for size in [(7, 6), (3, 4), (12, 9), (7, 20)]:
        expected = functional.interpolate(maps, size=size, mode=mode)
        torch.testing.assert_close(resampled(maps, size, kind), expected, atol=2e-6, rtol=1e-5)


def test_positions_of_another_grid_keep_a_constant_and_the_order_of_rows():
    rows = torch.arange(7.0)[:, None].expand(7, 7)  # row number at every place
    positions = torch.stack([rows, torch.ones(7, 7)]).flatten(1).T[None]  # (1, 49, 2)
    assert torch.equal(resampled_positions(positions, (7, 7), (7, 7)), positions)
    moved = resampled_positions(positions, (7, 7), (3, 5)).unflatten(1, (3, 5))
    torch.testing.assert_close(moved[0, ..., 1], torch.ones(3, 5))
    assert (moved[0, 1:, :, 0] > moved[0, :-1, :, 0]).all()
    torch.testing.assert_close(moved[0, 1, :, 0], torch.full((5,), 3.0))  # the middle row of 3 is the middle row of 7


def small_transformer(kind: type) -> VisionTransformer:
    torch.manual_seed(0)
    model = kind(image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=3)
    nn.init.normal_(model.heads.head.weight)
    return model.eval()


def test_any_size_transformer_is_torchvisions_at_its_own_size():
    ours, theirs = small_transformer(AnySizeTransformer), small_transformer(VisionTransformer)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(images), theirs(images))


def test_any_size_transformer_agrees_with_torchvisions_way_to_another_size():
    """torchvision interpolates the embedding in the weights; the network of that size then gives the same logits."""
    ours = small_transformer(AnySizeTransformer)
    state = torchvision.models.vision_transformer.interpolate_embeddings(48, 8, copy.deepcopy(ours.state_dict()))
    larger = VisionTransformer(image_size=48, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=3)
    larger.load_state_dict(state)
    images = torch.randn(2, 3, 48, 48)
    # torchvision aligns the corners of the two grids, we the centres of their places: close, not equal.
    torch.testing.assert_close(ours(images), larger.eval()(images), atol=0.05, rtol=0.05)
    padded = functional.pad(images[:, :, :41, :45], (0, 3, 0, 7))
    torch.testing.assert_close(ours(images[:, :, :41, :45]), ours(padded))


def test_any_size_auxiliary_is_torchvisions_from_17_places():
    torch.manual_seed(0)
    ours, theirs = AnySizeAuxiliary(8, 2).eval(), InceptionAux(8, 2).eval()
    theirs.load_state_dict(ours.state_dict())
    for size in [(17, 17), (20, 17), (23, 26)]:
        maps = torch.randn(2, 8, *size)
        torch.testing.assert_close(ours(maps), theirs(maps))
    small = torch.randn(2, 8, 3, 4)
    with pytest.raises(RuntimeError):
        theirs(small)
    torch.testing.assert_close(ours(small), theirs(functional.interpolate(small, size=(17, 17), mode="bilinear")))


def test_hybrid_sees_places_only_through_its_positions():
    """Attention does not know the order of its tokens: with positions of zero a mirrored map gives the same logits."""
    torch.manual_seed(0)
    model = ResNet18Transformer(3, classes=2).eval()
    model.backbone = nn.Identity()
    maps = torch.randn(1, 512, 7, 7)
    logits, mirrored = model(maps), model(maps.flip(-1))
    assert (logits - mirrored).abs().max() > 1e-4
    nn.init.zeros_(model.positions)
    # Sums over the tokens run in another order.
    torch.testing.assert_close(model(maps), model(maps.flip(-1)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "options"), [("alexnet", NARROW), ("resnet18_transformer", {}), ("inception_v3", {})])
def test_any_size_works_in_bfloat16(name, options):
    """What is resampled to the network's own grid stays near the float32 result under autocast."""
    torch.manual_seed(0)
    model = build_classifier(name, **options).eval()
    images = torch.randn(2, 3, 96, 160)
    expected = model(images)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(images)
    # bfloat16 keeps eight bits: a few per cent after many layers
    torch.testing.assert_close(found.float(), expected, atol=0.05 * expected.abs().max().item(), rtol=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model.train()(images)
    sum(logits.float().sum() for logits in (outputs if model.auxiliary_weight else [outputs])).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
