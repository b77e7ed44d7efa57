"""From trained models to a release: assembly, gates, trials, skew.

Imports servables, index and release of its package.
"""
