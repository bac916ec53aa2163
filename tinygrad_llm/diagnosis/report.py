"""What `gradcheck` found, to be read: a line for each input, and why it failed."""

from __future__ import annotations

from dataclasses import dataclass

from tinygrad_llm.diagnosis.evidence import Diagnosis

NOT_COMPARED = "there is no gradient to compare"


@dataclass(frozen=True)
class InputReport:
    """What was found for one input. `error` and `tolerance` are absolute; `index` is where the error is largest.

    `verdict` is "ok", "FAIL", "kink" (there is no derivative, but the gradient lies between the slopes on both sides:
    this passes) or "open" (the numerical derivative is too uncertain to tell: this does not pass, and accuses nobody).
    `diagnosis` says why, for all but "ok".
    """

    name: str
    shape: tuple[int, ...]
    method: str
    error: float
    tolerance: float
    index: tuple[int, ...] | None
    analytic: float
    numeric: float
    attached: bool
    verdict: str = "ok"
    diagnosis: Diagnosis | None = None

    @property
    def passed(self) -> bool:
        return self.verdict in ("ok", "kink")

    def __str__(self) -> str:
        where = "in a random direction" if self.index is None else f"at {list(self.index)}" if self.index else "in it"
        line = f"  {self.verdict:4} d{self.name} {self.shape}: " + (
            f"largest error {self.error:.2e} {where}"
            f" (tape {self.analytic:.9g}, numeric {self.numeric:.9g}; allowed {self.tolerance:.1e}; {self.method})"
            if self.method != NOT_COMPARED
            else NOT_COMPARED
        )
        if self.diagnosis is None:
            return line
        lead = "likely cause: " if self.verdict == "FAIL" else ""
        return f"{line}\n       {lead}{self.diagnosis.text}\n       evidence: {self.diagnosis.evidence}"


@dataclass(frozen=True)
class Report:
    """The result of `gradcheck`: true if every input passed, and readable when printed."""

    function: str
    inputs: tuple[InputReport, ...]

    @property
    def passed(self) -> bool:
        return all(report.passed for report in self.inputs)

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        failed = any(report.verdict == "FAIL" for report in self.inputs)
        result = "passed" if self.passed else "FAILED" if failed else "undecided"
        return "\n".join([f"gradcheck of {self.function}: {result}", *map(str, self.inputs)])

    __repr__ = __str__
