"""A segmenter's pretrained weights: the right file for each encoder, values in their places, and no silent substitute."""

from __future__ import annotations

import pickle
import urllib.error
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from thyroid_utils.common.files import file_hash
from thyroid_utils.models import SEGMENTERS, WeightsError, build_segmenter, check_weights, weights, weights_tag
from thyroid_utils.models.segmentation_libraries import published_encoder
from thyroid_utils.models.weights import ImageNetFile, imagenet_file

TINY_UNET = {"widths": (4, 8)}


@pytest.fixture(autouse=True)
def hub(tmp_path, monkeypatch) -> Path:
    """Empty folders for downloaded weights, and no connection."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "huggingface"))

    def no_connection(url: str, timeout: float):
        raise urllib.error.URLError("no connection")

    monkeypatch.setattr(weights.urllib.request, "urlopen", no_connection)
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def numbered(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A state dict of a network's names and shapes with another constant for each name, which takes no room in a file."""
    state = network.state_dict()
    return {key: torch.tensor(number, dtype=value.dtype).expand(value.shape) for number, (key, value) in enumerate(state.items())}


def put_into_hub(hub: Path, monkeypatch, state: dict[str, torch.Tensor]) -> Path:
    """A state dict as if it were the published file."""
    torch.save(state, hub / "made.pth")
    digits = file_hash(hub / "made.pth")[:8]
    path = (hub / "made.pth").rename(hub / f"made-{digits}.pth")
    monkeypatch.setattr(
        weights, "imagenet_file", lambda name, options=None: ImageNetFile(path.name, "https://example.org", digits)
    )
    return path


def of_torchvision(name: str) -> torch.nn.Module:
    with torch.device("meta"):
        return torchvision.models.get_model(name)


@pytest.mark.parametrize(
    ("name", "filename"),
    [
        ("unet_resnet18", "resnet18-f37072fd.pth"),
        ("unet_resnet50", "resnet50-0676ba61.pth"),
        ("unet_vgg16", "vgg16-397923af.pth"),
        ("unet_vgg19", "vgg19-dcbb9e9d.pth"),
        ("deeplabv3plus", "resnet50-0676ba61.pth"),
        ("deeplabv3plus_xception", "xception65.tf_in1k.safetensors"),
        ("deeplabv3plus_mobilenet", "mobilenet_v2-b0353104.pth"),
        ("mobile_deeplab", "mobilenet_v2-b0353104.pth"),
        ("pspnet", "resnet50-0676ba61.pth"),
        ("unetpp", "resnet34-b627a593.pth"),
        ("segformer", "mit_b0.imagenet.safetensors"),
        ("residual_unet_resnet18", "resnet18-f37072fd.pth"),
        ("segnet", "vgg16_bn-6c64b313.pth"),
        ("fcn8s", "vgg16-397923af.pth"),
        ("transunet", "vit_base_r50_s16_224.orig_in21k.safetensors"),
        ("smp:fpn:resnet34", "resnet34-b627a593.pth"),
        ("smp:unet:densenet121", "densenet121.imagenet.safetensors"),
        ("smp:unet:tu-convnext_atto", "convnext_atto.d2_in1k.safetensors"),
    ],
)
def test_published_files_by_name(name, filename, hub):
    """An absent file is named with its folder and address, and nothing is built from other values."""
    file = imagenet_file(name)
    assert file.filename == filename and file.path == hub / filename and file.cached is None
    with pytest.raises(WeightsError) as caught:
        check_weights(name, "imagenet")
    message = str(caught.value)
    assert message.startswith(f"{name}: the ImageNet weights {filename} are not in {hub}") and "\n" not in message
    assert f"download {file.url}, put it into {hub} as {filename}" in message and "no connection" in message
    with pytest.raises(WeightsError, match="are not in"):
        build_segmenter(name, weights="imagenet")


def test_smps_files_are_those_of_the_revision_that_it_names():
    settings = weights.segmentation_libraries.smp_module().encoders.encoders["mit_b0"]["pretrained_settings"]["imagenet"]
    url = imagenet_file("segformer").url
    assert url.endswith(f"smp-hub/mit_b0.imagenet/resolve/{settings['revision']}/model.safetensors")


def test_every_segmenter_knows_its_file_or_says_that_there_is_none():
    for name, facts in SEGMENTERS.items():
        if facts.encoder is not None:
            assert imagenet_file(name).url.startswith("https://")
            continue
        with pytest.raises(WeightsError, match=f"{name}: has no encoder with published ImageNet weights"):
            build_segmenter(name, weights="imagenet")
    with pytest.raises(WeightsError, match="smp has no ImageNet weights of dpn92"):
        check_weights("smp:unet:dpn92", "imagenet")


def test_imagenet_replaces_the_encoder_alone(hub, monkeypatch):
    state = numbered(of_torchvision("resnet18"))
    put_into_hub(hub, monkeypatch, {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")})
    for name in ("unet_resnet18", "residual_unet_resnet18"):
        torch.manual_seed(0)
        model = build_segmenter(name, weights="imagenet")
        torch.manual_seed(0)
        scratch = build_segmenter(name).network.state_dict()
        for key, value in model.network.state_dict().items():
            if not key.endswith("num_batches_tracked"):
                expected = state[key.removeprefix("encoder.")] if key.startswith("encoder.") else scratch[key]
                assert torch.equal(value, expected), key
        assert model.weights == weights_tag("imagenet", name) == "ImageNet encoder"
        assert build_segmenter(name).weights == "from scratch"


def test_a_gray_image_gives_in_one_channel_what_it_gives_in_three(hub, monkeypatch):
    torch.manual_seed(1)
    put_into_hub(hub, monkeypatch, torchvision.models.mobilenet_v2().state_dict())
    gray = torch.randn(2, 1, 64, 64)
    maps = {}
    for channels in (1, 3, 5):
        encoder = build_segmenter("deeplabv3plus_mobilenet", in_channels=channels, weights="imagenet").eval().network.encoder
        maps[channels] = encoder(gray.expand(-1, channels, -1, -1))[1:]
        assert [values.shape[1] for values in maps[channels]] == [16, 24, 32, 96, 320]
    torch.testing.assert_close(maps[1], maps[3])
    torch.testing.assert_close(maps[5], maps[3])


def test_the_mobilenet_leaves_out_the_convolution_that_it_lacks(hub, monkeypatch):
    state = numbered(of_torchvision("mobilenet_v2"))
    put_into_hub(hub, monkeypatch, state)
    own = build_segmenter("deeplabv3plus_mobilenet", weights="imagenet").network.encoder.state_dict()
    assert set(own) == {key for key in state if not key.startswith(("classifier.", "features.18."))}
    assert all(torch.equal(own[key], state[key]) for key in own)


def test_vggs_go_into_segnet_and_with_their_dense_layers_into_fcn(hub, monkeypatch):
    state = numbered(of_torchvision("vgg16_bn"))
    put_into_hub(hub, monkeypatch, state)
    own = build_segmenter("segnet", weights="imagenet", in_channels=1).network.state_dict()
    assert torch.equal(own["encoder.40.weight"], state["features.40.weight"])
    assert torch.equal(own["encoder.0.weight"], 3 * state["features.0.weight"][:, :1])
    state = numbered(of_torchvision("vgg16"))
    put_into_hub(hub, monkeypatch, state)
    own = build_segmenter("fcn8s", weights="imagenet", classes=2, hidden=16).network.state_dict()
    assert torch.equal(own["encoder.28.weight"], state["features.28.weight"])
    with torch.device("meta"):
        network = build_segmenter("fcn8s").network
    values = network.encoder_values(state)
    assert {key for key in values if not key.startswith("encoder.")} == {
        f"{layer}.{kind}" for layer in ("dense6", "dense7") for kind in ("weight", "bias")
    }


def test_timms_values_go_into_the_xception_under_smps_names(hub, monkeypatch):
    with torch.device("meta"):
        source = timm.create_model("xception65.tf_in1k")
    state = numbered(source)
    put_into_hub(hub, monkeypatch, state)
    model = build_segmenter("deeplabv3plus_xception", weights="imagenet")
    own = model.network.encoder.state_dict()
    assert torch.equal(own["model.blocks_3.stack.conv1.conv_dw.weight"], state["blocks.3.stack.conv1.conv_dw.weight"])
    assert {float(value.flatten()[0]) for value in own.values()} == {
        float(value.flatten()[0]) for key, value in state.items() if not key.startswith("head.")
    }
    del state["blocks.3.stack.conv1.conv_dw.weight"]
    put_into_hub(hub, monkeypatch, state)
    with pytest.raises(WeightsError, match=r"deeplabv3plus_xception: .*cannot be loaded"):
        build_segmenter("deeplabv3plus_xception", weights="imagenet")


def test_timms_values_go_into_the_transunet(hub, monkeypatch):
    with torch.device("meta"):
        source = timm.create_model("vit_base_r50_s16_224.orig_in21k", num_classes=0)
    state = numbered(source)
    put_into_hub(hub, monkeypatch, state)
    model = build_segmenter("transunet", weights="imagenet")
    own = model.network.encoder.state_dict()
    assert torch.equal(own["blocks.11.mlp.fc2.weight"], state["blocks.11.mlp.fc2.weight"])
    assert torch.equal(own["pos_embed"], state["pos_embed"][:, 1:])


def safetensors_of(encoder: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {key: value.clone() for key, value in published_encoder(encoder).state_dict().items()}


def test_smps_own_file_is_taken_from_either_folder(hub, tmp_path):
    """From PyTorch's folder, else from the cache that smp fills itself."""
    state = safetensors_of("mit_b0")
    head = {"head.weight": torch.zeros(1000, 256), "head.bias": torch.zeros(1000)}
    revision = imagenet_file("segformer").url.split("/")[-2]
    cached = tmp_path / "huggingface" / "models--smp-hub--mit_b0.imagenet" / "snapshots" / revision / "model.safetensors"
    cached.parent.mkdir(parents=True)
    save_file({**state, **head}, cached)
    assert check_weights("segformer", "imagenet") == cached
    model = build_segmenter("segformer", in_channels=1, weights="imagenet")
    assert torch.equal(model.network.encoder.state_dict()["patch_embed2.proj.weight"], state["patch_embed2.proj.weight"])
    first = model.network.encoder.patch_embed1.proj.weight
    torch.testing.assert_close(first, state["patch_embed1.proj.weight"].sum(dim=1, keepdim=True))
    cached.rename(hub / "mit_b0.imagenet.safetensors")
    assert check_weights("segformer", "imagenet") == hub / "mit_b0.imagenet.safetensors"
    assert build_segmenter("segformer", weights="imagenet").weights == "ImageNet encoder"


def test_files_of_another_network_and_damaged_ones_are_refused(hub, monkeypatch):
    state = safetensors_of("mit_b0")
    path = hub / "mit_b0.imagenet.safetensors"
    save_file({key: value for key, value in state.items() if key != "norm4.bias"}, path)
    with pytest.raises(WeightsError, match=r"segformer: .*does not fit mit_b0 .*norm4\.bias.*delete it and run again") as caught:
        build_segmenter("segformer", weights="imagenet")
    assert "\n" not in str(caught.value)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"segformer: .*cannot be read"):
        build_segmenter("segformer", weights="imagenet")
    put_into_hub(hub, monkeypatch, numbered(of_torchvision("resnet34")))
    with pytest.raises(WeightsError, match=r"unet_resnet18: .*does not fit resnet18"):
        build_segmenter("unet_resnet18", weights="imagenet")
    with pytest.raises(WeightsError, match=r"segnet: .*does not fit"):
        build_segmenter("segnet", weights="imagenet")


def test_a_published_file_with_another_hash_is_refused(hub):
    torch.save(numbered(of_torchvision("resnet18")), hub / "resnet18-f37072fd.pth")
    with pytest.raises(WeightsError, match=r"unet_resnet18: .*is damaged: its SHA-256 does not begin with f37072fd"):
        build_segmenter("unet_resnet18", weights="imagenet")


@pytest.mark.parametrize("kind", ["safetensors", "state dict", "segmenter", "checkpoint"])
def test_a_file_holds_the_whole_model(kind, tmp_path):
    torch.manual_seed(1)
    source = build_segmenter("unet", **TINY_UNET).eval()
    path = tmp_path / ("whole.safetensors" if kind == "safetensors" else "whole.pt")
    if kind == "safetensors":
        save_file(source.state_dict(), path)
    else:
        state = source.state_dict() if kind == "segmenter" else source.network.state_dict()
        torch.save({"epoch": 3, "state_dict": state} if kind == "checkpoint" else state, path)
    torch.manual_seed(2)
    model = build_segmenter("unet", weights=path, **TINY_UNET).eval()
    images = torch.randn(1, 3, 17, 20)
    assert torch.equal(model(images), source(images))
    assert model.weights == f"{path.name} {file_hash(path)[:8]}"


@pytest.mark.parametrize(
    ("name", "options"), [("unet", TINY_UNET), ("fcn8s", {"widths": (4, 4, 4, 4, 4), "hidden": 8}), ("unet_resnet18", {})]
)
def test_a_head_for_other_classes_begins_anew_with_a_warning(name, options, tmp_path):
    torch.manual_seed(1)
    source = build_segmenter(name, **options)
    torch.save(source.state_dict(), tmp_path / "one.pt")
    with pytest.warns(UserWarning, match=f"{name}: the head in one.pt does not fit 2 classes; a new one begins at random"):
        model = build_segmenter(name, classes=2, weights=tmp_path / "one.pt", **options)
    head = SEGMENTERS[name].head
    old, new = source.network.state_dict(), model.network.state_dict()
    assert all(torch.equal(new[key], old[key]) for key in new if not key.startswith(head))
    assert model.weights.endswith(", new head")


def test_files_that_do_not_fit_are_refused(tmp_path):
    torch.save(build_segmenter("unet", widths=(4, 8, 16)).state_dict(), tmp_path / "deeper.pt")
    with pytest.raises(WeightsError, match=r"unet: deeper\.pt does not fit: .*unknown") as caught:
        build_segmenter("unet", weights=tmp_path / "deeper.pt", **TINY_UNET)
    assert "\n" not in str(caught.value)
    with pytest.raises(WeightsError, match=r"of another shape \(encoder\.0\.0\.weight 4×3×3×3 instead of 4×1×3×3\)"):
        build_segmenter("unet", in_channels=1, weights=saved_tiny(tmp_path), **TINY_UNET)
    with pytest.raises(WeightsError, match="there is no file"):
        build_segmenter("unet", weights=tmp_path / "absent.pt")


def saved_tiny(folder: Path) -> Path:
    torch.save(build_segmenter("unet", **TINY_UNET).state_dict(), folder / "tiny.pt")
    return folder / "tiny.pt"


class Harm:
    """Leaves a trace where something unpickles it."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def test_nothing_is_unpickled(tmp_path):
    path, trace = tmp_path / "harm.pt", tmp_path / "trace"
    path.write_bytes(pickle.dumps(Harm(trace)))
    with pytest.raises(WeightsError, match=r"harm\.pt is no plain state dict"):
        build_segmenter("unet", weights=path, **TINY_UNET)
    torch.save(Harm(trace), path)
    with pytest.raises(WeightsError, match=r"harm\.pt is no plain state dict"):
        build_segmenter("unet", weights=path, **TINY_UNET)
    assert not trace.exists()


def test_tags_name_what_an_encoder_started_from():
    assert weights_tag("none", "unet_vgg16") == "from scratch"
    assert weights_tag("imagenet", "unet_vgg16") == weights_tag("imagenet", "smp:fpn:resnet34") == "ImageNet encoder"
    assert weights_tag("imagenet", "deeplabv3plus_xception") == "timm tf_in1k encoder"
    assert weights_tag("imagenet", "transunet") == "timm orig_in21k encoder"
    assert weights_tag("imagenet", "vgg16") == weights_tag("imagenet") == "ImageNet"
