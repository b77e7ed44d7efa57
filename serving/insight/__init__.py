"""What people ask of a release and its pages beside a page: why, why not, words, users, videos.

May import all folders of :mod:`serving` but ``server`` and ``building``. Nothing here is on the
path of an ordinary request.
"""
