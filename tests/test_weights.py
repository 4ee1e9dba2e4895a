"""What networks begin with: found, checked, fetched, refused, never another than asked for. Files are made and served here."""

from __future__ import annotations

import http.server
import pickle
import re
import socket
import threading
import time
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from huggingface_hub import constants
from safetensors.torch import save_file
from segmentation_models_pytorch.encoders import encoders, get_encoder

from thyroid_utils.common import paths
from thyroid_utils.common.files import file_hash
from thyroid_utils.models import weights
from thyroid_utils.models.classifiers import CLASSIFIERS
from thyroid_utils.models.hybrids import HybridEncoder
from thyroid_utils.models.networks import Network, architecture, build_classifier, build_segmenter, check_weights
from thyroid_utils.models.segmenters import SEGMENTERS
from thyroid_utils.models.weights import WeightsError, fill

TINY_UNET = {"widths": (4, 8)}


@pytest.fixture(autouse=True)
def hub(tmp_path, monkeypatch) -> Path:
    """Empty folders for published weights, and no way to Hugging Face's hub; returns PyTorch's."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "huggingface"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def serve_from(monkeypatch, address: str) -> None:
    """Let torchvision's files lie at another address."""
    for name in torchvision.models.list_models(module=torchvision.models):
        published = torchvision.models.get_model_weights(name)
        if "IMAGENET1K_V1" in published.__members__:
            value = published.IMAGENET1K_V1.value
            monkeypatch.setitem(value.__dict__, "url", f"{address}/{value.url.rpartition('/')[2]}")


@pytest.fixture
def closed(monkeypatch) -> None:
    """Nobody listens where torchvision's files should lie."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        serve_from(monkeypatch, f"http://127.0.0.1:{probe.getsockname()[1]}")


def publish(monkeypatch, hub: Path, name: str, state: dict) -> Path:
    """A state dict as torchvision's file of a network."""
    torch.save(state, hub / "made.pth")
    path = (hub / "made.pth").rename(hub / f"{name}-{file_hash(hub / 'made.pth')[:8]}.pth")
    value = torchvision.models.get_model_weights(name).IMAGENET1K_V1.value
    monkeypatch.setitem(value.__dict__, "url", f"https://example.org/{path.name}")
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


def cache_encoder(name: str) -> dict[str, torch.Tensor]:
    """Random values of an encoder of smp's as its published ones."""
    torch.manual_seed(1)
    state = get_encoder(name, weights=None).state_dict()
    published = encoders[name]["pretrained_settings"]["imagenet"]
    cache(published["repo_id"], published["revision"], state)
    return state


def state_of(name: str, **options) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return torchvision.models.get_model(name, **options).state_dict()


def own_state(model: Network) -> dict[str, torch.Tensor]:
    return model.network.state_dict()


# What is published


@pytest.mark.parametrize("name", [name for name in CLASSIFIERS if name != "resnet18_transformer"])
def test_every_parameter_finds_its_name_in_torchvisions_network(name):
    """torchvision's file fits torchvision's network; ours has the same names and shapes but for the head of 1,000 classes."""
    with torch.device("meta"):
        ours = own_state(build_classifier(name))
        options = {"init_weights": False} if name == "inception_v3" else {}
        theirs = torchvision.models.get_model(name, **options).state_dict()
    head = {key for key, value in theirs.items() if value.shape[:1] == (1000,)}
    assert {key: value.shape for key, value in ours.items() if key not in head} == {
        key: value.shape for key, value in theirs.items() if key not in head
    }
    assert head <= ours.keys() and len(head) in (2, 4)


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
def test_without_a_connection_the_file_and_its_folder_are_named(name, file, options, hub, closed):
    """Within seconds, before anything is built; and nothing is built from other values."""
    build = build_classifier if name in CLASSIFIERS or name.startswith("timm:") else build_segmenter
    folder = hub if file.endswith(".pth") else Path(constants.HF_HUB_CACHE)
    began = time.monotonic()
    for attempt in (lambda: check_weights(name, "imagenet", options), lambda: build(name, weights="imagenet", **options)):
        with pytest.raises(WeightsError, match=re.escape(f"{name}: the ImageNet weights {file} are not in {folder}")) as caught:
            attempt()
        message = str(caught.value)
        assert "could not be downloaded" in message and "or use weights: none" in message and "\n" not in message
        assert (f"put it into {folder}" if folder == hub else "run `hf download") in message
    assert time.monotonic() - began < 5 and not list(hub.iterdir())


@pytest.mark.parametrize("name", ["unet", "timm:coatnet_0_224", "smp:unet:dpn92"])
def test_networks_without_published_values_say_so(name):
    with pytest.raises(WeightsError, match=f"{name}: (has no encoder with published|timm has no|smp has no) ImageNet weights"):
        check_weights(name, "imagenet")


def test_all_others_have_some():
    assert {name for name, facts in SEGMENTERS.items() if not facts.source()} == {"unet", "attention_unet", "residual_unet"}


# Fetching


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves a folder of this machine in the place of torchvision's; yields the folder."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments, **keywords):
            super().__init__(*arguments, directory=str(folder), **keywords)

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, daemon=True)
        thread.start()
        serve_from(monkeypatch, f"http://127.0.0.1:{listening.server_port}")
        yield folder
        listening.shutdown()
        thread.join()


def test_an_absent_file_is_fetched_once_and_another_one_is_not_kept(hub, monkeypatch, server):
    torch.save(state_of("resnet18"), server / "made")
    made = (server / "made").rename(server / f"resnet18-{file_hash(server / 'made')[:8]}.pth")
    value = torchvision.models.get_model_weights("resnet18").IMAGENET1K_V1.value
    monkeypatch.setitem(value.__dict__, "url", f"{value.url.rpartition('/')[0]}/{made.name}")
    path = check_weights("resnet18", "imagenet")
    assert path == hub / made.name and path.read_bytes() == made.read_bytes()
    made.unlink()
    assert check_weights("resnet18", "imagenet") == path
    (server / "alexnet-owt-7be5be79.pth").write_bytes(b"<html>sign in</html>")
    with pytest.raises(WeightsError, match=r"alexnet: .*could not be downloaded \(invalid hash"):
        check_weights("alexnet", "imagenet")
    with pytest.raises(WeightsError, match=r"could not be downloaded \(.*File not found"):
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
    path = publish(monkeypatch, hub, "mobilenet_v2", state_of("mobilenet_v2"))
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=f"{path.name} is damaged: .*delete it and run again"):
        build_classifier("mobilenet_v2", weights="imagenet")
    state = get_encoder("mit_b0", weights=None).state_dict()
    published = encoders["mit_b0"]["pretrained_settings"]["imagenet"]
    del state["norm4.bias"]
    path = cache(published["repo_id"], published["revision"], state)
    with pytest.raises(
        WeightsError, match=r"segformer: .*model\.safetensors cannot be loaded .*norm4\.bias.*delete it"
    ) as caught:
        build_segmenter("segformer", weights="imagenet")
    assert "\n" not in str(caught.value)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"segformer: .*cannot be loaded"):
        build_segmenter("segformer", weights="imagenet")


# Published values in their places


def test_a_gray_image_gives_in_one_channel_what_it_gives_in_three(hub, monkeypatch):
    publish(monkeypatch, hub, "mobilenet_v2", state_of("mobilenet_v2"))
    publish(monkeypatch, hub, "inception_v3", state_of("inception_v3", init_weights=False))
    cache_encoder("mobilenet_v2")
    gray = torch.randn(2, 1, 96, 96)
    maps = {}
    for channels in (1, 3, 5):
        images = gray.expand(-1, channels, -1, -1)
        network = build_classifier("mobilenet_v2", in_channels=channels, weights="imagenet").eval().network
        maps["mobilenet_v2", channels] = network.features[0](images)
        network = build_classifier("inception_v3", in_channels=channels, weights="imagenet", auxiliary=False).eval().network
        # Its own rescaling of red, green and blue goes into the first layer where there are other channels.
        assert network.transform_input == (channels == 3)
        maps["inception_v3", channels] = network.Conv2d_1a_3x3(network._transform_input(images))
    for channels in (1, 3):
        model = build_segmenter("deeplabv3plus_mobilenet", in_channels=channels, weights="imagenet").eval()
        maps["deeplab", channels] = model.network.encoder(gray.expand(-1, channels, -1, -1))[-1]
    for (name, _), found in maps.items():
        # Sums run in another order.
        torch.testing.assert_close(found, maps[name, 3], rtol=1e-4, atol=1e-5)


def renamed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
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
    ],
)
def test_imagenet_replaces_everything_but_the_head(name, published, options, rest, hub, monkeypatch):
    state = state_of(published, **({"init_weights": False} if published == "inception_v3" else {}))
    publish(monkeypatch, hub, published, renamed(state))
    models = []
    for weights_of in ("imagenet", "none"):
        torch.manual_seed(0)
        models.append(build_classifier(name, classes=3, weights=weights_of, **options))
    assert [model.weights for model in models] == ["ImageNet", "from scratch"]
    own, scratch = map(own_state, models)
    for key, value in own.items():
        assert torch.equal(value, scratch[key] if key.startswith(rest) else state[key.removeprefix("backbone.")]), key


def test_published_values_do_not_fit_a_narrower_network(hub, monkeypatch):
    publish(monkeypatch, hub, "alexnet", state_of("alexnet"))
    with pytest.raises(WeightsError, match=r"alexnet: .* cannot be loaded .*size mismatch for classifier.1.weight"):
        build_classifier("alexnet", weights="imagenet", hidden=64)


def test_encoders_of_smps_take_their_values_alone():
    for name, encoder in (("unet_resnet18", "resnet18"), ("residual_unet_resnet18", "resnet18"), ("segformer", "mit_b0")):
        state = cache_encoder(encoder)
        torch.manual_seed(0)
        model = build_segmenter(name, weights="imagenet")
        torch.manual_seed(0)
        scratch = own_state(build_segmenter(name))
        for key, value in own_state(model).items():
            expected = state[key.removeprefix("encoder.")] if key.startswith("encoder.") else scratch[key]
            assert torch.equal(value, expected), key
        assert model.weights == "ImageNet encoder"


def test_the_mobilenet_leaves_out_the_convolution_that_it_lacks():
    state = cache_encoder("mobilenet_v2")
    for name in ("deeplabv3plus_mobilenet", "mobile_deeplab"):
        own = build_segmenter(name, weights="imagenet").network.encoder.state_dict()
        assert set(own) == {key for key in state if not key.startswith(("classifier.", "features.18."))}
        assert all(torch.equal(own[key], state[key]) for key in own)


def test_vggs_go_into_segnet_and_with_their_dense_layers_into_fcn(hub, monkeypatch):
    """Each parameter's own number takes no room in the place of its values."""
    numbered = {}
    for name in ("vgg16", "vgg16_bn"):
        with torch.device("meta"):
            shapes = torchvision.models.get_model(name).state_dict()
        numbered[name] = {k: torch.tensor(at, dtype=v.dtype).expand(v.shape) for at, (k, v) in enumerate(shapes.items())}
        publish(monkeypatch, hub, name, {"weight": torch.zeros(1)})
    entry = type(torchvision.models.get_model_weights("vgg16").IMAGENET1K_V1)
    by_name = {"VGG16_Weights": numbered["vgg16"], "VGG16_BN_Weights": numbered["vgg16_bn"]}
    monkeypatch.setattr(entry.__base__, "get_state_dict", lambda self, **_: by_name[type(self).__name__])
    own = own_state(build_segmenter("segnet", weights="imagenet", in_channels=1))
    assert torch.equal(own["encoder.0.weight"], 3 * numbered["vgg16_bn"]["features.0.weight"][:, :1])
    encoder = {key for key in own if key.startswith("encoder.") and key != "encoder.0.weight"}
    assert len(encoder) == len([key for key in numbered["vgg16_bn"] if key.startswith("features.")]) - 1
    assert all(torch.equal(own[key], numbered["vgg16_bn"][key.replace("encoder", "features")]) for key in encoder)
    for hidden in (16, 4096):
        own = own_state(build_segmenter("fcn8s", weights="imagenet", classes=2, hidden=hidden))
        assert torch.equal(own["encoder.28.weight"], numbered["vgg16"]["features.28.weight"])
        for ours, theirs in (("dense6", "classifier.0"), ("dense7", "classifier.3")):
            assert bool((own[f"{ours}.bias"] == numbered["vgg16"][f"{theirs}.bias"][0]).all()) == (hidden == 4096)


def test_timm_reads_its_values_itself():
    for name, channels in (("test_resnet", 3), ("test_resnet", 1), ("test_vit", 3)):
        torch.manual_seed(1)
        published = timm.create_model(name).eval()
        cache(f"timm/{name}.r160_in1k", None, published.state_dict())
        model = build_classifier(f"timm:{name}", in_channels=channels, weights="imagenet").eval()
        assert model.weights == "timm r160_in1k"
        gray = torch.randn(2, 1, 160, 160)
        expected = published.forward_features(gray.expand(-1, 3, -1, -1))
        found = model.network.forward_features(gray.expand(-1, channels, -1, -1))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
        assert model(gray.expand(-1, channels, -1, -1)).shape == (2, 2)


def test_timms_values_go_into_encoders():
    torch.manual_seed(1)
    state = timm.create_model("xception41.tf_in1k").state_dict()
    cache("timm/xception41.tf_in1k", None, state)
    model = build_segmenter("smp:deeplabv3plus:tu-xception41.tf_in1k", weights="imagenet")
    own = model.network.encoder.state_dict()
    assert torch.equal(own["model.blocks_3.stack.conv1.conv_dw.weight"], state["blocks.3.stack.conv1.conv_dw.weight"])
    assert model.weights == "timm tf_in1k encoder" and len(own) == len(state) - 2
    encoder = HybridEncoder(1, 768, 12, 12, (3, 4, 9), 224, 0.0)
    state = {key: torch.randn_like(value) for key, value in encoder.state_dict().items() if "blocks.11" in key or "stem" in key}
    first, positions = "patch_embed.backbone.stem.conv.weight", torch.randn(1, 197, 768)
    state |= {
        first: torch.randn(64, 3, 7, 7),
        "pos_embed": positions,
        "cls_token": positions[:, :1],
        "head.bias": positions[0, 0],
    }
    fill(encoder, encoder.without_class_token(state))
    own = encoder.state_dict()
    assert torch.equal(own["blocks.11.mlp.fc2.weight"], state["blocks.11.mlp.fc2.weight"])
    assert torch.equal(own["pos_embed"], positions[:, 1:])
    torch.testing.assert_close(own[first], state[first].sum(dim=1, keepdim=True))


# Files of one's own


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_file_gives_back_the_model_it_was_saved_from(tmp_path, suffix):
    torch.manual_seed(0)
    source, path = build_segmenter("unet", in_channels=1, **TINY_UNET).eval(), tmp_path / f"mine{suffix}"
    save_file(source.state_dict(), path) if suffix == ".safetensors" else torch.save(source.state_dict(), path)
    model = build_segmenter("unet", in_channels=1, weights=path, **TINY_UNET).eval()
    images = torch.randn(2, 1, 33, 40)
    assert torch.equal(model(images), source(images)) and model.weights == f"mine{suffix} {file_hash(path)[:8]}"


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {f"module.{key}": value for key, value in state.items()}},
        lambda state: {"state_dict": {f"model.network.{key}": value for key, value in state.items()}},
        lambda state: {f"_orig_mod.network.{key}": value for key, value in state.items()},
    ],
)
def test_wrappers_around_names_are_taken_off(tmp_path, wrap):
    state = own_state(build_segmenter("unet", **TINY_UNET))
    torch.save(wrap(state), tmp_path / "mine.pt")
    model = build_segmenter("unet", weights=tmp_path / "mine.pt", **TINY_UNET)
    assert all(torch.equal(value, state[key]) for key, value in own_state(model).items())


def test_a_relative_file_is_seen_from_the_project_root(tmp_path, monkeypatch):
    monkeypatch.setenv("THYROID_WORKBOOK_ROOT", str(tmp_path))
    (tmp_path / "mine.pt").write_bytes(b"x")
    assert check_weights("resnet18", "mine.pt") == paths.project_root() / "mine.pt"


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
        with pytest.warns(UserWarning, match=f"{name}: the head in mine.pt does not fit 2 classes; a new one begins at random"):
            model = build(name, classes=2, weights=tmp_path / "mine.pt", **options)
        assert all(torch.equal(value, whole[key]) for key, value in own_state(model).items() if not key.startswith(head))
        assert model.weights.endswith(", new head")


@pytest.mark.parametrize(
    ("name", "saved", "change", "settings", "message"),
    [
        ("resnet18", {"widths": (4, 8)}, None, {}, 'Missing key.*"conv1.weight"'),
        ("unet", {"widths": (4, 8, 16)}, None, {}, "Unexpected"),
        ("unet", {}, None, {"in_channels": 1}, "size mismatch for encoder.0.0.weight"),
        ("unet", {}, "head.bias", {}, "head.bias"),  # half a head
        ("unet", {}, "decoder.0.0.weight", {"classes": 2}, "decoder.0.0.weight"),
    ],
)
def test_files_that_do_not_fit_are_refused_with_names(tmp_path, name, saved, change, settings, message):
    state = own_state(build_segmenter("unet", **(TINY_UNET | saved)))
    torch.save({key: value for key, value in state.items() if key != change}, tmp_path / "mine.pt")
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
@pytest.mark.parametrize("content", [b"", b"not weights at all", None])
def test_damaged_files_are_named(tmp_path, suffix, content):
    path = tmp_path / f"damaged{suffix}"
    if content is None:
        state = {"weight": torch.arange(1000.0)}
        save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
        content = path.read_bytes()[:2000]
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=f"unet: .*damaged{suffix} cannot be read") as caught:
        build_segmenter("unet", weights=path, **TINY_UNET)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [torch.zeros(3), {}, {"weight": [1, 2]}, [torch.zeros(1)]])
def test_files_without_a_state_dict_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "mine.pt")
    with pytest.raises(WeightsError, match=r"mine.pt holds no state dict"):
        build_segmenter("unet", weights=tmp_path / "mine.pt", **TINY_UNET)


def test_misspelt_and_absent_weights_and_models_are_refused(tmp_path):
    for wrong in ("ImageNet", "image_net", tmp_path / "absent.pt", tmp_path):
        with pytest.raises(WeightsError, match="weights must be imagenet, none or a file; there is no file"):
            check_weights("resnet18", wrong)
    for name, hint in (("unet_resnet81", "did you mean unet_resnet18"), ("resnet81", "did you mean resnet18")):
        for choice in ("none", "imagenet", "mine.pt"):
            with pytest.raises(ValueError, match=f"model '{name}' is unknown; {hint}"):
                check_weights(name, choice)
    assert check_weights("resnet18", "none") is None and architecture("unet") is SEGMENTERS["unet"]
