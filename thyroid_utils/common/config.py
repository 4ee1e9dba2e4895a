"""What a training run is told: pydantic models that refuse what cannot work, with the field's name and the allowed range.

Names of models, losses, preprocessing and augmentation are looked up where they are used, because the registries lie on
higher floors; everything that can be judged by itself is judged here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, ValidationError, model_validator

from thyroid_utils.common.errors import nearest


class ConfigError(ValueError):
    """A value that cannot be used: the field's dotted name, then what is allowed and what was found, in one line."""

    def __init__(self, field: str, problem: str):
        super().__init__(f"config: {field} {problem}")


class Settings(BaseModel):
    """What all configs share: immutable, no unknown field, errors in one line (`ConfigError`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _told(error: ValidationError) -> ConfigError:
    """pydantic's first problem in a line. A rule over several fields names the one it is about."""
    first = error.errors()[0]
    *outer, name = first["loc"] or ("",)
    if first["type"] == "value_error":
        field, _, problem = str(first["ctx"]["error"]).partition(" ")
        return ConfigError(".".join(filter(None, [*outer, name, field])), problem)
    problem = f"{first['msg'].replace('Input should', 'must')}; found {first['input']!r}"
    if first["type"] == "extra_forbidden":
        owner = RunConfig.model_fields[outer[0]].annotation if outer else RunConfig
        problem = f"does not exist; {nearest(name, owner.model_fields)}"
    return ConfigError(".".join(map(str, first["loc"])), problem)


def _as_json(value: Any) -> Any:
    """Tuples as lists, so that a config read back from its file equals the one that was written."""
    if isinstance(value, (list, tuple)):
        return [_as_json(entry) for entry in value]
    if isinstance(value, dict):
        return {key: _as_json(entry) for key, entry in value.items()}
    return value


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


PathText = Annotated[str, BeforeValidator(_as_text), Field(min_length=1)]
Options = Annotated[dict[str, JsonValue], BeforeValidator(_as_json)]
Spec = Annotated[str | list[JsonValue], BeforeValidator(_as_json)]
Name = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(strict=True, ge=1, le=10_000)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**32)]


class DataConfig(Settings):
    """Which images. dataset: a reader's name; root: its folder; options: what the reader takes. permute_labels: None, or the
    seed by which the labels of the training images are dealt out anew among them: a network trained so has nothing to learn but
    noise, and an explanation that looks the same for it explains nothing."""

    dataset: Name = "phantom"
    root: PathText | None = None
    options: Options = {}
    permute_labels: Seed | None = None


# What training may have seen of those it is tested on, by kind, as tables and figures call it.
LEAKS = {
    "none": "by patient",
    "image": "by image",
    "frames": "neighbouring frames",
    "augmented": "augmented before the split",
    "copies": "near-copies under other names",
    "validation": "validation is test",
    "preprocessing": "preprocessing fitted on all",
}


class LeakConfig(Settings):
    """A leak that is made on purpose, to see what it is worth (`training.leaks`). kind: of `LEAKS`; "none" leaks nothing and is
    scored on the same images. share: of the test patients that training can meet, those that it does."""

    kind: Literal[tuple(LEAKS)]
    share: Annotated[float, Field(strict=True, gt=0, le=1)] = 1.0

    @model_validator(mode="after")
    def _can_be(self) -> LeakConfig:
        if self.share < 1 and self.kind in ("none", "validation", "preprocessing"):
            raise ValueError(f"share must be 1 with kind {self.kind}, which leaks all or nothing; found {self.share:g}")
        return self


class SplitConfig(Settings):
    """Who is trained on and who is tested on.

    by: "patient", "image" (leaky, and marked so) or "official". ratios: train, validation, test. repeat: as in
    `split_cases`. Official splits use neither ratios nor repeat. folds: 0 for one split, else 3 to 10, of which
    `fold`, from 0, is the test side; the others are shared out between training and validation as their ratios are.
    leak: None but in the study of leaks.
    """

    by: Literal["patient", "image", "official"] = "patient"
    ratios: tuple[float, float, float] = (0.7, 0.15, 0.15)
    seed: Seed = 0
    repeat: Annotated[int, Field(strict=True, ge=0, le=10_000)] | None = None
    folds: Annotated[int, Field(strict=True, ge=0, le=10)] = 0
    fold: Annotated[int, Field(strict=True, ge=0, le=9)] = 0
    leak: LeakConfig | None = None

    @model_validator(mode="after")
    def _can_be(self) -> SplitConfig:
        if min(self.ratios) <= 0 or abs(sum(self.ratios) - 1) > 1e-6:
            raise ValueError(f"ratios must be above 0 and sum to 1; found {self.ratios}")
        if self.by == "official" and self.repeat is not None:
            raise ValueError(f"repeat must be None with by official, of which there is one; found {self.repeat}")
        if self.folds in (1, 2):
            raise ValueError(f"folds must be 0 (one split) or 3 to 10; found {self.folds}")
        if self.folds and (self.by == "official" or self.repeat is not None):
            other = "an official split" if self.by == "official" else "random subsets"
            raise ValueError(f"folds must be 0 with {other}; found {self.folds}")
        if self.fold >= max(self.folds, 1):
            raise ValueError(f"fold must be below folds ({self.folds}), or 0; found {self.fold}")
        if self.leak and self.by == "image":
            raise ValueError("leak must be None with by image, which leaks already")
        return self

    @property
    def label(self) -> str:
        """What the split lets through: `by patient`, `by image (share 0.5)`."""
        if self.leak is None:
            return f"by {self.by}"
        return LEAKS[self.leak.kind] + (f" (share {self.leak.share:g})" if self.leak.share < 1 else "")


class _Named(Settings):
    """A model or a loss: its name, and options for its builder."""

    name: Name
    options: Options = {}

    @property
    def label(self) -> str:
        """The name, with the options where there are any: `tversky (alpha 0.3, beta 0.7)`, `mobile_deeplab (no ppm)`."""
        told = [
            f"{'' if value else 'no '}{option}" if isinstance(value, bool) else f"{option} {value}"
            for option, value in self.options.items()
        ]
        return f"{self.name} ({', '.join(told)})" if told else self.name


class ModelConfig(_Named):
    """name: one of `models.CLASSIFIERS` or `timm:NAME`; for segmentation one of `models.SEGMENTERS` or `smp:ARCH:ENCODER`;
    for joint one of `models.JOINT_MODELS` or `smp:ARCH:ENCODER`.
    weights: "imagenet" (a segmenter's encoder), "none" or a file, of an encoder too. options: for its builder."""

    name: Name = "resnet18"
    weights: PathText = "none"


class LossConfig(_Named):
    """name: one of `losses.CLASSIFICATION_LOSSES` or `losses.SEGMENTATION_LOSSES`. options: for its builder; with task
    joint also classification_weight, that of the cross-entropy which is added to a segmentation loss."""

    name: Name = "cross_entropy"


class OptimiserConfig(Settings):
    """schedule: how the learning rate goes on. "cosine" falls to 0 over the epochs; "one_cycle" rises to `learning_rate` over
    the first 30 % of the steps and falls from there; "plateau" divides by 10 after 3 epochs in which the monitored value did
    not improve. momentum: of SGD. clip_norm: gradients are scaled down to this norm (2-norm over all parameters).
    """

    name: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: Annotated[float, Field(strict=True, gt=0, le=10)] = 1e-4
    weight_decay: Share = 0.0
    momentum: Share = 0.0
    schedule: Literal["constant", "cosine", "one_cycle", "plateau"] = "constant"
    clip_norm: Annotated[float, Field(strict=True, gt=0, le=1e6)] | None = None

    @model_validator(mode="after")
    def _can_be(self) -> OptimiserConfig:
        if self.momentum and self.name != "sgd":
            raise ValueError(f"momentum must be 0 with {self.name} (it belongs to sgd); found {self.momentum:g}")
        return self


NOT_IN_NAMES = ("device", "deterministic", "cuda_graph")  # of TrainingConfig: where and how, not what


class TrainingConfig(Settings):
    """How the network is fitted.

    patience: stop after so many epochs without a better validation value; None runs all epochs. The weights kept are those of
    the best epoch either way. class_balance: "weights" (in the loss, n / (classes · n of the class)) or "sampling" (each class
    equally often, with repetition); "none" for segmentation, whose classes are pixels. monitor: the validation value that
    decides: "loss", or "auc" of a classifier, or "dice" of a segmenter, or any of them (joint). device: "auto" is a GPU where
    there is one. devices: how many of them, by DDP; `batch_size` is shared among them. precision: "auto" is bf16 on GPUs that
    have it and float32 elsewhere. On a GPU: deterministic: the same numbers again, at a price (a CPU has them always);
    cuda_graph: a step is recorded once and played again, which saves what Python needs to start its many small kernels.
    """

    epochs: Count = 10
    batch_size: Count = 16
    patience: Count | None = None
    class_balance: Literal["none", "weights", "sampling"] = "none"
    monitor: Literal["loss", "auc", "dice"] = "loss"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: Annotated[int, Field(strict=True, ge=1, le=64)] = 1
    precision: Literal["auto", "32", "bf16"] = "auto"
    deterministic: bool = False
    cuda_graph: bool = False

    @model_validator(mode="after")
    def _can_be(self) -> TrainingConfig:
        if self.batch_size % self.devices:
            raise ValueError(
                f"batch_size must be a multiple of devices ({self.devices}), which share it; found {self.batch_size}"
            )
        if self.cuda_graph and self.devices > 1:
            raise ValueError(f"cuda_graph must be false with several devices; found {self.devices} devices")
        return self


class RunConfig(Settings):
    """One training run, whole.

    task: "classification" needs labels, "segmentation" masks, "joint" (one network for both) labels and masks; the latter two
    need `model.name` and `loss.name` too, whose defaults are a classifier's. preprocessing: a preset or a list of steps
    (`preprocess.build_pipeline`). size: side of the network's input in pixels; None takes the network's own (224, for
    inception_v3 299; 256 for every segmenter). augmentation: a preset or a list (`augment.build_augmentation`).
    seed: of the initial weights, the order of the images and every random change.

    Raises:
        ConfigError: a value that cannot be used.
    """

    task: Literal["classification", "segmentation", "joint"] = "classification"
    data: DataConfig = DataConfig()
    split: SplitConfig = SplitConfig()
    preprocessing: Spec = "paper_001"
    size: Annotated[int, Field(strict=True, ge=8, le=4096)] | None = None
    augmentation: Spec = "default"
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    training: TrainingConfig = TrainingConfig()
    seed: Seed = 0

    def __init__(self, **values: Any):
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _told(error) from None

    @model_validator(mode="after")
    def _fits_the_task(self) -> RunConfig:
        def refuse(field: str, allowed: str, found: Any) -> None:
            raise ValueError(f"{field} must be {allowed} with task {self.task}; found {found!r}")

        other = {"classification": "dice", "segmentation": "auc"}.get(self.task)
        if self.training.monitor == other:
            refuse("training.monitor", "loss or dice" if other == "auc" else "loss or auc", other)
        if self.task == "segmentation" and self.data.permute_labels is not None:
            refuse("data.permute_labels", "None", self.data.permute_labels)
        if self.task == "segmentation" and self.training.class_balance != "none":
            refuse("training.class_balance", "none", self.training.class_balance)
        if self.task == "classification" and "classes" in self.model.options:
            refuse("model.options.classes", "left out", self.model.options["classes"])
        if self.task != "classification" and self.model.name == ModelConfig().name:
            refuse("model.name", "that of a segmenter", self.model.name)
        if self.task != "classification" and self.loss.name == LossConfig().name:
            refuse("loss.name", "that of a segmentation loss", self.loss.name)
        return self

    @property
    def label(self) -> str:
        """A run's name in a line: the network, what else runs of one study may differ in, and the seed."""
        usual = self.task == "classification" and self.loss == LossConfig()
        told = [
            self.model.label,
            "" if usual else self.loss.label,
            "crops" if "nodule_crop" in str(self.preprocessing) else "",
            "permuted labels" if self.data.permute_labels is not None else "",
            f"leak: {self.split.label}" if self.split.leak else "",
            "" if self.split.repeat is None else f"subset {self.split.repeat}",
            f"fold {self.split.fold + 1} of {self.split.folds}" if self.split.folds else "",
            f"seed {self.seed}",
        ]
        return ", ".join(filter(None, told))

    @property
    def recipe(self) -> str:
        """What repetitions of a training have in common: all but seed, split and what no run's name holds, as JSON."""
        data = self.data.model_copy(update={"root": None})
        training = self.training.model_copy(update={name: TrainingConfig.model_fields[name].default for name in NOT_IN_NAMES})
        return self.model_copy(update={"seed": 0, "split": SplitConfig(), "data": data, "training": training}).to_json()

    def to_json(self) -> str:
        """Every field, defaults included, as indented JSON; `RunConfig(**json.loads(text))` is the config again."""
        return json.dumps(self.model_dump(mode="json"), indent=2, sort_keys=True) + "\n"
