"""What a feature is: raw tables, the feature spec, as-of history, transforms.

Imports nothing of ours.
"""

from features.screen import quiet

quiet.install()
