"""A made-up site as its owner would export it: five CSV files that nobody wrote for us.

ISO times with an offset, integer ids, empty cells, lists with commas, columns that nobody here
knows, and headers in mixed case that differ from file to file.
"""

import csv
import datetime
import pathlib
import random

TAGS = ("Comedy", "Drama", "Sports", "News", "Music")
FILES = ("Films.csv", "Members.csv", "Plays.csv", "Searches.csv", "Shown.csv")
_START = datetime.datetime(2022, 5, 1)
DAYS, USERS, VIDEOS = 14, 60, 40


def write(directory: pathlib.Path) -> list[pathlib.Path]:
    """Writes the files; every fifth user likes every fifth film."""
    chance = random.Random(3)
    plays: list[list[object]] = []
    searches: list[list[object]] = []
    shown: list[list[object]] = []
    for day in range(DAYS):
        for user in range(1, USERS + 1):
            for visit in range(chance.randint(1, 3)):
                at = _START + datetime.timedelta(days=day, seconds=chance.randint(0, 80_000))
                if chance.random() < 0.3:
                    words = chance.choice(["funny cats", "news today", "goals"])
                    searches.append([user, _iso(at), words, chance.randint(0, 9)])
                for slot in range(4):
                    film = chance.randint(1, VIDEOS)
                    is_liked = chance.random() < (0.5 if film % 5 == user % 5 else 0.15)
                    seconds = chance.randint(20, 600) if is_liked else ""
                    page = f"{user}-{day}-{visit}"
                    shown.append([user, film, _iso(at), int(is_liked), seconds, slot, page])
                    if is_liked:
                        later = _iso(at + datetime.timedelta(seconds=5))
                        finished = chance.choice(["true", "true", "false"])
                        device = chance.choice(["phone", "tv", ""])
                        plays.append([user, film, later, seconds, finished, device])
    tables = {
        "Films.csv": [
            ["FilmID", "Title", "Added", "Tags", "Length", "Studio", "Rating Board"],
            *(_film(number, chance) for number in range(1, VIDEOS + 1)),
        ],
        "Members.csv": [
            ["MemberID", "Country", "BirthYear", "Sex", "Newsletter", "Plan"],
            *(_member(number, chance) for number in range(1, USERS + 1)),
        ],
        "Plays.csv": [
            ["MEMBERID", "FilmId", "Started At", "Seconds", "Finished", "Device"],
            *plays,
        ],
        "Searches.csv": [["MemberID", "When", "Words", "Hits"], *searches],
        "Shown.csv": [
            ["MemberID", "FilmID", "ShownAt", "Clicked", "Secs", "Slot", "PageKey"],
            *shown,
        ],
    }
    for name, rows in tables.items():
        with (directory / name).open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    return [directory / name for name in tables]


def _film(number: int, chance: random.Random) -> list[object]:
    added = _START - datetime.timedelta(days=chance.randint(0, 20))
    tags = ", ".join(chance.sample(TAGS, chance.randint(0, 2)))
    length, studio = chance.randint(60, 900), chance.choice(["north", "south", ""])
    board = chance.choice(["U", "PG", ""])
    return [number, f"Film {number}", _iso(added), tags, length, studio, board]


def _member(number: int, chance: random.Random) -> list[object]:
    return [
        number,
        chance.choice(["DE", "FR", ""]),
        chance.choice([1980, 1990, 2000, ""]),
        chance.choice(["f", "m", ""]),
        chance.choice(["yes", "no"]),
        chance.choice(["free", "plus"]),
    ]


def _iso(moment: datetime.datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S}+01:00"


MAPPING = """
[sources]
films = "Films.csv"
members = "Members.csv"
plays = "Plays.csv"
searches = "Searches.csv"
shown = "Shown.csv"

[videos]
source = "films"
[videos.columns]
video_id = "FilmID"
upload_time = "added"
topics = { sql = "Tags", separator = "," }
duration_s = "Length"
title = "Title"
channel_id = "Studio"
board = "Rating Board"

[users]
source = "members"
[users.columns]
user_id = "MemberID"
region = "Country"
age = "2022 - BirthYear::INT"
gender = "Sex"
plan = "Plan"

[watches]
source = "plays"
[watches.columns]
user_id = "MemberID"
video_id = "FilmID"
time = "Started At"
watch_time_s = "Seconds"
completed = "Finished"
device = "Device"

[searches]
source = "searches"
[searches.columns]
user_id = "MemberID"
time = "When"
query = "Words"

[impressions]
source = "shown"
[impressions.columns]
user_id = "MemberID"
video_id = "FilmID"
time = "ShownAt"
clicked = "Clicked"
watch_time_s = "Secs"
position = "Slot"
page_id = "PageKey"

[[features]]
name = "plan"
kind = "univalent"
side = "query"
models = ["candidate", "ranker"]
source = "users.plan"
"""
