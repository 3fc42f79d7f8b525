"""Jobs: each is done once, a signal ends them between two, and what goes wrong in a process arrives here."""

import os
import signal

import pytest

from errors import UserError
from interruption import Interrupted
from jobs import run_jobs
from training import EpochProgress


def double(job, stopper):
    if job == "die":
        os._exit(1)
    if job == "refuse":
        raise UserError("it is refused")
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


def test_processes_give_results_and_mistakes():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(UserError, match="it is refused"):
        list(run_jobs(double, [1, "refuse"], 2))
    results = []
    with pytest.raises(UserError, match="a process died, .* lower --n_jobs"):  # noqa: PT012
        for job, result in run_jobs(double, [*range(5), "die"], 2):
            results.append((job, result))
    assert sorted(results) == [(job, 2 * job) for job in range(5)][: len(results)]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
