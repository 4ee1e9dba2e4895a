"""How well predictions agree with the truth, and what chance leaves of that.

Intervals and tests that respect that images of one patient are not independent.

Which to use for a comparison of models on one test set:

- a score's interval: `patient_scores`; a curve's band: `roc_band`, `pr_band`, `benefit_curve`;
- two recipes of training, by an AUC or a mean, over patients and training seeds: `compare_recipes`;
- a value an image (Dice) of two trained models: `compare_means`; another score: `patient_scores` with `less`;
- patients of two groups: `mann_whitney_patients`; a mean inside and outside a subgroup: `randomisation_test`;
- scores over repeated random subsets: `subset_estimate`, `subset_comparison`;
- several of these: `holm`.

All but `compare_recipes` and those over subsets hold the trained models fixed: they say how another sample of patients could
differ, not another training. Where a model was trained several times, its probabilities go in as (seeds, images): scores are
averaged over seeds, and images stay the sample.
"""
