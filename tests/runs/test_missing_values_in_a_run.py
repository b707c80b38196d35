"""A table with empty cells, from fit to export; simulated and replicated data miss what the data miss."""

import numpy as np
import pytest
import torch

from ppl_vae.base.errors import InputError
from ppl_vae.data import load
from ppl_vae.diagnostics import predictive_check
from ppl_vae.inference import exact
from ppl_vae.models import PPCA
from ppl_vae.program.problem import Problem
from ppl_vae.program.simulate import simulate
from ppl_vae.runs.evidence_results import dimensions, worst_rows
from ppl_vae.runs.export_files import export_table
from ppl_vae.runs.exports import export
from ppl_vae.runs.fit_job import fit_run
from ppl_vae.runs.run import Run, settings_for


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    values = load("iris").values[::5].copy()
    gaps = np.random.default_rng(1).random(values.shape) < 0.2
    gaps[4] = True
    path = tmp_path_factory.mktemp("gaps") / "gaps.csv"
    raw = np.where(gaps, np.nan, values)
    cells = (["" if value != value else repr(value) for value in row] for row in raw.tolist())
    path.write_text("a,b,c,d\n" + "".join(",".join(row) + "\n" for row in cells))
    return path, raw


@pytest.fixture(scope="module")
def run(table, tmp_path_factory):
    path, _ = table
    out = tmp_path_factory.mktemp("runs") / "run"
    fit_run(settings_for("ppca", str(path), {"steps": 30, "stop": False}, {}), out, progress=False)
    return Run.open(out)


def test_the_exported_table_has_what_was_observed_and_what_the_model_expects(run, table):
    _, raw = table
    found = export_table(export(run, "imputed"))
    assert list(found) == [*"abcd", *(f"{name} (sd)" for name in "abcd")]
    values, sd = found.to_numpy()[:, :4], found.to_numpy()[:, 4:]
    there = ~np.isnan(raw)
    np.testing.assert_array_equal(values[there], raw[there])
    assert (sd[there] == 0).all()
    # In the table's units: z-scores times a feature's deviation, about its mean.
    expected = run.model.impute(*run.tensors("train"))
    scale = np.nanstd(raw, 0)
    np.testing.assert_allclose(values, expected.mean.numpy() * scale + np.nanmean(raw, 0), rtol=1e-10)
    np.testing.assert_allclose(sd, expected.sd.numpy() * scale, rtol=1e-10)
    # Of the row without a value the model knows what it knows of any row.
    marginal = run.model.loadings.detach().square().sum(1) + run.model.noise_scale.detach() ** 2
    np.testing.assert_allclose(sd[4], marginal.sqrt().numpy() * scale, rtol=1e-10)


def test_samples_are_whole_and_other_exports_have_the_datas_columns(run):
    for what in ("samples", "reconstructions"):
        found = export_table(export(run, what))
        assert list(found) == [*"abcd"]
        assert np.isfinite(found.to_numpy()).all()
    assert np.isfinite(export_table(export(run, "log-evidence")).to_numpy()).all()


def test_evidence_tells_the_oddest_observed_feature_and_no_bits_per_dimension(run):
    x, there = run.tensors("train")
    found = exact.log_evidence(run.model, x, there)
    for row in worst_rows(run, found, 30, "train"):
        column = "abcd".index(row["oddest"][0])
        assert there[row["row"], column] or not there[row["row"]].any()
    assert dimensions(run, Problem.of(run.pair, x, there).layout, (x, there)) is None


def test_other_data_may_have_other_gaps_or_none(run, table, tmp_path):
    path, raw = table
    (x,) = run.other_tensors(_written(tmp_path / "whole.csv", np.nan_to_num(raw, nan=1.0)))
    assert x.isfinite().all()
    same, mask = run.other_tensors(str(path))
    own, own_mask = run.tensors("train")
    assert torch.equal(mask, own_mask)
    assert torch.equal(same[mask], own[mask])


def _written(path, values):
    np.savetxt(path, values, delimiter=",", header="a,b,c,d", comments="")
    return str(path)


def test_simulated_data_miss_what_the_data_miss(run):
    data = run.tensors("train")
    problem = Problem.of(run.pair, *data)
    latents, (x, there) = simulate(problem, seed=2)
    assert torch.equal(there, data[1])
    assert torch.equal(x.isnan(), ~there)
    # x − W z − μ is noise: its mean square over the observed values is σ².
    with torch.no_grad():
        z = latents["z"][0]
        noise = (x - z @ run.model.loadings.T - run.model.mean)[there] / run.model.noise_scale
    assert abs(float(noise.square().mean()) - 1) < 4 * (2 / len(noise)) ** 0.5


def test_a_predictive_check_compares_observed_values_with_replicates_of_the_same_gaps(run):
    x, there = run.tensors("train")
    found = predictive_check(run.pair, x, there, num_draws=40, feature_names="abcd")
    means = found.table.set_index("statistic")["observed"]
    for k, name in enumerate("abcd"):
        assert means[f"mean of {name}"] == pytest.approx(float(x[:, k].nanmean()), abs=1e-12)
        assert means[f"minimum of {name}"] == pytest.approx(np.nanmin(x[:, k]), abs=1e-12)
    assert np.isfinite(found.table[["observed", "replicated_mean", "p_adjusted"]].to_numpy()).all()
    assert any("missing" in note for note in found.notes)


def test_what_takes_no_missing_values_says_so(table, tmp_path, run):
    path, _ = table
    with pytest.raises(InputError, match="cell is empty"):
        fit_run(settings_for("vae", str(path), {"steps": 1}, {}), tmp_path / "vae", progress=False)
    x, there = run.tensors("train")
    whole = PPCA.guides["linear"](run.model, x.nan_to_num())
    with pytest.raises(InputError, match="this guide was made for data without missing values"):
        whole.check_data(x, there)


def test_a_column_without_a_value_is_named(tmp_path):
    path = tmp_path / "empty.csv"
    path.write_text("a,b,c\n1,,2\n2,,3\n4,,1\n")
    for standardize in (True, False):
        settings = settings_for(
            "ppca", str(path), {"steps": 1, "standardize": standardize}, {"latent_dim": 1}
        )
        with pytest.raises(InputError, match="has no value of b in"):
            fit_run(settings, tmp_path / "run", progress=False)
