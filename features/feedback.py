"""What users say of videos beside watching them: the closed list of kinds, and what each means.

A row of the table ``feedback`` is about a video; a follow or a hide may name a channel in its
place. A row whose ``value`` is 0 takes back the ones before it, of the same kind and target:
whoever hides a channel can show it again. Any other value, or none, means that it was given.
"""

LIKE, DISLIKE, SHARE, FOLLOW, COMMENT, HIDE = KINDS = (
    "like",
    "dislike",
    "share",
    "follow",
    "comment",
    "hide",
)
# A watch that one of these follows is no positive one.
NEGATIVE = frozenset({DISLIKE, HIDE})
# These may be about a channel.
OF_CHANNELS = frozenset({FOLLOW, HIDE})
TAKEN_BACK = 0.0
