"""The ranker: layers, training, calibration."""
