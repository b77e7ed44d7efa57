"""What a command writes to a screen: how far it is, and not what libraries say when they start."""
