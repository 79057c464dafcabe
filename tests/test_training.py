"""The loop: which cells it sees, what it leaves alone, when it stops, and that it can be repeated."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from scspecies.architecture import SpeciesVAE, VAEConfig
from scspecies.core import SpeciesData, library_prior, torch_seed
from scspecies.training import Schedule, encode_cells, fit, fit_context
from tiny_models import (
    QUIET,
    UNSAVED,
    changed,
    encode_both,
    latents,
    main_job,
    prepared_pair,
    same_random_state,
    tiny_model,
    weights,
)

BATCH_NORM = ("linear", "batch_norm", ("act", "ReLU"), ("dropout", 0.1))
OPTIMIZERS = {
    "Adam": torch.optim.Adam,
    "AdamW": functools.partial(torch.optim.AdamW, lr=0.01, weight_decay=0.5),
    "SGD with momentum": functools.partial(torch.optim.SGD, lr=1e-5, momentum=0.9, weight_decay=0.5),
    "RMSprop": functools.partial(torch.optim.RMSprop, lr=1e-3, momentum=0.5, centered=True),
}


def toy(n_cells=33, n_genes=20, seed=0) -> SpeciesData:
    rng = np.random.default_rng(seed)
    counts = sp.csr_matrix(rng.poisson(2, (n_cells, n_genes)).astype(np.float32))
    batch = np.arange(n_cells) % 2
    genes = np.array([f"Gene{i}" for i in range(n_genes)])
    return SpeciesData("toy", counts, batch, ("a", "b"), *library_prior(counts, batch), genes)


def network(data, optimizer=torch.optim.Adam, **form):
    sizes = {"hidden_outer": (8,), "hidden_inner": (8,), "hidden_library": (4,), "hidden_decoder": (8,)}
    with torch_seed(0):
        vae = SpeciesVAE(VAEConfig(**{**sizes, **form}), data.n_genes, data.n_batches, range(10), 3.0)
    return vae, optimizer(vae.parameters())


@pytest.mark.parametrize(("n_cells", "batch_size"), [(33, 32), (5, 128), (7, 1), (64, 32), (65, 64), (1, 32), (5, 2)])
def test_every_cell_counts_once_an_epoch(n_cells, batch_size):
    seen, weight = [], torch.nn.Parameter(torch.zeros(1))

    def loss_function(cells, epoch):
        seen.append((epoch, cells.index))
        return (weight * 0).sum() + float(cells.index.mean()), {"square": torch.tensor((cells.index**2.0).mean())}

    data, optimizer = toy(n_cells), torch.optim.SGD([weight], lr=1.0)
    history = fit(loss_function, data, optimizer, epochs=3, batch_size=batch_size, show_progress=False)
    orders = [np.concatenate([index for at, index in seen if at == epoch]) for epoch in range(3)]
    assert all(sorted(order) == list(range(n_cells)) for order in orders)
    assert all(len(index) <= batch_size for _, index in seen)
    assert n_cells < 5 or not np.array_equal(orders[0], orders[1])
    for row in history:  # means over cells, not over minibatches, which differ in size
        assert row["loss"] == pytest.approx(np.mean(np.arange(n_cells)))
        assert row["square"] == pytest.approx(np.mean(np.arange(n_cells) ** 2.0))
    assert [row["epoch"] for row in history] == [1, 2, 3]


@pytest.mark.parametrize(("n_cells", "batch_size"), [(5, 128), (33, 32), (7, 1), (1, 1)])
def test_few_cells_train(n_cells, batch_size):
    data = toy(n_cells)
    vae, optimizer = network(data, functools.partial(torch.optim.Adam, lr=0.01))
    before = weights(vae)
    history = fit_context(vae, data, optimizer, epochs=60, batch_size=batch_size, show_progress=False)
    assert changed(before, vae) == {"outer", "inner", "library", "decoder"}
    nll = [row["nll"] for row in history]
    assert np.mean(nll[-10:]) < np.mean(nll[:10])


@pytest.mark.parametrize(("n_cells", "batch_size"), [(65, 64), (33, 32), (5, 3)])
def test_batch_norm_takes_a_minibatch_that_is_not_full(n_cells, batch_size):
    data = toy(n_cells)
    vae, optimizer = network(data, layer_order=BATCH_NORM)
    fit_context(vae, data, optimizer, epochs=2, batch_size=batch_size, show_progress=False)
    assert np.isfinite(encode_cells(vae, data).z_mean).all()
    one_by_one = encode_cells(vae, data, batch_size=1)
    np.testing.assert_allclose(one_by_one.z_mean, encode_cells(vae, data).z_mean, atol=1e-5)


def test_batch_norm_needs_more_than_one_cell(tmp_path):
    with pytest.raises(ValueError, match="`b_s`.*batch_norm"):
        tiny_model(tmp_path, b_s=1, context_layer_order=BATCH_NORM).train_context(1, **UNSAVED)


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("layer_order", [BATCH_NORM, ("linear", "layer_norm", ("act", "ReLU"), ("dropout", 0.1))])
def test_decoder_only_leaves_the_encoders_bit_by_bit(optimizer, layer_order, tmp_path):
    model = tiny_model(tmp_path, context_optimizer=optimizer, context_layer_order=layer_order)
    model.train_context(2, **UNSAVED)  # momentum and weight decay of the encoders are there now
    before, encoded = weights(model.context.vae), encode_cells(model.context.vae, model.context.data)
    model.train_context(2, train_decoder_only=True, **UNSAVED)
    assert changed(before, model.context.vae) == {"decoder"}
    np.testing.assert_array_equal(encode_cells(model.context.vae, model.context.data).z_mean, encoded.z_mean)
    model.train_context(1, **UNSAVED)
    assert changed(before, model.context.vae) == {"outer", "inner", "library", "decoder"}


def test_schedules_start_anew_in_every_fit(tmp_path):
    rises = {"context_beta_start": 0.2, "context_beta_max": 1.0, "context_beta_epochs_raise": 4}
    rises |= {"target_beta_start": 0.0, "target_beta_max": 0.5, "target_beta_epochs_raise": 2}
    model = tiny_model(tmp_path, **rises, eta_start=3, eta_max=7, eta_epochs_raise=2)
    model.train_context(6, **UNSAVED)
    model.train_context(2, **UNSAVED)
    model.train_context(2, raise_beta=False, **UNSAVED)
    np.testing.assert_allclose(model.history["mouse"]["beta"], [0.2, 0.4, 0.6, 0.8, 1, 1, 0.2, 0.4, 1, 1], rtol=1e-6)
    for options in ({}, {}, {"raise_beta": False}, {"raise_eta": False}):
        model.train_target(3, **options, **UNSAVED)
    once, steady = [0, 0.25, 0.5], [0.5, 0.5, 0.5]
    np.testing.assert_allclose(model.history["human"]["beta"], [*once, *once, *steady, *once], rtol=1e-6)
    np.testing.assert_allclose(model.history["human"]["eta"], [3, 5, 7] * 3 + [7, 7, 7], rtol=1e-6)
    assert model.history["human"]["epoch"].tolist() == list(range(1, 13))


@pytest.mark.parametrize("epochs_raise", [0, 3])
def test_a_schedule_may_fall(epochs_raise):
    schedule = Schedule(2, 1, epochs_raise)
    assert schedule(0) == (2 if epochs_raise else 1) and schedule(100) == 1


def everything(model):
    """Run the main job; give all that it computes."""
    main_job(model, epochs=2).transfer_labels_data("cell_type", write_sim=True, **QUIET)
    human = model.mdata["human"]
    scores = human.obsm["similarities"], human.obsm["similarities_ind"]
    return [*latents(model), *scores, human.obs["pred_sim_cell_type"].astype(str).to_numpy()]


def test_the_same_seed_gives_the_same_twice(tmp_path):
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 (a user's state, which must not matter)
    first = everything(tiny_model(tmp_path, random_seed=3))
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    second = everything(tiny_model(tmp_path, random_seed=3))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    third = everything(tiny_model(tmp_path, random_seed=4))
    assert not np.allclose(first[0], third[0]) and not np.allclose(first[1], third[1])


def test_two_fits_do_not_repeat_the_noise_of_the_first(tmp_path):
    model = tiny_model(tmp_path, context_optimizer=functools.partial(torch.optim.SGD, lr=0.0))
    model.train_context(1, raise_beta=False, **UNSAVED)
    model.train_context(1, raise_beta=False, **UNSAVED)  # the weights are the same: only the noise differs
    assert model.history["mouse"]["nll"].nunique() == 2


def test_nothing_touches_the_global_random_state(tmp_path):
    mdata = prepared_pair()
    with same_random_state():
        model = tiny_model(tmp_path, mdata)
    for call in (
        lambda: model.train_context(1, **QUIET),
        lambda: model.train_target(1, **QUIET),
        lambda: model.get_representation("context"),
        lambda: model.get_representation("target", save_intermediate=True, save_libsize=True),
        lambda: model.transfer_labels_data("cell_type", write_sim=True, **QUIET),
        lambda: model.transfer_labels_cell(0, "cell_type"),
        lambda: model.similarity_metric_on_latent_space(precompute_neighbors=False, **QUIET),
        lambda: model.save("both", "kept"),
        lambda: model.save_mdata("kept"),
        lambda: model.load("both", "kept"),
        lambda: encode_both(model),
        lambda: model.return_similarity_df(20, 5, **QUIET),
        lambda: model.generate_homologous_samples(20, **QUIET),
        lambda: model.compute_logfold_change(samples=20, **QUIET),
        lambda: model.initialize(),
        lambda: model.initialize("context_decoder"),
    ):
        with same_random_state():
            call()


def test_data_setup_leaves_the_global_random_state():
    with same_random_state():
        prepared_pair()


def test_a_loss_that_is_not_finite_stops_before_the_weights_move(tmp_path):
    model = tiny_model(tmp_path)
    model.train_context(1, **UNSAVED)
    model.context.data = replace(model.context.data, library_std=np.full(model.context.data.n_cells, np.nan, "f4"))
    before = weights(model.context.vae)
    with pytest.raises(FloatingPointError, match="Expected a finite loss, found nan in epoch 1. Lower the learning"):
        model.train_context(1, **UNSAVED)
    assert not changed(before, model.context.vae)
    assert not model.context.vae.training and all(p.requires_grad for p in model.context.vae.parameters())


def test_an_interrupted_training_is_not_taken_for_the_one_before(tmp_path, monkeypatch):
    model = main_job(tiny_model(tmp_path))
    optimizer, steps = model.target.state.optimizer, []
    take_step = optimizer.step

    def stop_at_the_third_step(*args, **kwargs):
        if len(steps) == 2:
            raise KeyboardInterrupt
        steps.append(take_step(*args, **kwargs))

    monkeypatch.setattr(optimizer, "step", stop_at_the_third_step)
    with pytest.raises(KeyboardInterrupt):
        model.train_target(3, **UNSAVED)
    with pytest.raises(RuntimeError, match="Call `get_representation\\('target'\\)` first"):
        model.transfer_labels_data("cell_type", **QUIET)  # two steps have changed the weights since it was encoded
    assert not model.target.vae.training


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m.train_context(0), ValueError, "`epochs` to be a whole number of at least 1, found 0"),
        (lambda m: m.train_context(2.5), TypeError, "`epochs` to be a whole number, found 2.5"),
        (lambda m: m.train_context(True), TypeError, "`epochs` to be a whole number, found True"),
    ],
)
def test_wrong_epochs_train_nothing(call, error, message, tmp_path):
    model = tiny_model(tmp_path)
    before = weights(model.context.vae)
    with pytest.raises(error, match=message):
        call(model)
    assert not changed(before, model.context.vae) and model.history["mouse"].empty
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_fewer_digits_learn_as_much(precision, tmp_path):
    finals = {}
    for choice in ("float32", precision):
        model = tiny_model(tmp_path, precision=choice, context_optimizer=functools.partial(torch.optim.Adam, lr=0.01))
        model.train_context(15, **UNSAVED)
        assert all(p.dtype == torch.float32 for p in model.context.vae.parameters())
        nll = model.history[model.context.key]["nll"]
        finals[choice] = nll.iloc[-3:].mean()
        learned = nll.iloc[0] - finals[choice]
    assert finals[precision] == pytest.approx(finals["float32"], abs=0.1 * learned)
    assert torch.get_float32_matmul_precision() == "highest"


def test_unknown_precision_is_refused(tmp_path):
    with pytest.raises(ValueError, match="one of 'float32', 'tf32', 'bf16', found 'fp8'"):
        tiny_model(tmp_path, precision="fp8")
