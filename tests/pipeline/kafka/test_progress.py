"""What a follower remembers beside the event log."""

import json

import pytest

from features import command
from pipeline.kafka.progress import Progress, letter


def dead(offset, partition=0):
    return letter("t", partition, offset, reason="bad", value=b"\xff", at_s=0)


def test_positions_and_the_member_are_there_again_after_a_restart(tmp_path):
    first = Progress(tmp_path, "g")
    first.reached({("t", 0): 5, ("t", 1): 7})
    first.reached({("t", 0): 6})
    first.close()
    second = Progress(tmp_path, "g")
    assert (second.next(("t", 0)), second.next(("t", 1)), second.next(("t", 2))) == (6, 7, None)
    assert second.member == first.member
    second.close()


def test_a_dead_letter_is_kept_once_though_its_batch_is_read_again(tmp_path):
    first = Progress(tmp_path, "g")
    assert first.bury([dead(3), dead(8), dead(1, partition=1)]) == 3
    assert first.bury([dead(8), dead(9)]) == 1
    first.close()
    with first.dead_letters.open("a") as file:
        file.write('{"topic": "t", "half')  # Of a process that was killed.
    second = Progress(tmp_path, "g")
    assert second.bury([dead(9), dead(1, partition=1), dead(2, partition=1)]) == 1
    second.close()
    lines = [json.loads(line) for line in second.dead_letters.read_text().splitlines()]
    assert [(line["partition"], line["offset"]) for line in lines] == [
        (0, 3),
        (0, 8),
        (1, 1),
        (0, 9),
        (1, 2),
    ]


def test_one_follower_of_a_group_in_one_directory(tmp_path):
    first = Progress(tmp_path, "g")
    with pytest.raises(command.InputError, match="another process follows group g"):
        Progress(tmp_path, "g")
    Progress(tmp_path, "other").close()
    first.close()
    Progress(tmp_path, "g").close()


def test_what_is_damaged_or_no_name_is_refused(tmp_path):
    Progress(tmp_path, "g").close()
    (tmp_path / ".event_log" / "kafka-g.json").write_text("[[1]]")
    with pytest.raises(command.InputError, match="is damaged"):
        Progress(tmp_path, "g")
    with pytest.raises(command.InputError, match="--group"):
        Progress(tmp_path, "../g")
