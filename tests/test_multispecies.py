"""One context and several targets: nothing that is there changes, and any two are compared as they should be."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr

from scspecies import plot
from scspecies.core import homologous_genes, metadata
from scspecies.datasets import synthetic_species
from scspecies.lfc import ComparedSpecies
from scspecies.models import scSpecies
from scspecies.multispecies import MultiSpecies
from scspecies.preprocessing import add_dataset, create_mdata, join_datasets
from tiny_models import QUIET, SIZES, UNSAVED, changed, copied, same_random_state, weights

SMALL = {"n_context": 120, "n_target": 100, "n_genes": 80, "n_types": 4, "seed": 0}
TARGETS = ("human", "rat")


@pytest.fixture(scope="module")
def simulated():
    """Simulate two targets of one context, a third without labels, and prepare them with one builder."""
    sets = [synthetic_species(**SMALL, target_number=number) for number in range(3)]
    del sets[2].target.obs["cell_type"]
    builder = create_mdata(sets[0].context, "batch", "cell_type", min_cell_type_size=5)
    for name, cell_key, one in zip((*TARGETS, "pig"), ("cell_type", "cell_type", None), sets, strict=True):
        options = {"dataset_name": name, "orthologues": one.orthologues}
        builder.setup_target_adata(one.target, "batch", cell_key, **options)
    return builder


@pytest.fixture
def mdata(simulated):
    """Give the data of a test of its own; without the pig, which comes later."""
    return copied(join_datasets({name: simulated.datasets[name] for name in ("mouse", *TARGETS)}))


@pytest.fixture
def model(mdata, tmp_path):
    return MultiSpecies("cpu", mdata, tmp_path, **SIZES)


@pytest.fixture
def trained(model):
    model.train(2, 2, **UNSAVED)
    return model


def runs(model) -> dict[str, str]:
    """Give the fingerprint of each network."""
    return {key: species.state.run for key, species in model.species.items()}


def with_pig(model, simulated):
    """Add the third target, which has no labels."""
    model.add_target(simulated.datasets["pig"].copy())
    return model


# ---------------------------------------------------------------- the simulator


def test_the_first_target_is_what_it_was_and_further_ones_are_others():
    first, again, second = (synthetic_species(**SMALL, target_number=number) for number in (0, 0, 1))
    assert (first.context.X != second.context.X).nnz == 0
    assert (first.target.X != again.target.X).nnz == 0
    assert first.target.shape == second.target.shape and (first.target.X != second.target.X).nnz > 0
    assert not set(first.target.obs_names) & set(second.target.obs_names)
    assert not set(first.target.obs["batch"]) & set(second.target.obs["batch"])
    assert list(first.log_fold_change.index) == list(second.log_fold_change.index)


def test_targets_drift_independently():
    sizes = {**SMALL, "n_genes": 2000, "divergence": 0.3}
    first, second = (synthetic_species(**sizes, target_number=number).log_fold_change for number in (0, 1))
    # both are sqrt(1 - d) eta + sqrt(d) own against one eta, so they share the part (sqrt(1 - d) - 1) eta alone
    shared = (np.sqrt(0.7) - 1) ** 2
    expected = shared / (shared + 0.3)
    assert np.corrcoef(first.to_numpy().ravel(), second.to_numpy().ravel())[0, 1] == pytest.approx(expected, abs=0.05)


def test_target_number_is_checked():
    with pytest.raises(ValueError, match="Expected `target_number` to be a whole number of at least 0, found -1"):
        synthetic_species(**SMALL, target_number=-1)


# ---------------------------------------------------------------- nothing else changes


def test_training_a_second_target_changes_no_bit_of_the_first(model):
    model.train_context(2, **UNSAVED)
    model.train_target("human", 2, **UNSAVED)
    model.get_representation(["mouse", "human"])
    before = {key: weights(model.species[key].vae) for key in ("mouse", "human")}
    latents = {key: model.mdata[key].obsm["z_mu"].copy() for key in before}

    model.train_target("rat", 2, **UNSAVED)
    model.get_representation()
    for key, kept in before.items():
        assert changed(kept, model.species[key].vae) == set()
        np.testing.assert_array_equal(model.mdata[key].obsm["z_mu"], latents[key])
    assert len(model.history["mouse"]) == len(model.history["human"]) == len(model.history["rat"]) == 2


def test_order_of_targets_does_not_matter(mdata, tmp_path):
    together = MultiSpecies("cpu", mdata, tmp_path, **SIZES)
    together.train(2, 2, **UNSAVED)
    other = MultiSpecies("cpu", copied(mdata), tmp_path, target_keys=["rat", "human"], **SIZES)
    other.train_context(2, **UNSAVED)
    other.train_target(["rat", "human"], 2, **UNSAVED)
    assert runs(together) == runs(other)


def test_one_target_alone_is_what_scspecies_gives(mdata, tmp_path):
    alone = MultiSpecies("cpu", copied(mdata), tmp_path, target_keys=["human"], **SIZES)
    alone.train(2, 2, **UNSAVED)
    plain = scSpecies("cpu", mdata, tmp_path, **SIZES)
    plain.train_context(2, **UNSAVED)
    plain.train_target(2, **UNSAVED)
    assert runs(alone) == {"mouse": plain.context.state.run, "human": plain.target.state.run}
    plain.get_representation("context")
    plain.get_representation("target")
    plain.transfer_labels_data("cell_type", **QUIET)
    alone.pair("mouse", "human").transfer_labels_data("cell_type", **QUIET)
    pd.testing.assert_frame_equal(alone.mdata["human"].obs, plain.mdata["human"].obs)


def test_no_global_random_state_is_touched(mdata, tmp_path, simulated):
    with same_random_state():
        model = MultiSpecies("cpu", mdata, tmp_path, **SIZES)
        model.train(1, 1, **UNSAVED)
        with_pig(model, simulated)


def test_a_target_may_come_later(trained, simulated):
    before = runs(trained)
    with_pig(trained, simulated)
    assert list(trained.mdata.mod) == ["mouse", "human", "rat", "pig"]
    trained.train_target("pig", 2, **UNSAVED)
    trained.get_representation()
    assert {key: run for key, run in runs(trained).items() if key != "pig"} == before
    assert np.isfinite(trained.mdata.obsm["X_scspecies"]).all()


def test_a_modality_that_is_there_may_be_added_by_name(mdata, tmp_path):
    model = MultiSpecies("cpu", mdata, tmp_path, target_keys=["human"], **SIZES)
    model.train(1, 1, **UNSAVED)
    takes_no_part = (mdata.obs["dataset"] == "rat").to_numpy()
    np.testing.assert_array_equal(np.isnan(mdata.obsm["X_scspecies"]).all(axis=1), takes_no_part)
    model.add_target("rat")
    model.train_target("rat", 1, **UNSAVED)
    model.get_representation()
    assert np.isfinite(mdata.obsm["X_scspecies"]).all()


def test_a_refused_target_leaves_the_data_alone(trained, simulated):
    with pytest.raises(ValueError, match=r"Expected mdata\['mouse2'\] to be prepared as target, found 'context'"):
        context = simulated.datasets["mouse"].copy()
        context.uns["metadata"] = {**metadata(context), "name": "mouse2"}
        trained.add_target(context)
    assert list(trained.mdata.mod) == ["mouse", "human", "rat"] and list(trained.targets) == ["human", "rat"]


def test_added_cells_get_names_of_their_own(mdata, simulated):
    cells, late = list(mdata.obs_names), simulated.datasets["pig"][:90].copy()
    late.obs_names = mdata["human"].obs_names[:90]
    add_dataset(mdata, late)
    assert list(mdata.obs_names[: len(cells)]) == cells and mdata.obs_names.is_unique
    assert late.obs_names.str.startswith("pig:").all()


# ---------------------------------------------------------------- the joint representation


def test_joint_representation_is_its_parts(trained):
    joint, dataset = trained.mdata.obsm["X_scspecies"], trained.mdata.obs["dataset"]
    for key in trained.species:
        cells = trained.mdata[key]
        rows = trained.mdata.obs_names.get_indexer(cells.obs_names)
        np.testing.assert_array_equal(joint[rows], cells.obsm["z_mu"])
        assert (dataset.iloc[rows] == key).all()


def test_half_a_joint_space_is_none(trained):
    trained.train_context(1, **UNSAVED)
    trained.train_target("rat", 1, **UNSAVED)
    trained.get_representation()
    assert "X_scspecies" not in trained.mdata.obsm
    trained.train_target("human", 1, **UNSAVED)
    trained.get_representation("target")
    assert "X_scspecies" in trained.mdata.obsm


def test_map_of_several_targets(trained):
    joint = plot.joint_representation(trained.mdata, context="mouse", target=["human", "rat"])
    assert joint.obs["species"].value_counts().to_dict() == {k: trained.mdata[k].n_obs for k in trained.species}
    np.testing.assert_array_equal(joint.obsm["z_mu"], trained.mdata.obsm["X_scspecies"])


# ---------------------------------------------------------------- any two


def test_labels_say_where_they_come_from(trained):
    trained.pair("mouse", "rat").transfer_labels_data("cell_type", **QUIET)
    from_context = trained.mdata["rat"].obs.copy()
    trained.pair("human", "rat").transfer_labels_data("cell_type", write_sim=True, **QUIET)
    trained.pair("rat", "mouse").transfer_labels_data("cell_type", **QUIET)
    rat = trained.mdata["rat"]
    pd.testing.assert_frame_equal(rat.obs[from_context.columns], from_context)
    new = {"pred_sim_cell_type_from_human", "pred_sim_cell_type_from_human_share"}
    assert set(rat.obs) - set(from_context) == new
    assert {"similarities_from_human", "similarities_ind_from_human"} <= set(rat.obsm)
    assert "similarities" not in rat.obsm
    assert set(rat.obs["pred_sim_cell_type_from_human"]) <= set(trained.mdata["human"].obs["cell_type"])
    assert "pred_sim_cell_type_from_rat" in trained.mdata["mouse"].obs

    trained.train_target("rat", 1, **UNSAVED)
    trained.get_representation("rat")
    assert not [key for key in trained.mdata["rat"].obsm if key.startswith("similarities")]


def test_scores_between_targets_are_those_of_the_second_network(trained):
    pair, human, rat = trained.pair("human", "rat"), trained.targets["human"], trained.targets["rat"]
    found = pair.similarity_metric([3], [[5, 7]], display=False)[0]

    def nll(z: np.ndarray) -> float:
        """Score one cell by hand: from the decoded parameters, with torch's own distributions."""
        x = torch.tensor(rat.data.counts[3].toarray()[0]).double()
        batch = torch.eye(rat.data.n_batches)[rat.data.batch[3]][None]
        with torch.no_grad():
            decoded = rat.vae.eval().decoder(torch.tensor(z)[None], batch)
        mu = (decoded.log_rho[0].double() + float(rat.representation.l_mean[3, 0])).exp()
        alpha, kept = decoded.log_alpha.double().reshape(-1).exp(), decoded.kept_logit[0].double().sigmoid()
        log_nb = torch.distributions.NegativeBinomial(alpha, logits=(mu / alpha).log()).log_prob(x)
        return -float(torch.log(kept * log_nb.exp() + (1 - kept) * (x == 0)).sum())

    own = nll(rat.representation.z_mean[3])
    by_hand = [nll(human.representation.z_mean[row]) - own for row in (5, 7)]
    np.testing.assert_allclose(found, by_hand, rtol=1e-3, atol=1e-2)


def test_compared_genes_are_homologous_in_both(trained):
    pair = trained.pair("human", "rat")
    columns = pair._shared_genes()
    names = [
        trained.mdata[key].var["var_names_transl"].to_numpy()[genes]
        for key, genes in zip(TARGETS, columns, strict=True)
    ]
    assert list(names[0]) == list(names[1])
    expected = set.intersection(*(set(trained.mdata[key].var["var_names_transl"]) for key in TARGETS))
    assert set(names[0]) == expected & set(trained.mdata["mouse"].var_names)


def test_context_counts_genes_as_homologous_that_any_target_has(mdata, tmp_path):
    fewer = mdata["rat"].var["var_names_transl"].astype(str)
    fewer.iloc[:20] = [f"own {i}" for i in range(20)]
    mdata["rat"].var["var_names_transl"] = fewer
    model = MultiSpecies("cpu", mdata, tmp_path, **SIZES)
    of_human, of_rat = (homologous_genes(model.context.data, model.targets[key].data)[0] for key in TARGETS)
    assert len(of_rat) < len(of_human)
    np.testing.assert_array_equal(model.context.homologous, np.union1d(of_human, of_rat))
    assert set(model.pair("mouse", "rat")._shared_genes()[0]) == set(of_rat)


def test_share_of_the_library_is_that_of_the_counts(trained):
    human = trained.targets["human"]
    labels = trained.mdata["human"].obs["cell_type"].to_numpy(str)
    data, every = human.data, human.vae.decoder.is_homologous.numpy().nonzero()[0]

    def share(genes: np.ndarray) -> float:
        cells = (human.vae, human.representation, labels, data.batch, genes, data.genes[genes], data.counts)
        return ComparedSpecies("human", *cells).library_share

    assert share(every) == pytest.approx(len(every) / data.n_genes)
    halves = every[::2], every[1::2]
    assert share(halves[0]) + share(halves[1]) == pytest.approx(share(every))
    totals = [data.counts[:, half].sum() for half in halves]
    assert share(halves[0]) / share(halves[1]) == pytest.approx(totals[0] / totals[1])


def test_fold_changes_between_targets_against_the_truth(tmp_path):
    sizes = {"n_context": 500, "n_target": 400, "n_genes": 300, "n_types": 4, "seed": 1}
    sets = {name: synthetic_species(**sizes, target_number=i) for i, name in enumerate(TARGETS)}
    builder = create_mdata(sets["human"].context, "batch", "cell_type")
    for name, one in sets.items():
        options = {"dataset_name": name, "orthologues": one.orthologues}
        builder.setup_target_adata(one.target, "batch", "cell_type", **options)
    form = {name: [32] if "outer" in name or "inner" in name else [32, 64] for name in SIZES if "hidden" in name}
    form |= {name: [64] for name in form if name.endswith("outer")}
    adam = {
        f"{role}_optimizer": lambda parameters: torch.optim.Adam(parameters, lr=3e-3) for role in ("context", "target")
    }
    model = MultiSpecies("cpu", builder.return_mdata(save=False), tmp_path, b_s=32, **form, **adam)
    model.train(30, 30, **UNSAVED)
    truth = sets["rat"].log_fold_change - sets["human"].log_fold_change
    in_mouse = sets["human"].orthologues.set_index("target")["context"]
    forward = model.pair("human", "rat").compute_logfold_change(["Monocyte"], samples=500, **QUIET)["Monocyte"]
    back = model.pair("rat", "human").compute_logfold_change(["Monocyte"], samples=500, **QUIET)["Monocyte"]
    expressed = (forward[["mu_median_context", "mu_median_target"]].max(axis=1) > 0.1).to_numpy()
    gene = in_mouse[forward["gene_context"]].to_numpy()
    assert expressed.sum() > 80 and np.isin(gene, truth.index).all()
    true = truth.loc[gene, "Monocyte"].to_numpy()
    assert np.corrcoef(forward["lfc"][expressed], true[expressed])[0, 1] > 0.8
    assert spearmanr(forward["lfc_type"][expressed], true[expressed]).statistic > 0.8
    there_and_back = back.set_index("gene_context")["lfc"][forward.index]
    assert np.corrcoef(forward["lfc"][expressed], -there_and_back[expressed])[0, 1] > 0.95


def test_labels_are_passed_on_with_a_warning(trained, simulated):
    with_pig(trained, simulated).train_target("pig", 1, **UNSAVED)
    trained.get_representation()
    with pytest.raises(KeyError, match="Expected 'cell_type' in pig.obs, found"):
        trained.pair("pig", "rat").transfer_labels_data("cell_type", **QUIET)
    with pytest.raises(RuntimeError, match="Expected cell types of the target 'pig', found none"):
        trained.pair("pig", "rat").return_similarity_df(**QUIET)
    trained.pair("mouse", "pig").transfer_labels_data("cell_type", **QUIET)
    trained.pair("human", "pig").transfer_labels_data("cell_type", **QUIET)
    assert metadata(trained.mdata["pig"])["cell_key_transferred"] == "pred_sim_cell_type"
    with pytest.warns(UserWarning, match="'pig' has no cell types of its own; its transferred labels"):
        trained.pair("pig", "rat").transfer_labels_data("cell_type", **QUIET)
    known = set(trained.mdata["pig"].obs["pred_sim_cell_type"])
    assert set(trained.mdata["rat"].obs["pred_sim_cell_type_from_pig"]) <= known
    with pytest.warns(UserWarning, match="'pig' has no cell types of its own; its transferred labels"):
        assert set(trained.pair("pig", "rat").return_similarity_df(**QUIET).columns) == known

    trained.train_target("pig", 1, **UNSAVED)
    trained.get_representation()
    with pytest.raises(RuntimeError, match=r"pig.obs\['pred_sim_cell_type'\] to be transferred with the target's pres"):
        trained.pair("pig", "rat").transfer_labels_data("cell_type", **QUIET)


def test_a_pair_stays_true_when_a_species_is_trained_on(trained):
    pair = trained.pair("human", "rat")
    pair.return_similarity_df(**QUIET)
    trained.train_target("human", 1, **UNSAVED)
    with pytest.raises(
        RuntimeError, match=r"target 'human' to be encoded .* Call `get_representation\('target'\)` first"
    ):
        pair.return_similarity_df(**QUIET)
    trained.get_representation("target")
    pair.return_similarity_df(**QUIET)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (("mouse", "human"), "target 'human' to be aligned to the present context, found that the context has changed"),
        (("human", "mouse"), "target 'human' to be aligned to the present context, found that the context has changed"),
        (("rat", "human"), "target 'human' to be aligned to the context that 'rat' is aligned to, found that the"),
    ],
)
def test_spaces_are_not_mixed(trained, pair, message):
    trained.train_context(1, **UNSAVED)
    trained.train_target("rat", 1, **UNSAVED)
    trained.get_representation()
    with pytest.raises(RuntimeError, match=message):
        trained.pair(*pair).return_similarity_df(**QUIET)


# ---------------------------------------------------------------- files


def test_saved_and_loaded_as_a_whole(trained, mdata, tmp_path):
    files = trained.save("mine")
    assert [path.name for path in files] == ["both_human_mine.safetensors", "both_rat_mine.safetensors"]
    again = MultiSpecies("cpu", copied(mdata), tmp_path, random_seed=1, **{**SIZES, "lat_dim": 3})
    again.load("mine")
    assert runs(again) == runs(trained) and len(again.history["rat"]) == 2
    again.get_representation()
    np.testing.assert_allclose(again.mdata.obsm["X_scspecies"], trained.mdata.obsm["X_scspecies"], atol=1e-6)
    path = again.save_mdata("mine")
    assert path == tmp_path / "data" / "mudata_mine.h5mu" and path.is_file()

    one = scSpecies("cpu", copied(mdata), tmp_path, target_key="rat", **SIZES)
    one.load(save_key="rat_mine")  # a file of several targets is one of two species, too
    assert one.target.state.run == runs(trained)["rat"]


def test_training_saves_unless_told_otherwise(model, tmp_path):
    model.train_context(1, **QUIET)
    model.train_target("rat", 1, save_key="b", **QUIET)
    model.train_target("human", 1, **UNSAVED)
    assert sorted(path.name for path in (tmp_path / "params").iterdir()) == [
        "both_rat_b.safetensors",
        "context.safetensors",
    ]


def test_a_failed_load_changes_nothing(trained, tmp_path):
    human, rat = trained.save()
    trained.train_context(1, **UNSAVED)
    trained.train_target(None, 1, **UNSAVED)
    trained.get_representation()
    before, joint = runs(trained), trained.mdata.obsm["X_scspecies"].copy()

    rat.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"both_rat.safetensors, found no such file \(checkpoints there: both_hum"
    ):
        trained.load()
    assert runs(trained) == before

    trained.train_target("rat", 1, **QUIET)  # is saved, with the context of now
    before = runs(trained)
    with pytest.raises(ValueError, match="Expected the same context 'mouse' in the files of all targets"):
        trained.load()
    assert runs(trained) == before
    trained.get_representation()
    np.testing.assert_array_equal(trained.mdata.obsm["X_scspecies"][: len(joint) // 3], joint[: len(joint) // 3])
    assert human.is_file()


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda m: m.pair("human", "cow"), KeyError, "Expected 'cow' in the datasets of this call"),
        (lambda m: m.pair("human", "human"), ValueError, "Expected two different datasets, found 'human' twice."),
        (lambda m: m.train_target("mouse"), KeyError, "Expected 'mouse' in the datasets of this call"),
        (lambda m: m.train_target("rat"), RuntimeError, "Call `train_context` first"),
        (lambda m: m.get_representation(), RuntimeError, "Call `train_context` first"),
        (lambda m: m.get_representation("rat"), RuntimeError, "Call `train_target` first"),
        (lambda m: m.pair("human", "rat").transfer_labels_data("cell_type"), RuntimeError, "Call `train_target` first"),
        (lambda m: m.add_target("cow"), KeyError, "Expected 'cow' in mdata.mod"),
        (lambda m: m.add_target("rat"), ValueError, "Expected a dataset with a new name, found 'rat', which is taken."),
        (lambda m: m.add_target(m.mdata["rat"]), ValueError, "found 'rat', which is taken."),
    ],
)
def test_wrong_calls(model, call, kind, message):
    with pytest.raises(kind, match=message):
        call(model)
    assert list(model.species) == ["mouse", "human", "rat"]


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (
            {"target_keys": ["rat", "rat"]},
            ValueError,
            r"Expected each target once in `target_keys`, found \['rat', 'rat'",
        ),
        ({"target_keys": "rat"}, TypeError, "Expected `target_keys` to be several names, found 'rat'."),
        ({"target_keys": []}, ValueError, "Expected at least one target, found none"),
        ({"target_keys": ["rat", "cow"]}, KeyError, "Expected 'cow' in mdata.mod"),
        ({"target_keys": ["rat", "mouse"]}, ValueError, "to be prepared as target, found 'context'"),
        ({"context_key": "rat"}, ValueError, "to be prepared as context, found 'target'"),
        ({"alignment": "later"}, ValueError, "Expected `alignment` to be one of"),
    ],
)
def test_wrong_construction(mdata, tmp_path, options, kind, message):
    with pytest.raises(kind, match=message):
        MultiSpecies("cpu", mdata, tmp_path, **options)


def test_unprepared_data_are_refused(mdata, tmp_path):
    del mdata["rat"].uns["metadata"]
    with pytest.raises(KeyError, match="Prepare the data with"):
        MultiSpecies("cpu", mdata, tmp_path, **SIZES)


def test_targets_that_share_no_gene_with_each_other(mdata, tmp_path):
    in_mouse = mdata["mouse"].var_names
    for key, half in zip(TARGETS, (0, 1), strict=True):
        names = mdata[key].var["var_names_transl"].to_numpy(str)
        kept = np.isin(names, in_mouse) & (in_mouse.get_indexer(names) % 2 == half)
        own = np.array([f"{key} {i}" for i in range(len(names))])
        own[np.flatnonzero(~kept)[0]] = "both"
        mdata[key].var["var_names_transl"] = np.where(kept, names, own)
    model = MultiSpecies("cpu", mdata, tmp_path, **SIZES)
    model.train(1, 1, **UNSAVED)
    with pytest.raises(ValueError, match="Expected genes that are homologous in both 'human' and 'rat', found none."):
        model.pair("human", "rat").compute_logfold_change(**QUIET)
