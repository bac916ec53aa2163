"""The explorer in a real browser: every interaction, on a desktop and on a phone; no error, and no network."""

import importlib.util
import json
import math
import shutil
from contextlib import contextmanager

import numpy as np
import pytest

from tinygrad_llm import ops
from tinygrad_llm.study.explorer.document import explore
from tinygrad_llm.study.graph import graph_of
from tinygrad_llm.study.tiny import tiny_step
from tinygrad_llm.tensor import Tensor

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DESKTOP, PHONE = (1280, 900), (390, 844)

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="playwright is not installed"),
    pytest.mark.skipif(BROWSER is None, reason="neither chromium nor google-chrome is on PATH"),
]
both = pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def step():
    return tiny_step()


@pytest.fixture(scope="module")
def graph(step):
    return graph_of(step.loss, {"logits": step.logits, "loss": step.loss})


@pytest.fixture(scope="module")
def file(step, tmp_path_factory):
    path = tmp_path_factory.mktemp("explorer") / "explorer.html"
    explore(step.loss, path, names={"logits": step.logits, "loss": step.loss}, words=step.words)
    return path


@pytest.fixture(scope="module")
def pages():
    """One page of each kind, used again: a new one takes longer than most tests."""
    return {}


@contextmanager
def opened(browser, pages, file, size=DESKTOP, address="", scheme="light", motion="reduce"):
    """The page, watched: whatever it complains about or asks the network for is an error."""
    kind = size, scheme, motion
    if kind not in pages:
        screen = {"width": size[0], "height": size[1]}
        context = browser.new_context(viewport=screen, color_scheme=scheme, reduced_motion=motion)
        page, complaints = context.new_page(), []
        page.set_default_timeout(20_000)
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda r: r.url.startswith(("file:", "about:")) or complaints.append(r.url))
        pages[kind] = page, complaints
    page, complaints = pages[kind]
    complaints.clear()
    page.emulate_media(color_scheme=scheme)
    page.mouse.move(0, 0)
    page.goto("about:blank")
    page.goto(file.as_uri() + address)
    page.wait_for_selector("body[data-ready]")
    yield page
    assert complaints == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def eventually(page, condition):
    """Wait until the expression is true. (Playwright's own way needs `eval`, which the page forbids.)"""
    for _ in range(400):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(25)
    raise AssertionError(f"never true: {condition}")


def box(page, name):
    return page.locator(f'.box[title="{name}"]')


def go_to(page, name):
    page.fill("#search", name)
    page.keyboard.press("Enter")
    page.wait_for_selector("#panel:not([hidden])")


def readout(page):
    """(index, value, gradient) as the panel shows them."""
    index = json.loads(page.get_attribute(".readout", "data-index"))
    numbers = [float(page.get_attribute(f".readout .{kind}", "data-number")) for kind in ("value", "gradient")]
    return tuple(index), *numbers


def shown(page, selector):
    """A number as it is written, with all its digits."""
    return float(page.inner_text(selector).replace("\u2212", "-"))


def named(graph, name):
    (found,) = [value for value in graph.values.values() if value.name == name]
    return found


# ---------------------------------------------------------------------------------------------------------------------


@both
def test_it_opens_with_the_story_and_the_graph(browser, pages, file, size, step):
    with opened(browser, pages, file, size) as page:
        tokens = page.locator("#tokens .token")
        assert tokens.count() == 10
        first = tokens.nth(0).inner_text().split()
        assert first[:3] == [step.words[step.ids[0, 0]], "→", step.words[step.targets[0, 0]]]
        assert shown(page, "#loss b") == pytest.approx(step.loss.item(), rel=1e-4)
        assert page.locator(".box").count() == 9
        assert page.locator(".frame").count() == 1
        assert not page.is_visible("#panel")
        names = page.locator(".box b").all_inner_texts()
        assert {"token_embedding", "blocks.0", "blocks.1", "final_norm", "cross_entropy"} <= set(names)


@both
def test_groups_unfold_and_fold(browser, pages, file, size):
    with opened(browser, pages, file, size) as page:
        page.click(".box.group:has-text('blocks.0')")
        assert page.locator(".frame").count() == 2
        assert page.locator(".box").count() == 9 - 1 + 7  # one norm folded, one with its sum and parameters
        page.click(".box.group:has-text('attention_norm')")
        assert box(page, "blocks.0.attention_norm.gain").is_visible()
        edges = page.locator("path.edge").count()
        page.click(".frame-title:has-text('blocks.0')")
        assert page.locator(".box").count() == 9
        assert page.locator("path.edge").count() < edges
        assert page.evaluate("document.activeElement.dataset.key") == page.get_attribute(
            ".box.group:has-text('blocks.0')", "data-key"
        )


def test_unfolded_boxes_stand_in_their_frames_and_apart_from_each_other(browser, pages, file):
    with opened(browser, pages, file) as page:
        while page.locator(".box.group").count():
            page.locator(".box.group").first.evaluate("(box) => box.click()")
        areas = "(all) => all.map((e) => [e.dataset.key, e.getBoundingClientRect().toJSON()])"
        boxes, frames = page.locator(".box").evaluate_all(areas), page.locator(".frame").evaluate_all(areas)
        assert (len(boxes), len(frames)) == (53, 20)
        inside = dict.fromkeys((key for key, _ in frames), 0)
        for number, (_, a) in enumerate(boxes):
            for _, b in boxes[:number]:
                assert (
                    a["right"] < b["left"] or b["right"] < a["left"] or a["bottom"] < b["top"] or b["bottom"] < a["top"]
                )
            for key, f in frames:
                within = (
                    f["left"] < a["left"]
                    and a["right"] < f["right"]
                    and f["top"] < a["top"]
                    and a["bottom"] < f["bottom"]
                )
                apart = (
                    a["right"] < f["left"] or f["right"] < a["left"] or a["bottom"] < f["top"] or f["bottom"] < a["top"]
                )
                assert within or apart
                inside[key] += within
        assert max(inside.values()) == len(boxes) - 1  # all but the loss are in the GPT
        assert min(inside.values()) == 2  # an embedding and its table
        assert page.evaluate(CROSSINGS) == []
        top = {key: area["top"] for key, area in boxes}
        producers = page_flows(file)
        assert all(top[f"b{a}"] < top[f"b{b}"] for a, b in producers)


CROSSINGS = """() => {
    const found = [];
    const places = (e) => [e, new DOMMatrix(e.style.transform), parseFloat(e.style.width), parseFloat(e.style.height)];
    const boxes = [...document.querySelectorAll('.box')].map(places);
    for (const path of document.querySelectorAll('path.edge')) {
        for (let at = 0; at < path.getTotalLength(); at += 5) {
            const { x, y } = path.getPointAtLength(at);
            for (const [e, { e: left, f: top }, w, h] of boxes) {
                if (x > left + 1 && x < left + w - 1 && y > top + 1 && y < top + h - 1) found.push(e.title);
            }
        }
    }
    return found;
}"""
"""The titles of boxes that an edge runs through."""


def page_flows(file):
    """(box that makes a value, box that uses it) of every edge."""
    text = file.read_text(encoding="utf-8").split('id="data">')[1].split("</script>")[0]
    data = json.loads(text)
    given = [(number, i["value"]) for number, box in enumerate(data["boxes"]) for i in box["inputs"] if "value" in i]
    return [(data["values"][value]["box"], number) for number, value in given]


@both
def test_a_click_on_a_node_opens_its_panel(browser, pages, file, size):
    with opened(browser, pages, file, size) as page:
        box(page, "loss").click()
        assert page.inner_text("#panel-title").split() == ["cross_entropy", "loss"]
        area = page.locator("#panel").bounding_box()
        assert area["x"] >= 0
        assert area["x"] + area["width"] <= size[0] + 1
        assert area["y"] + area["height"] <= size[1] + 1
        assert (area["x"] > 0) == (size == DESKTOP)  # beside the graph, or a sheet below it
        page.click("#close")
        assert not page.is_visible("#panel")


@both
def test_the_number_under_the_pointer_is_that_of_the_arrays(browser, pages, file, size, graph):
    value = named(graph, "linear_3")  # (1, 10, 32)
    with opened(browser, pages, file, size) as page:
        go_to(page, "linear_3")
        for which in (0, 1):
            field = page.locator(".pair .field").nth(which)
            field.scroll_into_view_if_needed()
            area = field.bounding_box()
            for row, column in ((0, 0), (3, 17), (9, 31)):
                x = area["x"] + (column + 0.5) * area["width"] / 32
                y = area["y"] + (row + 0.5) * area["height"] / 10
                page.mouse.move(x, y)
                index, number, gradient = readout(page)
                assert index == (0, row, column)
                assert number == value.data[index]
                assert gradient == value.gradient[index]
        page.mouse.click(x, y)
        page.mouse.move(1, 1)
        assert readout(page)[0] == (0, 9, 31)


@both
def test_the_colours_tell_the_sign(browser, pages, file, size, graph):
    value = named(graph, "linear_3")
    with opened(browser, pages, file, size) as page:
        go_to(page, "linear_3")
        read = "(c) => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
        pixels = np.array(page.locator(".pair canvas.cells").nth(0).evaluate(read)).reshape(10, 32, 4).astype(int)
        redder = pixels[..., 0] - pixels[..., 2]
        zero = 244 - 242  # the neutral colour, #f4f4f2
        large = np.abs(value.data[0]) > 0.05 * np.abs(value.data).max()
        assert large.sum() > 200
        np.testing.assert_array_equal(np.sign(redder - zero)[large], np.sign(value.data[0])[large])


@both
def test_arrows_move_the_cursor(browser, pages, file, size, graph):
    value = named(graph, "linear_3")
    with opened(browser, pages, file, size) as page:
        go_to(page, "linear_3")
        page.locator(".pair .field").nth(0).focus()
        for _ in range(12):
            page.keyboard.press("ArrowUp")
        page.keyboard.press("Home")
        assert readout(page)[0] == (0, 0, 0)
        for key in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowLeft", "ArrowRight"):
            page.keyboard.press(key)
        index, number, gradient = readout(page)
        assert index == (0, 2, 1)
        assert (number, gradient) == (value.data[index], value.gradient[index])
        page.keyboard.press("End")
        assert readout(page)[0] == (0, 2, 31)
        page.keyboard.press("Enter")
        assert page.get_attribute("#tab-why", "aria-selected") == "true"


def test_slices_of_further_axes(browser, pages, tmp_path):
    rng = np.random.default_rng(0)
    heads = Tensor(rng.standard_normal((3, 10, 4)), True)
    weights = rng.standard_normal(heads.shape)
    path = tmp_path / "heads.html"
    explore((heads * weights).sum(), path, names={"heads": heads})
    with opened(browser, pages, path) as page:
        go_to(page, "heads")
        page.select_option(".slice select", "1")
        index, number, gradient = readout(page)
        assert index[0] == 1
        assert (number, gradient) == (heads.data[index], weights[index])


@both
def test_why_adds_up_and_goes_on(browser, pages, file, size, graph):
    with opened(browser, pages, file, size) as page:
        go_to(page, "linear_4")
        start = readout(page)
        page.click(".why-button")
        names, visited = ["linear_4"], [start[0]]
        for number in range(4):
            total = float(page.get_attribute(".why-sum", "data-total"))
            gradient = float(page.get_attribute(".why-sum", "data-gradient"))
            assert gradient == named(graph, names[-1]).gradient[visited[-1]]
            assert shown(page, ".why-gradient") == gradient
            assert math.isclose(total, gradient, rel_tol=0, abs_tol=1e-12)
            assert page.locator(".why-sum .good").count() == 1
            if page.locator(".more").count():
                page.locator(".more").first.click()
            products = page.locator(".term").evaluate_all("terms => terms.map((t) => Number(t.dataset.product))")
            assert math.isclose(math.fsum(products), gradient, rel_tol=0, abs_tol=1e-12)
            if page.locator(".path").count() == 1:
                assert products == sorted(products, key=abs, reverse=True)
            assert page.locator(".crumbs li").count() == (number + 1 if number else 0)
            if number < 3:
                page.locator(".term").first.click()
                address = page.evaluate("decodeURIComponent(location.hash.slice(1))")
                names.append(address)
                visited.append(
                    tuple(
                        page.evaluate("""() => {
                    const text = document.querySelector('.why-name .at').textContent;
                    return text.slice(1, -1).split(', ').map((part) => parseInt(part));
                }""")
                    )
                )
        assert page.locator(".path").count() == (2 if names[-1].startswith("add") else 1)
        assert page.locator(".box.on-trail").count() >= 2
        page.locator(".crumbs button").first.click()
        assert shown(page, ".why-gradient") == start[2]


def test_why_shows_both_paths_of_a_value_that_is_used_twice(browser, pages, file, graph):
    value = named(graph, "add_1")
    with opened(browser, pages, file) as page:
        go_to(page, "add_1")
        index, _, gradient = readout(page)
        page.click("#tab-why")
        assert page.locator(".path").count() == 2
        totals = [float(t.replace("\u2212", "-")) for t in page.locator(".path header .number").all_inner_texts()]
        assert sum(totals) == pytest.approx(value.gradient[index], rel=1e-4)
        assert gradient == value.gradient[index]


def test_why_ends_where_backward_began(browser, pages, file):
    with opened(browser, pages, file) as page:
        go_to(page, "loss")
        page.click("#tab-why")
        assert "Backward began here" in page.inner_text("#panel-body")


@both
def test_attention_heads(browser, pages, file, size, graph):
    value = named(graph, "self_attention_2")
    qkv = value.node.memory.arrays[0]
    q, k, _ = qkv.reshape(*qkv.shape[:2], 3, 2, 4).transpose(2, 0, 3, 1, 4)
    scores = np.where(np.tri(10, dtype=bool), q @ k.swapaxes(-1, -2) / 2, -np.inf)
    p = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    with opened(browser, pages, file, size) as page:
        go_to(page, "self_attention_2")
        page.click("#tab-attention")
        for head in (0, 1):
            page.click(f".choices[aria-label=Head] [data-key='{head}']")
            index = tuple(json.loads(page.get_attribute(".readout", "data-index")))
            assert index[1] == head
            shown_p = float(page.get_attribute(".readout .value", "data-number"))
            assert shown_p == pytest.approx(p[index], rel=1e-12)
            field = page.locator(".maps .field").nth(0)
            field.scroll_into_view_if_needed()
            area = field.bounding_box()
            page.mouse.move(area["x"] + 2.5 * area["width"] / 10, area["y"] + 7.5 * area["height"] / 10)
            assert json.loads(page.get_attribute(".readout", "data-index")) == [0, head, 7, 2]
            percents = page.locator(".look i").all_inner_texts()
            expected = [f"{100 * x:.0f}" if x >= 0.0005 else "" for x in p[0, head, 7]]
            assert percents == expected
        assert [w.split()[0] for w in page.locator(".look").all_inner_texts()][:3] == ["the", "cat", "sees"]
        page.keyboard.press("Tab")
        page.locator(".choices[aria-label=Head] [aria-checked=true]").focus()
        page.keyboard.press("ArrowRight")
        assert page.get_attribute(".choices[aria-label=Head] [data-key='0']", "aria-checked") == "true"


@both
def test_search(browser, pages, file, size):
    with opened(browser, pages, file, size) as page:
        page.keyboard.press("/")
        assert page.evaluate("document.activeElement.id") == "search"
        page.keyboard.type("mlp linear")
        assert page.locator("#results [role=option]").count() == 4
        page.keyboard.press("ArrowDown")
        chosen = page.locator("#results [aria-selected=true] .soft").inner_text().split()[0]
        page.keyboard.press("Enter")
        assert chosen in page.inner_text("#panel-facts")
        assert not page.is_visible("#results")
        assert box(page, chosen).is_visible()
        page.fill("#search", "no such thing")
        assert "nothing has that name" in page.inner_text("#results")
        page.keyboard.press("Escape")
        assert not page.is_visible("#results")
        assert page.is_visible("#panel")


@both
def test_light_and_dark(browser, pages, file, size):
    background = "getComputedStyle(document.body).backgroundColor"
    with opened(browser, pages, file, size) as page:
        light = page.evaluate(background)
        page.click("#theme")
        dark = page.evaluate(background)
        assert light != dark
        page.click("#theme")
        assert page.evaluate(background) == light
        page.emulate_media(color_scheme="dark")
        eventually(page, f"{background} !== '{light}'")
        assert page.evaluate(background) == dark
    with opened(browser, pages, file, size, scheme="dark") as page:
        assert page.evaluate(background) == dark
        page.click("#theme")
        assert page.evaluate(background) == light


@both
def test_an_address_opens_a_node_and_escape_closes_it(browser, pages, file, size):
    with opened(browser, pages, file, size, "#blocks.1.mlp.up.weight") as page:
        assert page.inner_text("#panel-title") == "blocks.1.mlp.up.weight"
        assert box(page, "blocks.1.mlp.up.weight").is_visible()
        page.keyboard.press("Escape")
        assert not page.is_visible("#panel")
        assert page.evaluate("location.hash") == ""
        assert page.evaluate("document.activeElement.title") == "blocks.1.mlp.up.weight"
        page.evaluate("location.hash = 'bias_gelu_1'")
        page.wait_for_selector("#panel:not([hidden])")
        assert page.inner_text("#panel-title") == "bias_gelu"
        go_to(page, "bias_gelu_2")
        page.go_back()
        eventually(page, "document.getElementById('panel-facts').textContent.startsWith('bias_gelu_1')")


@both
def test_forward_and_backward(browser, pages, file, size, graph):
    with opened(browser, pages, file, size) as page:
        assert "size of the value" in page.inner_text("#scale") or size == PHONE
        assert shown(page, ".box[title=loss] .figure") == pytest.approx(named(graph, "loss").data, rel=1e-4)
        before = page.locator(".box.group canvas").nth(0).evaluate("(c) => c.toDataURL()")
        page.click("text=Backward")
        assert page.evaluate("document.body.dataset.mode") == "backward"
        assert shown(page, ".box[title=loss] .figure") == 1
        assert page.locator(".box.group canvas").nth(0).evaluate("(c) => c.toDataURL()") != before
        page.locator(".box[title=loss]").focus()
        page.keyboard.press("f")
        assert page.evaluate("document.body.dataset.mode") == "forward"
        page.keyboard.press("b")
        assert page.evaluate("document.body.dataset.mode") == "backward"


@both
def test_the_pass_in_slow_motion(browser, pages, file, size):
    with opened(browser, pages, file, size) as page:
        clock = page.locator("#clock")
        assert page.locator(".box.pending").count() == 0
        clock.fill("0")
        assert page.locator(".box.pending").count() == 9
        clock.focus()
        for _ in range(2):
            page.keyboard.press("ArrowRight")
        assert page.locator(".box.pending").count() == 8  # the token embedding has begun
        assert "forward, embedding_1" in clock.get_attribute("aria-valuetext")
        last = int(clock.get_attribute("max"))  # every box forward, and every box back
        clock.fill(str(last // 2 + 1))
        assert page.evaluate("document.body.dataset.mode") == "backward"
        assert page.locator(".box:not(.pending)").count() == 1
        assert "pending" not in box(page, "loss").get_attribute("class")
        clock.fill(str(last))
        assert page.locator(".box.pending").count() == 0
        page.click("#play")  # with less motion wanted, it goes one step at a time
        assert page.locator(".box.pending").count() == 9


def test_the_pass_plays_by_itself(browser, pages, file):
    with opened(browser, pages, file, motion="no-preference") as page:
        page.click("#play")
        eventually(page, "document.querySelectorAll('.box.pending').length > 0")
        eventually(page, "Number(document.getElementById('clock').value) > 5")
        page.click("#play")
        time = page.input_value("#clock")
        page.wait_for_timeout(100)
        assert page.input_value("#clock") == time


@both
def test_zoom_and_pan(browser, pages, file, size):
    place = "new DOMMatrix(getComputedStyle(document.getElementById('world')).transform).toFloat64Array()"
    with opened(browser, pages, file, size) as page:
        start = list(page.evaluate(f"Array.from({place})"))
        page.click("#zoom-in")
        nearer = page.evaluate(f"Array.from({place})")
        assert nearer[0] == pytest.approx(1.25 * start[0], rel=1e-4)
        page.click("#zoom-out")
        area = page.locator("#stage").bounding_box()
        x, y = area["x"] + 12, area["y"] + 40
        page.mouse.move(x, y)
        page.mouse.wheel(0, 50)
        eventually(page, f"Math.abs({place}[13] - {start[13]} + 50) < 0.01")
        page.mouse.down()
        page.mouse.move(x + 30, y + 10, steps=3)
        page.mouse.up()
        moved = page.evaluate(f"Array.from({place})")
        assert moved[12] - start[12] == pytest.approx(30, abs=0.1)
        page.mouse.move(x, y)
        page.keyboard.down("Control")
        page.mouse.wheel(0, -100)
        page.keyboard.up("Control")
        eventually(page, f"{place}[0] > {moved[0]} * 1.5")
        page.click("#zoom-fit")
        lowest = page.locator(".box[title=loss]").bounding_box()
        assert lowest["y"] + lowest["height"] <= size[1]


def test_the_graph_by_keyboard(browser, pages, file):
    with opened(browser, pages, file) as page:
        assert page.locator("#boxes [tabindex='0']").count() == 1
        page.locator("#boxes [tabindex='0']").focus()
        for _ in range(9):
            page.keyboard.press("ArrowDown")
        assert page.evaluate("document.activeElement.title") == "loss"
        page.keyboard.press("ArrowUp")
        assert page.evaluate("document.activeElement.title") == "logits"
        assert page.locator("#boxes [tabindex='0']").count() == 1
        page.keyboard.press("Enter")
        assert page.inner_text("#panel-title").split() == ["matmul", "logits"]
        page.locator("#tabs [aria-selected=true]").focus()
        page.keyboard.press("ArrowRight")
        assert page.get_attribute("#tab-why", "aria-selected") == "true"
        assert page.evaluate("document.activeElement.id") == "tab-why"
        page.keyboard.press("Escape")
        assert page.evaluate("document.activeElement.title") == "logits"


@both
def test_a_token_leads_to_its_logits(browser, pages, file, size, step, graph):
    with opened(browser, pages, file, size) as page:
        page.locator("#tokens .token").nth(1).click()
        index, number, gradient = readout(page)
        assert index == (0, 1, step.targets[0, 1])
        assert number == step.logits.data[index]
        assert gradient == named(graph, "logits").gradient[index]


@both
def test_algebra_and_source(browser, pages, file, size, graph):
    value = named(graph, "layer_norm_2")
    sent = {e.position: graph.sent[value.node.order, e.position] for e in value.node.edges}
    with opened(browser, pages, file, size) as page:
        go_to(page, "layer_norm_2")
        page.click("#tab-algebra")
        assert page.locator(".doc math").count() > 5
        for position in (0, 1):
            page.locator(".choices[aria-label='Gradient of'] .choice").nth(position).click()
            numbers = [float(t.replace("\u2212", "-")) for t in page.locator(".step-number .number").all_inner_texts()]
            assert len(numbers) >= 3
            largest = np.abs(sent[position]).max()
            np.testing.assert_allclose(np.abs(numbers), largest, rtol=1e-12)
        page.click("#tab-source")
        assert "mean_product" in page.inner_text("#panel-body")


@both
def test_inputs_and_consumers_lead_on(browser, pages, file, size):
    with opened(browser, pages, file, size) as page:
        go_to(page, "linear_3")
        page.click(".input-card:has-text('blocks.0.mlp.up.weight')")
        assert page.inner_text("#panel-title") == "blocks.0.mlp.up.weight"
        page.click(".link-card")
        assert page.inner_text("#panel-title") == "linear"


# ---------------------------------------------------------------------------------------------------------------------
# Any graph


def test_odd_values_and_hostile_names(browser, pages, tmp_path):
    rng = np.random.default_rng(0)
    odd = Tensor([1.0, np.nan, np.inf, -np.inf, 0.0], True)
    many = Tensor(rng.standard_normal((2, 3, 2, 3, 4)), True)
    empty = Tensor(np.zeros((0, 3)), True)
    small = Tensor(np.float32(rng.standard_normal((3, 4))), True)
    wide = Tensor(rng.standard_normal((70, 80)), True)
    first, second = ops.split(odd[:4], 2)
    loss = odd.sum() + (many * 2.0).sum() + empty.sum() + (small * small).sum() + wide.sum() + (first * second).sum()
    names = {"</script><img src=x onerror=alert(1)>": many, "odd": odd, "empty": empty, "small": small, "wide": wide}
    path = tmp_path / "odd page.html"
    explore(loss, path, names=names, title="<b>a & b</b>")
    with opened(browser, pages, path) as page:
        assert page.title() == "<b>a & b</b>"
        assert page.locator("img").count() == 0
        assert not page.is_visible("#story")
        go_to(page, "</script>")
        assert page.inner_text("#panel-title") == "</script><img src=x onerror=alert(1)>"
        assert page.locator(".slice select").count() == 3
        go_to(page, "odd")
        page.locator(".pair .field").nth(0).focus()
        page.keyboard.press("Home")
        seen = []
        for _ in range(5):
            seen.append(page.inner_text(".readout .value").split()[-1])
            page.keyboard.press("ArrowRight")
        assert seen == ["1", "NaN", "∞", "\u2212∞", "0"]
        assert "1 NaN" in page.inner_text(".statistics >> nth=0")
        assert "2 infinite" in page.inner_text(".statistics >> nth=0")
        go_to(page, "empty")
        assert "no entries" in page.inner_text("#panel-body")
        page.click("#tab-why")
        assert "no entries" in page.inner_text("#panel-body")
        page.click("#tab-numbers")
        go_to(page, "split")
        page.click(".choices[aria-label=Output] [data-key]:last-child")
        assert page.inner_text(".statistics >> nth=0").startswith("min")
        assert page.get_attribute(".choices[aria-label=Output] [data-key]:last-child", "aria-checked") == "true"
        page.locator(".pair .field").nth(0).focus()
        page.keyboard.press("End")
        assert page.get_attribute(".readout .value", "data-number") == "-Infinity"  # odd[3]
        go_to(page, "small")
        page.click("#tab-why")
        assert page.locator(".path").count() == 2
        assert page.locator(".why-sum .good").count() == 1
        page.click("#tab-numbers")
        go_to(page, "wide")
        page.locator(".pair .field").nth(0).focus()
        page.keyboard.press("Home")
        for _ in range(64):
            page.keyboard.press("ArrowRight")
        index, number, _ = readout(page)
        assert index[1] == 64
        assert number == wide.data[index]
        assert "columns 64–79 of 80" in page.inner_text(".slices")
        page.click("[aria-label='earlier columns']")
        assert readout(page)[0][1] == 0


def test_two_thousand_operations(browser, pages, tmp_path):
    rng = np.random.default_rng(0)
    x = start = Tensor(rng.standard_normal(3), True)
    weight = Tensor(rng.standard_normal(3), True)
    for number in range(999):
        x = (x * weight).tanh() if number % 10 else x + start
    path = tmp_path / "large.html"
    explorer = explore(x.sum(), path, names={"start": start, "weight": weight})
    assert explorer.operations > 1800
    with opened(browser, pages, path) as page:
        assert page.locator(".box").count() <= 50
        go_to(page, "tanh_450")
        assert "tanh_450" in page.inner_text("#panel-facts")
        assert page.locator(".box").count() <= 100
        assert box(page, "tanh_450").is_visible()
        page.click("#tab-why")
        assert page.locator(".why-sum .good").count() == 1


def test_it_works_in_a_notebooks_frame(browser, pages, tmp_path):
    x = Tensor([1.0, 2.0], True)
    cell = tmp_path / "cell.html"
    page_html = explore(x.exp().sum(), names={"x": x})._repr_html_()
    cell.write_text(f"<!doctype html><meta charset='utf-8'><body data-ready>{page_html}", encoding="utf-8")
    with opened(browser, pages, cell) as page:
        frame = page.frame_locator("iframe")
        frame.locator(".box[title=x]").click()
        assert frame.locator("#panel-title").inner_text() == "x"
        frame.locator("#tab-why").click()
        assert frame.locator(".why-sum .good").count() == 1
