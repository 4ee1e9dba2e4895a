"""Networks written as ONNX: the same answers by onnxruntime, what the files tell, and files that are none."""

import json
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from dual_stage_project import project, stage_of
from torch import nn

from thyroid_utils.common.errors import DataError, ParameterError
from thyroid_utils.data.images import read_image
from thyroid_utils.inference.findings import CaseImage
from thyroid_utils.inference.known import Known, known_of
from thyroid_utils.inference.onnx_dual_stage import RESULTS, Prepared, export_dual_stage
from thyroid_utils.inference.onnx_export import OPSET, Levels, divided, export_network
from thyroid_utils.inference.onnx_network import FORMAT, OnnxNetwork
from thyroid_utils.inference.predictor import Predictor
from thyroid_utils.models.segmenters import SEGMENTERS
from thyroid_utils.preprocess.pipeline import PRESETS, build_pipeline
from thyroid_utils.workbook import browser_page, export_onnx


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    with project(tmp_path_factory, [0]) as trained:
        yield {role: several[0] for role, several in trained.items()}


@pytest.fixture(scope="module")
def files(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx")
    return {role: export_network(run, folder / f"{role}.onnx") for role, run in runs.items()}


@pytest.mark.parametrize("role", ["frame", "crop", "segmenter", "joint"])
def test_the_same_answers_as_by_pytorch(runs, files, role):
    predictor, network = Predictor(runs[role]), OnnxNetwork(files[role])
    cases = predictor.cases.query("split == 'test'")[:5]
    for whole in (predictor, network):
        whole.samples = [whole.pipeline.load(case) for _, case in cases.iterrows()]
    inputs, levels = (np.stack([sample.image for sample in whole.samples]) for whole in (predictor, network))
    network.batch_size = 2  # any number at a time
    if role != "segmenter":
        np.testing.assert_allclose(network.log_odds(levels), predictor.log_odds(inputs), atol=1e-5)
    if role in ("segmenter", "joint"):
        found, expected = network.maps(levels), predictor.maps(inputs)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert expected.std() > 0.01 and ((found >= 0.5) == (expected >= 0.5)).all()


STEPS = {
    "z-score of each image": ["gray", "equalise", "resize", "scale", {"zscore": {"by": "image"}}],
    "z-score without scaling": ["gray", "resize", {"zscore": {"by": "image"}}, "three_channels"],
    "z-score in front of letterboxing": [{"zscore": {"by": "image"}}, "three_channels", {"resize": {"mode": "letterbox"}}],
}


@pytest.mark.parametrize("name", [*(name for name in PRESETS if name != "nodule"), *STEPS])
def test_steps_inside_and_outside_are_together_the_whole_pipeline(name):
    whole = build_pipeline([{"resize": {"size": 40}} if step == "resize" else step for step in STEPS.get(name, [])] or name, 40)
    whole.mean, whole.deviation = 0.3, 0.2
    outside, inside = divided(whole)
    frames = [np.random.default_rng(0).integers(0, 256, (70, 90), dtype=np.uint8), np.full((70, 90), 77, np.uint8)]
    levels = np.stack([type(whole)(outside, "", 0.3, 0.2)(frame).image for frame in frames])
    is_gray = not {"scale", "zscore"} & {step.name for step in outside}
    assert is_gray == (levels == levels.astype(np.uint8)).all()
    found = Levels(inside, whole)(torch.from_numpy(levels.astype(np.uint8) if is_gray else levels))
    np.testing.assert_allclose(found, np.stack([whole(frame).image for frame in frames]), atol=2e-6)


def test_a_file_tells_what_it_needs_and_nothing_of_patients(runs, files, tmp_path):
    network = OnnxNetwork(files["frame"])
    facts = network.facts
    assert (facts["format"], facts["opset"], facts["task"], facts["input"]) == (FORMAT, OPSET, "classification", [64, 64])
    assert [next(iter(step)) for step in facts["outside"]] == ["gray", "resize"]
    assert [next(iter(step)) for step in facts["inside"]] == ["scale", "three_channels"]
    assert network.run.name == runs["frame"].name and network.run.config.recipe != "" and network.run.data == runs["frame"].data
    model = onnx.load(files["frame"], load_external_data=False)
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert {value.name for value in model.graph.value_info} <= {value.name for value in model.graph.initializer}
    assert model.opset_import[0].version == OPSET and len(list(files["frame"].parent.iterdir())) == 4, "weights are inside"
    held = runs["frame"].predictions
    for told in (str(network.run.config.data.root), *map(str, held["patient"][:5])):
        assert f'"{told}"' not in json.dumps(facts) or told == "None"
    unknown = Known(replace(Known.of_json(facts["known"]["classifier"]).score, low=np.nan), {}, quantiles={"benign": np.inf})
    again = Known.of_json(json.loads(json.dumps(unknown.to_json(), allow_nan=False)))
    assert np.isnan(again.score.low) and np.isnan(again.threshold) and again.quantiles == {"benign": np.inf}


def test_another_size_is_exported_on_request(runs, tmp_path):
    network = OnnxNetwork(export_network(runs["segmenter"], tmp_path / "large.onnx", (96, 80)))
    frame = np.random.default_rng(0).integers(0, 256, (50, 70), dtype=np.uint8)
    assert network.maps(network.pipeline(frame).image[None]).shape == (1, 96, 80)


class Bessel(nn.Module):
    """A network with an operator that ONNX does not have."""

    def __init__(self, in_channels: int, classes: int):
        super().__init__()
        self.layer = nn.Conv2d(in_channels, classes, 1)

    def forward(self, images):
        return self.layer(torch.special.bessel_j0(images))


def test_a_network_that_cannot_be_exported_is_told_by_its_operator(runs, tmp_path, monkeypatch):
    monkeypatch.setitem(SEGMENTERS, "tiny_segmenter", replace(SEGMENTERS["tiny_segmenter"], build=Bessel))
    network = SEGMENTERS["tiny_segmenter"].network(1, 1, {})
    monkeypatch.setattr(Predictor, "network", network)
    with pytest.raises(DataError, match=r"tiny_segmenter: cannot be written .*operator prims\.bessel_j0"):
        export_network(runs["segmenter"], tmp_path / "none.onnx")
    assert not list(tmp_path.iterdir())


def test_files_that_are_not_ours_and_images_that_do_not_fit_are_told(files, tmp_path):
    changed = onnx.load(files["frame"])
    for name, change in {
        "is no file": None,
        "cannot read it": b"not ONNX at all",
        "without what thyroid-workbook": lambda: changed.ClearField("metadata_props"),
        "ONNX file without what": lambda: onnx.helper.set_model_props(changed, {"format": "one", "research_only": "{"}),
        "not one network": lambda: onnx.helper.set_model_props(changed, {"format": "1", "research_only": '""'}),
        "update thyroid-utils": lambda: onnx.helper.set_model_props(changed, {"format": "99", "research_only": '""'}),
    }.items():
        path = tmp_path / "file.onnx"
        if callable(change):
            change()
            onnx.save(changed, path)
        elif change is not None:
            path.write_bytes(change)
        with pytest.raises(DataError, match=f"file.onnx: .*{name}"):
            OnnxNetwork(path)
    told = {entry.key: entry.value for entry in onnx.load(files["frame"]).metadata_props} | {"input": "[32, 64]"}
    onnx.helper.set_model_props(changed, told)
    onnx.save(changed, path)
    with pytest.raises(DataError, match="is not for the \\[32, 64\\] pixels"):
        OnnxNetwork(path)
    network = OnnxNetwork(files["frame"])
    for levels in (np.zeros((1, 1, 65, 64)), np.zeros((1, 3, 64, 64)), np.zeros((64, 64))):
        with pytest.raises(ValueError, match=r"takes \(n, 1×64×64\)"):
            network.log_odds(levels)
    with pytest.raises(ValueError, match="no output nodule"):
        network.maps(np.zeros((1, 1, 64, 64)))


@pytest.mark.parametrize("roles", [("frame", "segmenter"), ("joint", "joint")], ids=["two networks", "a joint network"])
def test_one_graph_says_of_a_frame_what_the_dual_stage_says(runs, files, tmp_path, roles):
    given = [Predictor(runs[role]) for role in roles]
    known = {role: known_of(role, [one]) for role, one in zip(("classifier", "segmenter"), given, strict=True)}
    path = export_dual_stage(*given, tmp_path / "dual_stage.onnx", known, "a card")
    graph, stage = onnxruntime.InferenceSession(path), stage_of(*(runs[role] for role in roles))
    convolutions = [sum(node.op_type == "Conv" for node in onnx.load(one).graph.node) for one in (path, files["joint"])]
    assert roles[0] != "joint" or convolutions[0] == convolutions[1], "asked once"
    for case in stage.classifier.cases.query("split == 'test'")["image"][:4]:
        frame = read_image(case)
        (finding,) = stage.findings([CaseImage("", frame)])
        found = dict(zip(RESULTS, graph.run(RESULTS, {"frame": frame}), strict=True))
        assert found["probability"].item() == pytest.approx(finding.probability, abs=1e-5)
        np.testing.assert_allclose(found["map"], finding.map, atol=1e-5)
        np.testing.assert_array_equal(found["mask"], finding.mask)
    facts = {entry.key: json.loads(entry.value) for entry in onnx.load(path).metadata_props}
    assert facts["outside"]["classifier"] == [{"gray": {}}] and facts["card"] == "a card"
    with pytest.raises(DataError, match="not one network"):
        OnnxNetwork(path)


@pytest.mark.parametrize(
    ("shape", "share"), [((200, 300), 0), ((128, 160), 0), ((65, 90), 0), ((40, 60), 0.2), ((40, 200), 0.2), ((64, 80), 0)]
)
def test_frames_are_resampled_to_the_levels_of_opencv(shape, share):
    pipeline = build_pipeline(["gray", "resize", "scale"], (64, 80))
    frame = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    found = Prepared(pipeline.steps[1:], pipeline)(torch.from_numpy(frame))[0] * 255
    apart = np.abs(found.numpy().round() - pipeline(frame).image * 255).round()
    assert apart.max() <= 1 and (apart > 0).mean() <= share


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        (["crop_echo", "nodule_crop", "resize", "scale"], "step nodule_crop needs the segmenter's mask"),
        (["resize", "clahe", "scale"], "step clahe works on the resized image"),
        ([{"resize": {"mode": "letterbox"}}, "scale"], "step resize works on the resized image"),
        (["crop_echo", "resize", "scale"], r"prepare theirs differently \(classifier: gray and crop_echo and segmenter: gray\)"),
    ],
)
def test_pipelines_that_fit_no_one_graph_are_told(runs, tmp_path, steps, told):
    classifier, segmenter = Predictor(runs["frame"]), Predictor(runs["segmenter"])
    classifier.pipeline = build_pipeline(steps, 64)
    with pytest.raises(DataError, match=told):
        export_dual_stage(classifier, segmenter, tmp_path / "none.onnx", {}, "")


def test_a_page_is_written_on_request_and_refused_where_no_graph_is_for_it(runs, tmp_path, monkeypatch):
    for module in (browser_page, export_onnx):
        monkeypatch.setattr(module, "runtime", dict)
    told = export_onnx.export_onnx([runs["joint"]], tmp_path / "all", page=True)
    written = {path.name for path in (tmp_path / "all").iterdir()}
    assert written == {"joint.onnx", "dual_stage.onnx", "page.html", "card.md"} and len(told) == 4
    with pytest.raises(ParameterError, match=r"--page runs dual_stage.onnx, and there is none: it takes a classifier and a segm"):
        export_onnx.export_onnx([runs["frame"]], tmp_path / "part", page=True)
    assert not (tmp_path / "part").exists()
