"""The candidate model: towers, negatives, training, refitting."""
