"""What people ask of a release and its pages beside a page: why, why not, words, users, videos.

Nothing here is on the path of an ordinary request.
"""
