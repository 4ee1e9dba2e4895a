"""What a plain script reaches on DDTI: the number that the workbook's own configuration has to beat at the same cost.

    python benchmarks/baseline_segmentation.py --root DATA [--size 160] [--epochs 40] [--images N] [--seed 0] [--out FILE.csv]

U-Net on a ResNet18 from scratch, flips and affine changes, BCE + Dice, Adam with a one-cycle rate of at most 0.001, batches of
16. The split is that of `params/ddti.yaml` (by patient, 60/20/20); validation is not used, the weights are those of the last
epoch, and the test images are scored once. `--images` keeps so many of each side, for a trial. `--out` gets a row a test image.
"""

from __future__ import annotations

import argparse
import time

import cv2
import numpy as np
import pandas as pd
import segmentation_models_pytorch as smp
import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.transforms import v2

from thyroid_utils.data.images import read_gray, read_mask
from thyroid_utils.data.readers import load_cases
from thyroid_utils.data.splits import split_cases
from thyroid_utils.scores.estimates import patient_estimate

BATCH = 16
CHANGES = v2.Compose(
    [
        v2.RandomHorizontalFlip(),
        v2.RandomVerticalFlip(),
        v2.RandomAffine(degrees=15, translate=(0.1, 0.1), scale=(0.85, 1.15), interpolation=v2.InterpolationMode.BILINEAR),
    ]
)


def loaded(cases: pd.DataFrame, size: int) -> torch.Tensor:
    """Images and masks, both in [0, 1], as two channels: (n, 2, size, size)."""
    pairs = [(read_gray(image) / 255, read_mask(mask)) for image, mask in zip(cases["image"], cases["mask"], strict=True)]
    resized = [[cv2.resize(np.float32(part), (size, size), interpolation=cv2.INTER_AREA) for part in pair] for pair in pairs]
    return torch.tensor(np.array(resized))


def bce_and_dice(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    found, pixels = logits.sigmoid(), (1, 2, 3)
    dice = (2 * (found * masks).sum(pixels) + 1) / (found.sum(pixels) + masks.sum(pixels) + 1)
    return binary_cross_entropy_with_logits(logits, masks) + 1 - dice.mean()


def overlap(found: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Dice and IoU of two masks; NaN where both are empty."""
    both, either = (found & truth).sum(), (found | truth).sum()
    return (2 * both / (both + either), both / either) if either else (np.nan, np.nan)


def trained(pairs: torch.Tensor, epochs: int) -> torch.nn.Module:
    model = smp.Unet("resnet18", encoder_weights=None, in_channels=1, classes=1)
    optimiser, batches = torch.optim.Adam(model.parameters()), len(pairs) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=1e-3, total_steps=epochs * batches)
    for epoch in range(1, epochs + 1):
        losses = []
        for chosen in torch.randperm(len(pairs))[: batches * BATCH].split(BATCH):
            changed = torch.stack([CHANGES(pair) for pair in pairs[chosen]])
            loss = bce_and_dice(model(changed[:, :1]), (changed[:, 1:] > 0.5).float())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch} of {epochs}: loss {np.mean(losses):.4f}", flush=True)
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", required=True, help="folder of DDTI or its parent")
    parser.add_argument("--out", help="CSV file for the test images")
    for name, default in (("size", 160), ("epochs", 40), ("images", None), ("seed", 0), ("split-seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked, began = parser.parse_args(), time.perf_counter()
    torch.manual_seed(asked.seed)
    cases = load_cases("ddti", asked.root).sort_index()
    cases = split_cases(cases[cases["mask"].notna()], (0.6, 0.2, 0.2), seed=asked.split_seed, require_classes=False)
    train, test = (cases[cases["split"] == side][: asked.images] for side in ("train", "test"))
    model, pairs = trained(loaded(train, asked.size), asked.epochs), loaded(test, asked.size)
    with torch.inference_mode():
        maps = torch.cat([model(part[:, :1]).sigmoid() for part in pairs.split(BATCH)])[:, 0].numpy()
    rows = []
    for (case, row), found, truth in zip(test.iterrows(), maps, pairs[:, 1].numpy() > 0.5, strict=True):
        own = read_mask(row["mask"])
        back = cv2.resize(found, own.shape[::-1], interpolation=cv2.INTER_LINEAR) >= 0.5
        rows.append([case, row["patient"], *overlap(found >= 0.5, truth), *overlap(back, own)])
    table = pd.DataFrame(rows, columns=["case", "patient", "dice", "iou", "dice_own", "iou_own"])
    for name, where in (("", f"at {asked.size}×{asked.size}"), ("_own", "at the images' own size")):
        told = (f"{score} {patient_estimate(table[score + name], table['patient']).text(3)}" for score in ("dice", "iou"))
        print(f"{len(table)} test images, mean per image {where}: {', '.join(told)}")
    print(f"{(time.perf_counter() - began) / 60:.1f} minutes on {torch.get_num_threads()} threads")
    if asked.out:
        table.drop(columns="patient").to_csv(asked.out, index=False)


if __name__ == "__main__":
    main()
