"""Align single-cell RNA-seq datasets of two species: one latent space, label transfer, gene-level comparison."""

__version__ = "0.2.0"
