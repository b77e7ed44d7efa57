"""One request to one page: sources, filters, ranking, order, rungs.

Imports history, live, servables, ordering, index, release, process and events of its package.
"""
