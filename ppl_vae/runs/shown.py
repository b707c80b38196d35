"""What the programs of a run have to show, made of its data and of the draws that its folder holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ppl_vae.answers.posterior import Posterior
from ppl_vae.inference.samplers import guide
from ppl_vae.program.problem import Problem
from ppl_vae.program.shown import ViewContext, views_of
from ppl_vae.runs.jobs import MAX_ROWS
from ppl_vae.runs.run import Run
from ppl_vae.views import View

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["views_of_run"]

# Draws of a guide that nobody has drawn from yet: fewer where each looks at many data, for pictures of them.
FEWEST, NUM_DRAWS, MOST_NUMBERS = 200, 2000, 2**29


def views_of_run(run: Run) -> tuple[View, ...]:
    """The views of a saved run's model and guide, of its test units where there are any."""
    part = "test" if len(run.parts.get("test", ())) else "train"
    context = ViewContext(
        run.pair, run.tensors(part), run.tensors("train"), _Draws(run, part), part, run.data.part(part)
    )
    return views_of(context, seed=run.settings.seed)


class _Draws(Mapping[str, "xr.Dataset"]):
    """Draws by answer, loaded when they are asked for; the guide's are made where the folder has none."""

    def __init__(self, run: Run, part: str) -> None:
        assert run.folder is not None
        self.run, self.part = run, part
        self.loaded: dict[str, xr.Dataset] = {}
        names = {name: (f"check-posterior-{name}.nc", f"posterior-{name}.nc") for name in ("svi", "nuts")}
        paths = {name: [run.folder / file for file in files] for name, files in names.items()}
        found = {name: next((path for path in each if path.exists()), None) for name, each in paths.items()}
        self.paths = {name: path for name, path in found.items() if path is not None or name == "svi"}

    def __getitem__(self, name: str) -> xr.Dataset:
        path = self.paths[name]
        if name not in self.loaded:
            self.loaded[name] = self._made() if path is None else Posterior.load(path).draws
        return self.loaded[name]

    def _made(self) -> xr.Dataset:
        """Where latents belong to single units, those of the first units shown."""
        data = self.run.tensors(self.part)
        layout = Problem.of(self.run.pair, *data).layout
        some = None if layout.unit_plate is None else torch.arange(min(MAX_ROWS, layout.num_units))
        numbers = sum(part.numel() for part in data if isinstance(part, Tensor))
        size = min(NUM_DRAWS, max(FEWEST, MOST_NUMBERS // max(numbers, 1)))
        seed = self.run.settings.seed
        return guide.draws(self.run.pair, *data, num_draws=size, index=some, seed=seed).draws

    def __iter__(self) -> Iterator[str]:
        return iter(self.paths)

    def __len__(self) -> int:
        return len(self.paths)
