"""What both trainings share: the loop, batches, optimizers, checkpoints, saved models.

Imports features and the files that stand directly in models.
"""
