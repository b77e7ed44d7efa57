"""Whether a new release does worse under live traffic than the one before, and the way back."""
