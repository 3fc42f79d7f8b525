"""An example of a server, to be copied: a click comes in, what is recommended after it goes out.

pip install onnxruntime fastapi uvicorn uvloop httptools
python serving/server.py model.onnx 8000
curl -X POST 'http://127.0.0.1:8000/click?session=abc&item=214536502'
"""

import asyncio
import hashlib
import sys
from collections import OrderedDict
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse

MOST_SESSIONS = 100_000  # that are remembered: those that clicked last
MOST_AT_ONCE = 64  # clicks that the model is fed with side by side

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1  # the other cores have requests to read
model_path = Path(sys.argv[1])
model = onnxruntime.InferenceSession(model_path, options, providers=["CPUExecutionProvider"])
about = model.get_modelmeta().custom_metadata_map
id_file = model_path.with_suffix(".items.txt").read_bytes()
assert hashlib.sha256(id_file).hexdigest() == about["items_sha256"], "these ids are not those of the model"
texts = id_file.decode().split("\n")[:-1]
ids = np.array(texts, dtype=object) if about["item_ids"] == "text" else np.array(texts, dtype=np.int64)
index = {text: place for place, text in enumerate(texts)}
no_clicks = np.zeros((int(about["num_layers"]), int(about["hidden_size"])), dtype=np.float32)
states: OrderedDict[str, np.ndarray] = (
    OrderedDict()
)  # by session; a shop has them in Redis, or wherever its sessions are
waiting: list[tuple[str, int, asyncio.Future]] = []  # session, item index, where the answer goes
clicked = asyncio.Event()


async def answer_clicks() -> None:
    """Feed the model with the clicks that came while it was busy with those before: side by side costs little more."""
    while await clicked.wait():
        batch = {}
        for request in waiting:  # the first click of each session; a second one has to wait for the first
            if len(batch) < MOST_AT_ONCE:
                batch.setdefault(request[0], request)
        waiting[:] = [request for request in waiting if batch.get(request[0]) is not request]
        if not waiting:
            clicked.clear()
        sessions, clicks, answers = zip(*batch.values(), strict=True)
        feed = {
            "click": np.array(clicks, dtype=np.int64),
            "state": np.stack([states.get(session, no_clicks) for session in sessions], axis=1),
        }
        try:
            new_states, items, scores = await asyncio.to_thread(model.run, ("new_state", "items", "scores"), feed)
        except Exception as error:  # these clicks are answered by it, and the next ones are tried again
            for answer in answers:
                if not answer.done():
                    answer.set_exception(error)
            continue
        for row, session in enumerate(sessions):
            has_begun = new_states[:, row].any()
            if has_begun:
                states[session] = new_states[:, row].copy()
                states.move_to_end(session)
            if not answers[row].done():  # the client may have gone
                best = (ids[items[row]].tolist(), scores[row].tolist()) if has_begun else ([], [])
                answers[row].set_result(dict(zip(("items", "scores"), best, strict=True)))
        while len(states) > MOST_SESSIONS:
            states.popitem(last=False)


@asynccontextmanager
async def running(_: FastAPI):
    task = asyncio.create_task(answer_clicks())
    yield
    task.cancel()


app = FastAPI(lifespan=running)


@app.post("/click")
async def click(session: str, item: str) -> JSONResponse:
    """What is likely to be clicked next, after this click and those before it; nothing where no item was known yet."""
    answer = asyncio.get_running_loop().create_future()
    waiting.append((session, index.get(item, -1), answer))
    clicked.set()
    return JSONResponse(await answer)


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[2]), log_level="warning", access_log=False)
