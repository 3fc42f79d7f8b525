"""Jobs: each is done once, a signal ends them between two, and what goes wrong in a process arrives here."""

import os
import signal
import time

import pytest

from runs.interruption import Interrupted, StopRequest
from runs.jobs import run_jobs
from terminal.errors import UserError
from training import EpochProgress


def double(job, stopper):
    """In a process of its own: twice a number, or a job that ends it, or that ends the search."""
    if job == "die":
        os._exit(1)
    if job == "stop":
        os.kill(os.getppid(), signal.SIGTERM)
        while not stopper.is_due(0):
            time.sleep(0.01)
        stopper.keep(EpochProgress(epoch=0))
    return 2 * job


def test_jobs_are_done_here_one_after_another():
    done = []
    assert list(run_jobs(lambda job, stopper: done.append(job), [3, 1, 2], 1)) == [(3, None), (1, None), (2, None)]
    assert done == [3, 1, 2]
    assert list(run_jobs(double, [], 2)) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_job_between_two_steps(number):
    steps = []

    def work(job, stopper):
        for step in range(100):
            if step == 7 and job == 1:
                os.kill(os.getpid(), number)
            steps.append((job, step))
            if stopper.is_due(step):
                stopper.keep(EpochProgress(epoch=0))

    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as interrupted:
        list(run_jobs(work, [0, 1, 2], 1))
    assert interrupted.value.exit_code == 128 + number
    assert steps[-1] == (1, 7)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(
    ("last", "kind", "words"),
    [("die", UserError, "a process died, .* lower --n_jobs"), ("stop", Interrupted, "SIGTERM")],
)
def test_processes_give_results_until_one_dies_or_a_signal_comes(last, kind, words):
    before = [signal.getsignal(number) for number in StopRequest.SIGNALS]
    results = []
    with pytest.raises(kind, match=words):  # noqa: PT012
        for job, result in run_jobs(double, [*range(5), last, *range(5, 50)], 2):
            results.append((job, result))
    assert all(result == 2 * job for job, result in results)
    jobs = [job for job, _ in results]
    assert len(jobs) == len(set(jobs)) <= 50
    if last == "stop":
        assert len({0, 1, 2, 3, 4} - set(jobs)) <= 1  # what was done before is not lost; the other process had one
    assert [signal.getsignal(number) for number in StopRequest.SIGNALS] == before
