"""Small worlds of watches alone, unlike the simulated site, each with known truth."""
