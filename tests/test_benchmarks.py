"""The parts of the benchmarks that need neither other packages nor long runs."""

import argparse

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import compare
import harness
import methods
from scspecies.datasets import synthetic_species
from scspecies.homology import read_orthologues


def test_only_lines_between_markers_change():
    text = "before\n<!-- a -->\nold\n<!-- end of a -->\nafter\n<!-- b -->\n<!-- end of b -->\n"
    written = harness.between_markers(text, {"a": ["| new |"]})
    assert written == text.replace("old", "| new |")
    assert harness.between_markers(written, {"a": ["| new |"]}) == written


def test_the_readme_has_the_markers_of_every_part():
    text = harness.REPORT.read_text(encoding="utf-8")
    for name in ("machine", "accuracy", "methods", "divergence", *compare.PARTS):
        assert text.count(f"<!-- {name} -->") == text.count(f"<!-- end of {name} -->") == 1


def test_scores_count_types_evenly_and_a_missing_label_as_wrong():
    cells = [f"cell{i}" for i in range(8)]
    truth = pd.Series(["a"] * 4 + ["b"] * 2 + ["only here"] * 2, cells)
    labels = pd.Series(["a", "a", "b", "c", "b", "a", "a"], [*cells[:5], *cells[6:]])  # cell5 has none
    found = methods.scores(labels, truth, ["a", "b", "c"])
    assert found["accuracy"] == pytest.approx((2 / 4 + 1 / 2) / 2)
    precision_b = 1 / 2  # two of the cells with a shared type were called b
    assert found["f1"] == pytest.approx((2 * 1 * 0.5 / 1.5 + 2 * precision_b * 0.5 / (precision_b + 0.5)) / 2)


def test_scores_refuse_labels_of_cells_under_other_names():
    truth = pd.Series(["a", "b"], ["cell0", "cell1"])
    with pytest.raises(ValueError, match="Expected labels of cells such as 'cell0', found 'human:cell0'"):
        methods.scores(truth.rename("human:{}".format), truth, ["a", "b"])


def test_one_to_one_leaves_out_every_gene_with_a_second_partner():
    pairs = pd.DataFrame({"context": ["A", "A", "B", "C", "D", "D"], "target": ["a", "b", "c", "c", "d", "d"]})
    assert methods.one_to_one(pairs).to_numpy().tolist() == [["D", "d"]]


def test_shared_files_have_counts_of_orthologues_under_one_name(tmp_path):
    import anndata as ad

    table = pd.DataFrame({"context": ["Ins", "Gcg", "Dup", "Dup"], "target": ["INS", "GCG", "DUP1", "DUP2"]})
    methods.homology_table(table).to_csv(tmp_path / "table.rpt", sep="\t", index=False)
    species = {
        "mouse": AnnData(np.arange(6.0).reshape(2, 3), var=pd.DataFrame(index=["Gcg", "Dup", "Ins"])),
        "human": AnnData(np.arange(8.0).reshape(2, 4), var=pd.DataFrame(index=["INS", "DUP1", "GCG", "ALONE"])),
    }
    for adata in species.values():
        adata.obs["b"] = "batch 1"
    mouse, human = map(ad.read_h5ad, methods.write_shared(species, tmp_path / "table.rpt", tmp_path))
    assert sorted(mouse.var_names) == ["Gcg", "Ins"]
    assert list(human.var_names) == list(mouse.var_names)
    assert mouse[:, ["Ins", "Gcg"]].X.tolist() == [[2, 0], [5, 3]]
    assert human[:, ["Ins", "Gcg"]].X.tolist() == [[0, 2], [4, 6]]
    assert "batch" in human.obs


def test_the_table_of_simulated_orthologues_reads_back_as_the_same_pairs():
    pair = synthetic_species(120, 110, 60, share_one_to_many=0.1)
    table = methods.homology_table(pair.orthologues)
    read = read_orthologues(table, methods.TAXA["mouse"], methods.TAXA["human"])
    assert set(zip(read["context"], read["target"], strict=True)) == set(
        zip(pair.orthologues["context"], pair.orthologues["target"], strict=True)
    )


def test_a_run_takes_the_place_of_the_same_run_only(tmp_path, monkeypatch):
    monkeypatch.setattr(methods, "RESULTS", tmp_path / "methods.json")
    results = {"part": [{"method": "ours", "seed": seed, "accuracy": 0.1, "seconds": 1} for seed in (0, 1)]}
    methods.keep(results, "part", {"method": "ours", "seed": 0}, {"accuracy": 0.3, "seconds": 2})
    assert [(r["seed"], r["accuracy"]) for r in results["part"]] == [(1, 0.1), (0, 0.3)]
    assert harness.read_results(tmp_path / "methods.json") == results


def test_only_missing_runs_are_made_unless_asked_for_again():
    options = argparse.Namespace(methods=["ours", "Scanorama"], again=False)
    records = [{"method": "ours", "seed": 0, "source": source} for source in ("mouse", "human")]

    def wanted(method: str, seed: int) -> bool:
        return methods.is_wanted({"method": method, "seed": seed}, records, options, n_records=2)

    assert not wanted("ours", 0)
    assert wanted("ours", 1)
    assert not wanted("reference", 0)
    assert wanted("Scanorama", 0)
    assert not wanted("Scanorama", 1)  # nothing in it is random
    options.again = True
    assert wanted("ours", 0)


def test_area_is_the_mean_height_of_the_curve():
    x = np.array([0.0, 0.5, 1.0])
    assert methods.area(x, np.array([1.0, 0.5, 0.0])) == pytest.approx(0.5)
    assert methods.area(2 * x, np.full(3, 0.7)) == pytest.approx(0.7)


def test_tables_show_means_of_runs_and_gaps():
    runs = [
        {"method": "Harmony", "pair": "immune", "source": "mouse", "seed": seed, "accuracy": a, "f1": a, "seconds": 2}
        for seed, a in enumerate((0.5, 0.7))
    ]
    *_, row = methods.method_table(runs)
    assert row == "| Harmony | - | - | 0.600 ± 0.141 | - | - | - | 2 | 2 |"
    curve = [{"method": "ours", "divergence": x, "seed": 0, "accuracy": 1 - x} for x in (0.0, 0.5, 1.0)]
    assert methods.divergence_table(curve)[-1] == "| **area from 0 to 1** | **0.500** |"
