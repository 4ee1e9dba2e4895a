"""Every classifier and segmenter by its name, and the pieces that let networks made for one image size take every size."""

import copy
import sys

import numpy as np
import pytest
import torch
import torchvision
from segmentation_models_pytorch.decoders.pspnet.decoder import PSPModule
from torch import nn
from torch.nn import functional
from torchvision.models.inception import InceptionAux
from torchvision.models.vision_transformer import VisionTransformer

from thyroid_utils.inference.cam import target_layer
from thyroid_utils.models import any_size
from thyroid_utils.models.any_size import AdaptivePool
from thyroid_utils.models.classifiers import CLASSIFIERS
from thyroid_utils.models.networks import architecture, build_classifier, build_segmenter, network_source, parameter_count
from thyroid_utils.models.segmenters import SEGMENTERS, segmenter_facts

pytestmark = pytest.mark.usefixtures("one_thread")

# The same classes with fewer channels or layers and without dropout, which would leave parameters without a gradient by chance.
# timm begins the last normalisation of each residual block at zero, which would do so, too.
WIDTHS, FIVE, DRY = {"widths": (16, 32, 64, 128)}, (8, 16, 32, 64, 64), {"dropout": 0.0}
SMALL = {
    **{name: DRY | {"hidden": 64} for name in ("alexnet", "vgg16", "vgg19")},
    **dict.fromkeys(("inception_v3", "resnet18_transformer", "mobilenet_v2", "deeplabv3plus_mobilenet"), DRY),
    **{name: DRY | {"stochastic_depth": 0.0} for name in ("efficientnet_b0", "efficientnet_lite0")},
    "convnext_tiny": {"stochastic_depth": 0.0},
    "timm:test_resnet": {"zero_init_last": False},
    **dict.fromkeys(("unet", "attention_unet", "residual_unet"), WIDTHS),
    **{name: {"decoder_channels": (16, 16, 16, 8, 8)} for name in ("unet_vgg16", "unet_vgg19")},
    **dict.fromkeys(
        ("deeplabv3plus", "deeplabv3plus_xception", "deeplabv3plus_efficientnet_lite0", "pspnet"), DRY | {"decoder_channels": 16}
    ),
    "mobile_deeplab": DRY,
    "segnet": {"widths": FIVE},
    "fcn8s": DRY | {"widths": FIVE, "hidden": 64},
    "transunet": DRY | {"width": 96, "layers": 2, "heads": 4, "blocks": (1, 1, 1), "widths": (64, 32, 16, 16), "image_size": 64},
}
# Sides in pixels at which every parameter has a part: SegFormer's first stage attends to one place for every 32 pixels, and with
# fewer than 64 its queries have no say.
SIDES = {"alexnet": 64, "inception_v3": 75, "segformer": 64, "fcn8s": 64, "pspnet": 48}
EVERY = [*CLASSIFIERS, "timm:test_resnet", "timm:test_vit", *SEGMENTERS]
OWN = ("unet", "attention_unet", "residual_unet", "residual_unet_resnet18", "segnet", "fcn8s", "transunet")
DEEPER = ("vgg19", "resnet34", "unet_vgg19", "unet_resnet50")  # otherwise as the ones before them


def is_classifier(name: str) -> bool:
    return name in CLASSIFIERS or name.startswith("timm:")


def built(name: str, **settings):
    return (build_classifier if is_classifier(name) else build_segmenter)(name, **settings)


def on_meta(name: str, **settings):
    """A model without values, whose shapes cost nothing. SegFormer's encoder cannot be built so, but is small."""
    if name == "segformer":
        return built(name, **settings)
    with torch.device("meta"):
        return built(name, **settings)


def empty(model, *shape: int) -> torch.Tensor:
    return torch.zeros(shape, device=next(model.parameters()).device)


@pytest.mark.parametrize("name", [name for name in EVERY if is_classifier(name)])
def test_a_classifier_maps_images_to_logits(name):
    """At its own size and at others, down to its smallest; both heads of Inception in training."""
    size, least = architecture(name).size, architecture(name).minimum
    model = on_meta(name, classes=3)
    for height, width in [(size, size), (least, least), (64, 96) if name.startswith("timm:") else (max(least, 50), 81)]:
        images = empty(model, 2, 3, height, width)
        assert model.eval()(images).shape == (2, 3)
        found = model.train()(images)
        heads = found if model.auxiliary_weight else [found]
        assert [logits.shape for logits in heads] == [(2, 3)] * (2 if name == "inception_v3" else 1)


@pytest.mark.parametrize("name", SEGMENTERS)
def test_a_segmenter_takes_images_of_any_size(name):
    """From one pixel to 233×317."""
    model = on_meta(name, classes=3, **SMALL.get(name, {})).eval()
    for size in [(1, 1), (1, 40), (45, 61), (233, 317)]:
        with torch.no_grad():
            assert model(empty(model, 1, 3, *size)).shape == (1, 3, *size)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_an_image_below_the_minimum_is_refused_with_the_minimum(name):
    model, least = on_meta(name), architecture(name).minimum
    with pytest.raises(ValueError, match=f"{name}: .*{least - 1}×300 pixels are too small.*{least}×{least}"):
        model(empty(model, 2, 3, least - 1, 300))
    if name in ("alexnet", "inception_v3"):  # 63 and 75 are no round numbers: one pixel less breaks the network itself
        with pytest.raises(RuntimeError, match=r"too small|greater than actual input|can't be greater"):
            model.eval().network(empty(model, 2, 3, least - 1, 300))


@pytest.mark.parametrize(
    ("name", "multiple", "minimum"),
    [("unet_resnet18", 32, 32), ("deeplabv3plus", 16, 16), ("pspnet", 8, 8), ("unet", 16, 16), ("smp:pan:resnet18", 16, 128)],
)
def test_the_sides_that_networks_take(name, multiple, minimum):
    taken = {side: on_meta(name).taken(side) for side in (1, minimum, minimum + 1)}
    assert taken == {1: minimum, minimum: minimum, minimum + 1: minimum + multiple}


def test_padding_mirrors_the_image_and_pspnet_pools_as_smp_does():
    """The reference mirrors with numpy, which does it again and again where the image is too small."""
    torch.manual_seed(0)
    model = build_segmenter("residual_unet", **WIDTHS).eval()
    multiple = model.network.multiple
    for height, width in [(45, 61), (64, 64), (5, 70), (1, 1)]:
        image = torch.randn(1, 3, height, width)
        border = [(-side % multiple // 2, -side % multiple - -side % multiple // 2) for side in (height, width)]
        padded = torch.from_numpy(np.pad(image.numpy(), [(0, 0), (0, 0), *border], mode="reflect"))
        (top, _), (left, _) = border
        with torch.no_grad():
            expected = model.network(padded)[..., top : top + height, left : left + width]
            torch.testing.assert_close(model(image), expected)
    torch.manual_seed(0)
    ours = build_segmenter("pspnet").eval().network.decoder.psp
    assert [block.pool_size for block in ours.blocks if isinstance(block.pool[0], AdaptivePool)] == [2, 3, 6]
    theirs = PSPModule(2048).eval()
    theirs.load_state_dict(ours.state_dict())
    for size in [(8, 8), (2, 3)]:
        maps = torch.randn(1, 2048, *size)
        torch.testing.assert_close(ours(maps), theirs(maps), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("name", "side"), [("resnet18", 32), ("deeplabv3plus_mobilenet", 64), ("unet_resnet18", 20)])
def test_a_training_batch_of_one_is_refused_where_a_normalisation_sees_one_value(name, side):
    model = on_meta(name)
    with pytest.raises(ValueError, match=f"{name}: a training batch of one image of .*raise the batch size") as caught:
        model(empty(model, 1, 3, side, side))
    assert "\n" not in str(caught.value)
    assert len(model(empty(model, 2, 3, side, side))) == 2 and len(model.eval()(empty(model, 1, 3, side, side))) == 1
    with pytest.raises(ValueError, match="something else"):
        model.network.forward = lambda images: (_ for _ in ()).throw(ValueError("something else"))
        model(empty(model, 2, 3, side, side))


@pytest.mark.parametrize("name", ["resnet18", "residual_unet"])
def test_wrong_channels_dimensions_and_empty_images_are_refused(name):
    model = on_meta(name, in_channels=1).eval()
    for shape in [(2, 3, 64, 64), (2, 64, 64)]:
        with pytest.raises(ValueError, match=rf"{name}: expected images \(batch, 1, height, width\)"):
            model(empty(model, *shape))
    with pytest.raises(ValueError, match=f"{name}: images of 0×64 pixels are too small"):
        model(empty(model, 1, 1, 0, 64))


def test_timms_and_smps_networks_take_their_own_options_and_any_size_or_say_so():
    with pytest.raises(ValueError, match="timm:test_vit: works on tokens"):
        target_layer(build_classifier("timm:test_vit"))
    fixed = on_meta("timm:pit_ti_224", in_channels=1)
    with pytest.raises(ValueError, match=r"takes images of 224×224 pixels only; found 96×96; .*img_size"):
        fixed(empty(fixed, 2, 1, 96, 96))
    smaller = on_meta("timm:pit_ti_224", img_size=96).eval()
    assert smaller.fixed_size == 96 and smaller(empty(smaller, 1, 3, 96, 96)).shape == (1, 2)
    assert on_meta("smp:Unet:resnet18", encoder_depth=3, decoder_channels=[32, 16, 8]).taken(1) == 8
    transformer = build_segmenter("smp:dpt:tu-vit_tiny_patch16_224", dynamic_img_size=True).eval()
    with torch.no_grad():
        assert transformer(torch.zeros(1, 3, 5, 70)).shape == (1, 1, 5, 70)
    assert on_meta("smp:unet:tu-convnext_atto").taken(1) == 32


@pytest.mark.parametrize("kind", ["unet", "manet", "linknet", "fpn", "pan", "deeplabv3", "upernet"])
def test_any_architecture_of_smp_takes_any_size(kind):
    model = on_meta(f"smp:{kind}:resnet18", classes=2).eval()
    for size in [(1, 1), (130, 257)]:
        assert model(empty(model, 1, 3, *size)).shape == (1, 2, *size)


def loss_of(name: str, outputs, labels: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    if is_classifier(name):
        return sum(functional.cross_entropy(logits, labels) for logits in (outputs if isinstance(outputs, tuple) else [outputs]))
    probabilities, truth = outputs[:, 0].sigmoid(), masks.to(outputs.dtype)
    overlap = (probabilities * truth).sum((1, 2)) / (probabilities.sum((1, 2)) + truth.sum((1, 2)))
    return functional.binary_cross_entropy_with_logits(outputs[:, 0], truth) + 1 - 2 * overlap.mean()


@pytest.mark.parametrize("name", [name for name in EVERY if name not in DEEPER])
def test_the_gradient_reaches_every_parameter(name):
    side = SIDES.get(name, 32)
    generator = torch.Generator().manual_seed(0)
    images, masks = torch.randn(4, 1, side, side, generator=generator), torch.zeros(4, side, side, dtype=torch.bool)
    masks[:, 8:20, 10:24] = True
    torch.manual_seed(0)
    model = built(name, in_channels=1, **SMALL.get(name, {}))
    if name in OWN:
        model, images = model.double(), images.double()
    loss_of(name, model(images), torch.tensor([0, 1, 0, 1]), masks).backward()
    gradients = {key: value.grad for key, value in model.named_parameters()}
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
    # In float64 rounding is near 1e-16, so that a gradient of rounding errors is told from a true one.
    without = [key for key, gradient in gradients.items() if gradient.abs().max() <= (1e-10 if name in OWN else 0)]
    # torchvision's biases in front of SegNet's batch normalisations, which take them out again; kept for its weights file
    assert len(without) == (13 if name == "segnet" else 0), without


PUBLISHED = {"segnet": {"classes": 12}, "fcn8s": {"classes": 21}, "transunet": {"classes": 9}, "segformer": {"classes": 150}}
PUBLISHED |= {"deeplabv3plus_mobilenet": {}, "unet": {"widths": (32, 64, 128, 256, 512), "batch_norm": False}}


@pytest.mark.parametrize(("name", "settings"), PUBLISHED.items())
def test_parameter_count_is_the_published_one(name, settings):
    """To the last digit that the source prints."""
    printed = f"{segmenter_facts().loc[name, 'published_parameters']:g}"
    decimals = len(printed.partition(".")[2])
    assert f"{round(parameter_count(on_meta(name, **settings)) / 1e6, decimals):g}" == printed


def test_xception_is_that_of_deeplab_and_inceptions_second_head_can_be_left_out():
    """timm's xception65 has, as published, 39.92 million parameters, 1,000 classes among them."""
    model = on_meta("deeplabv3plus_xception").eval()
    assert round((parameter_count(model.network.encoder) + 2049 * 1000) / 1e6, 2) == 39.92
    maps = model.network.encoder(empty(model, 1, 3, 64, 64))
    assert [tuple(map.shape[2:]) for map in maps][-2:] == [(4, 4), (4, 4)]  # stride 16 to the end
    assert on_meta("inception_v3").auxiliary_weight == 0.4
    without = on_meta("inception_v3", auxiliary=False)
    assert without.auxiliary_weight == 0 and without.train()(empty(without, 2, 3, 299, 299)).shape == (2, 2)


@pytest.mark.parametrize("name", ["deeplabv3plus", "deeplabv3plus_xception", "deeplabv3plus_mobilenet"])
def test_deeplab_dilates_at_the_published_rates_unless_told(name):
    for rates, options in (((6, 12, 18), {}), ((2, 3, 4), {"atrous_rates": [2, 3, 4], "decoder_channels": 16})):
        convolutions = [module for module in on_meta(name, **options).network.decoder.modules() if isinstance(module, nn.Conv2d)]
        assert tuple(module.dilation[0] for module in convolutions if module.dilation[0] > 1) == rates


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("resnet81", {}, "model 'resnet81' is unknown; did you mean resnet18"),
        ("timm:resnet18.nobody", {}, "timm has no weights 'nobody' of resnet18; known: .*a1_in1k"),
        ("smp:unett:resnet18", {}, "smp has no architecture 'unett'; did you mean unet"),
        ("smp:unet:resnet19", {}, "smp has no encoder 'resnet19'; did you mean resnet1"),
        ("smp:unet:tu-resnett18", {}, "'smp:unet:tu-resnett18' is unknown to timm; did you mean resnet18"),
        ("smp:unet", {}, "expected smp:ARCH:ENCODER, such as"),
        ("mobile_deeplab", {"backbone": "resnet5"}, "backbone .resnet5. is unknown; did you mean resnet50"),
        ("vgg16", {"drop_out": 0.1}, "model vgg16: no option 'drop_out'; did you mean dropout"),
        ("resnet18", {"dropout": 0.1}, "model resnet18: no option 'dropout'; it has no options"),
        ("deeplabv3plus_xception", {"weights_file": 1}, "no option 'weights_file'; known: separable_aspp"),
        ("smp:fpn:resnet18", {"decoder_droput": 1}, "no option 'decoder_droput'; did you mean decoder_dropout"),
        ("smp:unet:tu-resnet18", {"aux_params": {}}, "smp refuses it with .*aux_params"),
        ("smp:deeplabv3plus:xception", {}, "smp refuses it"),  # its encoder halves by pooling and takes no dilation
        ("timm:test_resnet", {"nonsense": 1}, "timm refuses the options .*nonsense"),
        ("resnet18", {"classes": 1}, "classes must be a whole number from 2; found 1"),
        ("unet", {"in_channels": True}, "in_channels must be a whole number from 1; found True"),
    ],
)
def test_impossible_models_are_refused(name, settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        (build_classifier if is_classifier(name) or name == "resnet81" else build_segmenter)(name, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("build", "other"), [(build_classifier, "smp:unet:resnet18"), (build_segmenter, "timm:resnet18")])
def test_networks_of_the_other_kind_are_unknown(build, other):
    for name in (other, "unet" if build is build_classifier else "resnet18"):
        with pytest.raises(ValueError, match=f"model '{name}' is unknown"):
            build(name)


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="each Python writes syntax trees in its own way")
def test_own_files_are_a_source_by_which_the_runs_of_users_are_found():
    """A hash that moves retrains every finished run of its networks: only for networks that compute something else."""
    names = [*CLASSIFIERS, *SEGMENTERS, "smp:unet:resnet18", "timm:resnet18"]
    found = {name: network_source(name)[:8] for name in names if not name.startswith("tiny")}
    assert {name: source for name, source in found.items() if source} == {
        **dict.fromkeys(("resnet18_transformer", "transunet"), "3b2f7435"),
        **dict.fromkeys(("unet", "attention_unet", "residual_unet", "residual_unet_resnet18"), "79396269"),
        **dict.fromkeys(("segnet", "fcn8s"), "a3f86216"),
        "mobile_deeplab": "f9ffa694",
    }


def test_facts_say_what_each_is():
    facts = segmenter_facts()
    assert list(facts.index) == list(SEGMENTERS) and not set(SEGMENTERS) & set(CLASSIFIERS)
    assert (facts[["what", "paper", "made_from"]].map(len) > 3).all(axis=None)
    assert (facts["published_in"] != "").equals(facts["published_parameters"].notna())
    assert facts.loc["fcn8s", "published_parameters"] == 134
    assert facts.loc["unet", "encoder"] == "" and facts.loc["unet_vgg19", "encoder"] == "vgg19"


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
