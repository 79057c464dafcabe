"""Networks at the limits: extreme counts and parameters, every order of layers, and the edge of the settings."""

import numpy as np
import pytest
import scipy.stats
import torch

from scspecies.architecture import (
    LOG_ALPHA_LIMITS,
    SpeciesVAE,
    VAEConfig,
    build_activation,
    build_layers,
    evaluation_mode,
    normalize_layer_order,
)
from scspecies.core import Minibatch, torch_seed
from scspecies.likelihood import Decoded, count_log_prob, kl_normal, sparse_nll
from scspecies.scoring import candidate_nll

SIZES = {"hidden_outer": (12,), "hidden_inner": (8,), "hidden_library": (8,), "hidden_decoder": (8, 12)}


def extremes(n=4000, seed=0):
    """Draw counts up to 1e5, means 1e-8 to 1e6, dispersions up to their limits, and logits up to 40."""
    rng = np.random.default_rng(seed)
    x = np.where(rng.random(n) < 0.3, 0, np.floor(10 ** rng.uniform(0, 5, n)))
    log_mu = rng.uniform(np.log(1e-8), np.log(1e6), n)
    log_alpha = rng.choice([*LOG_ALPHA_LIMITS, 0.0, 3.0], n)
    x[:8], log_mu[:8] = [0, 0, 1e5, 1e5] * 2, np.log([1e-8, 1e6, 1e-8, 1e6] * 2)
    log_alpha[:8] = np.repeat(LOG_ALPHA_LIMITS, 4)
    return x, log_mu, log_alpha, rng.uniform(-40, 40, n)


@pytest.mark.parametrize("zero_inflated", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_extreme_counts_have_a_finite_likelihood_and_gradient(zero_inflated, seed):
    x, *parameters = (torch.tensor(v, dtype=torch.float32) for v in extremes(seed=seed))
    log_mu, log_alpha, kept = (p.requires_grad_() for p in parameters)
    log_library = torch.zeros(1, requires_grad=True)
    log_prob = count_log_prob(x, Decoded(log_mu, log_alpha, kept if zero_inflated else None), log_library)
    assert torch.isfinite(log_prob).all()
    log_prob.sum().backward()
    for leaf in (log_mu, log_alpha, log_library, *([kept] if zero_inflated else [])):
        assert torch.isfinite(leaf.grad).all()


def test_extreme_counts_in_single_precision_agree_with_scipy():
    x, log_mu, log_alpha, kept = extremes()
    mu, alpha = np.exp(log_mu), np.exp(log_alpha)
    nb = scipy.stats.nbinom.logpmf(x, alpha, alpha / (alpha + mu))
    single = [torch.tensor(v, dtype=torch.float32) for v in (x, log_mu, log_alpha, kept)]
    ours = count_log_prob(single[0], Decoded(*single[1:3], None), torch.zeros(1)).double().numpy()
    # the terms that cancel: log Gamma(x + alpha), and x log(mu / alpha); single precision has 7 digits of each
    size = scipy.special.gammaln(x + alpha + 1) + np.abs(x * (log_mu - log_alpha)) + alpha + 1
    np.testing.assert_array_less(np.abs(ours - nb), 2e-6 * size)

    zinb = count_log_prob(single[0], Decoded(*single[1:]), torch.zeros(1)).double().numpy()
    mixture = np.where(x == 0, np.logaddexp(nb + kept, 0), nb + kept) - np.logaddexp(0, kept)
    np.testing.assert_array_less(np.abs(zinb - mixture), 2e-6 * (size + np.abs(kept)))


@pytest.mark.parametrize("zero_inflated", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_closed_gradients_are_those_of_the_formula_at_the_limits(zero_inflated, seed):
    x, *parameters = (torch.tensor(v)[None] for v in extremes(seed=seed))
    results = []
    for dtype in (torch.float64, torch.float32):
        counts, *leaves = (v.to(dtype, copy=True) for v in (x, *parameters, torch.zeros(1, 1)))
        log_mu, log_alpha, kept, log_library = (leaf.requires_grad_() for leaf in leaves)
        decoded = Decoded(log_mu, log_alpha, kept if zero_inflated else None)
        if dtype == torch.float64:
            nll = -count_log_prob(counts, decoded, log_library).sum(dim=1)
        else:
            nll = sparse_nll(counts, counts[0].nonzero()[:, 0], decoded, log_library)
        nll.sum().backward()
        gradients = [leaf.grad.double() for leaf in (log_mu, log_alpha, *([kept] if zero_inflated else []))]
        results.append([nll.detach().double(), *gradients])
    torch.testing.assert_close(results[1][0], results[0][0], rtol=1e-5, atol=0)
    # single precision: alpha (digamma(x + alpha) - digamma(alpha)) is the difference of numbers up to alpha * 12
    sizes = [x + 1, x + parameters[1].exp() * 12 + 1, torch.ones_like(x)]
    for fast, slow, size in zip(results[1][1:], results[0][1:], sizes, strict=False):
        assert torch.isfinite(fast).all()
        assert ((fast - slow).abs() <= 4e-6 * size + 1e-4 * slow.abs()).all()


def test_closed_gradient_is_that_of_finite_differences():
    generator = torch.Generator().manual_seed(0)
    counts = torch.poisson(torch.full((3, 7), 0.8, dtype=torch.float64), generator=generator)
    shapes = {"log_rho": (3, 7), "log_alpha": (7,), "kept": (3, 7), "log_library": (3, 1)}
    leaves = [torch.randn(s, dtype=torch.float64, generator=generator).requires_grad_() for s in shapes.values()]

    def nll(log_rho, log_alpha, kept, log_library):
        return sparse_nll(counts, counts.reshape(-1).nonzero()[:, 0], Decoded(log_rho, log_alpha, kept), log_library)

    assert torch.autograd.gradcheck(nll, leaves)


def test_probabilities_sum_to_one():
    x = torch.arange(3000, dtype=torch.float64)[:, None]
    for kept in (None, torch.tensor([-1.5, 0.0, 3.0], dtype=torch.float64)):
        decoded = Decoded(torch.log(torch.tensor([0.1, 1.0, 30.0]).double()), torch.tensor([2.0, -1.0, 1.0]), kept)
        total = count_log_prob(x, decoded, torch.zeros(1, dtype=torch.float64)).exp().sum(dim=0)
        torch.testing.assert_close(total, torch.ones(3, dtype=torch.float64), rtol=1e-6, atol=0)


def test_kl_is_finite_and_not_negative_far_from_the_prior():
    generator = torch.Generator().manual_seed(0)
    mean, log_std = 50 * torch.randn(500, 4, generator=generator), 15 * torch.rand(500, 4, generator=generator) - 10
    for prior in ((0.0, 1.0), (torch.full((500, 1), 8.0), torch.full((500, 1), 0.01))):
        divergence = kl_normal(mean, log_std, *prior)
        assert divergence.shape == (500,) and torch.isfinite(divergence).all() and (divergence >= 0).all()


ORDERS = {
    "batch_norm": ["linear", "batch_norm", ("act", torch.nn.ELU), ("dropout", 0.2)],
    "before": ["layer_norm", "linear", ("act", "Tanh")],
    "batch_norm first": ["batch_norm", "linear", ("act", torch.nn.LeakyReLU(0.3), [-1, 2])],
    "linear only": ["linear"],
    "twice": ["linear", ("act", "GELU(approximate='tanh')"), "linear", ("act", torch.nn.PReLU)],
}


def cells(n=9, n_genes=20, n_batches=3):
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.poisson(2, (n, n_genes)) + 1, dtype=torch.float32)
    prior = torch.full((n, 1), 3.7), torch.full((n, 1), 0.2)
    batch = torch.eye(n_batches)[torch.arange(n) % n_batches]
    return Minibatch(np.arange(n), x, x.reshape(-1).nonzero()[:, 0], batch, *prior)


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("dispersion", ["dataset", "batch", "cell"])
def test_every_order_of_layers_learns_and_compares(order, dispersion):
    with torch_seed(0):
        vae = SpeciesVAE(VAEConfig(**SIZES, layer_order=order, dispersion=dispersion), 20, 3, range(12), 3.7)
        out = vae(cells())
    (out.nll + out.kl_z + out.kl_l).mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in vae.parameters() if p.numel())
    state = {name: value.clone() for name, value in vae.state_dict().items()}
    data, z = cells(), torch.randn(9, 5, 10, generator=torch.Generator().manual_seed(1))
    size, candidates = data.counts.sum(1, keepdim=True).log(), torch.arange(45).view(9, 5)
    nll = candidate_nll(vae.decoder, data.counts, size, z.view(45, 10), data.batch.repeat_interleave(5, 0), candidates)
    alone = [
        candidate_nll(vae.decoder, data.counts[[i]], size[[i]], z[i], data.batch[[i]], candidates[[0]])
        for i in range(9)
    ]
    torch.testing.assert_close(nll, torch.cat(alone), rtol=1e-4, atol=1e-3)  # a cell does not see its neighbours
    assert all(torch.equal(value, vae.state_dict()[name]) for name, value in state.items())
    assert vae.decoder.training


def test_evaluation_mode_restores_each_part():
    vae = SpeciesVAE(VAEConfig(**SIZES), 20, 3, range(12), 3.7)
    vae.inner.eval()
    with pytest.raises(RuntimeError, match="inside"), evaluation_mode(vae):
        assert not any(part.training for part in vae.modules()) and not torch.is_grad_enabled()
        raise RuntimeError("inside")
    assert vae.training and vae.outer.training and not vae.inner.training and torch.is_grad_enabled()


@pytest.mark.parametrize("homologous", [range(20), [0]])
def test_rho_sums_to_one_whatever_is_homologous(homologous):
    vae = SpeciesVAE(VAEConfig(**SIZES), 20, 3, homologous, 3.7)
    with torch.no_grad():
        vae.decoder.rho.bias.copy_(torch.linspace(-80, 80, 20))
    rho = vae.decoder(torch.zeros(2, 10), torch.eye(3)[:2]).log_rho.double().exp()
    torch.testing.assert_close(rho.sum(-1), torch.ones(2, dtype=torch.float64), rtol=1e-5, atol=0)
    share = torch.full((2,), len(homologous) / 20, dtype=torch.float64)
    torch.testing.assert_close(rho[:, list(homologous)].sum(-1), share, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("order", "error", "message"),
    [
        (["linear", "norm"], ValueError, "one of 'linear', 'batch_norm', 'layer_norm', found 'norm'"),
        (["linear", ("drop", 0.1)], ValueError, r"found \(.drop., 0.1\)"),
        (["linear", ("dropout", 1.5)], ValueError, "`dropout` to be a number between 0 and 1, found 1.5"),
        (["linear", ("act", torch.relu)], ValueError, "a class, an instance or a name of torch.nn"),
        (["linear", ("act", "ReLU(")], ValueError, "a class, an instance or a name of torch.nn, found 'ReLU\\('"),
        (["linear", ("act", "modules")], ValueError, "a class, an instance or a name of torch.nn"),
        ([], ValueError, "Expected a 'linear' entry"),
    ],
)
def test_wrong_layers_are_refused(order, error, message):
    with pytest.raises(error, match=message):
        normalize_layer_order(order)


@pytest.mark.parametrize(
    "text", ["__import__('os').getcwd()", "ReLU().eval()", "ReLU(open('x'))", "[c for c in ()]", "ReLU; ReLU"]
)
def test_text_of_an_activation_is_never_run(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="Expected the activation to be"):
        build_activation(text)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("choices", "error", "message"),
    [
        ({"latent_dim": 0}, ValueError, "`lat_dim` to be a whole number of at least 1, found 0"),
        ({"latent_dim": 2.5}, TypeError, "`lat_dim` to be a whole number, found 2.5"),
        ({"dispersion": "gene"}, ValueError, "`dispersion` to be one of 'dataset', 'batch', 'cell', found 'gene'"),
        ({"distribution": "poisson"}, ValueError, "`data_distr` to be one of 'nb', 'zinb', found 'poisson'"),
        ({"hidden_outer": ()}, ValueError, "at least one hidden layer in the outer encoder, found none"),
        ({"hidden_decoder": (8, -1)}, ValueError, "`hidden_decoder` to be a whole number of at least 1, found -1"),
    ],
)
def test_wrong_forms_are_refused(choices, error, message):
    with pytest.raises(error, match=message):
        VAEConfig(**choices)


def test_no_hidden_layer_where_none_is_needed():
    config = VAEConfig(hidden_outer=(8,), hidden_inner=(), hidden_library=(), hidden_decoder=())
    out = SpeciesVAE(config, 20, 3, range(12), 3.7)(cells())
    assert torch.isfinite(out.nll).all() and out.inter.shape == (9, 8) and out.z_mean.shape == (9, 10)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1.0])
def test_dropout_drops_the_share_asked_for_and_keeps_the_mean(p):
    layer = build_layers(3, [3], ["linear", ("dropout", p)])[1]
    with torch_seed(0):
        x = torch.ones(400, 501, requires_grad=True)
        out = layer(x)
    dropped = (out == 0).float()
    error = 5 * (p * (1 - p) / out.numel()) ** 0.5 + 1e-5
    assert abs(dropped.mean().item() - p) <= error
    assert abs(dropped.mean(dim=0) - p).max() <= error * 400**0.5  # no column, and so no part of a draw, is special
    assert p == 1 or abs(out.mean().item() - 1) <= 2 * error / (1 - p)
    neighbors = (dropped[:, 1:] * dropped[:, :-1]).mean().item()
    assert abs(neighbors - p**2) <= 3 * error + 1e-4  # draws of one random number are independent
    out.sum().backward()
    assert torch.equal(x.grad, out.detach())
    assert torch.equal(layer.eval()(x), x)
