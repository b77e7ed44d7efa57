"""Logs to examples on Beam and tf.Transform, with audit, cache and statistics."""
