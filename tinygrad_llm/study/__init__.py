"""Studying gradients: from a number back to the algebra behind it."""

from tinygrad_llm.study.derivations.derivation import derive
from tinygrad_llm.study.exercises.course import check_exercise, exercise
from tinygrad_llm.study.explorer.document import explore
from tinygrad_llm.study.reasons import why
from tinygrad_llm.study.rungs.measuring import ladder

__all__ = ["check_exercise", "derive", "exercise", "explore", "ladder", "why"]
