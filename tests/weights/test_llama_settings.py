"""Which layers of a config.json have a sliding window."""

import pytest

from tinygrad_llm.models import LlamaConfig
from tinygrad_llm.weights import llama

WINDOWED = {**llama.write_config(LlamaConfig(qkv_bias=True, layers=3, window=8)), "use_sliding_window": True}


def window(**changes):
    return llama.read_config({**WINDOWED, **changes})["window"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"max_window_layers": 0}, 8),
        ({"max_window_layers": 3}, 0),  # so many of the first layers have none
        ({"max_window_layers": 28}, 0),
        ({"use_sliding_window": False}, 0),
        ({"layer_types": ["sliding_attention"] * 3, "max_window_layers": 28}, 8),
        ({"layer_types": ["full_attention"] * 3}, 0),
    ],
)
def test_all_layers_have_a_window_or_none(changes, expected):
    assert window(**changes) == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"max_window_layers": 1},
        {"max_window_layers": 2},
        {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
        {"layer_types": ["chunked_attention"] * 3},
    ],
)
def test_some_layers_with_a_window_are_refused(changes):
    with pytest.raises(ValueError, match="does not give all layers a sliding window, or none"):
        window(**changes)
