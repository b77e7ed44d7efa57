"""Logs to examples on Beam and tf.Transform, with audit, cache and statistics.

Imports features, and pipeline.steps of its package: it runs on workers.
"""
