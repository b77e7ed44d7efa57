"""How good a model is: metrics, intervals, slices, the report.

Imports models.baselines of its package.
"""
