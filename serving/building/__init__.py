"""From trained models to a release: assembly, gates, trials, skew."""
