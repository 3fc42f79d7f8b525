"""What takes minutes: ``make test-long`` runs it."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import feed_of, make_sessions

from dataset import NegativeSampler, SessionParallelBatches
from faster.compilation import choose_step
from lossfunction import make_loss_function
from model import GRU4Rec
from optimizer import Optimizer, adagrad
from training import EpochProgress, train_epoch

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]
PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("device", DEVICES)
def test_memory_files_and_threads_stay_flat_over_200_000_steps(device):
    device = torch.device(device)
    rng = np.random.default_rng(0)
    sessions, index = make_sessions([rng.integers(0, 500, rng.integers(2, 20)).tolist() for _ in range(4000)])
    support = sessions.support(len(index))
    model = GRU4Rec(len(index), hidden_size=16, dropout_hidden=0.3).to(device)
    optimizer = Optimizer(model.network_parameters(), model.item_tables(), adagrad(0.01, 0.1))
    loss_function = make_loss_function("BPR-max", 1.0, 0.0, 0.5, torch.from_numpy(support).to(device))
    batches = SessionParallelBatches(sessions, 8)
    sampler = NegativeSampler(support, 0.5, 32, 1, device)
    feed = feed_of(model, batches, sampler)
    step = choose_step("auto", device)
    n_steps, seen = 0, []
    while n_steps < 200_000:
        progress = EpochProgress(epoch=len(seen))
        train_epoch(model, optimizer, loss_function, feed, progress, step=step)
        n_steps += progress.step
        on_device = torch.cuda.memory_allocated() if device.type == "cuda" else 0
        seen.append((resident_bytes(), on_device, open_files(), threading.active_count()))
    warm, last = seen[len(seen) // 10], seen[-1]
    assert last[0] - warm[0] < 4 * 2**20
    assert last[1:] == warm[1:]
