"""Click logs of four shops and of none: docs/data.md's lines on files as those shops have them, and random logs."""

import csv
import hashlib
import io
import json
import random
import re
import time
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

import preprocessing
import reproduce
from clicks.clickfile import Clicks, read_clicks, write_click_files
from clicks.clicklog import read_log, sessions_of_users
from clicks.logformat import LogFormat
from clicks.synthetic import synthetic_clicks
from clicks.textkinds import Layout
from clicks.times import from_iso, from_pattern, time_kind
from main import evaluate_checkpoint
from preprocessing import TEST, TRAIN_FULL
from recommend import Recommender, recommend_for_file
from runs.epochs import train_epochs
from runs.parameters import parse_flags, training_parameters
from runs.runfolder import RunFolder, read_checkpoint
from runs.trainingrun import TrainingRun
from terminal.errors import UserError

RECIPES = dict(
    re.findall(r"^# (\w+).*\npython preprocessing\.py (.*)$", (ROOT / "docs" / "data.md").read_text(), re.MULTILINE)
)


N_USERS = 150


def a_hash(number: int, size: int = 64) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()[:size]


def a_uuid(number: int) -> str:
    return "-".join(re.fullmatch("(.{8})(.{4})(.{4})(.{4})(.{12})", a_hash(number, 32)).groups())


def day_and_clock(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds // 1000, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")


def write_shops(folder: Path) -> list[tuple[int, int, int]]:
    """The same clicks as every shop would have logged them; returns them as (session, item, time)."""
    clicks = synthetic_clicks(n_sessions=600, n_items=30, n_days=5, seed=3)
    rows = sorted(
        zip(clicks.session.tolist(), clicks.item.tolist(), clicks.time.tolist(), strict=True), key=lambda r: r[2]
    )
    first_time = {session: time for session, _, time in reversed(rows)}
    rng = random.Random(0)
    logs = {
        "events.csv": ["timestamp,visitorid,event,itemid,transactionid"],
        "train-item-views.csv": ["sessionId;userId;itemId;timeframe;eventdate"],
        "2019-Oct.csv": ["event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session"],
        "browsing_train.csv": [
            "session_id_hash,event_type,product_action,product_sku_hash,server_timestamp_epoch_ms,hashed_url"
        ],
    }
    for session, item, time_ in rows:
        logs["events.csv"].append(f"{time_},{session % N_USERS},view,{item},")
        day = day_and_clock(first_time[session])[:10]
        logs["train-item-views.csv"].append(f"{session};NA;{item};{time_ - first_time[session]};{day}")
        rest = "2053013555631882655,electronics.smartphone,apple,1081.98"
        clock = f"{day_and_clock(time_)} UTC"
        logs["2019-Oct.csv"].append(f"{clock},view,{item},{rest},{session},{a_uuid(session)}")
        product = f"{a_hash(session)},event_product,detail,{a_hash(item)},{time_},{a_hash(item + 1)}"
        logs["browsing_train.csv"].append(product)
        if rng.random() < 0.2:
            logs["events.csv"].append(f"{time_ + 1},{session % N_USERS},transaction,{item},{rng.randrange(999)}")
            logs["2019-Oct.csv"].append(f"{clock},cart,{item},{rest},{session},{a_uuid(session)}")
            logs["2019-Oct.csv"].append(f"{clock},view,{item},{rest},{session},")
            page = f"{a_hash(session)},pageview,,,{time_},{a_hash(item)}"
            logs["browsing_train.csv"].append(page)
    of_session: dict[int, list[dict]] = {}
    for session, item, time_ in rows:
        events = of_session.setdefault(session, [])
        events.append({"aid": item, "ts": time_, "type": "clicks"})
        if rng.random() < 0.2:
            events.append({"aid": item, "ts": time_ + 1, "type": "carts"})
    logs["train.jsonl"] = [json.dumps({"session": s, "events": e}) for s, e in of_session.items()]
    for name, lines in logs.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    return rows


@pytest.mark.parametrize(
    ("shop", "session_of", "item_of", "time_of"),
    [
        ("RetailRocket", None, int, int),
        ("Diginetica", int, int, None),
        ("REES46", a_uuid, int, lambda time: time // 1000 * 1000),
        ("Coveo", a_hash, a_hash, int),
        ("OTTO", int, int, int),
    ],
)
def test_shops_from_the_log_to_recommendations(shop, session_of, item_of, time_of, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = write_shops(tmp_path)
    flags = preprocessing.make_parser().parse_args(RECIPES[shop].replace('";"', ";").split())
    clicks = preprocessing.read_sessions_of_log(flags.clicks, preprocessing.log_format(flags), flags)
    printed = capsys.readouterr().out
    assert re.search(r"^2,\d{3} clicks of .* on 30 items, 2014-04-01 .* to 2014-04-05 .* UTC$", printed, re.MULTILINE)
    assert ("left out: " in printed) == (shop != "Diginetica")
    session = (
        clicks.session if clicks.session_names is None else np.array(clicks.session_names.to_pylist())[clicks.session]
    )
    item = clicks.item if clicks.item_names is None else np.array(clicks.item_names.to_pylist())[clicks.item]
    got = list(zip(session.tolist(), item.tolist(), clicks.time.tolist(), strict=True))
    if shop == "RetailRocket":
        last, sessions = {}, {}
        for user, item_, time_ in ((session_ % N_USERS, item_, time_) for session_, item_, time_ in rows):
            if time_ - last.get(user, -np.inf) > 3_600_000:
                sessions.setdefault(user, []).append([])
            sessions[user][-1].append((item_, time_))
            last[user] = time_
        in_order = [clicks for user in sorted(sessions) for clicks in sessions[user]]
        assert got == [(number, *click) for number, clicks in enumerate(in_order, 1) for click in clicks]
        assert f"of {len(sessions)} users in {len(in_order)} sessions" in printed
    elif shop == "Diginetica":  # which begins its sessions at midnight
        first_time = {s: t for s, _, t in reversed(rows)}
        assert got == [
            (s, i, first_time[s] // preprocessing.DAY * preprocessing.DAY + t - first_time[s]) for s, i, t in rows
        ]
    else:
        place = {session: place for place, session in enumerate(dict.fromkeys(s for s, _, _ in rows))}
        if shop == "OTTO":  # which has a session a line
            rows.sort(key=lambda row: place[row[0]])
        assert got == [(session_of(s), item_of(i), time_of(t)) for s, i, t in rows]

    preprocessing.main([*RECIPES[shop].replace('";"', ";").split(), "--data_folder", "data"])
    line = f"--data_folder data --train_data {TRAIN_FULL} --valid_data {TEST} --n_epochs 2 --hidden_size 8 --device cpu"
    run = TrainingRun(training_parameters(parse_flags(line.split())))
    folder = RunFolder.create(tmp_path)
    train_epochs(run, folder)
    path = folder.path / "model_00001.pt"
    ids = {item_of(item) for item in range(214_500_000, 214_500_030)}
    recommended = Recommender.load(path).recommend([item_of(214_500_003), item_of(214_500_004)], k=30)
    assert {item for item, _ in recommended} == ids
    assert all(type(item) is type(item_of(0)) for item, _ in recommended)
    assert TrainingRun(run.parameters, read_checkpoint(path)).history == run.history  # it can be gone on from

    capsys.readouterr()
    evaluate_checkpoint(parse_flags(["--is_eval", "--load_model", str(path)]))
    assert capsys.readouterr().out.startswith(f"Recall@20: {run.history[-1]['recall@20']:.6f} MRR@20:")
    files = reproduce.Files(Path("data"), TRAIN_FULL, TEST)
    recall = {row: reproduce.run_baseline(row, 0, files, tmp_path / row)["recall"] for row in ("Markov chain", "POP")}
    assert recall["Markov chain"] > recall["POP"]

    table = pa.concat_tables(recommend_for_file(Recommender.load(path), Path("data") / TEST, k=2, exclude_seen=False))
    test = read_clicks(Path("data") / TEST)
    assert len(table) == 2 * len(np.unique(test.session))
    assert set(table["ItemID"].to_pylist()) <= ids
    if session_of in (a_hash, a_uuid):
        assert set(table["SessionID"].to_pylist()) == set(test.session_names.to_pylist())


def test_the_scripts_give_back_the_ids_of_the_log(run_script, tmp_path):
    write_shops(tmp_path)
    run_script("preprocessing.py", *RECIPES["Coveo"].split(), "--data_folder", "data")
    run_script("main.py", "--data_folder", "data", "--n_epochs", 1, "--hidden_size", 8, "--device", "cpu")
    (model,) = tmp_path.glob("checkpoint/*/model_00000.pt")
    shown = run_script("recommend.py", "--load_model", model, "--items", f"{a_hash(214_500_003)},new", "--k", 30)
    assert "does not know: new\n" in shown.stderr
    assert {line.split()[1] for line in shown.stdout.splitlines()[1:]} == {a_hash(214_500_000 + i) for i in range(30)}
    run_script("recommend.py", "--load_model", model, "--sessions", f"data/{TEST}", "--k", 4)
    with open(tmp_path / "recommendations.csv") as file, open(tmp_path / "data" / TEST) as test:
        sessions = list(dict.fromkeys(row["SessionID"] for row in csv.DictReader(test)))
        rows = list(csv.DictReader(file))
    assert list(dict.fromkeys(row["SessionID"] for row in rows)) == sessions
    assert len(rows) == 4 * len(sessions)


ids = st.one_of(
    st.integers(-(2**63), 2**63 - 1).map(str),
    st.sampled_from(
        ["7", "007", "0x1f", "1e5", "-0", "+5", " 5", "5 ", str(2**63), "NA", "null", "ünï", 'a"b', "a,b", '"', ","]
    ),
    st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=6),
)
plain_ids = st.integers(0, 99).map(str)
events = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.one_of(st.none(), st.integers(0, 5)),
        st.sampled_from(["view", "buy"]),
        st.integers(0, 10**12),
    ),
    min_size=1,
    max_size=20,
)


def texts(ids: np.ndarray, names) -> list[str]:
    return [str(i) if names is None else names[int(i)].as_py() for i in ids]


@settings(max_examples=200, deadline=None)
@given(events, st.one_of(st.lists(ids, min_size=6, max_size=6), st.lists(plain_ids, min_size=6, max_size=6)), st.data())
def test_random_logs_come_back_as_they_were_written(tmp_path_factory, rows, names, data):
    """Written by Python's csv with any quoting and separator, over one file or two; and written and read once more."""
    folder = tmp_path_factory.mktemp("log")
    separator = data.draw(st.sampled_from([",", ";", "\t", "|"]))
    quoting = data.draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    if separator == "\t" and quoting == csv.QUOTE_MINIMAL:
        names = [name for name in names if not name.startswith('"')] or ["x"]
    where = data.draw(st.integers(0, len(rows)))
    paths = []
    for number, part in enumerate((rows[:where], rows[where:])):
        text = io.StringIO()
        writer = csv.writer(
            text, delimiter=separator, quoting=quoting, lineterminator=data.draw(st.sampled_from(["\n", "\r\n"]))
        )
        writer.writerow(["time", "what", "who", "extra"] if number else ["who", "what", "time", "event"])
        for who, what, event, ms in part:
            values = names[who % len(names)], "" if what is None else names[what % len(names)], str(ms / 1000), event
            writer.writerow((values[2], values[1], values[0], "view") if number else values)
        if part:
            paths.append(folder / f"{number}.csv")
            paths[-1].write_bytes(text.getvalue().encode())
            if number:  # the second file names its columns in another order, and has no column of events
                paths[-1].write_bytes(text.getvalue().replace("extra", "event", 1).encode())
    part_of = [0] * where + [1] * (len(rows) - where)
    events = ["view" if part else event for part, (*_, event, _) in zip(part_of, rows, strict=True)]
    expected = [
        (names[who % len(names)], names[what % len(names)], ms)
        for (who, what, _, ms), event in zip(rows, events, strict=True)
        if what is not None and event == "view"
    ]
    log = LogFormat("who", "time", "what", "seconds", separator, {"event": ["view"]}, nulls=())
    if not expected:
        with pytest.raises(UserError, match="holds no clicks: of"):
            read_log(paths, log)
        return
    clicks, counts = read_log(paths, log)
    got = zip(
        texts(clicks.session, clicks.session_names),
        texts(clicks.item, clicks.item_names),
        clicks.time.tolist(),
        strict=True,
    )
    assert list(got) == expected
    assert counts.clicks == len(expected)
    assert counts.filtered == events.count("buy")
    assert counts.filtered + counts.without_item + counts.clicks == len(rows)
    for column, names_of in enumerate((clicks.session_names, clicks.item_names)):
        are_integers = all(
            re.fullmatch("0|-?[1-9][0-9]*", row[column]) and -(2**63) <= int(row[column]) < 2**63 for row in expected
        )
        assert (names_of is None) == are_integers
        assert names_of is None or len(set(names_of.to_pylist())) == len(names_of)

    write_click_files({folder / "prepared.txt": clicks})
    back = read_clicks(folder / "prepared.txt")
    again = zip(
        texts(back.session, back.session_names), texts(back.item, back.item_names), back.time.tolist(), strict=True
    )
    assert list(again) == expected
    assert (back.session_names is None, back.item_names is None) == (
        clicks.session_names is None,
        clicks.item_names is None,
    )


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 60)), min_size=1, max_size=40),
    st.integers(1, 20),
)
def test_sessions_of_users_are_those_of_a_simulation(rows, gap):
    expected, last = [], {}
    number = 0
    for user, when, item in sorted(((user, when, i) for i, (user, when) in enumerate(rows)), key=lambda row: row[:2]):
        if user not in last or when - last[user] > gap:
            number += 1
        last[user] = when
        expected.append((number, item, when))
    columns = [user for user, _ in rows], range(len(rows)), [when for _, when in rows]
    clicks = sessions_of_users(Clicks(*(np.array(column, dtype=np.int64) for column in columns)), gap)
    assert list(zip(clicks.session.tolist(), clicks.item.tolist(), clicks.time.tolist(), strict=True)) == expected


@settings(max_examples=200, deadline=None)
@given(
    st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)),
    st.sampled_from(["T", " "]),
    st.sampled_from(["minutes", "seconds", "milliseconds", "microseconds"]),
    st.sampled_from(["", "Z", " UTC", "+00:00", "+02:00", "-0530"]),
)
def test_iso_times_are_those_of_python(when, between, precision, zone):
    text = when.isoformat(between, precision) + zone
    offset = (
        timedelta(hours=2) if zone == "+02:00" else -timedelta(hours=5, minutes=30) if zone == "-0530" else timedelta()
    )
    written = datetime.fromisoformat(when.isoformat(timespec=precision)).replace(tzinfo=timezone(offset))
    epoch = datetime(1970, 1, 1, tzinfo=timezone.utc)
    assert from_iso(text) == (written - epoch) // timedelta(milliseconds=1)
    assert from_iso(text[:10]) == (when - datetime(1970, 1, 1)).days * 86_400_000
    if precision == "microseconds" and zone in ("+02:00", "-0530"):
        pattern = f"%Y-%m-%d{between}%H:%M:%S.%f%z"
        assert from_pattern(text, pattern) == from_iso(text)


@pytest.mark.parametrize(
    "text",
    ["20191001T1000", "20191001T100000123", "2019-10-01T100000Z", "2019-10-01 10:00,5", "2019-10-01 10:00+2"]
    + [
        "",
        "2019",
        "2019-10",
        "2019-13-01",
        "2019-02-29",
        "2019-10-01T",
        "2019-10-01 24:00",
        "2019-10-01 10:00:60",
        "now",
    ]
    + ["2019-10-01 10:00 EST", "2019-10-01 10:00+25:00", "2019-10-01Z", "٢٠١٩-10-01", "2019-10-01 10:00\n"],
)
def test_what_is_no_iso_time(text):
    with pytest.raises(ValueError):  # noqa: PT011
        from_iso(text)


def test_a_zone_of_this_machine_is_not_taken_for_utc(monkeypatch):
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        assert from_pattern("01.10.2019 12:00 UTC", "%d.%m.%Y %H:%M %Z") == from_iso("2019-10-01 12:00")
        assert from_pattern("01.10.2019 12:00", "%d.%m.%Y %H:%M") == from_iso("2019-10-01 12:00")
        datetime.strptime("EST", "%Z")
        with pytest.raises(ValueError, match="EST"):
            from_pattern("01.10.2019 12:00 EST", "%d.%m.%Y %H:%M %Z")
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("pattern", ["%H:%M", "second", "", "%Q", "%Y-%m", "%s", "unix %d"])
def test_patterns_without_a_date_are_refused(pattern):
    with pytest.raises(ValueError, match="is not"):
        time_kind(pattern)


LOG = "who,when,what,event\nu1,2019-10-01 10:00:00,a,view\nu2,2019-10-01 10:00:01,b,view\n"


@pytest.mark.parametrize(
    ("change", "text", "message"),
    [
        ({}, "", "holds no clicks"),
        ({}, "who,when,what,event\n", "holds no clicks"),
        ({"session": "user"}, LOG, "line 1: there is no column 'user'; there are who, when, what, event"),
        ({"item": "waht"}, LOG, r"there is no column 'waht' \(did you mean what\?\); there are"),
        ({"separator": ";"}, LOG, r"there is no column 'who' \(is --sep ';' right\?\); there are who,when,what,event"),
        ({"time": "when+later"}, LOG, "there is no column 'later'"),
        ({"time": "when+what+who"}, LOG, "is more than two columns"),
        ({"item": "who"}, LOG, "--columns names 'who' twice"),
        ({"keep": {"when": ["1"]}}, LOG, "--keep when filters by the column of times"),
        ({"keep": {"event": ["buy"]}}, LOG, "holds no clicks: of 2 lines --keep left out 2, 0 have no who, 0 no what"),
        ({}, LOG.replace("event", "what", 1), "line 1: there are 2 columns 'what'"),
        ({}, LOG + "u3,2019-10-01 25:00:00,a,view\n", "line 4: when is '2019-10-01 25:00:00', expected a date or time"),
        ({}, LOG + "u3,2019-10-01 20:00:00,a\n", "line 4: expected 4 columns"),
        ({}, LOG + 'u3,2019-10-01 20:00:00,"a,view\n', "line 4: expected 4 columns|line 4: its quotes do not match"),
        ({}, LOG + 'u3,2019-10-01 20:00:00,"a"b,view\n', "line 4: its quotes do not match: '\"a\"b'"),
        ({}, LOG + 'u3,2019-10-01 20:00:00,a,"vi\new"\n', "line 4: its quotes do not match"),
        ({}, LOG + "u3,2019-10-01 20:00:00,a\tb,view\n", r"line 4: what is 'a\\tb', expected text"),
        (
            {"time_format": "milliseconds"},
            "who,when,what\n1,1709287200123456,2\n",
            "these look like microseconds: --time_format",
        ),
        (
            {"time_format": "seconds"},
            "who,when,what\n1,1709287200123,2\n",
            "these look like milliseconds: --time_format",
        ),
        ({"time_format": "seconds"}, LOG, "line 2: when is '2019-10-01 10:00:00', expected seconds"),
        ({"time_format": "%d.%m.%Y"}, LOG, "line 2: when is '2019-10-01 10:00:00', expected a time by %d.%m.%Y"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, change, text, message):
    path = tmp_path / "log.csv"
    path.write_text(text)
    asked = {"session": "who", "time": "when", "item": "what", "time_format": "iso"} | change
    with pytest.raises(UserError, match=message) as caught:
        read_log([path], LogFormat(**asked))
    assert len(str(caught.value).splitlines()) == 1


def test_files_that_differ_in_the_columns_of_times_are_refused(tmp_path):
    for name, header in (("a", "s,day+ms,i"), ("b", "s,day,i,ms")):
        (tmp_path / name).write_text(f"{header}\n1,2,3{',4' * (name == 'b')}\n")
    with pytest.raises(UserError, match=r"b: day\+ms is a column of one, and two columns of another$"):
        read_log([tmp_path / "a", tmp_path / "b"], LogFormat("s", "day+ms", "i", "seconds"))


def test_a_header_in_latin1_is_said_to_be(tmp_path):
    path = tmp_path / "log.csv"
    path.write_bytes("session\u00e9,when,what\n1,2019-10-01,5\n".encode("latin-1"))
    with pytest.raises(UserError, match="line 1: a column's name is no text in UTF-8 .'sessioné' in Latin-1: iconv"):
        read_log([path], LogFormat("session", "when", "what", "iso"))


def test_broken_encoding_is_named_and_skipped(tmp_path, capsys):
    path = tmp_path / "log.csv"
    path.write_bytes(
        LOG.encode() + "u3,2019-10-01 10:00:02,é,view\n".encode("latin-1") + b"u4,2019-10-01 10:00:03,c,\xff\n"
    )
    log = LogFormat("who", "when", "what", "iso")
    with pytest.raises(UserError, match="line 4: what is no text in UTF-8 .'é' in Latin-1: iconv"):
        read_log([path], log)
    clicks, _ = read_log([path], log, skip_bad_lines=True)
    assert clicks.item_names.to_pylist() == ["a", "b", "c"]
    assert "skipped 1 lines that are not clicks; line 4" in capsys.readouterr().err


def test_values_that_no_line_has_are_named(tmp_path, capsys):
    (tmp_path / "log.csv").write_text(LOG)
    read_log([tmp_path / "log.csv"], LogFormat("who", "when", "what", "iso", keep={"event": ["view", "veiw"]}))
    assert "--keep event: no line has 'veiw'; there are 'view'\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        ("--keep event=view --keep shop=b", ["2"]),
        ("--keep shop=b --keep event=view", ["2"]),
        ("--keep event=view --keep event=cart", ["1", "2", "3", "4"]),
        ("--keep event=cart --keep event=view,none", ["1", "2", "3", "4"]),
        ("--keep event=cart --keep shop=a --keep shop=b --keep shop=c", ["3", "4"]),
    ],
)
def test_every_keep_counts(keep, expected, tmp_path):
    rows = "1,view,a 2,view,b 3,cart,a 4,cart,b 5,buy,b".split()
    (tmp_path / "log.csv").write_text("i,event,shop,s,t\n" + "".join(f"{row},7,1\n" for row in rows))
    line = f"--clicks {tmp_path}/log.csv --columns s,t,i --time_format seconds {keep}"
    log = preprocessing.log_format(preprocessing.make_parser().parse_args(line.split()))
    clicks, counts = read_log([tmp_path / "log.csv"], log)
    assert list(map(str, clicks.item)) == expected
    assert counts.filtered == 5 - len(expected)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--sep ;", "--sep is for logs whose columns have names"),
        ("--keep a=b", "--keep is for logs whose columns have names"),
        ("--columns a,b,c --time_format iso", "--columns needs --clicks"),
        ("--clicks x --columns a,b,c", "--columns needs --time_format"),
        ("--clicks x --columns a,b --time_format iso", "--columns a,b is not three names"),
        ("--clicks x --columns a,,c --time_format iso", "--columns a,,c is not three names"),
        (
            "--clicks x --columns a,b,c --time_format ms",
            "--time_format 'ms' is not one of seconds, milliseconds, micro",
        ),
        ("--clicks x --columns a,b,c --time_format iso --sep ab", "--sep 'ab' is not a single"),
        ("--clicks x --columns a,b,c --time_format iso --session_gap 0", "--session_gap 0 is not"),
        ("--clicks x --columns a,b,c --time_format iso --session_gap nan", "--session_gap nan is not"),
        ("--clicks x --columns a,b,c --time_format iso --keep view", "--keep view is not COLUMN=VALUE"),
        ("--clicks x --columns a,b,c --time_format iso --test_clicks y", "--test_clicks is for YooChoose's format"),
        ("--clicks x --columns a,b,c --time_format iso", "cannot read x: No such file"),
    ],
)
def test_flags_that_say_too_little_or_contradict_each_other(line, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=re.escape(message)):
        preprocessing.main(line.split())


def test_times_of_another_unit_are_remarked_upon(tmp_path, capsys):
    lines = [f"{s},{1_500_000_000 + 86_400 * s + i},{i}" for s in range(9) for i in range(5)]
    (tmp_path / "log.csv").write_text("s,t,i\n" + "\n".join(lines) + "\n")
    line = f"--clicks {tmp_path}/log.csv --columns s,t,i --data_folder {tmp_path} --time_format"
    preprocessing.main([*line.split(), "seconds"])
    assert "warning" not in capsys.readouterr().err
    with pytest.raises(UserError, match="would be empty"):
        preprocessing.main([*line.split(), "milliseconds"])
    assert (
        "1970-01-18 08:40:00 to 1970-01-18 08:51:31: is --time_format milliseconds right? (these look like seconds"
        in capsys.readouterr().err
    )


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.text('a",;\n \t', max_size=6), min_size=1, max_size=5), st.sampled_from([",", ";", "\t"]), st.booleans()
)
def test_lines_are_split_as_python_splits_them(values, separator, quote_all):
    values = [value.replace("\n", "") for value in values]
    text = io.StringIO()
    csv.writer(
        text, delimiter=separator, quoting=csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL, lineterminator=""
    ).writerow(values)
    layout = Layout((), {}, has_header=False, separator=separator, quoted=True)
    assert [layout.value(value) for value in layout.split(text.getvalue())] == values


@pytest.mark.parametrize("pattern", ["%Y-%m-%d %H:%m:%S", "%Y-%m-%d %", "%Q", ""])
def test_a_pattern_that_python_cannot_read_is_refused(pattern):
    with pytest.raises(ValueError, match="is not"):
        time_kind(pattern)


@pytest.mark.parametrize(
    "text",
    ["2024-03-01 12:00:00.123+02", "2024-03-01 10:00:00,123", "20240301T100000.123Z", "20240301T120000,123+0200"]
    + ["2024-03-01T10:00:00.123+00", "2024-03-01 05:00:00.123-05"],
)
def test_ways_of_writing_a_time(text):
    assert from_iso(text) == 1_709_287_200_123


@pytest.mark.parametrize(
    ("unit", "digits"), [("seconds", 1), ("milliseconds", 4), ("microseconds", 7), ("nanoseconds", 10)]
)
def test_units_of_time(unit, digits, tmp_path):
    times = [1_709_287_200_123 + n * 1_009 for n in range(500)]
    texts = [f"{time / 1000:.3f}" if unit == "seconds" else f"{time}{'0' * (digits - 4)}" for time in times]
    (tmp_path / "log.csv").write_text("s,t,i\n" + "".join(f"1,{text},2\n" for text in texts))
    assert read_log([tmp_path / "log.csv"], LogFormat("s", "t", "i", unit))[0].time.tolist() == times


def test_spellings_of_nothing_are_nothing(tmp_path, capsys):
    """And a column of integers with some of them is one of integers."""
    spellings = ["", '""', "NA", "NULL", "null", "NaN", "nan", "None", r"\N", '"NA"']
    lines = [f"{text},{n},5\n" for n, text in enumerate(spellings)] + [
        f"7,{n},{text}\n" for n, text in enumerate(spellings)
    ]
    rest = "".join(f"{n // 40},{n * 3_000_000},{n % 3}\n" for n in range(200))
    (tmp_path / "log.csv").write_text("s,t,i\n" + "".join(lines) + "n/a,1,6\n" + rest)
    log = LogFormat("s", "t", "i", "milliseconds")
    clicks, counts = read_log([tmp_path / "log.csv"], log)
    assert (counts.without_session, counts.without_item, counts.clicks) == (10, 10, 201)
    assert set(counts.nulls) == {"", "NA", "NULL", "null", "NaN", "nan", "None", r"\N"}
    assert clicks.item_names is None
    assert set(clicks.session_names.to_pylist()) == {"n/a"} | set("01234")
    clicks, counts = read_log([tmp_path / "log.csv"], replace(log, nulls=["n/a"]))
    assert (counts.without_session, counts.without_item) == (3, 2)

    line = (
        f"--clicks {tmp_path}/log.csv --columns s,t,i --time_format milliseconds --data_folder {tmp_path} --null NA n/a"
    )
    preprocessing.main(line.split())
    left_out = "left out: 5 lines without s, 4 lines without i, 5 lines of these with NA, n/a in its place\n"
    assert left_out in capsys.readouterr().out
