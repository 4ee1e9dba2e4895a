"""What networks cost in use: their files, scores, times and memory, and what is said of them."""

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from dual_stage_project import project
from onnx import TensorProto, helper

from thyroid_utils.common import machine
from thyroid_utils.common.errors import DataError, ParameterError
from thyroid_utils.data.images import read_mask
from thyroid_utils.plots import deployment as plots
from thyroid_utils.scores.estimates import Comparison
from thyroid_utils.scores.recipes import Influence
from thyroid_utils.studies import deployment as study
from thyroid_utils.studies.classifier_comparison import ClassifierComparison
from thyroid_utils.studies.deployment import DYNAMIC, EAGER, FLOAT, STATIC, VARIANTS
from thyroid_utils.studies.segmenter_comparison import SegmenterComparison


@pytest.fixture(scope="module")
def comparisons(tmp_path_factory):
    with project(tmp_path_factory, [0]) as trained:
        yield [ClassifierComparison.of(trained["frame"]), SegmenterComparison.of(trained["segmenter"])]


@pytest.fixture(scope="module")
def networks(comparisons, tmp_path_factory):
    found, failed = study.deployed(comparisons, [48], tmp_path_factory.mktemp("files"), calibrating=4)
    assert not failed
    return found


@pytest.fixture(scope="module")
def costs(networks):
    return study.cost_table(networks)


def test_float32_answers_as_pytorch_does_and_int8_nearly(networks):
    for network in networks:
        said = {variant: network.answers(variant, "test") for variant in VARIANTS}
        assert said[EAGER].std() > 0.01
        np.testing.assert_allclose(said[FLOAT], said[EAGER], atol=1e-4)
        for variant in (DYNAMIC, STATIC):
            apart = np.abs(said[variant] - said[FLOAT]).max()
            assert 0 < apart < np.ptp(said[FLOAT]), "rounded, and not another network"


def test_what_is_kept_is_not_quantised(networks):
    for network in networks:
        whole, kept = (onnx.load(network.file(STATIC, network.side, kind)).graph for kind in ((), ("first", "last")))
        count = [sum(node.op_type == "DequantizeLinear" for node in graph.node) for graph in (whole, kept)]
        assert count[1] < count[0]
        weights = {value.name: value.data_type for value in whole.initializer}
        assert TensorProto.INT8 in weights.values()


def test_files_of_another_side_take_images_of_that_side(networks):
    rows = networks[0].cases("test")[:2]
    assert [networks[0].levels(rows, side).shape for side in (networks[0].side, 48)] == [(2, 1, 64, 64), (2, 1, 48, 48)]
    assert networks[0].levels(rows, 48).dtype == np.uint8


def test_costs_are_those_of_the_answers(networks, costs):
    classifier, segmenter = networks
    for network in networks:
        own = costs.loc[network.model]
        assert list(own.index) == list(VARIANTS) and own["MB"][FLOAT] == network.file(FLOAT, network.side).stat().st_size / 1e6
        assert own["difference"][EAGER] is None and own["difference"][FLOAT] is None and own["changed"][FLOAT] == 0
    said = {variant: segmenter.answers(variant, "test", segmenter.kept(variant)) for variant in (FLOAT, STATIC)}
    dice, rows = {}, segmenter.cases("test")
    for variant, maps in said.items():
        masks = [segmenter.predictor.on_frame(case, found) >= 0.5 for case, found in zip(rows.index, maps, strict=True)]
        truth = [read_mask(path) for path in rows["mask"]]
        dice[variant] = np.mean([2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in zip(truth, masks, strict=True)])
    own = costs.loc[segmenter.model]
    assert own["score"][FLOAT].value == pytest.approx(dice[FLOAT])
    assert own["difference"][STATIC].difference == pytest.approx(dice[STATIC] - dice[FLOAT])
    assert own["changed"][STATIC] == pytest.approx(((said[STATIC] >= 0.5) != (said[FLOAT] >= 0.5)).mean())
    odds = classifier.answers(DYNAMIC, "test")
    labels = classifier.cases("test")["label"].to_numpy(bool)
    ranked = (odds[labels][:, None] > odds[~labels]).mean()
    assert costs.loc[(classifier.model, DYNAMIC), "score"].value == pytest.approx(ranked)


def test_networks_that_learnt_nothing_get_no_verdict(networks, monkeypatch):
    monkeypatch.setitem(networks[1].comparison.__dict__, "untrained", [networks[1].model])
    assert study.cost_table(networks[1:])["p_holm"].isna().all()
    assert networks[1].costs().loc[STATIC, "difference"].note == "validation does not show that they have learnt"


def tried(*rows) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["kept", "MB", "points lost"])


@pytest.mark.parametrize(
    ("rows", "kept"),
    [
        ([((), 1.0, 0.5)], ()),
        ([((), 1.0, 0.6), (("first",), 1.2, 0.1), (("last",), 1.1, 0.4)], ("last",)),  # the smallest that will do
        ([((), 1.0, 3.0), (("first",), 1.2, 2.0), (("first", "last"), 1.3, 0.7)], ("first", "last")),  # none will: the best
    ],
)
def test_validation_chooses_what_stays_in_float32(comparisons, tmp_path, rows, kept):
    network = study.Deployed(comparisons[0], "tiny", tmp_path)
    network.__dict__["tried"] = tried(*rows)
    assert network.kept(STATIC) == kept and network.kept(DYNAMIC) == ()


def test_each_kind_of_layer_is_left_out_where_int8_loses_more_than_half_a_point(networks, monkeypatch):
    first, lost = networks[0], {(): 0.9, ("first",): 0.2, ("last",): 0.3, ("first", "last"): 0.1}
    monkeypatch.setattr(study.Deployed, "answers", lambda self, variant, split, kept=None: lost.get(kept, 0))
    monkeypatch.setattr(study.Deployed, "influence", lambda self, said, split: Influence(np.array([1 - said / 100]), None, None))
    table = study.Deployed(first.comparison, first.model, first.folder).tried
    assert table["kept"].tolist() == list(lost) and table["layers"].tolist() == [0, 1, 1, 2]
    assert table["points lost"].tolist() == pytest.approx(list(lost.values()))
    lost[()] = 0.4
    assert len(study.Deployed(first.comparison, first.model, first.folder).tried) == 1, "good enough as it is"


def test_layers_by_kind(tmp_path):
    def layer(name, given, result, group=1, kind="Conv"):
        weight = helper.make_tensor(f"{name}_w", TensorProto.FLOAT, [2, 2 // group, 1, 1], [0.5] * (4 // group))
        return helper.make_node(kind, [given, f"{name}_w"], [result], name, group=group), weight

    made = [layer("a", "x", "1"), layer("b", "1", "2", 2), layer("c", "3", "4"), layer("d", "5", "6"), layer("e", "8", "y")]
    others = [
        helper.make_node("GlobalAveragePool", ["2"], ["3"]),
        helper.make_node("Relu", ["4"], ["5"]),
        helper.make_node("Add", ["6", "6"], ["6b"]),
        helper.make_node("Sigmoid", ["6b"], ["7"]),
        helper.make_node("Mul", ["2", "7"], ["8"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, 4, 4]) for name in "xy"]
    nodes = [made[0][0], made[1][0], others[0], made[2][0], others[1], made[3][0], *others[2:], made[4][0]]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:], [w for _, w in made])), tmp_path / "g.onnx")
    # d alone stands in front of the sigmoid: c is two layers away
    assert study.layer_groups(tmp_path / "g.onnx") == {"first": ["a"], "last": ["e"], "gates": ["d"], "depthwise": ["b"]}


def test_a_side_that_a_network_does_not_take_is_told_before_anything_is_written(comparisons, tmp_path):
    with pytest.raises(ParameterError, match=r"SIZES: tiny.*8×8 pixels are too small"):
        study.deployed(comparisons, [32, 8], tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_network_that_cannot_be_written_is_told_and_the_others_go_on(comparisons, networks, tmp_path, monkeypatch):
    real, refused, tasks = study.export_network, "the operator aten.odd has no form there", ["segmentation"]

    def export(run, path, size):
        if run.config.task in tasks:
            raise DataError(refused)
        return real(run, path, size)

    monkeypatch.setattr(study, "export_network", export)
    found, failed = study.deployed(comparisons, [], tmp_path)
    assert [network.model for network in found] == [networks[0].model] and failed == {networks[1].model: refused}
    tasks.append("classification")
    with pytest.raises(DataError, match=r"none of these networks.*aten\.odd.*name others in MODELS"):
        study.deployed(comparisons, [], tmp_path / "none")


def test_variants_take_turns_and_the_median_is_told(networks, monkeypatch):
    clock, asked, threads = [0.0], [], []
    spends = dict(zip(VARIANTS, (0.008, 0.002, 0.016, 0.001), strict=True))

    def call(variant):
        clock[0] += spends[variant]
        asked.append(variant)
        threads.append(torch.get_num_threads())

    monkeypatch.setattr(study.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(
        study.Deployed, "calls", lambda self, side, many: {name: lambda name=name: call(name) for name in VARIANTS}
    )
    before = torch.get_num_threads()
    times = study.timed(networks[:1], [48], [before + 1], 2)
    assert asked == [variant for variant in VARIANTS for _ in range(2)] * 3 * 2, "two sides, two turns and one that warms up"
    assert set(threads) == {before + 1} and torch.get_num_threads() == before
    assert times["side"].tolist() == [48] * 4 + [64] * 4
    np.testing.assert_allclose(times["ms"], [8, 2, 16, 1] * 2)
    np.testing.assert_allclose(times["over"], [1, 0.25, 2, 0.125] * 2)


def test_every_variant_answers_one_image_and_its_process_takes_memory(networks):
    for network in networks:
        said = [call() for call in network.calls(48, 1).values()]
        assert len(said) == 4 and isinstance(said[0], tuple)
    assert 20 < networks[1].peak(FLOAT, 48, 1) < 1000


def test_what_is_held_against_what_is_asked():
    lost = {"a": (-0.001, -0.004), "b": (-0.001, -0.02), "c": (-0.02, -0.04), "d": (0.01, np.nan)}
    sizes = {"a": (12.4, 4.0), "b": (12.5, 3.0), "c": (1, 4.1), "d": (1, 1)}
    rows, times = {}, []
    for model, (difference, low) in lost.items():
        found = Comparison(0, 0, difference, low, -low, 0.5, 9, 9)
        values = zip(VARIANTS, (0, sizes[model][0], 0, sizes[model][1]), (None, None, found, found), strict=True)
        rows |= {(model, name): {"MB": size, "difference": difference} for name, size, difference in values}
        times += [(model, FLOAT, 0.2), (model, FLOAT, 0.6 if model == "c" else 0.5), (model, STATIC, 0.9)]
    costs = pd.DataFrame.from_dict(rows, orient="index").rename_axis(["model", "variant"])
    held = study.held_to(costs, pd.DataFrame(times, columns=["model", "variant", "over"]))
    met = held.groupby("model")["met"].agg(list).to_dict()
    assert met == {
        "a": ["yes", "yes", "yes", "yes"],
        "b": ["no", "yes", "not shown", "yes"],  # half a point is not ruled out
        "c": ["yes", "no", "no", "no"],
        "d": ["yes", "yes", "not shown", "yes"],  # no interval
    }
    assert held["measured"].tolist()[2:4] == ["+0.10 [−0.40, +0.40]", "0.20 to 0.50"]


def test_the_image_that_is_followed_is_moved_farthest(networks, monkeypatch):
    base = np.zeros((3, 2, 2))
    moved = base + np.array([0.1, 0.3, -0.2])[:, None, None]
    monkeypatch.setattr(study.Deployed, "answers", lambda self, variant, *_: moved if variant == STATIC else base)
    monkeypatch.setattr(study.Deployed, "kept", lambda self, variant: ())
    case, said = networks[1].followed()
    assert case == networks[1].cases("test").index[1] and said[STATIC].tolist() == [[0.3, 0.3], [0.3, 0.3]]


def test_figures(networks, costs):
    at = [(n.model, n.side, 1, name, ms, ms, ms, 1.0) for n in networks for name, ms in zip(VARIANTS, (9, 4, 9, 2), strict=True)]
    times = pd.DataFrame(at, columns=["model", "side", "threads", "variant", "ms", "low", "high", "over"])
    scores = {"AUC": [networks[0].model], "Dice": [networks[1].model]}
    figure = plots.size_score_time(costs, times, scores, {network.model: network.side for network in networks})
    assert [axes.get_ylabel() for axes in figure.axes] == ["AUC on test", "Dice on test"]
    for axes, network in zip(figure.axes, networks, strict=True):
        ends = [points.get_offsets()[0] for points in axes.collections]
        assert [end[0] for end in ends] == [4, 2]
        assert ends[0][1] == costs.at[(network.model, FLOAT), "score"].value
        sizes = " → ".join(f"{costs.at[(network.model, variant), 'MB']:.1f}" for variant in (FLOAT, STATIC))
        assert f"{network.model}\n{sizes} MB" in [text.get_text() for text in axes.texts]
    alone = plots.size_score_time(costs, times, {"AUC": [], "Dice": scores["Dice"]}, {networks[1].model: networks[1].side})
    assert len(alone.axes) == 1
    titles = [axes.get_title(loc="left") or axes.get_title() for axes in plots.followed(networks[1]).axes]
    assert titles[1:] == [f"{FLOAT}\nprobability", f"{STATIC}\nprobability", "pixels that\nchange sides"]


FLAGS = [
    ("flags : sse avx2 avx512_vnni amx_int8", "avx512_vnni, amx_int8"),
    ("flags : avx2", "none of its own"),
    ("", "not known"),
]


@pytest.mark.parametrize(("told", "found"), FLAGS)
def test_the_processors_instructions_for_bytes(monkeypatch, tmp_path, told, found):
    file = tmp_path / "cpuinfo"
    if told:
        file.write_text(told)
    monkeypatch.setattr(machine, "Path", lambda path: file)
    assert machine.int8_instructions() == found
