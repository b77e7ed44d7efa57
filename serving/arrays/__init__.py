"""The models of a release as plain arrays, run by NumPy: what serves where no TensorFlow is."""
