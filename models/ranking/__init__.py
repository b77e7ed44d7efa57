"""The ranker: layers, training, calibration.

Imports models.evaluation, models.training and models.baselines of its package.
"""
