"""Nearest neighbours: ScaNN, exact search, tuning."""
