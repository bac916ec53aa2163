"""The explorer's data: every number in the page is that of the arrays, and the local derivatives add up."""

import base64
import json
import re

import numpy as np
import pytest

from tinygrad_llm.study.explorer import explore
from tinygrad_llm.study.graph import graph_of
from tinygrad_llm.study.tiny import tiny_step

TYPES = {"f8": np.float64, "f4": np.float32, "i4": np.int32, "u1": np.uint8}


def page_data(html):
    """What the page's script reads."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)[1])


def unpack(packed):
    """An array of the page."""
    flat = np.frombuffer(base64.b64decode(packed["data"]), TYPES[packed["type"]])
    return flat.reshape(packed.get("kept", packed["shape"]))


@pytest.fixture(scope="module")
def step():
    return tiny_step()


@pytest.fixture(scope="module")
def data(step):
    page = explore(step.loss, names={"logits": step.logits, "loss": step.loss}, words=step.words)
    return page_data(page.html)


def test_every_value_and_gradient_is_in_the_page(step, data):
    graph = graph_of(step.loss)
    assert len(data["values"]) == len(graph.values)
    for value, packed in zip(graph.values.values(), data["values"], strict=True):
        np.testing.assert_array_equal(unpack(data["arrays"][packed["array"]]), value.data)
        np.testing.assert_array_equal(unpack(data["arrays"][packed["gradient"]]), value.gradient)
