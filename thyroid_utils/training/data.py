"""From a config to what a run is trained on and with: the split case table, the preprocessed arrays, network and loss."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from thyroid_utils.common.config import ConfigError, RunConfig
from thyroid_utils.common.errors import DataError
from thyroid_utils.common.files import cached, content_key, file_hashes, source_hash
from thyroid_utils.common.progress import progress_bar
from thyroid_utils.common.words import count
from thyroid_utils.data import audit, splits, videos
from thyroid_utils.data.audit import audit_cases
from thyroid_utils.data.readers import load_cases
from thyroid_utils.data.table import data_fingerprint
from thyroid_utils.data.videos import recover_patients
from thyroid_utils.models.networks import Network, architecture, check_weights
from thyroid_utils.preprocess.augment import build_augmentation
from thyroid_utils.preprocess.pipeline import Pipeline, build_pipeline
from thyroid_utils.preprocess.store import ArrayStore, preprocessed
from thyroid_utils.training.leaks import leaked
from thyroid_utils.training.ledger import NAMED, RESUME
from thyroid_utils.training.tasks import SIDES, TASKS, Arrays, batch_starts


@dataclass(frozen=True)
class SplitData:
    """What a run is trained and tested on.

    cases: those that count for the task, in the order of their ids, with their split. left_out: how many do not count.
    patients: where they come from, as a phrase.
    """

    cases: pd.DataFrame
    fingerprint: str
    split_hash: str
    left_out: int
    patients: str

    def positions(self, split: str) -> np.ndarray:
        """Rows of a split, ascending."""
        return np.flatnonzero(self.cases["split"].eq(split).to_numpy(bool))


@dataclass(frozen=True)
class Assembly:
    """What is trained: the data, the network with its first weights, the loss.

    positions: "train", "val" and "test" → rows of the arrays. resume: the folder of the state that is kept. fitted: µ and σ of
    the training images where the preprocessing has them, so that other images can be asked about without those.
    """

    config: RunConfig
    arrays: Arrays
    positions: dict[str, np.ndarray]
    network: nn.Module
    criterion: nn.Module
    input_shape: tuple[int, int, int]
    fitted: list[float] | None
    resume: Path


def split_data(config: RunConfig) -> SplitData:
    """Read the case table that a config names, leave out what does not count for its task, and split it.

    Where the set names no patients and the split is by patient, `data.videos` finds what takes their place; `patients` of the
    result says what. Reading every file for its hash and its pixels is done once for the same files and settings, and remembered
    in the cache folder.

    Raises:
        DataError: the data cannot be read; a side without images, or with one class only (classification, joint).
    """
    task = TASKS[config.task]
    # Rows in the order of their ids: the draws of a run must not depend on the order of a manifest or a folder.
    table = load_cases(config.data.dataset, config.data.root, **config.data.options).sort_index()
    counted = task.cases(table, config.data.dataset)
    unknown = 0 if "patient_known" not in counted else int((~counted["patient_known"].astype(bool)).sum())
    recovered = bool(unknown) and config.split.by == "patient"

    def split() -> dict[str, Any]:
        cases, how = counted, NAMED
        if recovered:
            found = recover_patients(table, audit_cases(table, progress=progress_bar("Comparing images")))
            cases, how = found.cases.loc[counted.index], found.how
        elif unknown:
            how = f"not given for {unknown} of {len(cases)} images, each of which counts as a patient of its own"
        plan = config.split
        if plan.folds:
            inside = plan.ratios[1] / sum(plan.ratios[:2])
            how_many = {"val_ratio": inside, "require_classes": task.labels}
            tables = splits.kfold_splits(cases, plan.folds, plan.by, plan.seed, **how_many)
        else:
            how_many = {"repeat": plan.repeat, "require_classes": task.labels}
            tables = [splits.split_cases(cases, plan.ratios, plan.by, plan.seed, **how_many)]
        columns = {name: tables[0][name].tolist() for name in ("split_by", "patient")}
        parts = [table["split"].tolist() for table in tables]
        return {"columns": columns, "splits": parts, "fingerprint": data_fingerprint(tables[0]), "patients": how}

    known = cached("splits", _split_key(table if recovered else counted, config), split)
    columns = {"split": known["splits"][config.split.fold], **known["columns"]}
    cases = counted.assign(**{name: pd.array(values, dtype="string") for name, values in columns.items()})
    if config.split.leak is not None:
        cases = leaked(cases, config.split)
    splits.assert_disjoint(cases, check_pixels=False, allow_leaky=True)
    if config.data.permute_labels is not None:
        cases = _permuted(cases, config.data.permute_labels)
    task.check(cases)
    return SplitData(cases, known["fingerprint"], splits.split_hash(cases), len(table) - len(counted), known["patients"])


def _permuted(cases: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The labels of the training images dealt out anew among them; validation and test keep theirs."""
    side, labels = cases["split"].eq("train").to_numpy(bool), cases["label"].copy()
    labels[side] = np.random.default_rng(seed).permutation(labels[side].to_numpy())
    return cases.assign(label=labels)


def _split_key(cases: pd.DataFrame, config: RunConfig) -> str:
    """Over what the fingerprint and the splits depend on, the code that splits and recovers patients included; of all folds."""
    hashes = file_hashes([*cases["image"], *cases["mask"].dropna()])
    columns = ["patient", "patient_known", "frame", "label", "split", "image", "mask"]
    rows = cases.reindex(columns=columns).assign(image=cases["image"].map(hashes), mask=cases["mask"].map(hashes))
    told = rows.reset_index().to_json(orient="values")
    code = source_hash(module.__file__ for module in (audit, splits, videos))
    return content_key(told, config.task, config.split.model_dump(mode="json", exclude={"fold", "leak"}), code)


def input_pipeline(config: RunConfig) -> Pipeline:
    """The preprocessing of a config, to the size of the network's input; not fitted.

    Raises:
        ConfigError: images cut to the mask that the network is to find.
        ValueError: an unknown network or preprocessing.
    """
    pipeline = build_pipeline(config.preprocessing, config.size or architecture(config.model.name).size)
    if pipeline.needs_mask and TASKS[config.task].masks:
        raise ConfigError("preprocessing", f"must be without nodule_crop with task {config.task}, whose answer is that mask")
    return pipeline


def open_arrays(config: RunConfig, cases: pd.DataFrame) -> ArrayStore:
    """The preprocessed images of a split case table, at the network's input size.

    Raises:
        DataError: unknown preprocessing or model, or an unreadable image.
    """
    return preprocessed(cases, _fitted(input_pipeline(config), config, cases), progress_bar("Preprocessing"))


def _fitted(pipeline: Pipeline, config: RunConfig, cases: pd.DataFrame) -> Pipeline:
    """The pipeline, fitted to the training images, or to all where that is the leak."""
    leaks = config.split.leak is not None and config.split.leak.kind == "preprocessing"
    return pipeline.fit(cases.assign(split="train") if leaks else cases, progress_bar("Fitting the preprocessing"))


def assemble(config: RunConfig, data: SplitData, folder: Path, device: torch.device) -> Assembly:
    """Build everything that a run needs; what costs nothing to check is checked first.

    Args:
        folder: of the run.

    Raises:
        ConfigError, DataError, ValueError: names, options, weights or sizes that do not go together.
    """
    task, positions = TASKS[config.task], {split: data.positions(split) for split in SIDES}
    check_steps(config, len(positions["train"]))
    labels = data.cases["label"].fillna(-1).to_numpy("int64")[positions["train"]]
    pipeline = input_pipeline(config)
    network, criterion = build(config, pipeline.channels, config.model.weights, labels)
    _fitted(pipeline, config, data.cases)
    store = preprocessed(data.cases, pipeline, progress_bar("Preprocessing"))
    shape = tuple(store.images.shape[1:])
    network.check_size(*shape[1:])
    arrays = Arrays(store, task.masks, device)
    for split, chosen in positions.items():  # tiny masks may not survive the preprocessing
        if task.masks and not any(arrays.masks[position].any() for position in chosen):
            raise DataError(
                f"preprocessing: all {len(chosen)} {SIDES[split]} masks are empty at {shape[1]}×{shape[2]} pixels; "
                "check the masks, raise size, or leave out the step that cuts the nodules off"
            )
    fitted = [pipeline.mean, pipeline.deviation] if pipeline.needs_fit else None
    network = network.to(memory_format=torch.channels_last)
    return Assembly(config, arrays, positions, network, criterion, shape, fitted, folder / RESUME)


def build(config: RunConfig, channels: int, weights: str, labels: np.ndarray | None) -> tuple[nn.Module, nn.Module]:
    """Network and loss of a config, with all that can be checked without data.

    Args:
        channels: of the images.
        weights: what the network starts from; "none" builds it fast, to check the rest.
        labels: int (n,), of the training images, for class weights; None leaves those out.
    """
    model = config.model
    check_weights(model.name, model.weights, model.options)
    build_augmentation(config.augmentation)
    criterion = TASKS[config.task].criterion(config, labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(config.seed))
        network = TASKS[config.task].network(config, channels, weights)
    return network, criterion


def built_of(config: RunConfig) -> str:
    """What decides whether `check_config` finds a fault."""
    training = config.training.batch_size, config.training.devices, config.training.class_balance
    parts = [config.task, config.model.model_dump(), config.loss.model_dump(), config.preprocessing, config.augmentation]
    return json.dumps([*parts, config.size, training])


def check_config(config: RunConfig) -> Network:
    """Build the network, with random values, and its loss, as nothing else knows their options, and return it.

    Raises:
        ConfigError, DataError, ValueError: names, options, weights or a size that cannot be.
    """
    channels, size = input_pipeline(config).channels, config.size or architecture(config.model.name).size
    network = build(config, channels, "none", None)[0]
    network.check_size(size, size)
    return network


def _sizes(config: RunConfig) -> tuple[int, int]:
    """How many weights a network has, and how many numbers its layers give out for an image; 0 where that is not known, as a
    network of one's own may look at the numbers, of which "meta" has none."""
    network, given = check_config(config).to("meta").eval(), []
    for module in network.modules():
        if not any(module.children()):
            module.register_forward_hook(lambda _, __, out: given.append(out.numel() if isinstance(out, torch.Tensor) else 0))
    size = config.size or architecture(config.model.name).size
    with torch.inference_mode():
        try:
            network(torch.zeros(1, network.in_channels, size, size, device="meta"))
        except RuntimeError:
            given.clear()
    return sum(parameter.numel() for parameter in network.parameters()), sum(given)


def gpu_bytes(config: RunConfig) -> int:
    """What a training is thought to take of a GPU, rather too much than too little: a GiB for CUDA itself, weights with gradient,
    two moments and the best so far, and twice what all layers give out for a batch; without its arrays. Where that is not known,
    more than any GPU has."""
    weights, outputs = _sizes(config)
    if not outputs:
        return 2**60
    return 2**30 + 4 * (5 * weights + 2 * config.training.batch_size * outputs)


def longest_first(configs: dict[str, RunConfig]) -> dict[str, RunConfig]:
    """The configs in the order in which many workers end soonest; a run is thought to take as long as its epochs times what its
    layers give out. Many workers are kept waiting at the end by one long run that was begun late."""
    kinds = {built_of(config): config for config in configs.values()}
    outputs = {kind: _sizes(config)[1] for kind, config in kinds.items()} if len(kinds) > 1 else dict.fromkeys(kinds, 1)
    work = {name: -config.training.epochs * outputs[built_of(config)] for name, config in configs.items()}
    return {name: configs[name] for name in sorted(configs, key=work.__getitem__)}


def check_steps(config: RunConfig, images: int) -> None:
    """Raise ConfigError where so many training images make no batch, or fewer steps than the schedule needs."""
    training = config.training
    batches = len(batch_starts(images, training.batch_size, training.devices))
    if not batches:
        whole = f"no batch is filled by {count(images, 'training image')} for {count(training.devices, 'device')}"
        raise ConfigError("training.batch_size", f"must be smaller, as {whole}; found {training.batch_size}")
    if config.optimiser.schedule == "one_cycle" and training.epochs * batches < 2:
        raise ConfigError("optimiser.schedule", "must not be one_cycle for a training of one step: raise training.epochs")


def derived_seed(*numbers: int) -> int:
    """One seed for torch out of several numbers, such as seed and epoch."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
