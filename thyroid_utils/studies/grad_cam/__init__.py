"""Explanations that are measured: a network's maps of its test images, with everything that is asked of them.

Where they point is measured in `attention`, whether the network depends on what they show and whether they survive random weights
in `faithfulness`, their shapes in `shape`, and whether burned-in marks attract them in `shortcut`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from torch import nn

from thyroid_utils.common.progress import Progress, progress_bar
from thyroid_utils.inference.cam import CamMaps, cam_maps
from thyroid_utils.inference.predictor import Predictor
from thyroid_utils.scores.estimates import patient_bootstrap
from thyroid_utils.studies.grad_cam.attention import attention_scores, attention_table
from thyroid_utils.studies.grad_cam.faithfulness import (
    SIMILARITIES,
    area_table,
    compare_maps,
    deletion_insertion_curves,
    randomisation_curve,
    randomisation_table,
)
from thyroid_utils.studies.grad_cam.shape import highlighted, shape_table
from thyroid_utils.training.ledger import Run


@dataclass(frozen=True)
class MapStudy:
    """The maps of some images and what they are measured by. Made by `study_maps`.

    predictor: of the run. images: index `case`, with `patient` and whatever decisions were given. inputs: float32 (n, channels,
    height, width). masks: bool (n, height, width), empty where an image has none. maps: of the method, target and layer named.
    """

    predictor: Predictor
    images: pd.DataFrame
    inputs: np.ndarray
    masks: np.ndarray
    maps: CamMaps
    method: str
    target: int | str
    layer: str | None

    @property
    def patients(self) -> np.ndarray:
        return self.images["patient"].to_numpy(object)

    @property
    def grays(self) -> np.ndarray:
        """The images as they went in, in gray, float32 (n, height, width)."""
        return self.inputs[:, 0]

    def maps_of(self, network: nn.Module, inputs: np.ndarray | None = None, progress: Progress | None = None) -> CamMaps:
        """Maps by another network of the same architecture, or of other inputs, made as the study's are."""
        inputs = self.inputs if inputs is None else inputs
        return cam_maps(network, inputs, method=self.method, target=self.target, layer=self.layer, progress=progress)

    @cached_property
    def scores(self) -> pd.DataFrame:
        """`attention_scores` of the maps, other patients' maps among the references."""
        return attention_scores(self.maps.maps, self.masks, self.images.index, self.patients)

    def attention(self, kept: Sequence[bool] | None = None) -> pd.DataFrame:
        """`attention_table` of all images, or of those kept (bool (n,))."""
        rows = np.ones(len(self.images), bool) if kept is None else np.asarray(kept, bool)
        return attention_table(self.scores[rows], self.patients[rows])

    def attention_by_decision(self) -> dict[str, pd.DataFrame]:
        """`attention` of the images called rightly and of those called wrongly (column `right`), where there are any."""
        right = self.images["right"].to_numpy(bool)
        return {name: self.attention(kept) for name, kept in (("right", right), ("wrong", ~right)) if kept.any()}

    def some(self, count: int, seed: int = 0) -> MapStudy:
        """So many of the images whose map is not blank (where every map is, of all), drawn at random and in their order; all of
        them where there are fewer."""
        shown = np.flatnonzero(~self.maps.blank)
        shown = shown if len(shown) else np.arange(len(self.images))
        rows = np.sort(np.random.default_rng(seed).permutation(shown)[:count])
        kept = {name: getattr(self.maps, name)[rows] for name in ("maps", "blank", "peak", "none_called")}
        return replace(
            self, images=self.images.iloc[rows], inputs=self.inputs[rows], masks=self.masks[rows], maps=replace(self.maps, **kept)
        )

    def shapes(self, threshold: float) -> pd.DataFrame:
        """`shape_table` of what the maps highlight from a share of their maximum on."""
        return shape_table(highlighted(self.maps.maps, threshold), self.grays, list(self.images.index))

    def randomisation(self, seeds: Sequence[int]) -> pd.DataFrame:
        """`randomisation_table`: how alike the maps stay while the network is made random from its head on."""
        curve = randomisation_curve(self.predictor.network, self.maps_of, seeds, list(self.images.index))
        return randomisation_table(curve, self.patients)

    def likeness(self, others: Mapping[str, Run]) -> pd.DataFrame:
        """How alike the maps are to those of other runs of the same architecture, over patients.

        Args:
            others: name of a row → run, one trained on permuted labels for instance.

        Returns:
            a row a run: `spearman` and `ssim` (`Estimate` of the mean over images whose maps are both not blank), `images`.
        """
        rows = {}
        for name, run in others.items():
            found = compare_maps(self.maps.maps, self.maps_of(Predictor(run).network).maps)
            rows[name] = {measure: patient_bootstrap(found[measure], self.patients) for measure in SIMILARITIES}
            rows[name]["images"] = int((~found["blank"]).sum())
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("compared with the network of")

    def deletion(self) -> pd.DataFrame:
        """`deletion_insertion_curves` of these images."""
        cases = list(self.images.index)
        return deletion_insertion_curves(self.predictor.network, self.inputs, self.maps.maps, self.target, cases)

    def areas(self, curves: pd.DataFrame) -> pd.DataFrame:
        """`area_table` of the curves of `deletion`."""
        return area_table(curves, list(self.images.index), self.patients)


def study_maps(
    predictor: Predictor, images: pd.DataFrame, *, method: str = "grad_cam", target: int | str = 1, layer: str | None = None
) -> MapStudy:
    """The maps of a run's images.

    Args:
        predictor: of a finished run of either task.
        images: index `case`, of its case table; `patient`; decisions (`ClassifierComparison.decisions`) where there are any.
        method, target: as for `cam_maps`.
        layer: path of a module; None or "" takes the network's declared one.
    """
    inputs = predictor.inputs(list(images.index))
    if predictor.store.masks is None:
        masks = np.zeros((len(images), *inputs.shape[2:]), bool)
    else:
        masks = np.stack([np.asarray(predictor.store.masks[at]) for at in predictor.cases.index.get_indexer(images.index)])
    empty = MapStudy(predictor, images, inputs, masks, None, method, target, layer or None)
    return replace(empty, maps=empty.maps_of(predictor.network, progress=progress_bar("Explaining")))
