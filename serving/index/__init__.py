"""Nearest neighbours: ScaNN, exact search, tuning.

Imports release of its package.
"""
