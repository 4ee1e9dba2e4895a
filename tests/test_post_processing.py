"""Masks treated after training: operations by hand, their Dice by another road, and what may be said of a treatment."""

from types import SimpleNamespace

import numpy as np
import pytest
from dual_stage_project import configs_of, discs
from skimage.segmentation import flood

from thyroid_utils.common.words import number
from thyroid_utils.data.images import read_mask
from thyroid_utils.inference.predictor import Predictor
from thyroid_utils.scores.recipes import compare_recipes, mean_influence
from thyroid_utils.studies.compare import comparison_configs
from thyroid_utils.studies.post_processing import (
    ENSEMBLES,
    MIRRORED,
    NONE,
    TREATMENTS,
    best_threshold,
    largest_part,
    post_processed,
)
from thyroid_utils.studies.segmenter_comparison import SegmenterComparison
from thyroid_utils.training.fit import fit_or_load


def dice(one, two):
    return 2 * (one & two).sum() / (one.sum() + two.sum())


def test_the_largest_part_is_that_of_eight_neighbours():
    mask = np.array([[1, 0, 0, 1], [0, 1, 0, 1], [1, 0, 0, 0]], bool)
    assert largest_part(mask).tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0]]
    assert not largest_part(np.zeros((2, 2), bool)).any()


@pytest.mark.parametrize(
    ("maps", "best"),
    [([[0.9, 0.3], [0.3, 0.3]], 0.5), ([[0.36, 0.2], [0.2, 0.2]], 0.35), ([[0.72, 0.67], [0.67, 0.6]], 0.7)],
)
def test_the_threshold_is_the_best_on_validation_and_nearest_to_a_half_of_equals(maps, best):
    """The first image has one pixel of nodule; the second none, and no say."""
    maps = np.array([maps, np.ones((2, 2))], np.float32)
    run = SimpleNamespace(maps=lambda split: (["b", "a"], maps) if split == "val" else None)
    cases = SimpleNamespace(index=SimpleNamespace(get_indexer=lambda names: [["a", "b"].index(name) for name in names]))
    masks = [np.zeros((2, 2), np.uint8), np.array([[1, 0], [0, 0]], np.uint8)]
    assert best_threshold(SimpleNamespace(run=run, cases=cases, store=SimpleNamespace(masks=masks))) == pytest.approx(best)


@pytest.fixture(scope="module", params=[0, 3], ids=["one split", "folds"])
def comparison(request, tmp_path_factory):
    """Two seeds, or one in three folds."""
    with discs(tmp_path_factory):
        (config,) = configs_of([0])["segmenter"]
        common = config.model_dump(exclude={"model", "seed"})
        common["split"] |= {"folds": request.param}
        common["training"] |= {"epochs": 2 if request.param else 4}
        seeds = [0] if request.param else [0, 1]
        yield SegmenterComparison.of([fit_or_load(one) for one in comparison_configs(["tiny_segmenter"], seeds, common)])


def test_every_treatment_is_scored_on_the_frames_beside_none(comparison):
    treated = post_processed(comparison, comparison.chosen, list(TREATMENTS))
    runs, seeds = comparison.runs[comparison.chosen], comparison.trainings
    assert treated.models == [NONE, *TREATMENTS.values(), *(ENSEMBLES if seeds > 1 else ())]
    np.testing.assert_allclose(treated.dice[NONE], comparison.values(comparison.chosen, ["dice"])[..., 0])
    for at in (0, 7):
        case = comparison.truth.index[at]
        truth, maps, both = read_mask(comparison._splits[0].at[case, "mask"]), [], []
        for seed, run in enumerate(runs):
            network = Predictor(run.of_case(case))
            maps.append(network.held_map("test", case))
            other = network.maps(network.inputs([case])[..., ::-1])[0, :, ::-1]
            geometry = network.store.geometries[network.cases.index.get_loc(case)]
            both.append((maps[-1] + geometry.to_original(other, smooth=True)) / 2)
            expected = {
                "largest part": largest_part(maps[-1] >= 0.5),
                "holes filled": ~flood(np.pad(maps[-1] >= 0.5, 1), (0, 0), connectivity=1)[1:-1, 1:-1],
                "validation's threshold": maps[-1] >= best_threshold(network),
                MIRRORED: both[-1] >= 0.5,
            }
            for name, mask in expected.items():
                assert treated.dice[name][seed, at] == pytest.approx(dice(truth, mask)), name
        for name, means in zip(ENSEMBLES, (maps, both), strict=True) if seeds > 1 else ():
            assert treated.dice[name][0, at] == pytest.approx(dice(truth, np.mean(means, axis=0) >= 0.5)), name


def test_what_a_treatment_is_worth_follows_the_one_rule(comparison, monkeypatch):
    treated = post_processed(comparison, comparison.chosen, ["threshold", "mirrored"])
    monkeypatch.setitem(treated.__dict__, "untrained", [])
    pairs, base = treated.pairs().set_index("first"), treated.dice[NONE]
    found = pairs.at[MIRRORED, "difference"]
    if treated.folds:
        fold = comparison.first.predictions.loc[comparison.truth.index, "fold"].to_numpy()
        assert found.difference == pytest.approx(
            np.mean([(treated.dice[MIRRORED] - base)[0, fold == at].mean() for at in range(3)])
        )
    else:
        rows = (mean_influence(treated.dice[name]) for name in (MIRRORED, NONE))
        assert found == compare_recipes(*rows, comparison.truth["patient"], most=1)
        together = pairs.at[ENSEMBLES[0], "difference"]
        assert together.difference == pytest.approx((treated.dice[ENSEMBLES[0]][0] - base.mean(axis=0)).mean())
        assert np.isnan(together.p_value) and together.fixed_low < together.difference < together.fixed_high
    table = treated.table(treated.pairs())
    assert list(table.index) == treated.models and table["points [95 %]"].notna().sum() == len(pairs)
    assert f"{MIRRORED} {number(100 * found.difference, 1, sign=True)}" in treated.worth(treated.pairs())
    monkeypatch.setitem(treated.__dict__, "untrained", treated.models)
    assert "No verdict on Dice" in treated.worth(treated.pairs())
    nothing = post_processed(comparison, comparison.chosen, [])
    assert len(nothing.pairs()) == 1 - bool(comparison.folds) and nothing.worth(nothing.pairs())
