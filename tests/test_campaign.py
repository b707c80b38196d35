"""The campaign of damaged inputs can begin, and a few of its jobs end as they should."""

import random

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
