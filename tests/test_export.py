"""ONNX: onnxruntime gives the lists and scores of the model, step by step; and the example of a server does so, too."""

import asyncio
import hashlib
import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from conftest import ENVIRONMENT, ROOT

import export
from clicks.itemindex import ItemIndex
from model import GRU4Rec
from recommend import Recommender
from runs.parameters import parse_flags, training_parameters
from runs.restoring import make_model
from runs.runfolder import write_checkpoint
from serving import onnxgraph
from serving.onnxgraph import ids_path, write_onnx
from terminal.errors import UserError
from tools import load

onnx = pytest.importorskip("onnx", reason="needs onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
pytest.importorskip("onnxscript", reason="needs onnxscript")

N_ITEMS = 50
NUMBERS = np.arange(700, 700 + N_ITEMS)
TEXTS = np.array([f"ä/{i} &\u2028" for i in range(N_ITEMS)], dtype=object)
K = 6
ALL = [
    (mode, layers, gate, act)
    for mode in ({}, {"embedding_dim": 4}, {"constrained_embedding": True})
    for layers in (1, 2, 3)
    for gate in ("before", "after")
    for act in ("tanh", "softmax", "elu-0.5", "leaky-0.1", "relu", "linear")
]
SOME = [({}, 3, "before", "tanh"), ({"embedding_dim": 4}, 1, "before", "elu-0.5")]  # and the script's, shared, softmax


def make_recommender(ids, mode, layers, gate, act):
    torch.manual_seed(3)
    model = GRU4Rec(N_ITEMS, 7, layers, reset_gate=gate, final_act=act, dropout_hidden=0.5, dropout_input=0.5, **mode)
    torch.nn.init.normal_(model.output_bias)
    return Recommender(model, ItemIndex(ids))


def check_equal(recommender, path):
    """Random sessions of random lengths, unknown items among them, side by side in batches of several sizes."""
    graph = onnxruntime.InferenceSession(path)
    rng = np.random.default_rng(4)
    for n in (1, 2, 9):
        sessions = recommender.sessions(n)
        state = sessions.state
        for _ in range(5):
            click = np.where(rng.random(n) < 0.3, -1, rng.integers(0, N_ITEMS, n))
            went_on = sessions.click([None if place < 0 else recommender.index.ids[place] for place in click])
            assert went_on.tolist() == (click >= 0).tolist()
            state, items, scores = graph.run(onnxgraph.OUTPUTS, {"click": click, "state": state})
            np.testing.assert_allclose(state, sessions.state, rtol=0, atol=1e-6)
            expected_items, expected_scores = sessions.recommend(K)
            begun = np.isfinite(expected_scores).any(axis=1)
            assert recommender.index.ids[items][begun].tolist() == expected_items[begun].tolist()
            np.testing.assert_allclose(scores[begun], expected_scores[begun], rtol=0, atol=1e-5)
            assert not state[:, ~begun].any()
        with pytest.raises(Exception, match="(?i)out of"):
            graph.run(None, {"click": np.full(n, N_ITEMS), "state": state})


def check_no_table_is_there_twice(recommender, path):
    n_weights = sum(weight.numel() for weight in recommender.model.parameters())
    floats = [each for each in onnx.load(path).graph.initializer if each.data_type == onnx.TensorProto.FLOAT]
    assert sum(np.prod(each.dims) for each in floats) < n_weights + 10


@pytest.mark.parametrize("setting", [*SOME, *(pytest.param(each, marks=pytest.mark.long) for each in ALL)])
def test_onnxruntime_gives_the_models_lists(setting, tmp_path):
    recommender = make_recommender(TEXTS, *setting)
    path = tmp_path / "model.onnx"
    if setting == SOME[1]:  # of a few candidates, the rows of these alone
        recommender = recommender.among(TEXTS[3:11])
    write_onnx(recommender, path, K)
    check_equal(recommender, path)
    about = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
    assert about["item_ids"] == "text"
    assert (about["num_layers"], about["hidden_size"], about["k"]) == (str(setting[1]), "7", str(K))
    assert ids_path(path).read_bytes().decode().split("\n") == [*TEXTS, ""]
    assert hashlib.sha256(ids_path(path).read_bytes()).hexdigest() == about["items_sha256"]
    check_no_table_is_there_twice(recommender, path)
    assert str(ROOT).encode() not in path.read_bytes()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """What the script leaves of a checkpoint, and the recommender of that."""
    path = tmp_path_factory.mktemp("model") / "model_00000.pt"
    parameters = training_parameters(parse_flags("--hidden_size 7 --num_layers 2 --constrained_embedding".split()))
    torch.manual_seed(5)
    model = make_model(parameters, N_ITEMS)
    checkpoint = {
        "parameters": vars(parameters),
        "model": model.state_dict(),
        "item_ids": torch.from_numpy(NUMBERS),
        "support": torch.ones(N_ITEMS, dtype=torch.int64),
        "optimizer": {},
        "epoch": 0,
        "within_epoch": None,
        "history": [],
        "random_state": {},
    }
    write_checkpoint(path, checkpoint)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["export.py", "--load_model", str(path), "--k", str(K)])
        export.main()
    return path.with_suffix(".onnx"), Recommender.load(path, "cpu")


def test_the_script_writes_both_files(exported):
    path, recommender = exported
    check_equal(recommender, path)
    check_no_table_is_there_twice(recommender, path)
    assert ids_path(path).read_text().split() == [str(item) for item in NUMBERS]


def test_reminders_are_left_out_and_this_is_said(exported, tmp_path, capsys):
    _, plain = exported
    reminding = Recommender(plain.model, plain.index, bonus=0.5)
    write_onnx(reminding, tmp_path / "model.onnx", K)
    assert "recommends without the bonus of --remind 0.5, unlike recommend.py" in capsys.readouterr().err
    check_equal(plain, tmp_path / "model.onnx")
    about = onnxruntime.InferenceSession(tmp_path / "model.onnx").get_modelmeta().custom_metadata_map
    assert about["remind"] == "0.5"


def test_mistakes_are_one_sentence_and_leave_no_file(exported, tmp_path, monkeypatch):
    _, recommender = exported
    model = str(exported[0].with_suffix(".pt"))

    def refused(message, *arguments):
        monkeypatch.setattr(sys, "argv", ["export.py", "--load_model", model, *arguments])
        with pytest.raises(UserError, match=re.escape(message)):
            export.main()
        assert not list(tmp_path.iterdir())

    monkeypatch.chdir(tmp_path)
    refused("does not end in .onnx", "--output", "model.pt")
    refused("--k 51 is more than the 50 items", "--output", "model.onnx", "--k", "51")
    with pytest.raises(ValueError, match="k is 6, expected 1 to 2"):
        write_onnx(recommender.among(NUMBERS[:2]), tmp_path / "model.onnx", K)
    monkeypatch.setattr(onnxgraph, "MOST_BYTES", 100)
    refused("an ONNX file holds 2.1 GB", "--output", "model.onnx")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    refused("pip install onnxscript", "--output", "model.onnx")


@contextmanager
def serving(path):
    """The port of a server of an ONNX file, in a process of its own."""
    pytest.importorskip("fastapi", reason="needs fastapi")
    pytest.importorskip("uvicorn", reason="needs uvicorn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, ROOT / "serving" / "server.py", path, str(port)], env=ENVIRONMENT)
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None
            time.sleep(0.1)
        yield port
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)


@pytest.fixture(scope="module")
def server(exported):
    with serving(exported[0]) as port:
        yield port


def test_the_server_recommends_what_the_model_does(exported, server):
    _, recommender = exported

    def click(session, item):
        url = f"http://127.0.0.1:{server}/click?session={session}&item={item}"
        with urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=20) as answer:
            found = json.load(answer)
        return list(zip(found["items"], found["scores"], strict=True))

    rng = np.random.default_rng(6)
    clicked = {"a": [], "b": [], "c": []}
    for _ in range(25):
        session = str(rng.choice(list(clicked)))
        item = rng.choice([5, *NUMBERS[:20]]).item()
        clicked[session].append(item)
        found = click(session, item)
        if set(clicked[session]) == {5}:
            assert found == []
            continue
        expected = recommender.recommend(clicked[session], K)
        assert [item for item, _ in found] == [item for item, _ in expected]
        assert [s for _, s in found] == pytest.approx([s for _, s in expected], abs=1e-5)
    assert click("new", "nothing") == []


def test_the_server_answers_many_at_once_and_load_measures_it(exported, server, monkeypatch, capsys):
    """More connections than sessions: clicks of one session wait for each other, and none is lost."""
    monkeypatch.setattr(load, "N_SESSIONS", 5)
    monkeypatch.setattr(load, "UNCOUNTED", 0)
    clicks = load.latencies(server, NUMBERS.astype(str).tolist(), 200, 1, 40)
    seconds = asyncio.run(asyncio.wait_for(clicks, 60))
    assert len(seconds) == 200
    assert (seconds > 0).all()
    with pytest.raises(UserError, match="nothing answers at"):
        asyncio.run(load.latencies(1, ["1"], 1, 1, 1))


def test_a_model_that_fails_is_an_answer_and_the_next_click_is_tried(exported, tmp_path):
    graph = onnx.load(exported[0])
    graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2  # clicks at once, no fewer and no more
    path = tmp_path / "model.onnx"
    path.write_bytes(graph.SerializeToString())
    ids_path(path).write_bytes(ids_path(exported[0]).read_bytes())
    with serving(path) as port:
        for _ in range(2):
            with pytest.raises(urllib.error.HTTPError, match="500"):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/click?session=a&item=700", data=b"", timeout=20)
        with pytest.raises(UserError, match="the server answers HTTP/1.1 500"):
            asyncio.run(asyncio.wait_for(load.latencies(port, ["700"], 5, 1, 2), 60))
