"""What a fitted run gives away, as xarray: codes, draws, samples, reconstructions, imputed data, log p(x)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pyro import poutine
from torch import Tensor

from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.errors import InputError
from ppl_vae.base.seeds import seeded
from ppl_vae.data.dataset import VariableKind
from ppl_vae.data.inputs import Mask
from ppl_vae.inference.evidence import importance
from ppl_vae.inference.samplers import exact, guide
from ppl_vae.inference.samplers.exact import summed_posterior
from ppl_vae.program.abilities import ExactEvidence, Imputes
from ppl_vae.program.layout import sample_sites
from ppl_vae.program.problem import Problem
from ppl_vae.program.simulate import simulate
from ppl_vae.runs.jobs import part_problem, row_numbers
from ppl_vae.runs.run import Run

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["KINDS", "export"]

KINDS = ("codes", "draws", "samples", "reconstructions", "imputed", "log-evidence")
OF_GAMES = ("leaderboard", "win-probability", "curves")


def export(
    run: Run,
    what: str,
    *,
    split: str | None = None,
    rows: slice | None = None,
    num_draws: int = 1000,
    seed: int | None = None,
) -> xr.Dataset:
    """One of a run's answers, labelled.

    Args:
        run: a fitted one.
        what: "codes", mean and sd of every latent of a row under the guide; "draws" from the guide, with
            their log importance weights; where all latents are summed out, exact posterior probabilities of
            their values, and exact draws; "samples", data drawn from the model, as many rows as were chosen;
            "reconstructions", E[x | z] at the mean of z under the guide; "imputed", the data with expected
            values in the place of missing ones, and their standard deviations; "log-evidence", log p(x) of
            every unit with its error, exact or by importance sampling. Of models of games: "leaderboard";
            "win-probability" of every player against every other; "curves" of levels over time.
        split: "train", "validation" or "test"; by default test where there are such rows.
        rows: of that split; all by default.
        num_draws: of the guide, a unit.
        seed: of everything random; the run's by default.

    Returns:
        Samples, reconstructions and imputed values are in the units of the data, before they were
        standardised. Rows have their positions in the data set as a coordinate.

    Raises:
        InputError: for something else, or what this model does not have.
    """
    if what in OF_GAMES:
        from ppl_vae.runs.game_exports import export_of_games

        return export_of_games(run, what, num_draws=num_draws, seed=seed)
    if what not in KINDS:
        every = (*KINDS, *OF_GAMES)
        raise InputError(f"--what is {what!r}; it is {', '.join(every[:-1])} or {every[-1]}")
    part, problem = part_problem(run, split)
    index = row_numbers(run, problem.layout, rows, part)
    asked = _Asked(run, part, problem, index, num_draws, run.settings.seed if seed is None else seed)
    return {
        "codes": asked.codes,
        "draws": asked.draws,
        "samples": asked.samples,
        "reconstructions": asked.reconstructions,
        "imputed": asked.imputed,
        "log-evidence": asked.log_evidence,
    }[what]()


class _Asked:
    """An export of some rows of one part."""

    def __init__(
        self,
        run: Run,
        part: str,
        problem: Problem,
        index: Tensor | None,
        num_draws: int,
        seed: int,
    ) -> None:
        self.run, self.part, self.data, self.layout = run, part, problem.data, problem.layout
        self.index, self.num_draws, self.seed = index, num_draws, seed

    @property
    def chosen(self) -> NDArray[np.int64]:
        """Positions within the part."""
        if self.index is not None:
            return self.index.numpy()
        return np.arange(
            self.layout.num_units if self.layout.unit_plate else self.run.data.part(self.part).num_units
        )

    def _numbered(self, found: xr.Dataset, *lead: str) -> xr.Dataset:
        """With the rows' positions in the data set, and the dimensions that a table's rows run over."""
        plate = self.layout.unit_plate
        if plate is None or plate not in found.sizes:
            return found.assign_attrs(rows=",".join(lead or ("dataset",)))
        numbers = self.run.parts[self.part][self.chosen]
        return found.assign_coords({plate: numbers}).assign_attrs(rows=",".join((*lead, plate)))

    def _local(self, what: str) -> str:
        """The name of the units' plate.

        Raises:
            InputError: if latents are shared by all data.
        """
        if self.layout.unit_plate is None:
            raise InputError(
                f"{what} belong to models with a latent per row; the latents of {self.run.settings.model} "
                "are shared by all its data: export draws"
            )
        return self.layout.unit_plate

    def draws(self) -> xr.Dataset:
        """Draws of the guide, and their weights; exact ones where all latents are summed out."""
        if not self.layout.latents:
            drawn = exact.draws(self.run.model, *self.data, num_draws=self.num_draws, seed=self.seed)
            chosen = dict.fromkeys({self.layout.unit_plate} & {*drawn.draws.dims}, self.chosen)
            return self._numbered(drawn.draws.isel(chosen), "chain", "draw")
        found = self._drawn(self.num_draws, self.index)
        weights = {} if found.log_weights is None else {"log_weight": found.log_weights}
        return self._numbered(found.draws.assign(weights), "chain", "draw")

    def _drawn(self, num_draws: int, index: Tensor | None) -> Posterior:
        return guide.draws(self.run.pair, *self.data, num_draws=num_draws, index=index, seed=self.seed)

    def codes(self) -> xr.Dataset:
        """Means and sds, by formula where the guide's distribution has one, else of draws."""
        plate = self._local("codes")
        if not self.layout.latents:
            return self._numbered(self._probabilities(plate))
        moments = self._moments()
        draws = self._drawn(self._needed(moments), self.index).draws
        over = ("chain", "draw")
        found = {"mean": draws.mean(over), "sd": draws.std(over, ddof=1)}
        for name, both in moments.items():
            one = draws[name].isel(chain=0, draw=0, drop=True)
            for kind, values in zip(found, both, strict=True):
                found[kind][name] = one.copy(data=values[self.chosen])
        named = {f"{name}_{kind}": values for kind, each in found.items() for name, values in each.items()}
        return self._numbered(draws.drop_vars(list(draws.data_vars)).drop_dims(over).assign(named))

    def _probabilities(self, plate: str) -> xr.Dataset:
        """p(k | x) of every value k of the latents that are summed out.

        Raises:
            InputError: if the model does not know them.
        """
        import xarray as xr

        found = {
            name: (probs.cpu().numpy()[self.chosen], values.cpu().numpy())
            for name, (probs, values) in summed_posterior(self.run.model, self.data).items()
        }
        return xr.Dataset(
            {f"{name}_probability": ((plate, name), probs) for name, (probs, _) in found.items()},
            {name: values for name, (_, values) in found.items()},
        )

    def _needed(self, moments: Collection[str]) -> int:
        """How many draws: only their labels, where every latent's moments are known."""
        return 2 if {*self.layout.latents} <= {*moments} else self.num_draws

    def _moments(self) -> Mapping[str, tuple[NDArray[Any], NDArray[Any]]]:
        """Means and sds of the guide's own distributions, for the sites that have them.

        A distribution that depends on what was drawn before (z2 given z1) has those of a conditional, not
        those of q(z | x): two runs on other draws tell.
        """
        with seeded(self.seed):
            first, second = self._formulas(), self._formulas()
        same = {name for name in first if np.array_equal(first[name], second[name])}
        return {name: both for name, both in first.items() if name in same}

    def _formulas(self) -> Mapping[str, tuple[NDArray[Any], NDArray[Any]]]:
        """Means and sds of the distributions of one run of the guide."""
        with self.run.pair.scope(), torch.no_grad():
            trace = poutine.trace(self.run.pair.guide).get_trace(*self.data)
        found = {}
        for name, site in sample_sites(trace):
            if name not in self.layout.latents or len(self.layout.latents[name]) != 1:
                continue
            try:
                mean, variance = site["fn"].mean, site["fn"].variance
            except (NotImplementedError, AttributeError):
                continue
            # What AutoGuides put at a point, they drew elsewhere.
            if bool((variance > 0).all()):
                found[name] = (mean.cpu().numpy(), variance.sqrt().cpu().numpy())
        return found

    def reconstructions(self) -> xr.Dataset:
        """The mean of the observed sites where every latent is at its mean."""
        self._local("reconstructions")
        if not self.layout.latents:
            return self._as_data(self._expected())
        moments = self._moments()
        draws = self._drawn(self._needed(moments), None).draws
        means = {name: draws[name].mean(("chain", "draw")).to_numpy() for name in self.layout.latents}
        means |= {name: mean for name, (mean, _) in moments.items()}
        like = next(tensor for tensor in self.data if tensor.is_floating_point())
        at = {name: torch.as_tensor(mean).to(like) for name, mean in means.items()}
        return self._as_data(
            {name: value.cpu().numpy()[self.chosen] for name, value in self._means(at).items()}
        )

    def _means(self, at: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Means of the observed sites at given latents."""
        with self.run.pair.scope(), torch.no_grad():
            trace = poutine.trace(poutine.condition(self.run.pair.model, data=at)).get_trace(*self.data)
        return {name: site["fn"].mean for name, site in sample_sites(trace) if site["is_observed"]}

    def _expected(self) -> dict[str, NDArray[Any]]:
        """Means of the observed sites over the posterior of the one latent, which is summed out."""
        ((name, (probs, values)),) = summed_posterior(self.run.model, self.data).items()
        total: dict[str, Tensor] = {}
        for number, value in enumerate(values):
            for site, mean in self._means({name: value.expand(len(probs))}).items():
                total[site] = total.get(site, 0.0) + probs[:, number, None].to(mean) * mean
        return {site: mean.cpu().numpy()[self.chosen] for site, mean in total.items()}

    def samples(self) -> xr.Dataset:
        """Data drawn from the model: what is observed anew, what is conditioned on as it is."""
        inputs, names, data = self.run.data.inputs, self._names, self.data
        masks = [name for name in names if isinstance(kind := inputs[name], Mask) and kind.optional]
        if masks:
            # Whole units, whatever is missing in the data.
            whole = (values.nan_to_num() if values.is_floating_point() else values for values in data)
            each = zip(names, whole, strict=True)
            data = tuple(torch.ones_like(values) if name in masks else values for name, values in each)
        _, drawn = simulate(Problem(self.run.pair, data, self.layout), self.seed)
        values = {name: tensor.cpu().numpy() for name, tensor in zip(names, drawn, strict=True)}
        return self._as_data(
            {name: found[self.chosen] for name, found in values.items() if name not in masks}
        )

    @property
    def _names(self) -> list[str]:
        """The names of the model's arguments, in their order."""
        inputs = self.run.data.inputs
        present = [name for name in inputs if name in self.run.data.dataset]
        return sorted(present, key=lambda name: not inputs[name].observed)

    def imputed(self) -> xr.Dataset:
        """The data without gaps, and the standard deviations of what was filled in.

        Raises:
            InputError: where the model does not know what a missing value may have been.
        """
        if not isinstance(self.run.model, Imputes):
            raise InputError(
                f"{self.run.settings.model} takes no missing values, so that there are none to impute"
            )
        found, name = self.run.model.impute(*self.data), self._names[0]
        mean, sd = (values.cpu().numpy()[self.chosen] for values in (found.mean, found.sd))
        made = self._as_data({name: mean})
        variable, own = made[name], self.run.unscaled(self.part)[name].values[self.chosen]
        # What is observed, to the last digit.
        made[name] = variable.copy(data=np.where(np.isnan(own), variable.to_numpy(), own))
        labels = [f"{label} (sd)" for label in variable[variable.dims[1]].to_numpy()]
        made[f"{name}_sd"] = ((variable.dims[0], "sd of feature"), sd * self._scaling(name)[1])
        return made.assign_coords({"sd of feature": labels})

    def _as_data(self, values: Mapping[str, NDArray[Any]]) -> xr.Dataset:
        """Values of the model's inputs, as the data set has them: its labels and its units of measurement."""
        dataset = self.run.data.part(self.part).take(self.chosen)
        # Means of binary or whole values are reals.
        changed = {
            name: replace(
                dataset[name], values=self._undone(name, found), kind=_kind(dataset[name].kind, found)
            )
            for name, found in values.items()
            if name in dataset
        }
        made = replace(dataset, variables=changed, history=()).to_xarray()
        first = str(next(iter(made.data_vars.values())).dims[0])
        numbers = self.run.parts[self.part][self.chosen]
        return made.assign_coords({first: numbers}).assign_attrs(rows=first, columns="plain")

    def _undone(self, name: str, values: NDArray[Any]) -> NDArray[Any]:
        """Standardised features in their own units again."""
        if not self.run.settings.preparation.standardize or values.ndim != 2 or values.dtype.kind != "f":
            return values
        mean, scale = self._scaling(name)
        return values * scale + mean

    def _scaling(self, name: str) -> tuple[NDArray[Any], NDArray[Any]]:
        """Mean and scale of standardised features, 0 and 1 where they were left alone."""
        if not self.run.settings.preparation.standardize:
            return np.zeros(1), np.ones(1)
        raw = self.run.unscaled()[name].values.astype(np.float64)
        mean, scale = np.nanmean(raw, axis=0), np.nanstd(raw, axis=0)
        return mean, np.where(scale > 0, scale, 1.0)

    def log_evidence(self) -> xr.Dataset:
        """log p(x) of every unit, exact or by importance sampling."""
        import xarray as xr

        run = self.run
        if isinstance(run.model, ExactEvidence):
            found = exact.log_evidence(run.model, *self.data)
            values = {
                "log_evidence": found.log_evidence[self.chosen]
                if self.layout.unit_plate
                else found.log_evidence
            }
        else:
            found = importance.log_evidence(
                run.pair,
                *self.data,
                num_samples=self.num_draws,
                index=self.index,
                seed=self.seed,
                progress=False,
            )
            values = {
                "log_evidence": found.log_evidence, "std_error": found.std_error, "elbo": found.elbo,
                "ess": found.ess, "pareto_k": found.pareto_k,
            }  # fmt: skip
        plate = self.layout.unit_plate or "dataset"
        filled = {name: (plate, value) for name, value in values.items() if len(value)}
        return self._numbered(xr.Dataset(filled, attrs={"method": found.method, "unit": found.unit}))


def _kind(before: VariableKind, values: NDArray[Any]) -> VariableKind:
    """The kind of changed values."""
    whole = values.dtype.kind in "iu" or bool(np.all(values == np.round(values)))
    return before if whole or before in ("real", "grey") else "real"
