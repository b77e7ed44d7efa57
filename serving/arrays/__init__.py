"""The models of a release as plain arrays, run by NumPy: what serves where no TensorFlow is.

Imports servables, index, release and process of its package.
"""
