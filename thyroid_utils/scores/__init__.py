"""How well predictions agree with the truth, and what chance leaves of that.

Intervals and tests that respect that images of one patient are not independent.

Which to use for a comparison of models on one test set:

- a score's interval: `patient_scores`; a curve's band: `roc_band`, `pr_band`, `benefit_curve`;
- every pair of models: `compare_models`, which takes patients throughout (Obuchowski's variance for DeLong's test, patients'
  signs for McNemar's) and adjusts by Holm;
- another score of a pair: `patient_scores` with `less`;
- a value an image (Dice) of a pair: `compare_means`;
- patients of two groups: `mann_whitney_patients`; a mean inside and outside a subgroup: `randomisation_test`;
- scores over repeated random subsets: `subset_estimate`, `subset_comparison`.

`delong_test` and `mcnemar_test` without patients are the textbook tests. They take images as independent and
call differences significant too readily where a patient has several: leave patients out only where each has one image.

All hold the trained models fixed: they say how another sample of patients could differ, not another training. The latter is what
`told_over_seeds` shows. Where a model was trained several times, its probabilities go in as (seeds, images): scores are averaged
over seeds, and images stay the sample.
"""
