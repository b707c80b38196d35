"""Durations as people write them, and a clock that counts them down."""

import pytest

from ppl_vae import InputError
from ppl_vae.base.clock import Clock, seconds_of


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90.0), ("2m", 120.0), ("1.5h", 5400.0), ("45", 45.0), ("0.5m", 30.0)]
)
def test_durations(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "two minutes", "-3s", "0", "inf", "nan", "2d"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(InputError, match="is no time"):
        seconds_of(text)


def test_clock_never_owes_time():
    clock = Clock(10.0)
    assert 0 < clock.left <= 10.0
    assert Clock(1e-9).left == 0.0
