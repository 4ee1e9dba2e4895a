"""Phantoms: simulated thyroid ultrasound with known truth, the workbook's built-in data set.

Tissue maps of a neck (`anatomy`, `nodule`) are filled with scatterers, convolved with a depth-dependent point spread
function, attenuated, and log-compressed (`physics`) by one of three scanners (`scanners`). Labels come first, TI-RADS traits
from the label (`traits`), and pixels from the traits alone: whoever reads the traits perfectly reaches an AUC of 0.95.
"""

from thyroid_utils.data.phantom.cases import phantom_cases
from thyroid_utils.data.phantom.physics import log_compress
from thyroid_utils.data.phantom.scanners import SCANNERS, Scanner
from thyroid_utils.data.phantom.simulate import Frame, simulate_view, simulation_stages
from thyroid_utils.data.phantom.speckle import RAYLEIGH_SNR, RayleighFit, homogeneous_phantom, rayleigh_fit
from thyroid_utils.data.phantom.traits import Traits, malignancy_posterior, perfect_reader_auc, tirads_level, trait_table

__all__ = [
    "RAYLEIGH_SNR",
    "SCANNERS",
    "Frame",
    "RayleighFit",
    "Scanner",
    "Traits",
    "homogeneous_phantom",
    "log_compress",
    "malignancy_posterior",
    "perfect_reader_auc",
    "phantom_cases",
    "rayleigh_fit",
    "simulate_view",
    "simulation_stages",
    "tirads_level",
    "trait_table",
]
