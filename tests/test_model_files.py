"""Saving and loading: the same model in a new process, what is refused, and files that are whole or not there."""

import functools
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import mudata as mu
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from scspecies import checkpoint
from scspecies.models import scSpecies
from tiny_models import (
    QUIET,
    UNSAVED,
    copied,
    encode_both,
    latents,
    main_job,
    prepared_pair,
    simulated_pair,
    tiny_model,
)

ADAMW = functools.partial(torch.optim.AdamW, lr=2e-3, weight_decay=0.1)
ROLES = ("context", "target")


def run_of(model):
    """Fingerprints, epochs and settings of both species: what must not change where loading is refused."""
    states = [(s.state.run, s.state.epochs, s.state.aligned_to, s.settings, s.config) for s in species_of(model)]
    return [*states, model.alignment]


def species_of(model):
    return model.context, model.target


# ---------------------------------------------------------------- a new process

NEW_PROCESS = """
import functools, sys
import mudata, numpy, torch
from scspecies.models import scSpecies

folder = sys.argv[1]
torch.set_num_threads(int(sys.argv[2]))  # the order in which threads add decides the last digits of a sum
mdata = mudata.read_h5mu(folder + "/data/mudata.h5mu")
optimizer = functools.partial(torch.optim.AdamW, lr=9.0)  # the file's learning rate counts
model = scSpecies("cpu", mdata, folder, context_optimizer=optimizer, target_optimizer=optimizer, random_seed=5)
model.load()
found = {}
for step in ("loaded", "trained"):
    for key, role in (("mouse", "context"), ("human", "target")):
        model.get_representation(role)
        found[f"{step} {key}"] = mdata[key].obsm["z_mu"]
    if step == "loaded":
        model.transfer_labels_data("cell_type", show_progress=False)
        found["labels"] = mdata["human"].obs["pred_sim_cell_type"].to_numpy(str)
        model.train_context(1, save_model=False, show_progress=False)
        model.train_target(2, save_model=False, show_progress=False)
found["nll"] = model.history["human"]["nll"].to_numpy()
numpy.savez(folder + "/found.npz", **found)
"""


@pytest.mark.parametrize("alignment", ["inter", "latent"])
def test_a_new_process_loads_the_same_and_trains_on_to_the_same(alignment, tmp_path, project):
    layers = ["linear", "batch_norm", ("act", torch.nn.LeakyReLU(0.1), [-3, 9]), ("dropout", 0.2)]
    options = {"context_optimizer": ADAMW, "target_optimizer": ADAMW, "context_layer_order": layers}
    model = main_job(tiny_model(tmp_path, random_seed=5, alignment=alignment, eta_max=15, **options), epochs=3)
    model.transfer_labels_data("cell_type", **QUIET)
    labels = model.mdata["human"].obs["pred_sim_cell_type"].to_numpy(str)
    model.save()
    model.save_mdata()
    loaded = [z.copy() for z in latents(model)]

    paths = os.pathsep.join([str(project), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-W", "ignore", "-c", NEW_PROCESS, str(tmp_path), str(torch.get_num_threads())]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "found.npz")
    model.train_context(1, **UNSAVED)
    model.train_target(2, **UNSAVED)
    encode_both(model)
    for key, before, after in zip(("mouse", "human"), loaded, latents(model), strict=True):
        np.testing.assert_allclose(found[f"loaded {key}"], before, atol=1e-6, rtol=0)
        np.testing.assert_allclose(found[f"trained {key}"], after, atol=1e-5, rtol=0)
        assert np.abs(after - before).max() > 1e-3
    assert (found["labels"] == labels).all()
    np.testing.assert_allclose(found["nll"], model.history["human"]["nll"], rtol=1e-5)


# ---------------------------------------------------------------- round trips


def test_form_settings_and_optimiser_come_from_the_file(tmp_path):
    saved = main_job(
        tiny_model(
            tmp_path, context_optimizer=ADAMW, alignment="latent", target_dispersion="cell", use_lib_enc=False, b_s=16
        )
    )
    saved.save()
    plain = scSpecies("cpu", copied(saved.mdata), tmp_path, context_optimizer=torch.optim.AdamW)
    plain.load()
    assert run_of(plain) == run_of(saved)
    for ours, theirs in zip(species_of(plain), species_of(saved), strict=True):
        mine, other = ours.state.optimizer.state_dict(), theirs.state.optimizer.state_dict()
        assert [{**g, "betas": tuple(g["betas"])} for g in mine["param_groups"]] == other["param_groups"]
        assert mine["state"].keys() == other["state"].keys() and mine["state"]
        for index, values in other["state"].items():
            assert all(torch.equal(torch.as_tensor(mine["state"][index][k]), v) for k, v in values.items())
        pd.testing.assert_frame_equal(pd.DataFrame(ours.state.history), pd.DataFrame(theirs.state.history))


OPTIMIZERS = ["Adam", "AdamW", "SGD", "RMSprop", "Adagrad", "NAdam", "RAdam", "Adamax", "Rprop"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimiser_goes_on_where_it_stopped(name, tmp_path):
    extra = {"momentum": 0.9} if name in ("SGD", "RMSprop") else {}
    optimizer = functools.partial(getattr(torch.optim, name), lr=1e-5 if name == "SGD" else 1e-3, **extra)
    model = tiny_model(tmp_path, context_optimizer=optimizer)
    model.train_context(2, **UNSAVED)
    model.save("context")
    again = tiny_model(tmp_path, context_optimizer=optimizer)
    again.load("context")
    for one in (model, again):
        one.train_context(1, **UNSAVED)
    assert again.context.state.run == model.context.state.run


def test_an_optimiser_made_by_a_function_is_known_by_what_it_makes(tmp_path):
    model = tiny_model(tmp_path, context_optimizer=lambda weights: torch.optim.Adam(weights, lr=2e-3))
    model.train_context(1, **UNSAVED)
    model.save("context")
    for optimizer in (lambda weights: torch.optim.Adam(weights), torch.optim.Adam):
        again = tiny_model(tmp_path, context_optimizer=optimizer)
        again.load("context")
        assert again.context.state.run == model.context.state.run
        assert again.context.state.optimizer.param_groups[0]["lr"] == 2e-3


def test_one_species_is_found_in_a_file_of_both(tmp_path):
    saved = main_job(tiny_model(tmp_path, k_neigh=7))
    saved.save("both", "pair")
    model = tiny_model(tmp_path)
    before = run_of(model)
    model.load("context", "pair")
    assert run_of(model)[0] == run_of(saved)[0] and run_of(model)[1:] == before[1:]
    model.load("target", "pair")
    assert run_of(model) == run_of(saved) and model.alignment.k_neigh == 7
    encode_both(model).transfer_labels_data("cell_type", **QUIET)


def test_training_saves_what_is_needed_to_go_on(tmp_path):
    model = tiny_model(tmp_path)
    model.train_context(1, save_key="first", **QUIET)
    model.train_target(1, save_key="first", **QUIET)
    assert sorted(p.name for p in (tmp_path / "params").iterdir()) == [
        "both_first.safetensors",
        "context_first.safetensors",
    ]
    again = tiny_model(tmp_path)
    again.load("both", "first")
    assert run_of(again) == run_of(model)


def test_an_untrained_model_can_be_saved(tmp_path):
    model = tiny_model(tmp_path)
    model.save()
    again = tiny_model(tmp_path, random_seed=1)
    again.load()
    assert run_of(again) == run_of(model)
    with pytest.raises(RuntimeError, match="Call `train_context` first"):
        again.get_representation("context")


def test_a_checkpoint_is_tensors_and_json_only(tmp_path):
    path = main_job(tiny_model(tmp_path)).save()
    assert path == tmp_path / "params" / "both.safetensors"
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    text = json.loads(header["__metadata__"]["scspecies"])
    assert text["format_version"] == checkpoint.FORMAT_VERSION and set(text["species"]) == set(ROLES)
    assert not any(isinstance(value, str) and "lambda" in value for value in text)
    assert sum(t.numel() * t.element_size() for t in load_file(path).values()) == len(content) - 8 - size


def test_saved_data_are_the_same_when_read(tmp_path):
    model = main_job(tiny_model(tmp_path))
    model.get_representation("target", save_intermediate=True, save_libsize=True)
    model.transfer_labels_data(["cell_type", "lineage"], write_sim=True, **QUIET)
    read = mu.read_h5mu(model.save_mdata("round"))
    assert list(read.mod) == ["mouse", "human"]
    for key, adata in model.mdata.mod.items():
        pd.testing.assert_frame_equal(
            read[key].obs.astype(str), adata.obs.astype(str), check_column_type=False, check_dtype=False
        )
        assert (read[key].X != adata.X).nnz == 0 and set(read[key].obsm) == set(adata.obsm)
        assert all(np.array_equal(read[key].obsm[name], adata.obsm[name]) for name in adata.obsm)
        assert dict(read[key].uns["representation"]) == adata.uns["representation"]
    again = tiny_model(tmp_path, read)  # and the model can be built on it
    assert again.context.data.batch_names == model.context.data.batch_names
    np.testing.assert_array_equal(again.target.homologous, model.target.homologous)


# ---------------------------------------------------------------- what is refused


def other_genes():
    return prepared_pair(context=simulated_pair().context[:, :-3].copy())


def other_batches():
    context = simulated_pair().context.copy()
    context.obs["batch"] = context.obs["batch"].astype(str).replace({"context batch 1": "clinic"})
    return prepared_pair(context=context)


def fewer_batches():
    target = simulated_pair().target.copy()
    target.obs["batch"] = "one"
    return prepared_pair(target=target)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (other_genes, "genes that the checkpoint was trained on in mouse, found 7"),
        (other_batches, "batches that the checkpoint was trained on in mouse, .*'clinic'"),
        (fewer_batches, "Expected the 2 batches that the checkpoint was trained on in human, found 1"),
    ],
)
def test_other_data_are_refused(make, message, tmp_path):
    main_job(tiny_model(tmp_path)).save()
    model = main_job(tiny_model(tmp_path, make()))
    before, z = run_of(model), latents(model)
    with pytest.raises(ValueError, match=message):
        model.load()
    assert run_of(model) == before
    model.similarity_metric([0], [[1]], display=False)  # its representations are still its own
    assert all(one is other for one, other in zip(latents(model), z, strict=True))


def test_another_optimiser_is_refused(tmp_path):
    tiny_model(tmp_path).save()
    model = tiny_model(tmp_path, target_optimizer=torch.optim.SGD)
    before = run_of(model)
    with pytest.raises(ValueError, match="Expected the optimiser Adam of the checkpoint, found SGD"):
        model.load()
    assert run_of(model) == before


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "boom")


def newer(path):
    tensors, header = load_file(path), checkpoint.read_checkpoint(path)[0]
    save_file(tensors, path, {"scspecies": json.dumps({**header, "format_version": 99})})


def truncated(path):
    path.write_bytes(path.read_bytes()[:-1000])


def pickled(path):
    path.write_bytes(pickle.dumps(Bomb(path.parent / "boom")))


def pickled_by_torch(path):
    torch.save(Bomb(path.parent / "boom"), path)


def of_something_else(path):
    save_file({"x": torch.zeros(2)}, path)


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (newer, "of format 1 or older, found format 99 in .*Update the package"),
        (truncated, "to be a checkpoint of scspecies, found a damaged file"),
        (pickled, "to be a checkpoint of scspecies, found a damaged file"),
        (pickled_by_torch, "to be a checkpoint of scspecies, found a damaged file"),
        (of_something_else, "to be a checkpoint of scspecies, found something else"),
        (empty, "to be a checkpoint of scspecies, found a damaged file"),
    ],
)
def test_wrong_files_are_refused_and_nothing_of_them_runs(damage, message, tmp_path):
    model = tiny_model(tmp_path)
    damage(model.save())
    before = run_of(model)
    with pytest.raises(ValueError, match=message):
        model.load()
    assert run_of(model) == before and not (tmp_path / "params" / "boom").exists()


def test_a_missing_file_says_what_is_there(tmp_path):
    model = tiny_model(tmp_path)
    with pytest.raises(FileNotFoundError, match="both.safetensors, found no such file \\(checkpoints there: none\\)"):
        model.load()
    assert not list(tmp_path.iterdir())
    model.save("context", "a")
    model.save("both", "b")
    for models in ("context", "target", "both"):
        with pytest.raises(FileNotFoundError, match="there: both_b.safetensors, context_a.safetensors") as caught:
            model.load(models, "c")
        assert f"{models}_c.safetensors" in str(caught.value)  # the file that was asked for
    with pytest.raises(ValueError, match="`models` to be one of"):
        model.load("human")


# ---------------------------------------------------------------- interrupted writes


def full_disk(*args, **kwargs):
    raise OSError("No space left on device")


def half_a_file(tensors, path, metadata):
    Path(path).write_bytes(b"half")
    raise OSError("No space left on device")


@pytest.mark.parametrize(
    ("where", "name", "failing"), [(checkpoint, "save_file", half_a_file), (os, "replace", full_disk)]
)
def test_an_interrupted_save_leaves_the_old_file(where, name, failing, tmp_path, monkeypatch):
    model = main_job(tiny_model(tmp_path))
    path = model.save()
    old, run = path.read_bytes(), run_of(model)
    model.train_target(1, **UNSAVED)
    with monkeypatch.context() as patch:
        patch.setattr(where, name, failing)
        with pytest.raises(OSError, match="No space left"):
            model.save()
        with pytest.raises(OSError, match="No space left"):
            model.train_target(1, **QUIET)
    assert path.read_bytes() == old and [p.name for p in path.parent.iterdir()] == [path.name]
    assert model.target.state.epochs == 3  # what was trained is there, and can be saved elsewhere
    model.save("both", "elsewhere")
    model.load()
    assert run_of(model) == run


def test_interrupted_data_leave_the_old_file(tmp_path, monkeypatch):
    model = tiny_model(tmp_path)
    path = model.save_mdata()
    old = path.read_bytes()
    monkeypatch.setattr(mu.MuData, "write", lambda self, to, **_: half_a_file({}, to, {}))
    with pytest.raises(OSError, match="No space left"):
        model.save_mdata()
    assert path.read_bytes() == old and [p.name for p in path.parent.iterdir()] == [path.name]
