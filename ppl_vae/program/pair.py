"""What a model/guide pair is.

A *model* and a *guide* are any Pyro programs: callables with ``pyro.sample`` statements that take
the same data. A `Pair` is the two together with the values of their parameters; `abilities` is what more a
model may be able to do.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from ppl_vae.base.errors import InputError
from ppl_vae.base.seeds import seeded
from ppl_vae.program.abilities import Settles
from ppl_vae.program.first_run import first_entries, made_whole
from ppl_vae.program.improper import Feasible
from ppl_vae.program.modes import called_modules, evaluation, held, learning
from ppl_vae.program.promoted import Promoted

__all__ = ["Pair", "Program", "said_by"]

Program = Callable[..., Any]


@dataclass(eq=False)
class Known:
    """What has been found out about a pair.

    Attributes:
        initialised: whether all its parameters exist.
        cast: whether its model is one of `Pair.cast_model`'s, in float64.
        layouts: of some data, beside them; see `problem.Problem.of`.
        called: the modules that each program calls, in the order of their first calls.
    """

    initialised: bool = False
    cast: bool = False
    layouts: list[Any] = field(default_factory=list)
    called: dict[str, list[nn.Module]] = field(default_factory=lambda: {"guide": [], "model": []})


@dataclass(frozen=True, eq=False, repr=False)
class Pair:
    """A model, one guide for it, and the values of their parameters.

    Parameters that live in modules (``nn.Parameter``, ``PyroParam``) stay where they are. Plain
    ``pyro.param`` values belong to the pair: they start from a copy of Pyro's global store as it is
    when the pair is made, and the global store is never changed.

    Args:
        model: a Pyro program with observed sites.
        guide: a Pyro program over the model's latent sites, taking the same data.

    Raises:
        InputError: if either is not callable, or both are modules that would share a parameter's
            name in Pyro's store.
    """

    model: Program
    guide: Program
    _store: dict[str, Any] = field(init=False, repr=False)
    _model_names: set[str] = field(init=False, repr=False, default_factory=set)
    _guide_names: set[str] = field(init=False, repr=False, default_factory=set)
    _known: Known = field(init=False, repr=False, default_factory=Known)

    def __post_init__(self) -> None:
        for program in (self.model, self.guide):
            if not callable(program):
                raise InputError(
                    "a pair needs two callables with pyro.sample statements, a model and a guide; "
                    f"got {type(program).__name__}"
                )
        object.__setattr__(self, "_store", _plain_params())

    def __repr__(self) -> str:
        size = "not yet run"
        if self._known.initialised:
            leaves = self.parameters()
            size = f"{sum(leaf.numel() for leaf in leaves.values()):,} numbers in {len(leaves)} parameters"
        return f"Pair({_named(self.model)} with {_named(self.guide)}; {size})"

    @property
    def known(self) -> Known:
        """What has been found out about the pair, for as long as it and its data live."""
        return self._known

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Run a block with this pair's parameters in Pyro's store, and restore the store after.

        Modules keep the modes that their owner gave them (training, unless told otherwise), also inside a
        `scope`. Only the steps of a fit run so.
        """
        with pyro.get_param_store().scope(self._store), learning():
            yield

    @contextmanager
    def scope(self) -> Iterator[None]:
        """`learning` for everything else: every module that is called meanwhile is in evaluation mode.

        No buffer moves, dropout drops nothing, and what is computed of one row does not depend on its
        neighbours. A model that was cast to float64 takes the float32 tensors that it closes over.
        """
        promoted = Promoted() if self._known.cast else nullcontext()
        with pyro.get_param_store().scope(self._store), evaluation(self.model, self.guide), promoted:
            yield

    @contextmanager
    def holding(self, train: Literal["both", "guide"]) -> Iterator[None]:
        """Run the steps of a fit in a block; where they train the guide alone, the model is only evaluated.

        Its modules, those that the guide shares with it included, are then in evaluation mode while
        `learning`, too.
        """
        model = self._known.called["model"] if train == "guide" else []
        own = [self.model] if train == "guide" and isinstance(self.model, nn.Module) else []
        with held([*own, *model]):
            yield

    def open_layers(self, train: Literal["both", "guide"] = "both") -> list[nn.Module]:
        """The layers that learning leaves open (`Settles`), in the order in which data come to them.

        Those that their owner has put into evaluation mode keep the statistics that they have.

        Args:
            train: ``"guide"`` for those that only the guide calls.
        """
        called = self._known.called
        held = {id(module) for module in called["model"]} if train == "guide" else set()
        found = {id(module): module for module in (*called["guide"], *called["model"])}
        with learning():
            return [
                module
                for key, module in found.items()
                if isinstance(module, Settles) and module.training and key not in held
            ]

    def initialise(self, *data: Any, seed: int = 0) -> Self:
        """Run both programs once, so that lazily made parameters (AutoGuides, ``pyro.param``) exist.

        Calling it again changes nothing. The model runs at the guide's draw, since its priors need not be
        distributions that can be drawn from. Programs that have all their parameters from the start may say
        so by an attribute `made_whole`, True: a few entries of their plates are then enough.
        """
        if self._known.initialised:
            return self
        short = first_entries(made_whole(self.model, self.guide))
        with self.scope(), seeded(seed), torch.no_grad(), short:
            with self._noting("guide", self._guide_names):
                guide = poutine.trace(self.guide).get_trace(*data)
            with self._noting("model", self._model_names):
                poutine.replay(self.model, trace=guide)(*data)
        self._known.initialised = True
        return self

    @contextmanager
    def _noting(self, role: Literal["model", "guide"], names: set[str]) -> Iterator[None]:
        """Note which parameters and modules a program uses that is run in a block."""
        program = self.model if role == "model" else self.guide
        told = poutine.trace(param_only=True)
        with Feasible(), said_by(program, role), told as capture, called_modules() as called:
            yield
        names.update(capture.trace.nodes)
        self._known.called[role] = called

    def parameters(self, train: Literal["both", "guide"] = "both") -> dict[str, Tensor]:
        """The unconstrained leaf tensors by name, after `initialise`.

        Args:
            train: ``"both"``, or ``"guide"`` for the parameters that only the guide reads.
        """
        if train not in ("both", "guide"):
            raise InputError(f"train={train!r} is not known; it is 'both' or 'guide'")
        used = self._model_names | self._guide_names
        stored = {name: leaf for name, leaf in self._store["params"].items() if name in used}
        # Pyro's flows keep one parameter under two names.
        once = {id(leaf): name for name, leaf in stored.items()}
        found = {name: leaf for name, leaf in stored.items() if once[id(leaf)] == name}
        known = set(once)
        frozen = {id(stored[name]) for name in self._model_names if name in stored}
        for prefix, program in (("model", self.model), ("guide", self.guide)):
            if isinstance(program, nn.Module):
                for name, leaf in program.named_parameters(prefix):
                    if prefix == "model":
                        frozen.add(id(leaf))
                    if id(leaf) not in known:
                        known.add(id(leaf))
                        found[name] = leaf
        return {
            name: leaf
            for name, leaf in found.items()
            if leaf.requires_grad and not (train == "guide" and id(leaf) in frozen)
        }

    def buffers(self) -> dict[str, Tensor]:
        """The modules' buffers (statistics and the like), by name; those of all that they call as well."""
        found = {
            name: tensor
            for prefix, program in (("model", self.model), ("guide", self.guide))
            if isinstance(program, nn.Module)
            for name, tensor in program.named_buffers(prefix)
        }
        known = {id(tensor) for tensor in found.values()}
        for role, modules in self._known.called.items():
            for number, module in enumerate(modules):
                for name, tensor in module.named_buffers():
                    if id(tensor) not in known:
                        known.add(id(tensor))
                        found[f"{role}/called/{number}/{name}"] = tensor
        return found

    def state_dict(self) -> dict[str, Tensor]:
        """A detached copy of every parameter (unconstrained) and buffer, after `initialise`."""
        state = {**self.parameters(), **self.buffers()}
        return {name: tensor.detach().clone() for name, tensor in state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copy values in place into the parameters, after `initialise`.

        Raises:
            InputError: if names or shapes differ from this pair's.
        """
        own = {**self.parameters(), **self.buffers()}
        if missing := sorted(own.keys() ^ state.keys()):
            raise InputError(f"the saved parameters are not this pair's: {', '.join(missing)} differ")
        for name, tensor in own.items():
            if tensor.shape != state[name].shape:
                raise InputError(
                    f"the saved parameter {name} has shape {tuple(state[name].shape)}; "
                    f"this pair's has {tuple(tensor.shape)}"
                )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(state[name])

    def cast_model(self, dtype: torch.dtype, guide: Callable[[Program], Program]) -> Pair:
        """A pair of a copy of the model in another precision with a guide made for that copy.

        A model that is a plain function stays itself; its ``pyro.param`` values are copied.
        """
        model = self.model
        if isinstance(model, nn.Module):
            model = _hold(copy.deepcopy(model).to(dtype).eval())
        pair = Pair(model, guide(model))
        params = self._store["params"].items()
        kept = {name: leaf for name, leaf in params if not isinstance(leaf, nn.Parameter)}
        pair._store["params"] = {
            name: leaf.detach().to(dtype).clone().requires_grad_(True) for name, leaf in kept.items()
        }
        pair._store["constraints"] = {name: self._store["constraints"][name] for name in kept}
        pair.known.cast = dtype == torch.float64
        return pair


@contextmanager
def said_by(program: Program, role: str) -> Iterator[None]:
    """Add to whatever a program raises which program it was; the exception stays what it is."""
    try:
        yield
    except Exception as error:
        error.add_note(f"raised while running the {role} {_named(program)}")
        raise


def _named(program: Program) -> str:
    """What a program is called: its function's or its class's name."""
    return str(getattr(program, "__qualname__", type(program).__qualname__))


def _hold(module: nn.Module) -> nn.Module:
    """Turn parameters into buffers.

    Held parameters need no gradients, and a traced density could not carry them; Pyro's store would
    switch gradients on again for anything that is still a parameter.
    """
    for part in module.modules():
        for name, leaf in list(part.named_parameters(recurse=False, remove_duplicate=False)):
            # Past a PyroModule's own: Pyro's store keeps what it has.
            nn.Module.__delattr__(part, name)
            part.register_buffer(name, leaf.detach())
    return module


def _plain_params() -> dict[str, Any]:
    """Copies of the global store's values that belong to no module."""
    store = pyro.get_param_store().get_state()
    plain = {
        name: tensor.detach().clone().requires_grad_(True)
        for name, tensor in store["params"].items()
        if not isinstance(tensor, nn.Parameter)
    }
    return {
        "params": plain,
        "constraints": {name: store["constraints"][name] for name in plain},
    }
