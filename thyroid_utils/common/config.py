"""What a training run is told: pydantic models that refuse what cannot work, with the field's name and the allowed range.

Names of models, losses, preprocessing and augmentation are looked up where they are used, because the registries lie on
higher floors; everything that can be judged by itself is judged here.
"""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, ValidationError, field_validator, model_validator


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
        close = difflib.get_close_matches(name, settings.model_fields, n=1)
        return ConfigError(name, f"does not exist; did you mean {close[0]}?" if close else _known(settings))
    return ConfigError(name, f"must be {_allowed(settings, name)}; found {first['input']!r}")


def _known(settings: type[Settings]) -> str:
    return f"does not exist; known: {', '.join(settings.model_fields)}"


def _allowed(settings: type[Settings], name: str) -> str:
    field = settings.model_fields[name]
    if field.description:
        return field.description
    if get_origin(field.annotation) is Literal:
        return f"one of {', '.join(get_args(field.annotation))}"
    if field.annotation is bool:
        return "true or false"
    if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
        return f"settings of {', '.join(field.annotation.model_fields)}"
    return "a name"


def _range(
    default: float | None, low: float, high: float, *, whole: bool = False, above: bool = False, below: bool = False
) -> Any:
    """A field from low to high (`above`, `below`: without the end itself); its description says so in an error."""
    limits = {"gt" if above else "ge": low, "lt" if below else "le": high}
    ends = f"{'above' if above else 'from'} {low:.10g} to {'below ' if below else ''}{high:.10g}"
    shown = f"a {'whole ' if whole else ''}number {ends}"
    strict = {"strict": True} if whole else {"strict": True, "allow_inf_nan": False}
    return Field(default, description=shown + (" or None" if default is None else ""), **limits, **strict)


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _as_json(value: Any) -> Any:
    """Tuples as lists, so that a config read back from its file equals the one that was written."""
    if isinstance(value, (list, tuple)):
        return [_as_json(entry) for entry in value]
    if isinstance(value, dict):
        return {key: _as_json(entry) for key, entry in value.items()}
    return value


PathText = Annotated[str, BeforeValidator(_as_text)]
Options = Annotated[dict[str, JsonValue], BeforeValidator(_as_json)]
Spec = Annotated[str | list[JsonValue], BeforeValidator(_as_json), Field(description="a preset's name or a list of steps")]
Flag = Annotated[bool, Field(strict=True)]


def _options() -> Any:
    return Field(default_factory=dict, description="a mapping from names to plain values (numbers, text, lists)")


def _without(options: dict[str, Any], decided: dict[str, str]) -> dict[str, Any]:
    """The options, none of which may be among those that other fields decide (`decided`: option → field)."""
    for option, field in decided.items():
        if option in options:
            raise ConfigError(option, f"must be left out, as {field} decides it; found {options[option]!r}")
    return options


def _labelled(name: str, options: dict[str, Any]) -> str:
    told = ", ".join(f"{option} {value}" for option, value in options.items())
    return f"{name} ({told})" if told else name


class DataConfig(Settings):
    """Which images. dataset: a reader's name; root: its folder; options: what the reader takes. permute_labels: None, or the
    seed by which the labels of the training images are dealt out anew among them: a network trained so has nothing to learn but
    noise, and an explanation that looks the same for it explains nothing."""

    dataset: str = Field("phantom", min_length=1, description="the name of a reader")
    root: PathText | None = Field(None, description="a folder or None")
    options: Options = _options()
    permute_labels: int | None = _range(None, 0, 2**32 - 1, whole=True)


class SplitConfig(Settings):
    """Who is trained on and who is tested on.

    by: "patient", "image" (leaky, and marked so) or "official". ratios: train, validation, test. repeat: as in
    `split_cases`. Official splits use neither ratios nor repeat.
    """

    by: Literal["patient", "image", "official"] = "patient"
    ratios: tuple[float, float, float] = Field(
        (0.7, 0.15, 0.15), description="three numbers above 0 (train, validation, test) that sum to 1"
    )
    seed: int = _range(0, 0, 2**32 - 1, whole=True)
    repeat: int | None = _range(None, 0, 10_000, whole=True)

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


class ModelConfig(Settings):
    """name: one of `models.CLASSIFIERS` or `timm:NAME`; for segmentation one of `models.SEGMENTERS` or `smp:ARCH:ENCODER`;
    for joint one of `models.JOINT_MODELS` or `smp:ARCH:ENCODER`.
    weights: "imagenet" (a segmenter's encoder), "none" or a file. options: for its builder."""

    name: str = Field("resnet18", min_length=1, description="the name of a model")
    weights: PathText = Field("none", min_length=1, description="imagenet, none or the path of a file")
    options: Options = _options()

    @field_validator("options")
    @classmethod
    def _only_its_own(cls, options: dict[str, Any]) -> dict[str, Any]:
        decided = {"name": "model.name", "weights": "model.weights", "task": "task", "in_channels": "preprocessing"}
        return _without(options, decided)

    @property
    def label(self) -> str:
        """The name, with the options where there are any."""
        return _labelled(self.name, self.options)


class LossConfig(Settings):
    """name: one of `losses.CLASSIFICATION_LOSSES` or `losses.SEGMENTATION_LOSSES`. options: for its builder; with task
    joint also classification_weight, that of the cross-entropy which is added to a segmentation loss."""

    name: str = Field("cross_entropy", min_length=1, description="the name of a loss")
    options: Options = _options()

    @field_validator("options")
    @classmethod
    def _only_its_own(cls, options: dict[str, Any]) -> dict[str, Any]:
        return _without(options, {"name": "loss.name", "task": "task", "class_weights": "training.class_balance"})

    @property
    def label(self) -> str:
        """The name, with the options where there are any."""
        return _labelled(self.name, self.options)


class OptimiserConfig(Settings):
    """schedule: how the learning rate goes on. "cosine" falls to 0 over the epochs; "one_cycle" rises to `learning_rate` over
    the first 30 % of the steps and falls from there; "plateau" divides by 10 after 3 epochs in which the monitored value did
    not improve. momentum: of SGD. clip_norm: gradients are scaled down to this norm (2-norm over all parameters).
    """

    name: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: float = _range(1e-4, 0, 10, above=True)
    weight_decay: float = _range(0.0, 0, 1)
    momentum: float = _range(0.0, 0, 1, below=True)
    schedule: Literal["constant", "cosine", "one_cycle", "plateau"] = "constant"
    clip_norm: float | None = _range(None, 0, 1e6, above=True)

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
    have it and float32 elsewhere. deterministic: on GPUs, where it costs time; a CPU always is.
    """

    epochs: int = _range(10, 1, 10_000, whole=True)
    batch_size: int = _range(16, 1, 4096, whole=True)
    patience: int | None = _range(None, 1, 10_000, whole=True)
    class_balance: Literal["none", "weights", "sampling"] = "none"
    monitor: Literal["loss", "auc", "dice"] = "loss"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = _range(1, 1, 64, whole=True)
    precision: Literal["auto", "32", "bf16"] = "auto"
    channels_last: Flag = True
    compile: Flag = False
    deterministic: Flag = True

    @model_validator(mode="after")
    def _batch_can_be_shared(self) -> TrainingConfig:
        if self.batch_size % self.devices:
            raise ConfigError(
                "batch_size", f"must be a multiple of devices ({self.devices}), which share it; found {self.batch_size}"
            )
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
    size: int | None = _range(None, 8, 4096, whole=True)
    augmentation: Spec = "default"
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    training: TrainingConfig = TrainingConfig()
    seed: int = _range(0, 0, 2**32 - 1, whole=True)

    @model_validator(mode="after")
    def _fits_the_task(self) -> RunConfig:
        monitor, balance = self.training.monitor, self.training.class_balance
        other = {"classification": "dice", "segmentation": "auc"}.get(self.task)
        if monitor == other:
            allowed = {"classification": "loss or auc", "segmentation": "loss or dice"}[self.task]
            raise ConfigError("training.monitor", f"must be {allowed} with task {self.task}; found {monitor!r}")
        if self.task == "segmentation" and self.data.permute_labels is not None:
            found = self.data.permute_labels
            raise ConfigError("data.permute_labels", f"must be None with task segmentation, which has no labels; found {found}")
        if self.task == "classification" and "classes" in self.model.options:
            found = self.model.options["classes"]
            raise ConfigError("model.options.classes", f"must be left out, as task decides it; found {found!r}")
        if self.task == "segmentation" and balance != "none":
            problem = f"must be none with task segmentation (pixels are weighed by the loss, not by class); found {balance!r}"
            raise ConfigError("training.class_balance", problem)
        if self.task != "classification":
            for field, settings, what in (("model.name", self.model, "segmenter"), ("loss.name", self.loss, "segmentation loss")):
                if settings.name == type(settings).model_fields["name"].default:
                    raise ConfigError(field, f"must name a {what} with task {self.task}; found {settings.name!r}, a classifier's")
        return self

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
