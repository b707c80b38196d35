"""The campaign of damaged inputs can begin, and a few of its jobs end as they should."""

import os
import random
import sys
import time

import pytest

from benchmarks.campaign import inputs
from benchmarks.campaign.mutate import options
from benchmarks.campaign.worker import run_all


@pytest.mark.parametrize("name", inputs.COMMANDS)
def test_every_command_has_options_to_try(name):
    known = dict(inputs._options(name))
    assert all(flag.startswith("--") for flag in known)
    assert not {*known} & {*inputs.LEFT_OUT}
    if name != "report":
        assert "--seed" in known
        assert options(random.Random(0), list(known.items()))


@pytest.mark.parametrize("kind", [inputs.tables, inputs.arrays])
def test_damaged_inputs_are_used_or_refused(tmp_path, kind):
    tally = run_all(kind(tmp_path, 7), 40, patience=120.0)
    assert {*tally.ended} <= {"used", "refused"}
    assert sum(tally.ended.values()) == 40, tally.failures


@pytest.mark.parametrize(
    ("end", "how"),
    [(lambda: os._exit(3), "abort"), (lambda: os.kill(os.getpid(), 9), "abort"), (lambda: 1 / 0, "traceback"),
     (lambda: sys.exit(0), "traceback")],
)  # fmt: skip
def test_a_job_that_ends_its_process_is_counted_and_passed(end, how):
    def job(number):
        if number == 1:
            end()
        return "used"

    tally = run_all(job, 4, patience=120.0)
    assert tally.ended == {"used": 3, how: 1}
    assert tally.bad == 1


def test_a_job_that_works_too_long_is_ended_and_one_that_waits_is_not():
    def job(number):
        if number == 1:
            while True:
                pass
        time.sleep(1.2 if number == 2 else 0.0)
        return "used"

    tally = run_all(job, 4, patience=0.3)
    assert tally.ended == {"used": 3, "long": 1}
