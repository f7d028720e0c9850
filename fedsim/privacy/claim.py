"""What holds for every epsilon of a run, whatever its unit, and must be printed beside it?"""

EVERY_CLAIM = (
    "the claim is about the models of one run with secret randomness",
    "outside the claim: who takes part, activity, seeds, and every figure of the record except the "
    "released models: losses, failures, cohort sizes, test and attack figures, and what is chosen "
    "by them",
)
"""Sentences for whoever reads a claim."""
