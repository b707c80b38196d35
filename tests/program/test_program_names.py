import functools

import pytest
from torch import nn

from ppl_vae.base.errors import InputError
from ppl_vae.inference import exact
from ppl_vae.models import PPCA, Skills
from ppl_vae.program.program_names import name_of
from tests.models.skills.seasons import games_of, season


class Mine(nn.Module):
    """A program of a user's own, without a name."""


def program() -> None:
    """Another."""


def test_models_are_called_as_users_call_them() -> None:
    """Skills make a class of themselves for the games; what was asked for are skills."""
    races = games_of([(("A", "B", "C"), (0, 1, 2))])
    for made in (Skills.from_data(season(6, 4), draws=True), Skills.from_data(races)):
        assert type(made).__name__ != "Skills"
        assert name_of(made) == "skills"
        with pytest.raises(InputError, match=r"^skills does not know its exact evidence"):
            exact.log_evidence(made)
    assert name_of(PPCA(4, 2)) == "ppca"
    found = [name_of(each) for each in (Mine(), program, lambda: None, functools.partial(program))]
    assert found == ["Mine", "program", "this program", "this program"]
