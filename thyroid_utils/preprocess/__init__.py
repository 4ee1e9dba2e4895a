"""Image to network input: named steps, the papers' presets, the store that keeps their results, random changes in training."""
