"""What everybody does just now: trending, co-watch, live counts.

Imports events of its package.
"""
