"""Dates of games in words and back."""

import numpy as np
import pytest

from ppl_vae.base.errors import InputError
from ppl_vae.data.dates import are_dates, as_days, date_in_words, dates_in_words

DAYS = np.array([-30_000.0, 19_844.0, 19_844.5])


def test_days_are_dates_and_small_numbers_are_not() -> None:
    assert dates_in_words(DAYS) == ["1887-11-12", "2024-05-01", "2024-05-01T12:00:00"]
    assert dates_in_words([1, 2.5]) == ["1", "2.5"]
    assert date_in_words(3.0, like=DAYS) == "1970-01-04"
    assert not are_dates([np.nan])


def test_what_is_written_is_read_again() -> None:
    assert [as_days(text, DAYS) for text in dates_in_words(DAYS)] == DAYS.tolist()
    assert as_days("7.5", [1.0, 2.0]) == 7.5


@pytest.mark.parametrize(("text", "like", "said"), [
    ("soon", DAYS, "the date is 'soon'; it is a date such as 2024-05-01"),
    ("2024-05-01", [1.0], "it is a number"),
])  # fmt: skip
def test_other_words_are_refused(text, like, said) -> None:
    with pytest.raises(InputError, match=said):
        as_days(text, like)
