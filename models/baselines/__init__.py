"""What a model has to beat: popularity, co-visitation, factorisation, boosted trees."""
