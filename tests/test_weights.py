"""Pretrained weights: found, checked, fetched, refused. No network: files are made here and served from this machine."""

from __future__ import annotations

import hashlib
import http.server
import pickle
import socket
import threading
import time
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from thyroid_utils.common import paths
from thyroid_utils.common.files import file_hash
from thyroid_utils.models import CLASSIFIERS, WeightsError, build_classifier, check_weights, weights, weights_tag
from thyroid_utils.models.weights import ImageNetFile, checkpoints_dir, imagenet_file


@pytest.fixture(autouse=True)
def hub(tmp_path, monkeypatch) -> Path:
    """An empty folder for downloaded weights, and no proxy between the tests and this machine."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "torch" / "hub" / "checkpoints"


def closed_port() -> str:
    """An address at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def publish(monkeypatch, filename: str, digits: str, address: str | None = None) -> ImageNetFile:
    """Let every model's ImageNet weights be a file of this name."""
    file = ImageNetFile(filename, f"{address or closed_port()}/{filename}", digits)
    monkeypatch.setattr(weights, "imagenet_file", lambda name, options=None: file)
    return file


def put_into_hub(hub: Path, monkeypatch, state: dict) -> ImageNetFile:
    """A state dict as if it were the published file."""
    hub.mkdir(parents=True, exist_ok=True)
    torch.save(state, hub / "made.pth")
    digits = file_hash(hub / "made.pth")[:8]
    (hub / "made.pth").rename(hub / f"made-{digits}.pth")
    return publish(monkeypatch, f"made-{digits}.pth", digits)


def published_state(name: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return getattr(torchvision.models, name)().state_dict()


def own_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return model.network.state_dict()


def test_published_files_by_name():
    """Names and digits as torchvision's own documentation gives them."""
    assert imagenet_file("vgg16").filename == "vgg16-397923af.pth"
    assert imagenet_file("vgg16").digits == "397923af"
    assert imagenet_file("resnet18_transformer").filename == imagenet_file("resnet18").filename == "resnet18-f37072fd.pth"
    assert imagenet_file("inception_v3").digits == "0cc3c7bd"
    for name in CLASSIFIERS:
        file = imagenet_file(name)
        assert file.url.endswith(f"/{file.filename}") and file.filename.endswith(f"-{file.digits}.pth"), file


def test_files_lie_in_pytorchs_own_folder(hub):
    assert checkpoints_dir() == hub
    assert imagenet_file("alexnet").path == hub / "alexnet-owt-7be5be79.pth"


@pytest.mark.parametrize("name", [name for name in CLASSIFIERS if name != "resnet18_transformer"])
def test_every_parameter_finds_its_name_in_torchvisions_network(name):
    """torchvision's file fits torchvision's network; ours has the same names and shapes but for the head."""
    with torch.device("meta"):
        ours = own_state(build_classifier(name))
        options = {"init_weights": False} if name == "inception_v3" else {}
        theirs = getattr(torchvision.models, name)(**options).state_dict()
    head = CLASSIFIERS[name].head

    def shapes(state):
        return {key: value.shape for key, value in state.items() if not key.startswith(head)}

    assert shapes(ours) == shapes(theirs)
    assert {key for key in ours if key.startswith(head)} == {key for key in theirs if key.startswith(head)}


def test_imagenet_replaces_everything_but_the_head(hub, monkeypatch):
    state = published_state("mobilenet_v2")
    put_into_hub(hub, monkeypatch, state)
    torch.manual_seed(0)
    model = build_classifier("mobilenet_v2", classes=3, weights="imagenet")
    own = own_state(model)
    assert all(torch.equal(own[key], state[key]) for key in own if not key.startswith("classifier.1."))
    assert own["classifier.1.weight"].shape == (3, 1280)
    torch.manual_seed(0)
    assert torch.equal(own["classifier.1.weight"], own_state(build_classifier("mobilenet_v2", classes=3))["classifier.1.weight"])
    assert model.weights == "ImageNet" and build_classifier("mobilenet_v2").weights == "from scratch"


def test_a_gray_image_gives_in_one_channel_what_it_gives_in_three(hub, monkeypatch):
    put_into_hub(hub, monkeypatch, published_state("mobilenet_v2"))
    gray = torch.randn(2, 1, 32, 32)
    maps = {}
    for channels in (1, 3, 5):
        model = build_classifier("mobilenet_v2", in_channels=channels, weights="imagenet").eval()
        maps[channels] = model.network.features[0](gray.expand(-1, channels, -1, -1))
    torch.testing.assert_close(maps[1], maps[3])
    torch.testing.assert_close(maps[5], maps[3])


def test_the_hybrid_takes_resnet18s_weights_for_its_backbone_alone(hub, monkeypatch):
    state = published_state("resnet18")
    # The published file is from before the counters of batches.
    put_into_hub(hub, monkeypatch, {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")})
    torch.manual_seed(0)
    model = build_classifier("resnet18_transformer", weights="imagenet")
    torch.manual_seed(0)
    scratch = own_state(build_classifier("resnet18_transformer"))
    for key, value in own_state(model).items():
        expected = state[key.removeprefix("backbone.")] if key.startswith("backbone.") else scratch[key]
        assert torch.equal(value, expected), key


def test_inception_takes_its_file_with_and_without_the_auxiliary_head(hub, monkeypatch):
    torch.manual_seed(1)
    state = torchvision.models.inception_v3(init_weights=False).state_dict()
    put_into_hub(hub, monkeypatch, state)
    for auxiliary in (True, False):
        own = own_state(build_classifier("inception_v3", weights="imagenet", auxiliary=auxiliary))
        assert torch.equal(own["Mixed_7c.branch1x1.conv.weight"], state["Mixed_7c.branch1x1.conv.weight"])
        assert any(key.startswith("AuxLogits.") for key in own) == auxiliary
        if auxiliary:
            assert torch.equal(own["AuxLogits.conv1.conv.weight"], state["AuxLogits.conv1.conv.weight"])


def test_gray_inception_takes_its_rescaling_of_colours_into_the_first_layer(hub, monkeypatch):
    torch.manual_seed(1)
    put_into_hub(hub, monkeypatch, torchvision.models.inception_v3(init_weights=False).state_dict())
    gray = torch.randn(2, 1, 96, 96)
    maps = {}
    for channels in (1, 3):
        network = build_classifier("inception_v3", in_channels=channels, weights="imagenet", auxiliary=False).eval().network
        assert network.transform_input == (channels == 3)
        maps[channels] = network.Conv2d_1a_3x3(network._transform_input(gray.expand(-1, channels, -1, -1)))
    torch.testing.assert_close(maps[1], maps[3], rtol=1e-4, atol=1e-5)  # sums in another order
    assert maps[3].abs().mean() > 0.1


def test_a_vision_transformer_reads_the_names_that_its_file_was_saved_with(hub, monkeypatch):
    state = published_state("vit_b_16")
    put_into_hub(
        hub,
        monkeypatch,
        {k.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): v for k, v in state.items()},
    )
    own = own_state(build_classifier("vit_b_16", weights="imagenet"))
    for layer in ("0", "3"):
        key = f"encoder.layers.encoder_layer_5.mlp.{layer}.weight"
        assert torch.equal(own[key], state[key])


def test_imagenet_weights_do_not_fit_a_narrower_head(hub, monkeypatch):
    put_into_hub(hub, monkeypatch, published_state("alexnet"))
    with pytest.raises(WeightsError, match=r"alexnet: .*of another shape \(classifier.1.weight 4096×9216 instead of 64×9216"):
        build_classifier("alexnet", weights="imagenet", hidden=64)


@pytest.mark.parametrize("name", ["vgg16", "resnet18_transformer", "timm:test_resnet"])
def test_without_a_connection_the_file_and_its_folder_are_named(name, hub, monkeypatch):
    filename = imagenet_file(name).filename
    publish(monkeypatch, filename, "")
    began = time.monotonic()
    for attempt in (lambda: check_weights(name, "imagenet"), lambda: build_classifier(name, weights="imagenet")):
        with pytest.raises(WeightsError) as caught:
            attempt()
        message = str(caught.value)
        assert message.startswith(f"{name}: the ImageNet weights {filename} are not in {hub} and could not be downloaded")
        assert f"put it into {hub} as {filename}" in message and "weights: none" in message and "\n" not in message
    assert time.monotonic() - began < 5
    assert not hub.exists() or not list(hub.iterdir())


def test_a_silent_server_is_given_up(hub, monkeypatch):
    monkeypatch.setattr(weights, "DOWNLOAD_TIMEOUT", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        publish(monkeypatch, "made.pth", "", f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(WeightsError, match=r"could not be downloaded \(.*timed out"):
            check_weights("resnet18", "imagenet")
        assert time.monotonic() - began < 5


@pytest.fixture
def server(tmp_path):
    """Serves a folder of this machine; yields the folder and its address."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments, **keywords):
            super().__init__(*arguments, directory=str(folder), **keywords)

        def log_message(self, *arguments):
            pass

        def end_headers(self):
            if self.path.startswith("/short"):
                self.send_header("Connection", "close")
            super().end_headers()

        def copyfile(self, source, outputfile):
            content = source.read()
            outputfile.write(content[: len(content) // 2] if self.path.startswith("/short") else content)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, daemon=True)
        thread.start()
        yield folder, f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()
        thread.join()


def test_an_absent_file_is_downloaded_once(hub, monkeypatch, server):
    folder, address = server
    content = bytes(range(256)) * 10_000
    digits = hashlib.sha256(content).hexdigest()[:8]
    (folder / "made.pth").write_bytes(content)
    file = publish(monkeypatch, "made.pth", digits, address)
    calls = []
    path = check_weights("resnet18", "imagenet", progress=lambda done, total: calls.append((done, total)))
    assert path == file.path == hub / "made.pth" and path.read_bytes() == content
    assert calls[-1] == (len(content), len(content)) and calls == sorted(calls)
    (folder / "made.pth").unlink()
    assert check_weights("resnet18", "imagenet", progress=lambda *_: pytest.fail("downloaded again")) == path


def test_a_download_that_is_not_the_published_file_is_not_kept(hub, monkeypatch, server):
    folder, address = server
    (folder / "made.pth").write_bytes(b"<html>sign in</html>")
    publish(monkeypatch, "made.pth", "397923af", address)
    with pytest.raises(WeightsError, match=r"made.pth sent is not made.pth \(another SHA-256\)"):
        check_weights("resnet18", "imagenet")
    assert not list(hub.iterdir())


def test_a_download_that_breaks_off_is_not_kept(hub, monkeypatch, server):
    folder, address = server
    (folder / "short.pth").write_bytes(bytes(1_000_000))
    publish(monkeypatch, "short.pth", "", address)
    with pytest.raises(WeightsError, match=r"short.pth are not in .* and could not be downloaded"):
        check_weights("resnet18", "imagenet")
    assert not list(hub.iterdir())


def test_a_missing_page_is_named(hub, monkeypatch, server):
    publish(monkeypatch, "gone.pth", "", server[1])
    with pytest.raises(WeightsError, match=r"could not be downloaded \(.*File not found"):
        check_weights("resnet18", "imagenet")


def test_a_damaged_imagenet_file_is_noticed(hub, monkeypatch):
    file = put_into_hub(hub, monkeypatch, published_state("mobilenet_v2"))
    content = bytearray(file.path.read_bytes())
    content[5000] ^= 1
    file.path.write_bytes(content)
    with pytest.raises(WeightsError, match=f"{file.filename} is damaged: .*{file.digits}; delete it and run again"):
        build_classifier("mobilenet_v2", weights="imagenet")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_file_gives_back_the_model_it_was_saved_from(tmp_path, suffix):
    torch.manual_seed(0)
    source = build_classifier("mobilenet_v2", in_channels=1).eval()
    path = tmp_path / f"mine{suffix}"
    save_file(source.state_dict(), path) if suffix == ".safetensors" else torch.save(source.state_dict(), path)
    model = build_classifier("mobilenet_v2", in_channels=1, weights=path).eval()
    images = torch.randn(2, 1, 32, 32)
    assert torch.equal(model(images), source(images))
    assert model.weights == f"mine{suffix} {file_hash(path)[:8]}" == weights_tag(path) == weights_tag(str(path), "mobilenet_v2")


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
    state = own_state(build_classifier("mobilenet_v2"))
    torch.save(wrap(state), tmp_path / "mine.pt")
    model = build_classifier("mobilenet_v2", weights=tmp_path / "mine.pt")
    assert all(torch.equal(value, state[key]) for key, value in own_state(model).items())


def test_a_relative_file_is_seen_from_the_project_root(tmp_path, monkeypatch):
    monkeypatch.setenv("THYROID_WORKBOOK_ROOT", str(tmp_path))
    (tmp_path / "mine.pt").write_bytes(b"x")
    assert check_weights("resnet18", "mine.pt") == paths.project_root() / "mine.pt"


def test_a_head_for_other_classes_is_renewed_and_said_aloud(tmp_path):
    state = published_state("mobilenet_v2")
    torch.save(state, tmp_path / "mine.pt")
    with pytest.warns(UserWarning, match=r"mobilenet_v2: the head in mine.pt does not fit 2 classes; a new one begins at random"):
        model = build_classifier("mobilenet_v2", weights=tmp_path / "mine.pt")
    assert model.weights.endswith(", new head")
    assert torch.equal(own_state(model)["features.18.0.weight"], state["features.18.0.weight"])

    backbone = {key: value for key, value in state.items() if not key.startswith("classifier.")}
    torch.save(backbone, tmp_path / "backbone.pt")
    with pytest.warns(UserWarning, match="head in backbone.pt does not fit"):
        assert build_classifier("mobilenet_v2", weights=tmp_path / "backbone.pt").weights.endswith(", new head")


def test_weights_for_another_architecture_are_refused_with_names(tmp_path):
    torch.save(published_state("resnet18"), tmp_path / "resnet18.pt")
    with pytest.raises(WeightsError) as caught:
        build_classifier("mobilenet_v2", weights=tmp_path / "resnet18.pt")
    message = str(caught.value)
    assert message.startswith("mobilenet_v2: resnet18.pt does not fit: ") and "\n" not in message
    assert "missing (features.0.0.weight, " in message and "unknown (conv1.weight, bn1.weight, " in message
    assert " more)" in message and len(message) < 600


def test_a_deeper_relative_is_refused(tmp_path):
    torch.save(published_state("resnet34"), tmp_path / "resnet34.pt")
    with pytest.raises(WeightsError, match=r"resnet18: resnet34.pt does not fit: \d+ unknown \(layer1.2.conv1.weight"):
        build_classifier("resnet18", weights=tmp_path / "resnet34.pt")


def test_one_missing_parameter_and_one_of_another_shape_are_named(tmp_path):
    state = own_state(build_classifier("mobilenet_v2", in_channels=1))
    del state["features.18.1.bias"]
    torch.save(state, tmp_path / "mine.pt")
    expected = (
        r"1 missing \(features.18.1.bias\); "
        r"1 of another shape \(features.0.0.weight 32×1×3×3 instead of 32×3×3×3\); name the model, channels and options"
    )
    with pytest.raises(WeightsError, match=expected):
        build_classifier("mobilenet_v2", weights=tmp_path / "mine.pt")


def test_half_a_head_is_no_new_head(tmp_path):
    state = own_state(build_classifier("mobilenet_v2"))
    del state["classifier.1.bias"]
    torch.save(state, tmp_path / "mine.pt")
    with pytest.raises(WeightsError, match=r"1 missing \(classifier.1.bias\)"):
        build_classifier("mobilenet_v2", weights=tmp_path / "mine.pt")


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
    with pytest.raises(WeightsError, match=r"trap.pt is no plain state dict: .* Python objects, which are not read"):
        build_classifier("mobilenet_v2", weights=path)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("filename", "content"),
    [
        ("empty.pt", b""),
        ("text.pt", b"not weights at all"),
        ("text.safetensors", b"not weights at all"),
        ("empty.safetensors", b""),
        ("cut.pt", None),
        ("cut.safetensors", None),
    ],
)
def test_damaged_files_are_named(tmp_path, filename, content):
    path = tmp_path / filename
    if content is None:
        state = {"weight": torch.arange(1000.0)}
        save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
        content = path.read_bytes()[:2000]
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=f"mobilenet_v2: .*{filename}") as caught:
        build_classifier("mobilenet_v2", weights=path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [torch.zeros(3), {}, {"weight": [1, 2]}, [torch.zeros(1)]])
def test_files_without_a_state_dict_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "mine.pt")
    with pytest.raises(WeightsError, match=r"mine.pt holds no state dict"):
        build_classifier("mobilenet_v2", weights=tmp_path / "mine.pt")


def test_misspelt_and_absent_weights_are_refused(tmp_path):
    for wrong in ("ImageNet", "image_net", tmp_path / "absent.pt", tmp_path):
        with pytest.raises(WeightsError, match="weights must be imagenet, none or a file; there is no file"):
            check_weights("resnet18", wrong)
    for choice in ("none", "imagenet", "mine.pt"):
        with pytest.raises(ValueError, match="model 'resnet81' is unknown"):
            check_weights("resnet81", choice)
    assert check_weights("resnet18", "none") is None


def test_tags():
    assert weights_tag("none") == "from scratch" == weights_tag("none", "timm:resnet18")
    assert weights_tag("imagenet") == "ImageNet" == weights_tag("imagenet", "resnet18_transformer")
    assert weights_tag("imagenet", "timm:resnet18.a1_in1k") == "timm a1_in1k" == weights_tag("imagenet", "timm:resnet18")


@pytest.mark.parametrize(("name", "channels"), [("test_resnet", 3), ("test_resnet", 1), ("test_vit", 3)])
def test_timm_weights_are_read_by_timm_from_the_same_folder(hub, name, channels):
    import timm

    torch.manual_seed(1)
    published = timm.create_model(name, num_classes=1000).eval()
    hub.mkdir(parents=True)
    save_file(published.state_dict(), hub / f"{name}.r160_in1k.safetensors")
    model = build_classifier(f"timm:{name}", in_channels=channels, classes=2, weights="imagenet").eval()
    assert model.weights == "timm r160_in1k"
    gray = torch.randn(2, 1, 160, 160)
    expected = published.forward_features(gray.expand(-1, 3, -1, -1))
    found = model.network.forward_features(gray.expand(-1, channels, -1, -1))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert model(gray.expand(-1, channels, -1, -1)).shape == (2, 2)


def test_timm_weights_of_another_model_are_refused(hub):
    import timm

    hub.mkdir(parents=True)
    save_file(timm.create_model("test_efficientnet").state_dict(), hub / "test_resnet.r160_in1k.safetensors")
    with pytest.raises(WeightsError, match=r"timm:test_resnet: .*test_resnet.r160_in1k.safetensors cannot be loaded") as caught:
        build_classifier("timm:test_resnet", weights="imagenet")
    assert "\n" not in str(caught.value)


def test_a_timm_model_without_published_weights_says_so():
    with pytest.raises(WeightsError, match="timm:coatnet_0_224: timm has no pretrained weights of this model"):
        check_weights("timm:coatnet_0_224", "imagenet")
