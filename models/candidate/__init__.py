"""The candidate model: towers, negatives, training, refitting.

Imports models.evaluation, models.training and models.baselines of its package.
"""
