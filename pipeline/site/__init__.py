"""A simulated video site with known truth.

Imports nothing of pipeline.
"""
