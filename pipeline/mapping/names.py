"""What people call the columns and tables of ours."""

import difflib
import re
from collections.abc import Mapping

from features import feedback

# Columns that say what happened.
EVENT_COLUMNS = ("event", "eventtype", "type", "action", "kind", "activity", "eventname", "verb")
# Names without case, separators and units; the first of a table's own are the surest.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "user_id": (
        *("user", "member", "customer", "account", "profile", "visitor", "viewer", "client"),
        *("person", "subscriber", "anonymous", "listener", "reader", "u", "patron"),
    ),
    "video_id": (
        *("video", "film", "movie", "item", "content", "track", "song", "article", "clip", "media"),
        *("asset", "episode", "product", "post", "news", "show", "program", "programme", "course"),
        *("v", "p", "i", "final_video", "story", "book", "game", "title"),
    ),
    "time": (
        *("time", "timestamp", "ts", "datetime", "eventtime", "eventtimestamp", "when", "at"),
        *("startedat", "watchedat", "playedat", "viewedat", "shownat", "searchedat", "occurredat"),
        *("starttime", "watchtime", "createdat", "happenedat", "date", "playtimestamp", "day"),
        *("loggedat", "servedat", "requesttimestamp", "exposedtime", "eventdate", "listenedat"),
        *("start", "started", "eventat", "ratedat"),
    ),
    "watch_time_s": (
        *("watchtime", "watch", "watched", "played", "play", "playtime", "playback", "timespent"),
        *("dwell", "dwelltime", "spent", "viewtime", "viewed", "listened", "duration", "playing"),
        *("playingtime", "secondswatched", "minuteswatched", "watchduration", "viewduration", ""),
        *("consumption", "engagementtime", "elapsed", "length", "msplayed"),
    ),
    "completed": (
        *("completed", "complete", "finished", "finish", "watchedtoend", "done", "longview"),
        *("fullywatched", "ended"),
    ),
    "device": ("device", "devicetype", "platform", "client", "os", "agent", "useragent"),
    "source": ("source", "referrer", "referer", "origin", "utmsource", "entry"),
    "query": (
        *("query", "searchquery", "searchterm", "searchterms", "term", "terms", "words", "q"),
        *("keyword", "keywords", "searchtext", "phrase", "search", "text", "querytext"),
    ),
    "clicked": ("clicked", "click", "clicks", "wasclicked", "opened", "tapped", "selected"),
    "click_time": ("clicktime", "clickedat", "clicktimestamp", "clickat"),
    "position": ("position", "pos", "slot", "rank", "index", "place", "ordinal"),
    "page_id": ("page", "pagekey", "request", "feed", "list", "impressionlist", "pageview"),
    "surface": ("surface", "placement", "section", "tab", "screen", "module", "shelf", "row"),
    "upload_time": (
        *("uploadtime", "uploadedat", "uploaded", "upload", "publishedat", "published", "pubdate"),
        *("publishtime", "publicationdate", "releasedate", "released", "release", "added"),
        *("addedat", "dateadded", "created", "createdat", "creationtime", "availablefrom"),
        *("airdate", "uploadtimestamp", "uploaddt", "uploaddate", "publishdate", "firstseen"),
    ),
    "channel_id": (
        *("channel", "creator", "author", "uploader", "artist", "studio", "publisher", "owner"),
        *("brand", "provider", "network", "show", "series", "producer"),
    ),
    "topics": (
        *("topics", "tags", "genres", "categories", "topic", "tag", "genre", "category", "labels"),
        *("keywords", "subjects", "themes"),
    ),
    "language": ("language", "lang", "locale", "languagecode"),
    "duration_s": ("duration", "length", "runtime", "runningtime", "len", "videoduration", "size"),
    "title": ("title", "name", "headline", "caption", "label"),
    "regions": ("regions", "countries", "availablein", "allowedregions"),
    "blocked_regions": ("blockedregions", "blockedcountries"),
    "min_age": ("minage", "agelimit", "minimumage", "fsk"),
    "withdrawn": ("withdrawn", "deleted", "removed", "hidden", "unavailable", "takendown"),
    "updated_time": (
        "updatedat",
        "updated",
        "modifiedat",
        "modified",
        "lastmodified",
        "updatedtime",
    ),
    "region": ("region", "country", "countrycode", "geo", "location", "market", "territory"),
    "gender": ("gender", "sex"),
    "age": ("age", "ageyears"),
    "signed_in": ("signedin", "loggedin", "registered", "authenticated"),
}
# Words in the name of a source, and the columns without which a table is hardly what it seems.
TABLES: Mapping[str, tuple[str, ...]] = {
    "videos": (
        *("video", "film", "movie", "item", "catalog", "catalogue", "content", "article", "track"),
        *("song", "clip", "media", "asset", "product", "news", "episode", "title"),
    ),
    "users": (
        *("user", "member", "customer", "account", "people", "person", "profile", "viewer"),
        *("subscriber", "visitor", "listener"),
    ),
    "watches": (
        *(
            "watch",
            "play",
            "view",
            "history",
            "stream",
            "listen",
            "interaction",
            "event",
            "session",
        ),
        *("rating", "click", "read", "activity"),
    ),
    "searches": ("search", "quer"),
    "impressions": (
        *("impression", "shown", "exposure", "recommendation", "feed", "served", "display"),
    ),
}
# Values of a column that says what happened, by the table that such rows belong to.
EVENTS: Mapping[str, tuple[str, ...]] = {
    "watches": (
        *("watch", "watched", "play", "played", "view", "viewed", "video_view", "stream", "listen"),
        *("playback", "complete", "completed", "finish", "read", "videoplay", "video_play"),
    ),
    "searches": ("search", "searched", "query", "site_search", "search_query"),
    "feedback": feedback.KINDS,
}
_UNITS = r"(milliseconds|millis|msec|ms|seconds|secs|sec|minutes|mins|min|hours|s)$"


def plain(name: str) -> str:
    """Returns a name without case, separators, and the question that flags begin with."""
    text = re.sub(r"[^a-z0-9]", "", name.lower())
    return re.sub(r"^(is|has|was)(?=[a-z]{3})", "", text)


def snake(name: str) -> str:
    """Returns a name as columns of ours are named."""
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip())
    return re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_").lower() or "column"


def score(name: str, ours: str) -> float:
    """Returns how surely a column of this name is one of ours, in [0, 1]."""
    text, exact = plain(name), plain(ours)
    if text == exact:
        return 1.0
    known = COLUMNS.get(ours, ())
    forms = {text}
    if ours.endswith("_id"):
        forms = {re.sub(r"(id|key|uuid|guid|no|number|code|ref)$", "", text)}
    if ours.endswith("_s"):
        forms |= {re.sub(_UNITS, "", text), re.sub(r"^(seconds|minutes|ms)", "", text)}
    if ours == "time" or ours.endswith("_time"):
        forms |= {re.sub(r"(ms|us|utc|s)$", "", text)}
    for form in forms:
        if form in known:
            # The later in the list, the less sure; an id without its ending is less sure too.
            less = 0.2 * known.index(form) / len(known)
            return 0.95 - less - (0.1 if ours.endswith("_id") and form == text else 0)
    close = difflib.get_close_matches(
        text, [word for word in known if len(word) > 4], n=1, cutoff=0.85
    )
    return 0.6 if close else 0.0


def table_score(source: str, table: str) -> float:
    """Returns 1 where the name of a source has a word of a table of ours, else 0."""
    text = plain(source)
    return float(any(word in text for word in TABLES[table]))
