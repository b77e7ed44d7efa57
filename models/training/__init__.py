"""What both trainings share: the loop, batches, optimizers, checkpoints, saved models."""
