"""Why a gradient is wrong: hypotheses, each of which predicts what a wrong vjp of its kind would have returned.

A hypothesis is a function from `Evidence` to a `Diagnosis`, or None if it does not fit. It fits if its prediction is
the gradient that was given, in every entry and to numerical precision; one that leaves much open (such as "wrong in
these entries only") stands behind those that leave nothing open. `diagnose` takes the first that fits.
Letters as in `evidence`: J = ``e.right``, G = ``e.given``.
"""

from tinygrad_llm.diagnosis.evidence import Diagnosis, Evidence
from tinygrad_llm.diagnosis.order import diagnose

__all__ = ["Diagnosis", "Evidence", "diagnose"]
