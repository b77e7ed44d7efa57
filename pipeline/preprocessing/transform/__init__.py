"""Raw examples to transformed ones: what is fitted, the graph, and the kernel that equals it."""
