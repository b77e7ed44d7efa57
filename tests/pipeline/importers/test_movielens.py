import polars as pl
import pytest

from features import command, declarations, spec
from features.tables import logs, schema
from pipeline.importers import movielens

RATINGS_DAT = """\
1::10::5::978300760
2::10::3::978300700
1::20::4::978302109
2::30::1::978301968
"""
MOVIES_DAT = """\
10::Toy Story (1995)::Animation|Children's|Comedy
20::Misérables, Les (1995)::Drama|Musical
30::Ring: The: (no year)::Horror
40::Never Rated (1999)::Drama
"""
USERS_DAT = """\
1::F::1::10::48067
2::M::56::16::V7G2A
"""
RATINGS_CSV = """\
userId,movieId,rating,timestamp
1,10,4.0,1147880044
1,20,3.5,1147868817
2,10,0.5,1147868828
"""
MOVIES_CSV = """\
movieId,title,genres
10,"American President, The (1995)",Comedy|Drama|Romance
20,Pather Panchali (1955),(no genres listed)
"""


@pytest.fixture
def one_m(tmp_path):
    source = tmp_path / "ml-1m"
    source.mkdir()
    (source / "ratings.dat").write_text(RATINGS_DAT)
    (source / "movies.dat").write_bytes(MOVIES_DAT.encode("latin-1"))
    (source / "users.dat").write_text(USERS_DAT)
    return source


@pytest.fixture
def latest(tmp_path):
    source = tmp_path / "ml-latest"
    source.mkdir()
    (source / "ratings.csv").write_text(RATINGS_CSV)
    (source / "movies.csv").write_text(MOVIES_CSV)
    (source / "tags.csv").write_text("userId,movieId,tag,timestamp\n1,10,classic,1\n")
    return source


def imported(source, **options):
    logs_dir = source.parent / "logs"
    with logs.LogWriter(logs_dir) as writer:
        movielens.import_logs(source, writer, movielens.MovieLensConfig(**options))
    return logs_dir


def table(logs_dir, name):
    return pl.DataFrame(pl.from_arrow(logs.read_table(logs_dir, name)))


def test_ratings_become_watches_in_the_order_of_time(one_m):
    rows = table(imported(one_m), "watches")
    assert rows.select("user_id", "video_id", "time", "completed", "rating").rows() == [
        ("2", "10", 978300700, False, 3.0),
        ("1", "10", 978300760, True, 5.0),
        ("2", "30", 978301968, False, 1.0),
        ("1", "20", 978302109, True, 4.0),
    ]


def test_every_watch_has_the_same_stand_in_watch_time(one_m):
    rows = table(imported(one_m), "watches")
    assert rows["watch_time_s"].unique().to_list() == [movielens.STAND_IN_WATCH_TIME_S]
    assert rows["source"].unique().to_list() == ["rating"]


def test_completed_rating_moves_the_border(one_m):
    rows = table(imported(one_m, completed_rating=3), "watches")
    assert rows.sort("rating")["completed"].to_list() == [False, True, True, True]


def test_movies_become_videos(one_m):
    first, second, third, unrated = table(imported(one_m), "videos").to_dicts()
    assert first == {
        "video_id": "10",
        "upload_time": 978300700,  # Its first rating.
        "topics": ["Animation", "Children's", "Comedy"],
        "title": "Toy Story (1995)",
        "release_year": 1995.0,
    }
    assert second["title"] == "Misérables, Les (1995)"
    assert third["title"] == "Ring: The: (no year)"
    assert third["release_year"] is None
    assert unrated["upload_time"] == 978300700  # The first rating of any film.


def test_users_of_the_1m_edition_keep_what_is_known_of_them(one_m):
    first, second = table(imported(one_m), "users").to_dicts()
    assert first == {
        "user_id": "1",
        "region": "us_4",
        "gender": "F",
        "age": 1.0,
        "occupation": "10",
        "zip_code": "48067",
    }
    assert (second["region"], second["zip_code"]) == (None, "V7G2A")


def test_csv_editions_are_read_with_quoted_titles_and_no_genres(latest):
    logs_dir = imported(latest)
    videos = table(logs_dir, "videos")
    assert videos["title"].to_list() == ["American President, The (1995)", "Pather Panchali (1955)"]
    assert videos["topics"].to_list() == [["Comedy", "Drama", "Romance"], []]
    assert videos["upload_time"].to_list() == [1147868828, 1147868817]
    assert table(logs_dir, "users").to_dicts() == [{"user_id": "1"}, {"user_id": "2"}]
    assert table(logs_dir, "watches").height == 3


def test_10m_layout_without_users_and_in_utf8_is_read(one_m):
    (one_m / "users.dat").unlink()
    (one_m / "movies.dat").write_text(MOVIES_DAT, encoding="utf-8")
    logs_dir = imported(one_m)
    assert table(logs_dir, "videos")["title"][1] == "Misérables, Les (1995)"
    assert table(logs_dir, "users")["user_id"].to_list() == ["1", "2"]


def test_directory_above_the_data_set_will_do(latest):
    logs_dir = latest.parent / "logs"
    with logs.LogWriter(logs_dir) as writer:
        movielens.import_logs(latest.parent, writer, movielens.MovieLensConfig())
    assert logs.tables_in(logs_dir) == {"watches", "videos", "users"}


def test_there_are_no_impressions_and_it_is_said(one_m, caplog):
    assert "impressions" not in logs.tables_in(imported(one_m))
    assert "no impressions" in caplog.text


def test_window_cuts_watches_and_not_what_is_known_of_films(one_m):
    logs_dir = imported(one_m, from_s=978300760, until_s=978302109)
    assert table(logs_dir, "watches")["time"].to_list() == [978300760, 978301968]
    assert table(logs_dir, "videos")["upload_time"][0] == 978300700


@pytest.mark.parametrize("edition", ["one_m", "latest"])
def test_rows_validate_and_declared_features_resolve(edition, request):
    logs_dir = imported(request.getfixturevalue(edition))
    videos = logs.read_table(logs_dir, "videos")["video_id"].combine_chunks()
    users = logs.read_table(logs_dir, "users")["user_id"].combine_chunks()
    for name in ("videos", "users", "watches"):
        rows = logs.read_table(logs_dir, name)
        _, rejected = schema.validate(
            name, rows, known_video_ids=videos, known_user_ids=users, now_s=1_700_000_000
        )
        assert rejected.num_rows == 0
    columns = {name: logs.column_types(logs_dir, name) for name in ("videos", "users", "watches")}
    extra = declarations.load(logs_dir / logs.FEATURES_FILE)
    declarations.require_answerable(extra, columns, path=logs.FEATURES_FILE)
    assert spec.resolve({**columns, "context": []}, extra).features[-1] == extra[-1]


def test_missing_movies_file_is_named_with_what_is_there(one_m):
    (one_m / "movies.dat").unlink()
    with pytest.raises(command.InputError, match=r"movies.dat is missing.*ratings.dat, users.dat"):
        imported(one_m)
    assert not (one_m.parent / "logs").exists()


def test_directory_without_ratings_says_what_is_expected(tmp_path):
    with pytest.raises(command.InputError, match="none of u.data, ratings.dat, ratings.csv"):
        imported(tmp_path)


@pytest.fixture
def small(tmp_path):
    """MovieLens 100K: tabs, bars and Latin-1."""
    source = tmp_path / "ml-100k"
    source.mkdir()
    (source / "u.data").write_text("196\t242\t3\t881250949\n186\t302\t4\t891717742\n")
    flags = "|".join(["0"] * 5 + ["1"] + ["0"] * 12 + ["1"])  # Comedy and Western.
    none = "|".join(["1"] + ["0"] * 18)
    films = [
        f"242|Kolya, é (1996)|24-Jan-1997||http://example.org/|{flags}",
        f"302|unknown||||{none}",
    ]
    (source / "u.item").write_bytes("\n".join([*films, ""]).encode("latin-1"))
    (source / "u.user").write_text("196|49|M|writer|55105\n186|39|F|executive|T8H1N\n")
    return source


def test_100k_is_read_with_its_flags_of_genres_and_its_users(small):
    logs_dir = imported(small)
    films = {film["video_id"]: film for film in logs.read_table(logs_dir, "videos").to_pylist()}
    assert films["242"]["topics"] == ["Comedy", "Western"]
    assert (films["242"]["title"], films["242"]["release_year"]) == ("Kolya, é (1996)", 1996.0)
    assert films["302"]["topics"] == []
    people = {user["user_id"]: user for user in logs.read_table(logs_dir, "users").to_pylist()}
    assert people["196"]["occupation"] == "writer"
    assert (people["196"]["region"], people["186"]["region"]) == ("us_5", None)
    watched = logs.read_table(logs_dir, "watches").to_pylist()
    assert [row["completed"] for row in watched] == [False, True]


def test_leave_one_out_puts_the_last_of_each_user_on_a_day_of_its_own(one_m):
    logs_dir = imported(one_m, leave_one_out=True)
    watched = logs.read_table(logs_dir, "watches").sort_by("time").to_pylist()
    # User 1 rated 20 last; user 2 rated 10 and, last, 30.
    apart = 978_307_200  # 2001-01-01, the day after all ratings.
    assert [(row["user_id"], row["video_id"]) for row in watched if row["time"] >= apart] == [
        ("2", "30"),
        ("1", "20"),
    ]
    assert all(row["time"] < apart + 86_400 for row in watched)
    assert all(row["completed"] for row in watched)
    assert {row["rated_time"] for row in watched} >= {978_302_109, 978_301_968}
    with pytest.raises(command.InputError, match="leave --from and --until"):
        movielens.MovieLensConfig(leave_one_out=True, until_s=1)


def test_two_editions_are_refused(one_m, latest):
    with pytest.raises(command.InputError, match="several editions"):
        imported(one_m.parent)


def test_truncated_ratings_are_named(one_m):
    path = one_m / "ratings.dat"
    path.write_text(RATINGS_DAT[:-12])  # The last row ends in "::1".
    with pytest.raises(command.InputError, match="ratings.dat cannot be read.*truncated"):
        imported(one_m)


def test_file_without_a_last_line_break_is_warned_about(one_m, caplog):
    (one_m / "ratings.dat").write_text(RATINGS_DAT.rstrip())
    imported(one_m)
    assert "does not end with a line break" in caplog.text


def test_wrong_columns_are_named(latest):
    (latest / "ratings.csv").write_text("user,movie,rating,timestamp\n1,2,3,4\n")
    with pytest.raises(command.InputError, match=r"ratings.csv lacks the columns userId, movieId"):
        imported(latest)


def test_wrong_type_is_named(latest):
    (latest / "ratings.csv").write_text(RATINGS_CSV + "3,10,five,1147868828\n")
    with pytest.raises(command.InputError, match=r"ratings.csv, column 'rating'.*'five'"):
        imported(latest)


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        ("2005-04-02 23:53:47", "found '2005-04-02 23:53:47'. Write whole Unix seconds; pandas: "),
        ("1147868828.0", r"found '1147868828.0'. Write whole numbers; .*\.astype\('Int64'\)"),
        ("1.147868828e9", "Write whole numbers"),
        ("yesterday", "found 'yesterday'. Mend that value"),
    ],
)
def test_times_of_another_kind_are_named_as_such_and_not_as_damage(latest, value, remedy):
    (latest / "ratings.csv").write_text(RATINGS_CSV + f"3,10,5,{value}\n")
    with pytest.raises(
        command.InputError, match=rf"ratings.csv, column 'timestamp': expected int64.*{remedy}"
    ) as error:
        imported(latest)
    assert "npack" not in str(error.value)


@pytest.mark.parametrize("content", ["", RATINGS_CSV.partition("\n")[0] + "\n"])
def test_empty_ratings_are_named(latest, content):
    (latest / "ratings.csv").write_text(content)
    with pytest.raises(command.InputError, match="ratings.csv (is empty|has no rows)"):
        imported(latest)
