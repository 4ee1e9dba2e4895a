"""What a training run is told: pydantic models that refuse what cannot work, with the field's name and the allowed range.

Names of models, losses, preprocessing and augmentation are looked up where they are used, because the registries lie on
higher floors; everything that can be judged by itself is judged here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, ValidationError, field_validator, model_validator

from thyroid_utils.common.errors import nearest


class ConfigError(ValueError):
    """A value that cannot be used. `field`: dotted name; `problem`: what is allowed and what was found, in one line."""

    def __init__(self, field: str, problem: str):
        super().__init__(f"config: {field} {problem}")
        self.field, self.problem = field, problem


class Settings(BaseModel):
    """What all configs share: immutable, no unknown field, errors in one line (`ConfigError`)."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    def __init__(self, **values: Any):
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _first_error(type(self), error) from None


def _first_error(settings: type[Settings], error: ValidationError) -> ConfigError:
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    inner = first.get("ctx", {}).get("error")
    if isinstance(inner, ConfigError):  # from a config inside this one, or from a rule over several fields
        return ConfigError(f"{name}.{inner.field}" if name else inner.field, inner.problem)
    if first["type"] == "extra_forbidden":
        return ConfigError(name, f"does not exist; {nearest(name, settings.model_fields)}")
    return ConfigError(name, f"must be {_allowed(settings.model_fields[name])}; found {first['input']!r}")


def _allowed(field: Any) -> str:
    if get_origin(field.annotation) is Literal:
        return f"one of {', '.join(get_args(field.annotation))}"
    return field.description or f"settings of {', '.join(field.annotation.model_fields)}"


def _number(default: float | None, low: float, high: float, *, above: bool = False) -> Any:
    """A field from low to high (`above`: without low itself); its description says so in an error."""
    limits = {"gt" if above else "ge": low, "le": high}
    shown = f"a number {'above' if above else 'from'} {low:.10g} to {high:.10g}" + (" or None" if default is None else "")
    return Field(default, description=shown, strict=True, allow_inf_nan=False, **limits)


def _whole(default: int | None, low: int, high: int) -> Any:
    shown = f"a whole number from {low} to {high}" + (" or None" if default is None else "")
    return Field(default, description=shown, strict=True, ge=low, le=high)


def _as_json(value: Any) -> Any:
    """Tuples as lists, so that a config read back from its file equals the one that was written."""
    if isinstance(value, (list, tuple)):
        return [_as_json(entry) for entry in value]
    if isinstance(value, dict):
        return {key: _as_json(entry) for key, entry in value.items()}
    return value


PathText = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, Path) else value)]
Options = Annotated[dict[str, JsonValue], BeforeValidator(_as_json)]
Spec = Annotated[str | list[JsonValue], BeforeValidator(_as_json), Field(description="a preset's name or a list of steps")]
NO_OPTIONS = Field({}, description="a mapping from names to plain values (numbers, text, lists)")
_SEED = (0, 2**32 - 1)


class DataConfig(Settings):
    """Which images. dataset: a reader's name; root: its folder; options: what the reader takes. permute_labels: None, or the
    seed by which the labels of the training images are dealt out anew among them: a network trained so has nothing to learn but
    noise, and an explanation that looks the same for it explains nothing."""

    dataset: str = Field("phantom", min_length=1, description="the name of a reader")
    root: PathText | None = Field(None, description="a folder or None")
    options: Options = NO_OPTIONS
    permute_labels: int | None = _whole(None, *_SEED)


class SplitConfig(Settings):
    """Who is trained on and who is tested on.

    by: "patient", "image" (leaky, and marked so) or "official". ratios: train, validation, test. repeat: as in
    `split_cases`. Official splits use neither ratios nor repeat.
    """

    by: Literal["patient", "image", "official"] = "patient"
    ratios: tuple[float, float, float] = Field(
        (0.7, 0.15, 0.15), description="three numbers above 0 (train, validation, test) that sum to 1"
    )
    seed: int = _whole(0, *_SEED)
    repeat: int | None = _whole(None, 0, 10_000)

    @field_validator("ratios")
    @classmethod
    def _shares(cls, ratios: tuple[float, float, float]) -> tuple[float, float, float]:
        if not all(0 < share < 1 for share in ratios) or abs(sum(ratios) - 1) > 1e-6:
            raise ValueError
        return ratios

    @model_validator(mode="after")
    def _official_is_one(self) -> SplitConfig:
        if self.by == "official" and self.repeat is not None:
            raise ConfigError("repeat", f"must be None with by official, of which there is one; found {self.repeat}")
        return self


class _Named(Settings):
    """A model or a loss: its name, and options for its builder."""

    name: str
    options: Options = NO_OPTIONS

    @property
    def label(self) -> str:
        """The name, with the options where there are any: `tversky (alpha 0.3, beta 0.7)`."""
        told = ", ".join(f"{option} {value}" for option, value in self.options.items())
        return f"{self.name} ({told})" if told else self.name


class ModelConfig(_Named):
    """name: one of `models.CLASSIFIERS` or `timm:NAME`; for segmentation one of `models.SEGMENTERS` or `smp:ARCH:ENCODER`;
    for joint one of `models.JOINT_MODELS` or `smp:ARCH:ENCODER`.
    weights: "imagenet" (a segmenter's encoder), "none" or a file. options: for its builder."""

    name: str = Field("resnet18", min_length=1, description="the name of a model")
    weights: PathText = Field("none", min_length=1, description="imagenet, none or the path of a file")


class LossConfig(_Named):
    """name: one of `losses.CLASSIFICATION_LOSSES` or `losses.SEGMENTATION_LOSSES`. options: for its builder; with task
    joint also classification_weight, that of the cross-entropy which is added to a segmentation loss."""

    name: str = Field("cross_entropy", min_length=1, description="the name of a loss")


class OptimiserConfig(Settings):
    """schedule: how the learning rate goes on. "cosine" falls to 0 over the epochs; "one_cycle" rises to `learning_rate` over
    the first 30 % of the steps and falls from there; "plateau" divides by 10 after 3 epochs in which the monitored value did
    not improve. momentum: of SGD. clip_norm: gradients are scaled down to this norm (2-norm over all parameters).
    """

    name: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: float = _number(1e-4, 0, 10, above=True)
    weight_decay: float = _number(0.0, 0, 1)
    momentum: float = _number(0.0, 0, 1)
    schedule: Literal["constant", "cosine", "one_cycle", "plateau"] = "constant"
    clip_norm: float | None = _number(None, 0, 1e6, above=True)

    @model_validator(mode="after")
    def _momentum_has_an_effect(self) -> OptimiserConfig:
        if self.momentum and self.name != "sgd":
            raise ConfigError("momentum", f"must be 0 with {self.name} (it belongs to sgd); found {self.momentum:g}")
        return self


class TrainingConfig(Settings):
    """How the network is fitted.

    patience: stop after so many epochs without a better validation value; None runs all epochs. The weights kept are those of
    the best epoch either way. class_balance: "weights" (in the loss, n / (classes · n of the class)) or "sampling" (each class
    equally often, with repetition); "none" for segmentation, whose classes are pixels. monitor: the validation value that
    decides: "loss", or "auc" of a classifier, or "dice" of a segmenter, or any of them (joint). device: "auto" is a GPU where
    there is one. devices: how many of them, by DDP; `batch_size` is shared among them. precision: "auto" is bf16 on GPUs that
    have it and float32 elsewhere.
    """

    epochs: int = _whole(10, 1, 10_000)
    batch_size: int = _whole(16, 1, 4096)
    patience: int | None = _whole(None, 1, 10_000)
    class_balance: Literal["none", "weights", "sampling"] = "none"
    monitor: Literal["loss", "auc", "dice"] = "loss"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = _whole(1, 1, 64)
    precision: Literal["auto", "32", "bf16"] = "auto"

    @model_validator(mode="after")
    def _batch_can_be_shared(self) -> TrainingConfig:
        if self.batch_size % self.devices:
            problem = f"must be a multiple of devices ({self.devices}), which share it; found {self.batch_size}"
            raise ConfigError("batch_size", problem)
        return self


class RunConfig(Settings):
    """One training run, whole.

    task: "classification" needs labels, "segmentation" masks, "joint" (one network for both) labels and masks; the latter two
    need `model.name` and `loss.name` too, whose defaults are a classifier's. preprocessing: a preset or a list of steps
    (`preprocess.build_pipeline`). size: side of the network's input in pixels; None takes the network's own (224, for
    inception_v3 299; 256 for every segmenter). augmentation: a preset or a list (`augment.build_augmentation`).
    seed: of the initial weights, the order of the images and every random change.
    """

    task: Literal["classification", "segmentation", "joint"] = "classification"
    data: DataConfig = DataConfig()
    split: SplitConfig = SplitConfig()
    preprocessing: Spec = "paper_001"
    size: int | None = _whole(None, 8, 4096)
    augmentation: Spec = "default"
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    training: TrainingConfig = TrainingConfig()
    seed: int = _whole(0, *_SEED)

    @model_validator(mode="after")
    def _fits_the_task(self) -> RunConfig:
        def refuse(field: str, allowed: str, found: Any) -> None:
            raise ConfigError(field, f"must be {allowed} with task {self.task}; found {found!r}")

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
        """A run's name in a line: network, seed, and the loss of masks, as segmenters are compared by their losses too."""
        loss = f", {self.loss.name}" if self.task != "classification" else ""
        return f"{self.model.name}{loss}, seed {self.seed}"

    def to_json(self) -> str:
        """Every field, defaults included, as indented JSON."""
        return json.dumps(self.model_dump(mode="json"), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> RunConfig:
        """The config that `to_json` wrote. Raises ConfigError for values that cannot be, ValueError for text that is no JSON."""
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ConfigError("file", f"must hold a mapping of {', '.join(cls.model_fields)}; found {type(values).__name__}")
        return cls(**values)
