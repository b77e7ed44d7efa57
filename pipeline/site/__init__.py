"""A simulated video site with known truth."""
