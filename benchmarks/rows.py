"""Every row: what is timed, against what, and the target of the ratio (ours over the peer's)."""

from benchmarks.harness import Row

__all__ = ["ROWS"]

VAE = "SVI step, VAE 784-400-20, batch 128, float32"
SKILLS = "SVI step, skills (107 players, 1,801 games), mean-field"
PPCA = "SVI step, PPCA on wine"
FIT = "whole fit of {} such steps, fresh process, compilation included, {}"
GRADIENT = "gradient of the log density, {}"
NUTS = "NUTS, smallest bulk ESS a second, {}"
HMC = "64 chains of HMC on skills, smallest bulk ESS a second, {} draws a chain"
EVIDENCE = "log p(x) an image, 5,000 samples, 784-200-200-50 decoder"
PYRO, NUMPYRO = "stock Pyro `SVI.step`", "NumPyro's scanned step"
PYRO_NUTS, NUMPYRO_NUTS = "Pyro NUTS, `jit_compile`", "NumPyro NUTS, four parallel chains"
CHESS = "skills of 286,889 chess games, 51,983 players, mean-field"

ROWS = (
    Row("vae-pyro", VAE, PYRO, 0.50, "measures.steps:vae_against_pyro"),
    Row("vae-loop", VAE, "PyTorch by hand, fused Adam", 0.95, "measures.steps:vae_against_loop"),
    Row("vae-products", VAE, "its matrix products alone", 1.4, "measures.steps:vae_against_products"),
    Row("skills-pyro", SKILLS, PYRO, 0.05, "measures.steps:skills_against_pyro"),
    Row("skills-numpyro", SKILLS, NUMPYRO, 1.0, "measures.steps:skills_against_numpyro"),
    *(
        Row(f"{name}-{steps}", FIT.format(f"{steps:,}", when), PYRO, target, f"measures.fits:{name}_{steps}",
            repeats=3)
        for name, when, targets in (
            ("warm", "cache on disk warm", (1.0, 0.25)),
            ("first", 'first run ever, `compile="auto"`', (1.2, 0.75)),
        )
        for steps, target in zip((2_000, 20_000), targets, strict=True)
    ),
    Row("ppca-pyro", PPCA, PYRO, 0.10, "measures.steps:ppca_against_pyro"),
    Row("ppca-numpyro", PPCA, NUMPYRO, 1.0, "measures.steps:ppca_against_numpyro"),
    *(
        Row(f"gradient-{name}", GRADIENT.format(words), "Pyro `potential_grad`", 0.10,
            f"measures.gradients:{name.replace('-', '_')}")
        for name, words in (
            ("eight-schools", "eight schools"),
            ("bayesian-ppca", "Bayesian PPCA on wine"),
            ("skills", "skills"),
        )
    ),
    *(
        Row(f"nuts-{name}-{peer}", NUTS.format(words), against, target,
            f"measures.sampling:{name.replace('-', '_')}_against_{peer}",
            at_least=True, repeats=3, timeout=1500)
        for name, words in (
            ("eight-schools", "eight schools"),
            ("bayesian-ppca", "Bayesian PPCA on wine"),
            ("skills", "skills"),
        )
        for peer, against, target in (("pyro", PYRO_NUTS, 10.0), ("numpyro", NUMPYRO_NUTS, 3.0))
    ),
    Row("hmc-skills", HMC.format("500"), NUMPYRO_NUTS, 10.0, "measures.sampling:hmc_against_numpyro",
        at_least=True, repeats=3),
    Row("hmc-skills-long", HMC.format("2,000"), NUMPYRO_NUTS, 20.0,
        "measures.sampling:long_hmc_against_numpyro", at_least=True, repeats=3),
    Row("evidence-products", EVIDENCE, "matrix products alone", 2.5, "measures.evidence:against_products"),
    Row("evidence-pyro", EVIDENCE, "the plain Pyro way", 0.1, "measures.evidence:against_pyro", repeats=3),
    Row("evidence-memory", "peak memory of that, 50,000 samples", "5,000 samples", 1.10,
        "measures.evidence:memory", repeats=2),
    Row("chess-svi", f"{CHESS}: SVI on Trace_ELBO, 60 s", "the optimum, nats below it", 10.0,
        "measures.chess:by_svi", repeats=1),
    Row("chess-natural", f"{CHESS}: natural gradients, 5 s", "the optimum, nats below it", 0.1,
        "measures.chess:by_natural_gradients", repeats=1),
    Row("growth", "skills, 10³ to 10⁶ games, time an epoch", "exponent", 1.05, "measures.others:growth",
        repeats=3, timeout=1500),
    Row("closed-form-wine", "PPCA in closed form, wine (178 × 13)", "scikit-learn PCA", 1.2,
        "measures.others:closed_form_wine"),
    Row("closed-form-wide", "PPCA in closed form, 10,000 × 784", "scikit-learn PCA", 1.2,
        "measures.others:closed_form_wide"),
    Row("import", "`import ppl_vae` with models and methods", "`import pyro`", 1.15,
        "measures.others:imports"),
)  # fmt: skip
