"""Sessions to recommend for: each comes once, its clicks in order, whatever the order and the form of the file."""

import random

import pytest

from clicks.sessionfile import read_sessions
from terminal.errors import UserError


def sessions_in(path, **options):
    found = {}
    for session, item in read_sessions(path, **options):
        whole = {each: item[session == each].tolist() for each in dict.fromkeys(session.tolist())}
        assert not whole.keys() & found.keys()
        found |= whole
    return found


@pytest.mark.parametrize("header", ["SessionID,ItemID,Time", "session_id,item_id,timestamp"])
@pytest.mark.parametrize("prefix", ["", "u"])
def test_clicks_in_any_order_are_sorted_by_time(tmp_path, capsys, header, prefix):
    rows = [(f"{prefix}{session}", 10 * session + n, 100 * n + session) for session in range(1, 5) for n in range(3)]
    for seed in range(8):
        if seed:
            random.Random(seed).shuffle(rows)
        (tmp_path / "s").write_text("\n".join([header, *(f"{s},{i},{t}" for s, i, t in rows)]) + "\n")
        expected = {s if prefix else int(s): [10 * int(s[-1]) + n for n in range(3)] for s, _, _ in rows}
        assert sessions_in(tmp_path / "s") == expected
        assert ("sorted" in capsys.readouterr().err) == bool(seed)


def test_without_times_a_session_that_comes_back_is_refused(tmp_path):
    (tmp_path / "s").write_text("SessionID,ItemID\n\n1,5\n2,6\n\n1,7\n")
    with pytest.raises(UserError, match="s, line 6: session 1 comes back after another one: .* add a column Time"):
        sessions_in(tmp_path / "s")
    (tmp_path / "s").write_text("SessionID,ItemID\n2,5\n2,6\n1,7\n")
    assert sessions_in(tmp_path / "s") == {2: [5, 6], 1: [7]}


@pytest.mark.parametrize("item", ["05", '"05"', '" 05"'])
@pytest.mark.parametrize("first", ["5", '"5"'])
def test_leading_zeros_make_another_item_in_quotes_too(tmp_path, first, item):
    for rows in ([first, item], [item, first]):
        (tmp_path / "s").write_text("SessionID,ItemID\n" + "".join(f"1,{row}\n" for row in rows))
        assert sessions_in(tmp_path / "s") == {1: [row.strip('"') for row in rows]}


@pytest.mark.parametrize("items", [["5", '"6"'], ['"5"', "6"]])
def test_integers_may_stand_in_quotes(tmp_path, items):
    (tmp_path / "s").write_text("SessionID,ItemID\n" + "".join(f"1,{item}\n" for item in items))
    assert sessions_in(tmp_path / "s") == {1: [5, 6]}
    assert sessions_in(tmp_path / "s", text_items=True) == {1: ["5", "6"]}


def test_two_columns_of_one_name_are_refused(tmp_path):
    (tmp_path / "s").write_text("SessionID,ItemID,Time,Time\n1,2,3,4\n")
    with pytest.raises(UserError, match="s, line 1: there are 2 columns Time: leave one"):
        sessions_in(tmp_path / "s")


def test_sequences_are_sessions(tmp_path):
    (tmp_path / "s").write_text("5 6 7\n6 6\n")
    assert sessions_in(tmp_path / "s") == {1: [5, 6, 7], 2: [6, 6]}


@pytest.mark.parametrize("late", ["1,7,50", "2,7,50"])
def test_disorder_far_behind_is_found(tmp_path, late):
    """In another block of lines than what it contradicts."""
    lines = [f"{n},{n},{n + 60}" for n in range(1, 90_000)]
    (tmp_path / "s").write_text("\n".join(["SessionID,ItemID,Time", *lines, late]) + "\n")
    assert sessions_in_order(tmp_path / "s", int(late[0])) == [7, int(late[0])]


def sessions_in_order(path, wanted):
    return [i for session, item in read_sessions(path) for i in item[session == wanted].tolist()]
