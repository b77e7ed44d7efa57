"""Experiments on whole logs that no step of a retraining needs, since nothing speaks for them yet.

May import every other folder of pipeline, models and serving; nothing imports it but its commands.
"""
