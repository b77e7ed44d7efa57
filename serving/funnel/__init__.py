"""One request to one page: sources, filters, ranking, order, rungs."""
