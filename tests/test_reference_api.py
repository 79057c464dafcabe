"""The published names: parameters, their order and defaults, as a table written by hand; what is new comes last."""

import inspect
from typing import Any

import pytest
import torch

from scspecies import models, preprocessing

LAYERS = ["linear", "layer_norm", ("act", torch.nn.ReLU), ("dropout", 0.1)]

MODEL = {
    "__init__": """
        device, mdata, directory, random_seed=369963, context_key='mouse', target_key='human',
        context_optimizer=torch.optim.Adam, target_optimizer=torch.optim.Adam,
        context_hidden_dims_enc_outer=[300], target_hidden_dims_enc_outer=[300], hidden_dims_enc_inner=[200],
        context_hidden_dims_l_enc=[200], target_hidden_dims_l_enc=[200],
        context_hidden_dims_dec=[200, 300], target_hidden_dims_dec=[200, 300], lat_dim=10,
        context_layer_order=LAYERS, target_layer_order=LAYERS, use_lib_enc=True, b_s=128,
        context_data_distr='zinb', target_data_distr='zinb', context_dispersion='batch', target_dispersion='batch',
        alignment='inter', k_neigh=25, top_percent=20,
        context_beta_start=0.1, context_beta_max=1, context_beta_epochs_raise=10,
        target_beta_start=0.1, target_beta_max=1, target_beta_epochs_raise=10,
        eta_start=10, eta_max=25, eta_epochs_raise=10""",
    "compute_logfold_change": """eval_cell_types=None, eps=1e-06, lfc_delta=1, samples=50000, target_cell_key=None,
        b_s=128, confidence_level=0.9""",
    "encode": "x, s, encoder_outer=None, encoder_inner=None, lib_encoder=None",
    "generate_homologous_samples": "samples=5000, target_cell_key=None, b_s=128, confidence_level=0.9",
    "get_representation": "eval_model, save_intermediate=False, save_libsize=False",
    "initialize": "initialize='both'",
    "load": "models='both', save_key=''",
    "ret_pred_df": "pred_key, target_label_key, context_label_key",
    "return_similarity_df": "max_sample_targ=2000, max_sample_cont=50, scale='none'",
    "save": "models='both', save_key=''",
    "save_mdata": "save_key",
    "similarity_metric": "target_ind, context_ind, b_s=None, b_sc=None, display=True",
    "similarity_metric_on_latent_space": "precompute_neighbors=True",
    "train_context": "epochs=40, raise_beta=True, save_model=True, train_decoder_only=False, save_key=''",
    "train_target": "epochs=40, save_model=True, raise_beta=True, raise_eta=True, save_key=''",
    "transfer_labels_cell": "target_ind, context_obs_transfer",
    "transfer_labels_data": "context_obs_transfer, top_neigh=25, write_sim=False",
}
SETUP = {
    "__init__": """adata, batch_key, cell_key, dataset_name='mouse', NCBI_Taxon_ID=10090, n_top_genes=None,
        min_non_zero_genes=0.025, min_cell_type_size=20, min_batch_size=20""",
    "setup_target_adata": """adata, batch_key, cell_key=None, eval_nns_keys=None, dataset_name='human',
        NCBI_Taxon_ID=9606, n_top_genes=None, compute_log1p=True, nn_kwargs=None""",
    "return_mdata": "return_mdata=True, save=True, save_path='data', save_name='mudata'",
}
FUNCTIONS = {"neighbors_workaround": "adata, use_rep=None, n_neighbors=15, metric='euclidean'"}
# a required parameter that may be left out here: whoever calls as published gets what was published
RELAXED = {("save_mdata", "save_key"): ""}

TABLE = [
    *(pytest.param(models.scSpecies, name, text, id=f"scSpecies.{name}") for name, text in MODEL.items()),
    *(pytest.param(preprocessing.create_mdata, name, text, id=f"create_mdata.{name}") for name, text in SETUP.items()),
    *(pytest.param(models, name, text, id=name) for name, text in FUNCTIONS.items()),
]


def published(text: str) -> list[inspect.Parameter]:
    """Read the parameters of a line of the table."""
    signature = eval(f"lambda {' '.join(text.split())}: None", {"torch": torch, "LAYERS": LAYERS})  # noqa: S307
    return list(inspect.signature(signature).parameters.values())


def plain(value: Any) -> Any:
    """Turn lists into tuples, at every depth."""
    return tuple(map(plain, value)) if isinstance(value, list | tuple) else value


@pytest.mark.parametrize(("owner", "name", "text"), TABLE)
def test_signature_is_the_published_one(owner, name, text):
    ours = [p for p in inspect.signature(getattr(owner, name)).parameters.values() if p.name != "self"]
    theirs = published(text)
    shared, new = ours[: len(theirs)], ours[len(theirs) :]
    assert [p.name for p in shared] == [p.name for p in theirs]
    assert all(p.kind == inspect.Parameter.POSITIONAL_OR_KEYWORD for p in shared)
    for our, their in zip(shared, theirs, strict=True):
        default = RELAXED.get((name, our.name), their.default)
        assert plain(our.default) == plain(default), our.name
        assert isinstance(our.default, bool) == isinstance(default, bool), our.name
    assert all(p.kind == inspect.Parameter.KEYWORD_ONLY for p in new)
    assert all(p.default is not inspect.Parameter.empty for p in new)


def test_the_table_is_read_as_meant():
    assert [(p.name, p.default) for p in published("a, b=[1],\n c='x'")][1:] == [("b", [1]), ("c", "x")]
    assert plain([1, ("act", [2, 3])]) == (1, ("act", (2, 3)))


def test_no_default_can_be_changed_by_its_user():
    for owner, names in ((models.scSpecies, MODEL), (preprocessing.create_mdata, SETUP), (models, FUNCTIONS)):
        for name in names:
            for parameter in inspect.signature(getattr(owner, name)).parameters.values():
                assert not isinstance(parameter.default, list | dict | set), (name, parameter.name)
