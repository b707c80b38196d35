"""Make the catalogue's pictures: one PNG a model, from real fits; `make.py vae` makes only that one."""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse

from ppl_vae import PPCA, VAE, BayesianPPCA, HierarchicalVAE, Pair, TrueSkill, guide, nuts, svi
from ppl_vae.data import binarise, load, split, standardise
from ppl_vae.diagnostics import judge_reference
from ppl_vae.guides import LinearNormal
from ppl_vae.guides.layered import posterior_moments
from ppl_vae.inference import natural
from ppl_vae.models import BayesianMixture, FactorAnalysis, GaussianMixture
from ppl_vae.models.vae import reconstruct

HERE = Path(__file__).parent
BLUE, ORANGE, GREEN = "#1f6f9f", "#d9730d", "#4c8c4a"


def ppca() -> None:
    """PPCA of iris: exact and mean-field posteriors of some flowers in the latent plane."""
    rows = standardise(load("iris"))
    (x,) = rows.tensors(torch.float64)
    angle = torch.tensor(np.pi / 4)
    rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).reshape(2, 2)
    model = PPCA.from_data(rows, latent_dim=2).set_maximum_likelihood(x, rotation=rotation)
    pair = Pair(model, LinearNormal(4, 2, covariance="diagonal", dtype=x.dtype))
    svi.fit(pair, x, num_steps=1000, lr=0.05, train="guide")
    exact = model.exact_posterior(x)["z"]
    figure, axis = plt.subplots(figsize=(7.5, 4.6), layout="constrained")
    for species, (name, colour) in enumerate(
        zip(("setosa", "versicolor", "virginica"), (BLUE, ORANGE, GREEN), strict=True)
    ):
        at = exact.mean[rows.labels == species]
        axis.scatter(*at.T, s=14, color=colour, label=name)
    with torch.no_grad():
        q = pair.guide.encode(x)
        for n in (41, 15, 60, 57, 86, 117, 106):
            ellipse(axis, exact.mean[n], exact.covariance_matrix[n], "black", "-")
            ellipse(axis, q.mean[n], torch.diag(q.variance[n]), "crimson", "--")
    axis.plot([], [], "k-", label="exact posterior, 2 sd")
    axis.plot([], [], "--", color="crimson", label="mean-field guide, 2 sd")
    axis.set(xlabel="$z_1$", ylabel="$z_2$", title="Iris in PPCA's latent plane", aspect="equal")
    axis.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save(figure, "ppca")


def ellipse(axis: Axes, mean: torch.Tensor, covariance: torch.Tensor, colour: str, style: str) -> None:
    """Draw the ellipse of two standard deviations of a Gaussian."""
    values, vectors = torch.linalg.eigh(covariance)
    width, height = (4 * values.sqrt()).tolist()
    tilt = float(torch.rad2deg(torch.atan2(vectors[1, 0], vectors[0, 0])))
    shape = Ellipse(mean.tolist(), width, height, angle=tilt, fill=False, color=colour, ls=style, lw=1)
    axis.add_patch(shape)


def factor_analysis() -> None:
    """Wine: what two factors, and two principal components, leave of each feature to noise."""
    rows = standardise(load("wine"))
    (x,) = rows.tensors(torch.float64)
    names = [*rows.feature_names]
    shares = {}
    for title, family in (("factor analysis", FactorAnalysis), ("PPCA", PPCA)):
        model = family.from_data(rows, latent_dim=2).set_maximum_likelihood(x)
        noise = model.noise_scale.detach().square().expand(len(names))
        shares[title] = (noise / (noise + model.loadings.detach().square().sum(1))).numpy()
    order = np.argsort(-shares["factor analysis"])
    figure, axis = plt.subplots(figsize=(7.5, 3.8), layout="constrained")
    for shift, ((title, share), colour) in enumerate(zip(shares.items(), (BLUE, ORANGE), strict=True)):
        at = np.arange(len(names)) + 0.38 * (0.5 - shift)
        axis.barh(at, share[order], height=0.36, color=colour, label=title)
    axis.set(yticks=range(len(names)), yticklabels=[names[k] for k in order], xlim=(0, 1))
    axis.set(xlabel="share of the variance that is noise", title="Wine, two factors")
    axis.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    save(figure, "factor-analysis")


def ppca_missing() -> None:
    """Iris with a fifth of the values removed: exact posteriors, wider where more is missing."""
    rows = standardise(load("iris"))
    (whole,) = rows.tensors(torch.float64)
    there = torch.from_numpy(np.random.default_rng(0).random(whole.shape) > 0.2)
    x = whole.where(there, torch.nan)
    model = PPCA.from_data(rows, latent_dim=2).set_maximum_likelihood(x, x_observed=there)
    exact = model.exact_posterior(x, there)["z"]
    figure, axis = plt.subplots(figsize=(7.5, 4.6), layout="constrained")
    for missing, colour in zip(range(4), (BLUE, GREEN, ORANGE, "crimson"), strict=True):
        chosen = (~there).sum(1) == missing
        axis.scatter(*exact.mean[chosen].T, s=14, color=colour, label=f"{missing} of 4 values missing")
        for n in chosen.nonzero().flatten()[:3].tolist():
            ellipse(axis, exact.mean[n], exact.covariance_matrix[n], colour, "-")
    axis.set(
        xlabel="$z_1$",
        ylabel="$z_2$",
        title="Iris in PPCA's latent plane, posteriors of 2 sd",
        aspect="equal",
    )
    axis.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save(figure, "ppca-missing")


def bayesian_ppca() -> None:
    """Bayesian PPCA of iris: identifiable quantities, mean-field and NUTS."""
    rows = standardise(load("iris"))
    (x,) = rows.tensors(torch.float64)
    model = BayesianPPCA.from_data(rows, latent_dim=2)
    pair = Pair(model, BayesianPPCA.guides["mean-field"](model, x))
    svi.fit(pair, x, num_steps=1500, lr=0.03, num_particles=4)
    answers = {
        "mean-field": guide.draws(pair, x, num_draws=4000),
        # A dense mass matrix: with a diagonal one the chains do not pass their checks.
        "NUTS": nuts.sample(
            model, x, chains=4, num_draws=400, warmup=250, max_tree_depth=6, full_mass=True, jit_compile=True
        ),
    }
    figure, axes = plt.subplots(1, 3, figsize=(8, 2.8), layout="constrained")
    for (name, answer), colour in zip(answers.items(), (ORANGE, BLUE), strict=True):
        found = answer.map(model.identifiable(answer.draws)).scalars()
        for axis, quantity in zip(
            axes, ("singular_value[1]", "singular_value[2]", "noise_scale"), strict=True
        ):
            axis.hist(found[quantity].ravel(), 40, density=True, histtype="step", color=colour, label=name)
            axis.set(xlabel=quantity.replace("_", " "), yticks=[])
    axes[0].set_ylabel("density")
    axes[0].legend(frameon=False, fontsize=9, loc="upper right")
    passed, reasons = judge_reference(answers["NUTS"].map(model.identifiable(answers["NUTS"].draws)))
    print("bayesian-ppca:", passed, *reasons)
    checks = "passes" if passed else "FAILS"
    figure.suptitle(f"Bayesian PPCA of iris (NUTS {checks} the checks of a reference)", fontsize=11)
    save(figure, "bayesian-ppca")


def vae() -> None:
    """VAE of binarised digits: reconstructions and samples."""
    rows = binarise(load("digits"), "static", seed=0)
    parts = split(rows, (0.9, 0.0, 0.1), seed=0)
    train = rows.take(parts["train"])
    (x,), (x_test,) = train.tensors(torch.float32), rows.take(parts["test"]).tensors(torch.float32)
    torch.manual_seed(0)
    model = VAE.from_data(train, latent_dim=10)
    pair = Pair(model, model.encoder_guide())
    svi.fit(pair, x, num_steps=3000, batch_size=128, lr=2e-3, kl_warmup=500)
    lines = {
        "test digits": x_test[:12],
        "reconstructions (decoder means)": reconstruct(model, pair.guide, x_test[:12]),
        "samples (decoder means)": model.sample(12),
        "samples (draws of x)": model.sample(12, draw=True),
    }
    save(digit_lines(lines), "vae")


def hierarchical_vae() -> None:
    """Two layers of latents for binarised digits: what comes back from each layer."""
    rows = binarise(load("digits"), "static", seed=0)
    parts = split(rows, (0.9, 0.0, 0.1), seed=0)
    train = rows.take(parts["train"])
    (x,), (x_test,) = train.tensors(torch.float32), rows.take(parts["test"]).tensors(torch.float32)
    torch.manual_seed(0)
    model = HierarchicalVAE.from_data(train, latent_dims=(10, 4), hidden=(100,), between=(50,))
    pair = Pair(model, model.ladder_guide())
    svi.fit(pair, x, num_steps=3000, batch_size=128, lr=2e-3, kl_warmup=500)
    shown = x_test[:12]
    means = posterior_moments(pair.guide, shown, num_draws=100)
    z1, z2 = (means[site][0].float() for site in ("z1", "z2"))
    lines = {
        "test digits": shown,
        "from the mean of z1 (decoder means)": model.decode(z1),
        "from the mean of z2, z1 drawn (decoder means)": model.decode(z2, layer=2),
        "from the mean of z2, z1 drawn again": model.decode(z2, layer=2),
        "samples (decoder means)": model.sample(12),
    }
    save(digit_lines(lines), "hierarchical-vae")


def digit_lines(lines: dict[str, torch.Tensor]) -> plt.Figure:
    """A line of digits for each name."""
    figure, axes = plt.subplots(len(lines), 1, figsize=(8, len(lines)), layout="constrained")
    for axis, (name, images) in zip(axes, lines.items(), strict=True):
        padded = torch.nn.functional.pad(images.reshape(-1, 8, 8), (1, 1, 1, 1))
        axis.imshow(torch.cat(list(padded), dim=1), cmap="gray_r", vmin=0, vmax=1)
        axis.set_title(name, fontsize=9, loc="left")
        axis.axis("off")
    return figure


def trueskill() -> None:
    """Skills of baseball teams: mean-field and NUTS intervals."""
    season = load("al-east-1987")
    games = season.duels()
    model = TrueSkill.from_data(season, link="logistic")
    pair = Pair(model, TrueSkill.guides["mean-field"](model, *games))
    svi.fit(pair, *games, num_steps=1000, lr=0.05, num_particles=16)
    truth = nuts.sample(model, *games, chains=4, num_draws=400, warmup=150, full_mass=True, jit_compile=True)
    boards = {"mean-field": guide.draws(pair, *games, num_draws=4000), "NUTS": truth}
    order = list(model.leaderboard(truth).index[::-1])
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True, layout="constrained")
    for shift, ((name, answer), colour) in enumerate(zip(boards.items(), (ORANGE, BLUE), strict=True)):
        draws = {"skill": answer.draws["skill"]}
        draws["skill − mean skill"] = draws["skill"] - draws["skill"].mean("player")
        for axis, (title, skill) in zip(axes, draws.items(), strict=True):
            at = np.arange(len(order)) + 0.24 * (shift - 0.5)
            chosen = skill.sel(player=order)
            mean, sd = chosen.mean(("chain", "draw")), chosen.std(("chain", "draw"))
            axis.errorbar(mean, at, xerr=2 * sd, fmt="o", ms=4, color=colour, label=name)
            axis.set(xlabel=f"{title}, mean ± 2 sd", yticks=range(len(order)), yticklabels=order)
    axes[0].legend(frameon=False, fontsize=9, loc="lower right")
    passed, reasons = judge_reference(truth)
    print("trueskill:", passed, *reasons)
    checks = "passes" if passed else "FAILS"
    figure.suptitle(f"American League East, 1987 (NUTS {checks} the checks of a reference)", fontsize=11)
    save(figure, "trueskill")


def gaussian_mixture() -> None:
    """Iris in the plane of its first principal axes, with the components of the best of ten EM runs."""
    rows = standardise(load("iris"))
    (x,) = rows.tensors(torch.float64)
    torch.manual_seed(0)
    model = GaussianMixture.from_data(rows, num_components=3)
    axes = torch.linalg.eigh(x.T @ x).eigenvectors[:, -2:].flip(1)
    figure, axis = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
    for species, (name, colour) in enumerate(
        zip(("setosa", "versicolor", "virginica"), (BLUE, ORANGE, GREEN), strict=True)
    ):
        axis.scatter(*(x @ axes)[torch.as_tensor(rows.labels == species)].T, s=14, color=colour, label=name)
    with torch.no_grad():
        for mean, covariance in zip(model.means @ axes, axes.T @ model.covariances @ axes, strict=True):
            ellipse(axis, mean, covariance, "black", "-")
    axis.plot([], [], "k-", label="component, 2 sd")
    axis.set(xlabel="first principal axis", ylabel="second", title="Three components, species unseen")
    axis.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save(figure, "gaussian-mixture")


def bayesian_mixture() -> None:
    """Iris in the plane of its first principal axes: components of fifteen draws of a full-rank guide."""
    rows = standardise(load("iris"))
    (x,) = rows.tensors(torch.float64)
    torch.manual_seed(0)
    model = BayesianMixture.from_data(rows, num_components=3, covariance="full")
    pair = Pair(model, BayesianMixture.guides["full-rank"](model, x))
    natural.fit(pair, x, start="guide")
    draws = guide.draws(pair, x, num_draws=15, seed=0).draws
    found = model.identifiable(draws).isel(chain=0)
    axes = torch.linalg.eigh(x.T @ x).eigenvectors[:, -2:].flip(1)
    upper = np.triu_indices(x.shape[1], 1)
    figure, axis = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
    axis.scatter(*(x @ axes).T, s=10, color="0.6", label="flower")
    for place, colour in enumerate((BLUE, ORANGE, GREEN)):
        for draw in range(found.sizes["draw"]):
            one = found.isel(draw=draw, component=place)
            correlation = np.eye(x.shape[1])
            correlation[upper] = correlation[upper[::-1]] = one["correlation"]
            spread = torch.as_tensor(one["sd"].to_numpy()[:, None] * correlation * one["sd"].to_numpy())
            mean = torch.as_tensor(one["mean"].to_numpy())
            ellipse(axis, mean @ axes, axes.T @ spread @ axes, colour, "-")
        axis.plot([], [], color=colour, label=f"component {place + 1}, 2 sd, by draw")
    for shape in axis.patches:
        shape.set(alpha=0.35)
    axis.set(xlabel="first principal axis", ylabel="second", title="Fifteen draws of three components")
    axis.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save(figure, "bayesian-mixture")


def save(figure: plt.Figure, name: str) -> None:
    """Write a PNG beside this file."""
    figure.savefig(HERE / f"{name}.png", dpi=110, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 11})
    for make in (
        ppca, factor_analysis, ppca_missing, bayesian_ppca, gaussian_mixture, bayesian_mixture, vae,
        hierarchical_vae, trueskill,
    ):  # fmt: skip
        if len(sys.argv) == 1 or make.__name__ in sys.argv[1:]:
            make()
