"""A small simulated pair and networks of a few units, with which a whole run takes a tenth of a second."""

import contextlib
import random
from functools import cache

import mudata as mu
import numpy as np
import torch

from scspecies.datasets import SyntheticSpecies, synthetic_species
from scspecies.models import scSpecies
from scspecies.preprocessing import create_mdata

SIZES = {
    "context_hidden_dims_enc_outer": [16],
    "target_hidden_dims_enc_outer": [16],
    "hidden_dims_enc_inner": [8],
    "context_hidden_dims_l_enc": [8],
    "target_hidden_dims_l_enc": [8],
    "context_hidden_dims_dec": [8, 16],
    "target_hidden_dims_dec": [8, 16],
    "lat_dim": 4,
    "b_s": 32,
}
QUIET = {"show_progress": False}
UNSAVED = {"save_model": False, "show_progress": False}


@cache
def simulated_pair() -> SyntheticSpecies:
    """Simulate 120 and 100 cells of 80 genes, four shared types of which one is too rare; do not change it."""
    return synthetic_species(n_context=120, n_target=100, n_genes=80, n_types=4, seed=0)


def prepared_pair(context=None, target=None, *, cell_key="cell_type", target_cell_key="cell_type") -> mu.MuData:
    """Prepare the simulated pair, or variants of its two datasets."""
    pair = simulated_pair()
    context, target = (pair.context if context is None else context), (pair.target if target is None else target)
    builder = create_mdata(context, "batch", cell_key, min_cell_type_size=5)
    builder.setup_target_adata(target, "batch", target_cell_key, orthologues=pair.orthologues)
    return builder.return_mdata(save=False)


@cache
def _default_pair() -> mu.MuData:
    return prepared_pair()


def copied(mdata: mu.MuData) -> mu.MuData:
    """Copy the data (without mudata's warning that its copies will differ in the future)."""
    with mu.set_options(pull_on_update=False):
        return mdata.copy()


def tiny_model(folder, mdata=None, device="cpu", **options) -> scSpecies:
    """Make a tiny model; its data are its own."""
    return scSpecies(device, copied(_default_pair()) if mdata is None else mdata, folder, **{**SIZES, **options})


def encode_both(model: scSpecies) -> scSpecies:
    """Encode both species."""
    model.get_representation("context")
    model.get_representation("target")
    return model


def main_job(model: scSpecies, epochs: int = 1) -> scSpecies:
    """Train and encode both species."""
    model.train_context(epochs, **UNSAVED)
    model.train_target(epochs, **UNSAVED)
    return encode_both(model)


def latents(model: scSpecies) -> list[np.ndarray]:
    """Give the latent means of both species, as written into the data."""
    return [model.mdata[species.key].obsm["z_mu"] for species in (model.context, model.target)]


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Copy all weights and statistics of a network."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def changed(before: dict[str, torch.Tensor], module: torch.nn.Module) -> set[str]:
    """Name the parts of a network of which a weight or a statistic is not bit by bit what it was."""
    after = module.state_dict()
    return {name.split(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}


@contextlib.contextmanager
def same_random_state():
    """Fail where the block changes a global random state."""
    of_python, of_numpy, of_torch = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    yield
    assert random.getstate() == of_python
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), of_numpy, strict=True))  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), of_torch)
