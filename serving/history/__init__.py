"""What a user did: the history stores and their seeds."""
