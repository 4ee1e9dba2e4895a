"""Every segmenter: sizes, gradients, learning, numbers of parameters; and what is refused."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
import torchvision
from segmentation_models_pytorch.decoders.pspnet.decoder import PSPModule
from torch import nn
from torch.nn import functional

from thyroid_utils.data.phantom.cases import phantom_cases
from thyroid_utils.inference.cam import target_layer
from thyroid_utils.models import Architecture
from thyroid_utils.models.any_size import AdaptivePool
from thyroid_utils.models.classifiers import CLASSIFIERS
from thyroid_utils.models.networks import build_classifier, build_segmenter, check_weights, parameter_count
from thyroid_utils.models.segmenters import SEGMENTERS, segmenter_facts
from thyroid_utils.models.weights import WeightsError

pytestmark = pytest.mark.usefixtures("one_thread")

LIBRARIES = (
    "unet_resnet18",
    "unet_resnet50",
    "unet_vgg16",
    "unet_vgg19",
    "deeplabv3plus",
    "deeplabv3plus_xception",
    "deeplabv3plus_mobilenet",
    "pspnet",
    "unetpp",
    "segformer",
)
OWN = ("unet", "attention_unet", "residual_unet", "residual_unet_resnet18", "segnet", "fcn8s", "transunet", "mobile_deeplab")

# The same classes with fewer channels or layers, where the published network would take long.
SMALL = {
    "unet": {"widths": (16, 32, 64, 128, 256)},
    "attention_unet": {"widths": (16, 32, 64, 128, 256)},
    "residual_unet": {"widths": (16, 32, 64, 128)},
    "segnet": {"widths": (16, 32, 64, 128, 128)},
    "fcn8s": {"widths": (16, 32, 64, 128, 128), "hidden": 64},
    "transunet": {
        "width": 96,
        "layers": 2,
        "heads": 4,
        "blocks": (1, 1, 1),
        "widths": (64, 32, 16, 16),
        "image_size": 64,
        "dropout": 0.0,
    },
}
WITHOUT_DROPOUT = {"dropout": 0.0}

# Side in pixels, options, learning rate of Adam and steps; a step alone of the libraries' large networks. Dropout is off, so
# that the eight images are learnt, not averages.
# SegFormer's first stage attends to one place for every 32 pixels: with fewer than 64 its queries have no say and no gradient.
LEARNING = {
    "unet_resnet18": (32, {}, 2e-3, 12),
    "unet_resnet50": (32, {}, 2e-3, 1),
    "unet_vgg16": (32, {}, 6e-4, 1),
    "unet_vgg19": (32, {}, 6e-4, 1),
    "deeplabv3plus": (32, WITHOUT_DROPOUT, 3e-3, 1),
    "deeplabv3plus_xception": (32, WITHOUT_DROPOUT, 3e-3, 1),
    "deeplabv3plus_mobilenet": (48, WITHOUT_DROPOUT, 3e-3, 32),
    "pspnet": (48, WITHOUT_DROPOUT, 1e-3, 1),
    "unetpp": (32, {}, 2e-3, 1),
    "segformer": (64, {}, 2e-3, 24),
    "unet": (32, SMALL["unet"], 5e-3, 20),
    "attention_unet": (32, SMALL["attention_unet"], 5e-3, 20),
    "residual_unet": (32, SMALL["residual_unet"], 5e-3, 22),
    "residual_unet_resnet18": (32, {}, 2e-3, 16),
    "segnet": (32, SMALL["segnet"], 3e-3, 25),
    "fcn8s": (64, SMALL["fcn8s"] | WITHOUT_DROPOUT, 1e-3, 90),
    "transunet": (32, SMALL["transunet"], 2e-3, 20),
    "mobile_deeplab": (48, WITHOUT_DROPOUT, 3e-3, 32),
}


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory) -> tuple[np.ndarray, np.ndarray]:
    """Eight phantoms of 128 pixels, cut out around their nodules: float32 (8, 64, 64), mean 0 and SD 1, and masks 0 or 1."""
    folder = tmp_path_factory.mktemp("phantoms")
    cases = phantom_cases(folder, patients=8, size=128, seed=0, views=(1, 1), workers=1)[:8]
    images, masks = [], []
    for case in cases.itertuples():
        mask = cv2.imread(str(case.mask), cv2.IMREAD_GRAYSCALE) > 127
        top, left = (int(np.clip(np.mean(places) - 32, 0, 64)) for places in np.nonzero(mask))
        image = cv2.imread(str(case.image), cv2.IMREAD_GRAYSCALE)
        images.append(image[top : top + 64, left : left + 64].astype(np.float32))
        masks.append(mask[top : top + 64, left : left + 64].astype(np.float32))
    stack = np.stack(images)
    return (stack - stack.mean()) / stack.std(), np.stack(masks)


def batch_of(arrays: np.ndarray, side: int) -> torch.Tensor:
    return torch.from_numpy(np.stack([cv2.resize(array, (side, side), interpolation=cv2.INTER_AREA) for array in arrays]))


def on_meta(name: str, **settings):
    """A model without values, whose shapes cost nothing. SegFormer's encoder cannot be built so, but is small."""
    if name == "segformer":
        return build_segmenter(name, **settings)
    with torch.device("meta"):
        return build_segmenter(name, **settings)


def empty_like_parameters(model, *shape: int) -> torch.Tensor:
    return torch.zeros(shape, device=next(model.parameters()).device)


def test_registry_holds_the_libraries_and_our_own():
    assert set(SEGMENTERS) == {*LIBRARIES, *OWN} == set(LEARNING)
    assert not set(SEGMENTERS) & set(CLASSIFIERS)


def test_a_network_of_ones_own_is_a_builder_and_a_line(monkeypatch):
    def dots(in_channels: int, classes: int, width: int = 4) -> nn.Module:
        parts = nn.Conv2d(in_channels, width, 4, stride=4), nn.ReLU(), nn.Conv2d(width, classes, 1), nn.Upsample(scale_factor=4)
        network = nn.Sequential(*parts)
        network.multiple = 4
        return network

    def mean(in_channels: int, classes: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(in_channels, 4, 8, stride=8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))

    monkeypatch.setitem(SEGMENTERS, "dots", Architecture(dots))
    monkeypatch.setitem(CLASSIFIERS, "mean", Architecture(mean))
    segmenter, classifier = build_segmenter("dots", width=8), build_classifier("mean", in_channels=1)
    assert segmenter(torch.zeros(1, 3, 45, 61)).shape == (1, 1, 45, 61) and classifier(torch.zeros(1, 1, 64, 50)).shape == (1, 2)
    assert target_layer(classifier).module is classifier.network[0] and target_layer(segmenter).module is segmenter.network[2]
    with pytest.raises(ValueError, match="model dots: no option 'widht'; did you mean width"):
        build_segmenter("dots", widht=8)
    with pytest.raises(WeightsError, match="dots: has no encoder with published ImageNet weights; use weights: none or a file"):
        check_weights("dots", "imagenet")


@pytest.mark.parametrize("name", SEGMENTERS)
def test_one_image_of_any_size_in_evaluation(name):
    """From one pixel to 233×317, at full width."""
    model = on_meta(name).eval()
    for size in [(1, 1), (1, 40), (45, 61), (64, 64), (233, 317)]:
        with torch.no_grad():
            assert model(empty_like_parameters(model, 1, 3, *size)).shape == (1, 1, *size)


@pytest.mark.parametrize("name", SEGMENTERS)
def test_other_numbers_of_channels_and_classes(name):
    torch.manual_seed(0)
    for channels, classes in [(1, 2), (5, 3)]:
        model = build_segmenter(name, in_channels=channels, classes=classes, **SMALL.get(name, {}))
        logits = model(torch.randn(2, channels, 33, 20))
        assert logits.shape == (2, classes, 33, 20) and torch.isfinite(logits).all()


@pytest.mark.parametrize("name", SEGMENTERS)
def test_a_step_changes_every_parameter_and_eight_phantoms_are_learnt(name, phantoms):
    """After the steps the mean Dice of the eight is above 0.9 in evaluation mode."""
    side, options, learning_rate, steps = LEARNING[name]
    images = batch_of(phantoms[0], side)[:, None].expand(-1, 3, -1, -1)
    masks = (batch_of(phantoms[1], side) > 0.5).float()
    torch.manual_seed(0)
    model = build_segmenter(name, **options)
    optimiser = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
    before = {key: value.clone() for key, value in model.named_parameters()}
    for step in range(steps):
        optimiser.zero_grad()
        logits = model(images)[:, 0]
        probabilities = logits.sigmoid()
        overlap = (probabilities * masks).sum((1, 2)) / (probabilities.sum((1, 2)) + masks.sum((1, 2)))
        (functional.binary_cross_entropy_with_logits(logits, masks) + 1 - 2 * overlap.mean()).backward()
        optimiser.step()
        if step == 0:
            assert not [key for key, value in model.named_parameters() if torch.equal(value, before[key])]
    if steps == 1:
        return
    # A few steps are too short for running averages; with momentum 1 one more batch makes them those of the eight images.
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model(images)
        found = (model.eval()(images)[:, 0] > 0).float()
    dice = 2 * (found * masks).sum((1, 2)) / (found.sum((1, 2)) + masks.sum((1, 2)))
    assert dice.mean() > 0.9, dice


@pytest.mark.parametrize(
    ("name", "multiple", "minimum"),
    [
        ("unet_resnet18", 32, 32),
        ("deeplabv3plus", 16, 16),
        ("pspnet", 8, 8),
        ("unet", 16, 16),
        ("residual_unet", 8, 8),
        ("smp:pan:resnet18", 16, 128),
    ],
)
def test_the_sides_that_networks_take(name, multiple, minimum):
    taken = {side: on_meta(name).taken(side) for side in (1, minimum, minimum + 1)}
    assert taken == {1: minimum, minimum: minimum, minimum + 1: minimum + multiple}


@pytest.mark.parametrize("name", ["unet_resnet18", "deeplabv3plus_mobilenet", "residual_unet"])
def test_padding_mirrors_the_image_and_is_cut_off(name):
    """The reference mirrors with numpy, which does it again and again where the image is too small."""
    torch.manual_seed(0)
    model = build_segmenter(name, **SMALL.get(name, {})).eval()
    multiple = model.network.multiple
    for height, width in [(45, 61), (64, 64), (5, 70), (1, 1)]:
        image = torch.randn(1, 3, height, width)
        border = [(-side % multiple // 2, -side % multiple - -side % multiple // 2) for side in (height, width)]
        padded = torch.from_numpy(np.pad(image.numpy(), [(0, 0), (0, 0), *border], mode="reflect"))
        (top, _), (left, _) = border
        with torch.no_grad():
            expected = model.network(padded)[..., top : top + height, left : left + width]
            torch.testing.assert_close(model(image), expected)


def test_unet_with_valid_convolutions_extends_the_image_itself():
    model = build_segmenter("unet", valid=True, classes=2, widths=(4, 8, 16, 32, 64)).eval()
    assert model.taken(45) == 45
    for size in [(1, 1), (45, 61)]:
        assert model(torch.randn(1, 3, *size)).shape == (1, 2, *size)


def test_a_training_batch_of_one_is_refused_only_where_a_normalisation_sees_one_value():
    image = torch.randn(1, 3, 64, 64)
    message = "deeplabv3plus_mobilenet: a training batch of one image of 64×64 pixels; .*raise the batch size"
    model = build_segmenter("deeplabv3plus_mobilenet")
    with pytest.raises(ValueError, match=message) as caught:
        model(image)  # image pooling in the ASPP: one place
    assert "\n" not in str(caught.value)
    assert model(image.expand(2, -1, -1, -1)).shape == (2, 1, 64, 64)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # frozen statistics
    assert model(image).shape == (1, 1, 64, 64)
    assert build_segmenter("unet_resnet18")(image).shape == (1, 1, 64, 64)
    with pytest.raises(ValueError, match="unet_resnet18: a training batch of one image of 20×20 pixels"):
        build_segmenter("unet_resnet18")(image[..., :20, :20])
    assert build_segmenter("pspnet")(image).shape == (1, 1, 64, 64)
    assert build_segmenter("segformer")(image).shape == (1, 1, 64, 64)


def test_wrong_channels_dimensions_and_empty_images_are_refused():
    model = build_segmenter("residual_unet", in_channels=1, **SMALL["residual_unet"]).eval()
    for shape in [(2, 3, 64, 64), (2, 64, 64), (1, 64, 64, 1)]:
        with pytest.raises(ValueError, match=r"residual_unet: expected images \(batch, 1, height, width\)"):
            model(torch.zeros(shape))
    with pytest.raises(ValueError, match="residual_unet: images of 0×64 pixels are too small"):
        model(torch.zeros(1, 1, 0, 64))
    model.check_size(1, 1)


@pytest.mark.parametrize("name", [name for name, facts in SEGMENTERS.items() if facts.published and name != "residual_unet"])
def test_parameter_count_is_the_published_one(name):
    """To the last digit that the source prints."""
    facts = SEGMENTERS[name]
    printed = str(facts.published).rstrip("0").rstrip(".")
    decimals = len(printed.partition(".")[2])
    assert round(parameter_count(on_meta(name, **facts.published_with)) / 1e6, decimals) == facts.published


@pytest.mark.parametrize(
    "name", ["unet_resnet18", "unet_resnet50", "unet_vgg16", "unet_vgg19", "deeplabv3plus", "pspnet", "unetpp"]
)
def test_encoders_have_the_parameters_that_torchvision_publishes(name):
    """All but the head's: one dense layer of a ResNet, three of a VGG."""
    encoder = SEGMENTERS[name].imagenet.removeprefix("smp:")
    published = torchvision.models.get_model_weights(encoder).IMAGENET1K_V1.meta["num_params"]
    with torch.device("meta"):
        whole = torchvision.models.get_model(encoder)
    head = parameter_count(whole.fc if hasattr(whole, "fc") else whole.classifier)
    assert parameter_count(on_meta(name).network.encoder) == published - head


def test_xception_is_that_of_deeplab():
    """Its dilated Xception-71 has 43.5 million parameters in the table of HRNet's paper (Wang et al. 2020, 19 classes); our 65
    is timm's xception65, whose published 39.92 million include 1,000 classes."""
    assert round(parameter_count(on_meta("smp:deeplabv3plus:tu-xception71", classes=19)) / 1e6, 1) == 43.5
    model = on_meta("deeplabv3plus_xception")
    assert round((parameter_count(model.network.encoder) + 2049 * 1000) / 1e6, 2) == 39.92
    maps = model.eval().network.encoder(torch.zeros(1, 3, 64, 64, device="meta"))
    assert [tuple(map.shape[2:]) for map in maps][-2:] == [(4, 4), (4, 4)]  # stride 16 to the end


@pytest.mark.parametrize(
    "name", ["smp:deeplabv3plus:xception", "smp:deeplabv3plus:vgg16", "smp:deeplabv3plus:tu-legacy_xception"]
)
def test_encoders_that_halve_by_pooling_refuse_dilation(name):
    with pytest.raises(ValueError, match=f"model {name}: smp refuses it"):
        build_segmenter(name)


def test_deeplab_dilates_at_the_published_rates():
    for name in ("deeplabv3plus", "deeplabv3plus_xception", "deeplabv3plus_mobilenet"):
        convolutions = [module for module in on_meta(name).network.decoder.modules() if isinstance(module, nn.Conv2d)]
        assert [module.dilation[0] for module in convolutions if module.dilation[0] > 1] == [6, 12, 18]


def test_pspnet_pools_as_smp_does_with_a_deterministic_gradient():
    torch.manual_seed(0)
    ours = build_segmenter("pspnet").eval().network.decoder.psp
    assert [block.pool_size for block in ours.blocks if isinstance(block.pool[0], AdaptivePool)] == [2, 3, 6]
    theirs = PSPModule(2048).eval()
    theirs.load_state_dict(ours.state_dict())
    for size in [(8, 8), (7, 9), (2, 3)]:
        maps = torch.randn(1, 2048, *size)
        torch.testing.assert_close(ours(maps), theirs(maps), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["unet", "manet", "linknet", "fpn", "pan", "deeplabv3", "upernet"])
def test_any_architecture_of_smp_takes_any_size(kind):
    model = on_meta(f"smp:{kind}:resnet18", classes=2).eval()
    for size in [(1, 1), (45, 61), (130, 257)]:
        assert model(torch.zeros(1, 3, *size, device="meta")).shape == (1, 2, *size)


def test_any_architecture_of_smp_takes_its_own_options_and_timms_encoders():
    few = on_meta("smp:Unet:resnet18", encoder_depth=3, decoder_channels=[32, 16, 8])
    assert parameter_count(few) < parameter_count(on_meta("smp:unet:resnet18")) and few.taken(1) == 8
    transformer = build_segmenter("smp:dpt:tu-vit_tiny_patch16_224", dynamic_img_size=True).eval()
    with torch.no_grad():
        assert transformer(torch.zeros(1, 3, 5, 70)).shape == (1, 1, 5, 70)
    assert on_meta("smp:unet:tu-convnext_atto").eval()(torch.zeros(1, 3, 45, 61, device="meta")).shape == (1, 1, 45, 61)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("unet_resnet81", {}, "model 'unet_resnet81' is unknown; did you mean unet_resnet18"),
        ("smp:unett:resnet18", {}, "smp has no architecture 'unett'; did you mean unet"),
        ("smp:unet:resnet19", {}, "smp has no encoder 'resnet19'; did you mean resnet1"),
        ("smp:unet:tu-resnett18", {}, "'smp:unet:tu-resnett18' is unknown to timm; did you mean resnet18"),
        ("smp:unet:tu-resnet18.nobody", {}, "timm has no weights 'nobody' of resnet18; known: .*a1_in1k"),
        ("smp:unet", {}, "expected smp:ARCH:ENCODER, such as"),
        ("unet_resnet18", {"decoder": 1}, "model unet_resnet18: no option 'decoder'; did you mean decoder_channels"),
        ("unet", {"width": 1}, "model unet: no option 'width'; did you mean widths"),
        ("deeplabv3plus_xception", {"weights_file": 1}, "no option 'weights_file'; known: separable_aspp"),
        ("smp:fpn:resnet18", {"decoder_droput": 1}, "no option 'decoder_droput'; did you mean decoder_dropout"),
        ("smp:fpn:resnet18", {"encoder_weights": "imagenet"}, "no option 'encoder_weights'"),
        ("smp:fpn:resnet18", {"aux_params": {}}, "no option 'aux_params'"),
        ("smp:unet:tu-resnet18", {"nonsense": 1}, "smp refuses it with .*nonsense"),
        ("smp:unet:resnet18", {"encoder_depth": 9}, "smp refuses it with .*encoder_depth"),
        ("unet_resnet18", {"classes": 0}, "classes must be a whole number from 1; found 0"),
        ("unet_resnet18", {"in_channels": 1.5}, "in_channels must be a whole number from 1; found 1.5"),
        ("unet_resnet18", {"in_channels": True}, "in_channels must be a whole number from 1; found True"),
    ],
)
def test_impossible_models_are_refused(name, settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        build_segmenter(name, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["unet_resnet18", "deeplabv3plus_mobilenet", "segformer", "residual_unet", "transunet"])
def test_the_seed_decides_the_first_values(name):
    def built(seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed)
        return build_segmenter(name, in_channels=1, **SMALL.get(name, {})).state_dict()

    first, again, other = built(3), built(3), built(4)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_channels_last_and_bfloat16_stay_near():
    torch.manual_seed(0)
    model = build_segmenter("deeplabv3plus_mobilenet").eval()
    images = torch.randn(2, 3, 45, 61)
    with torch.no_grad():
        expected = model(images)
        model = model.to(memory_format=torch.channels_last)
        moved = model(images.contiguous(memory_format=torch.channels_last))
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(images)
    torch.testing.assert_close(moved, expected, atol=1e-4, rtol=1e-4)  # another convolution routine, other rounding
    # bfloat16 keeps eight bits: a few per cent after many layers
    torch.testing.assert_close(rough.float(), expected, atol=0.1 * expected.abs().max().item(), rtol=0.1)


def test_facts_say_what_each_is_and_where_it_comes_from():
    facts = segmenter_facts()
    assert list(facts.index) == list(SEGMENTERS)
    assert (facts[["what", "paper", "made_from"]].map(len) > 3).all(axis=None)
    assert facts["published_parameters"].dtype == float
    assert (facts["published_in"] != "").equals(facts["published_parameters"].notna())
    assert facts.loc["fcn8s", "published_parameters"] == 134
    assert facts.loc["unet", "encoder"] == "" and facts.loc["unet_vgg19", "encoder"] == "vgg19"
