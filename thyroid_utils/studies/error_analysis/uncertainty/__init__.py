"""How unsure a network is of an image, asked in several ways, and whether that finds its errors.

Each way gives samples, several answers to the same image: (samples, n) probabilities of malignancy, or float32 (samples, n,
height, width) maps. `seed_ensemble` takes them from runs that differ in their seed, `augmented_views` from the image mirrored and
shifted, `mc_dropout` from one network whose dropout stays on. `label_uncertainty` and `map_uncertainty` make scores of them,
`ask_all` does all this for a run's images, and `error_detection` says how well a score tells wrong images from right ones.
"""

from thyroid_utils.studies.error_analysis.uncertainty.ask import WAYS, Asked, ask_all
from thyroid_utils.studies.error_analysis.uncertainty.detection import detection_table, error_detection, selective_risk

__all__ = [
    "WAYS",
    "Asked",
    "ask_all",
    "detection_table",
    "error_detection",
    "selective_risk",
]
