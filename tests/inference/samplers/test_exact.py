from typing import Any

import pytest
import torch
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.inference import exact
from ppl_vae.models import PPCA, TrueSkill


def test_a_model_that_does_not_know_is_sent_to_the_method_that_can_tell() -> None:
    model, games = TrueSkill(2), (torch.ones(1), torch.tensor([[0, 1]]))
    with pytest.raises(InputError, match="trueskill does not know its exact posterior; sample it with NUTS"):
        exact.draws(model, *games)
    with pytest.raises(InputError, match="trueskill does not know its exact evidence; estimate it by imp"):
        exact.log_evidence(model, *games)


def test_a_users_function_knows_nothing_exactly(conjugate: Any, x: Tensor) -> None:
    with pytest.raises(InputError, match="does not know"):
        exact.draws(conjugate.model, x)


def test_exact_answers_are_in_double_precision_for_a_single_precision_model() -> None:
    torch.manual_seed(0)
    x = torch.randn(10, 4)
    single, double = PPCA(4, 2, dtype=torch.float32), PPCA(4, 2, dtype=torch.float64)
    double.load_state_dict({name: value.double() for name, value in single.state_dict().items()})
    one, two = (exact.log_evidence(m, d) for m, d in ((single, x), (double, x.double())))
    assert one.log_evidence.dtype == "float64"
    # Equal up to the float32 rounding of log σ alone.
    assert abs(one.total - two.total) < 1e-5
