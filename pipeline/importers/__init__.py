"""Public data sets to logs.

Imports nothing of pipeline.
"""
