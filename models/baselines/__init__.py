"""What a model has to beat: popularity, co-visitation, factorisation, boosted trees.

Imports features alone of ours.
"""
