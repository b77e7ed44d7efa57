"""The groups of `make bench`.

Imports pipeline.steps of its package.
"""
