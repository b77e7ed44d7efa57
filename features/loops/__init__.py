"""Loops that Numba compiles, where it is installed; imports nothing of ours."""
