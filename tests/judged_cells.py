"""Cells of a target with true and transferred labels, as the tests of the evaluation take them."""

import numpy as np
import pandas as pd

from scspecies.evaluation import Evaluation, evaluate

CONTEXT = ["a", "b", "c", "only context"]


def judged_cells() -> tuple:
    """True and predicted labels with a rare type and a foreign one, confidence, foreignness and probabilities."""
    rng = np.random.default_rng(0)
    true = rng.permutation(np.repeat(["a", "b", "c", "new"], [300, 80, 9, 40]))
    guess = np.where(rng.random(len(true)) < 0.3, rng.choice(CONTEXT, len(true)), np.where(true == "new", "b", true))
    probabilities = pd.DataFrame(rng.dirichlet(np.ones(4), len(true)), columns=CONTEXT)
    confidence = np.clip(0.6 + 0.3 * (guess == true) + rng.normal(0, 0.2, len(true)), 0, 1)
    return true, guess, confidence, (true == "new") + rng.normal(0, 1, len(true)), probabilities


def everything(cells, **options) -> Evaluation:
    """Evaluate them with all inputs but the latent points."""
    true, guess, confidence, score, probabilities = cells
    given = {"confidence": confidence, "probabilities": probabilities, "foreign_score": score}
    calls = {"foreign_call": score > 2, "unassigned": score > 1}
    return evaluate(true, guess, CONTEXT, **given, **calls, **{"n_boot": 30, **options})
