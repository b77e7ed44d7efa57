"""What everybody does just now: trending, co-watch, live counts."""
