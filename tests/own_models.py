"""Models of a user's own, made like the suite's, each of another kind of data; tests fit them from the shell.

Their posteriors and log p(x) are known: conjugate normals.
"""

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.base.errors import InputError
from ppl_vae.data import Dataset
from ppl_vae.data.inputs import Category, Features, Group, Points, Sequence
from ppl_vae.guides import PerDatumNormal
from ppl_vae.models.base import FitDefaults
from ppl_vae.views import Bars, Intervals, Score


@dataclass(frozen=True)
class Options:
    """What these models can be asked for.

    Attributes:
        noise_scale: Standard deviation of the noise.
    """

    noise_scale: float = 1.0


class _Own(PyroModule):
    """What the models here share."""

    data_type = Dataset
    Options = Options
    defaults = FitDefaults(num_steps=300, lr=0.1, num_particles=4)
    guides = {"per-datum": lambda model, *data: PerDatumNormal.from_model(model, *data)}  # noqa: RUF012
    unit = "datum"
    oracle = "conjugate"

    def __init__(self, options: Options) -> None:
        super().__init__(type(self).name)
        if not options.noise_scale > 0:
            raise InputError(f"noise_scale is {options.noise_scale}; it must be positive")
        self.noise_scale = options.noise_scale

    @classmethod
    def from_data(cls, data: Dataset, options: Options | None = None):
        return cls(options or Options())

    def check_data(self, *data: Tensor) -> None:
        pass


class Labelled(_Own):
    """z_n ~ N(offset of n's label, 1), x_nd ~ N(z_n, s²): log p(x | label), the label conditioned on."""

    name = "labelled"
    inputs = {"x": Features(), "label": Category()}  # noqa: RUF012

    def __init__(self, options: Options, num_labels: int) -> None:
        super().__init__(options)
        self.offset = nn.Parameter(torch.zeros(num_labels, dtype=torch.float64))

    @classmethod
    def from_data(cls, data: Dataset, options: Options | None = None) -> "Labelled":
        return cls(options or Options(), len(data["label"].levels))

    def forward(self, x: Tensor, label: Tensor) -> None:
        with pyro.plate("data", len(x)) as i:
            z = pyro.sample("z", dist.Normal(self.offset[label[i]], 1.0))
            mean = z.unsqueeze(-1).expand(*z.shape, x.shape[1])
            pyro.sample("x", dist.Normal(mean, self.noise_scale).to_event(1), obs=x[i])


class Conditioned(_Own):
    """z_n ~ N(0, 1), x_n ~ N(z_n + sum of c_n, s²), the vector c conditioned on."""

    name = "conditioned"
    inputs = {"x": Features(), "c": Features(observed=False)}  # noqa: RUF012

    def forward(self, x: Tensor, c: Tensor) -> None:
        with pyro.plate("data", len(x)) as i:
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
            mean = (z + c[i].sum(-1)).unsqueeze(-1).expand(*z.shape, x.shape[1])
            pyro.sample("x", dist.Normal(mean, self.noise_scale).to_event(1), obs=x[i])


class Series(_Own):
    """z_n ~ N(0, 1), y_nt ~ N(z_n, s²) along a sequence."""

    name = "series"
    inputs = {"y": Sequence()}  # noqa: RUF012

    def forward(self, y: Tensor) -> None:
        with pyro.plate("data", len(y)) as i:
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=y.dtype), 1.0))
            y_n = y[i].reshape(*y[i].shape[:1], -1)
            mean = z.unsqueeze(-1).expand(*z.shape, y_n.shape[-1])
            pyro.sample("y", dist.Normal(mean, self.noise_scale).to_event(1), obs=y_n)

    def views(self, context) -> list[Bars]:
        z = context.draws["svi"]["z"]
        names = [f"{context.part} series {k}" for k in z["data"].to_numpy()]
        means = {"mean of z": z.mean(("chain", "draw"))}
        return [Bars(caption="Where each series lies.", names=names, panels=means, label="z")]


class Clouds(_Own):
    """z_n ~ N(0, 1), every coordinate of n's points ~ N(z_n, s²)."""

    name = "clouds"
    inputs = {"points": Points()}  # noqa: RUF012

    def forward(self, points: Tensor) -> None:
        with pyro.plate("data", len(points)) as i:
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=points.dtype), 1.0))
            mean = z[..., None, None].expand(*z.shape, *points.shape[1:])
            pyro.sample("points", dist.Normal(mean, self.noise_scale).to_event(2), obs=points[i])


class Grouped(_Own):
    """m_k ~ N(0, 1), x_n ~ N(m of n's group, s²): the data set is the unit."""

    name = "grouped"
    unit = "data set"
    inputs = {"x": Features(), "group": Group()}  # noqa: RUF012
    guides = {"mean-field": lambda model, *data: AutoNormal(model)}  # noqa: RUF012

    def __init__(self, options: Options, num_groups: int) -> None:
        super().__init__(options)
        self.num_groups = num_groups

    @classmethod
    def from_data(cls, data: Dataset, options: Options | None = None) -> "Grouped":
        return cls(options or Options(), len(data["group"].levels))

    def forward(self, x: Tensor, group: Tensor) -> None:
        with pyro.plate("groups", self.num_groups):
            mean = pyro.sample("mean", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
        with pyro.plate("data", len(x)) as i:
            each = mean[..., group[i], None].expand(*mean.shape[:-1], *x[i].shape)
            pyro.sample("x", dist.Normal(each, self.noise_scale).to_event(1), obs=x[i])

    def views(self, context) -> list[Intervals | Score]:
        means = {name: found["mean"] for name, found in context.draws.items()}
        ends = {name: found.quantile([0.05, 0.5, 0.95], ("chain", "draw")).T for name, found in means.items()}
        names = context.dataset["group"].levels
        spread = float(means["svi"].mean(("chain", "draw")).std())
        return [
            Intervals(caption="Where the groups lie.", names=names, answers=ends, label="median and 90 %"),
            Score(title="spread", caption="How far the groups are apart.", value=spread),
        ]
