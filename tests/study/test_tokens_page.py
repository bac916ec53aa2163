"""Merging step by step: the steps lead where the encoder leads, the page holds them, and no text can break it."""

import html.parser
import importlib.util
import json
import re
import shutil
import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm.study.tokens.document import WORD_BYTES, WORDS, page_data, tokens_page
from tinygrad_llm.study.tokens.merges import Merger, words_of
from tinygrad_llm.study.tokens.visible import pieces, printed, shown
from tinygrad_llm.tokenizer import Tokenizer

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HOSTILE = (
    "</script><script>document.title='broken'</script><!--<script>&lt;\"'`${x}\\u003c\x00\x1b[31m\r\n\t\x7f\x85"
    "\u202eabc\u2066\u200d\u2028\ufeff مرحبا עברית e\u0301 \u0301 👩\u200d👩\u200d👧 ⏎ · \ue000 <|endoftext|>"
)
TRAINING = [
    "the theory of the thing: return re-returning __init__ def f(x):\n        return x\n" * 3,
    "naïve ééé 😀😀 مرحبا مرحبا --------  <script></script>" * 3,
    "=" * 64 + "\n" + "=" * 64,
]


def tokenizer_of(pattern="gpt2", whole=False):
    own = Tokenizer.train(TRAINING, 400, pattern)
    vocabulary = own.vocabulary
    return Tokenizer(vocabulary.tokens, own.merges, own.special_tokens, pattern, whole)


OWN, WHOLE = tokenizer_of(), tokenizer_of("cl100k", whole=True)
WORDS_LEARNED = st.lists(st.sampled_from([" theory", "return", "naïve", " the", "----", "q", "ing", "\n"]), min_size=1)
both = pytest.mark.parametrize("own", [OWN, WHOLE], ids=["gpt2", "whole"])


def data_of(page):
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(found)


# ---- words and merges


@both
@given(text=st.text() | st.text(alphabet="the retuRn <|endofx>'s\n é😀"), special=st.booleans())
def test_words_are_the_text_and_their_tokens_are_its_ids(own, text, special):
    for written in (text, f"{text}<|endoftext|>{text}", "<|endoftext|>" * 2):
        words = words_of(own, written, special)
        ids = own.encode(written, allowed_special="all" if special else (), disallowed_special=()).tolist()
        assert b"".join(word.data for word in words) == written.encode()
        assert [token for word in words for token in word.ids] == ids
        assert sum(word.special for word in words) == ids.count(own.separator_id)
        for word in words:
            assert own.decode_bytes(word.ids) == word.data
            assert not word.special or word.data == b"<|endoftext|>"


@both
@given(text=WORDS_LEARNED.map("".join))
def test_merging_step_by_step_leads_to_the_tokens(own, text):
    merger = Merger(own)
    for word in words_of(own, text):
        symbols = merger.symbols(word.data)
        assert [own.token_bytes(token) for token in symbols] == [bytes([byte]) for byte in word.data]
        for rank, at, made in merger.merges(word.data):
            ranks = [merger.rank(*pair) for pair in pairwise(symbols)]
            known = [found for found in ranks if found is not None]
            assert rank == min(known)
            assert at == ranks.index(rank)
            assert own.merges[rank] == tuple(symbols[at : at + 2])
            joined = b"".join(map(own.token_bytes, symbols[at : at + 2]))
            symbols[at : at + 2] = [made]
            assert own.token_bytes(made) == joined
        assert all(merger.rank(*pair) is None for pair in pairwise(symbols))
        if merger.is_whole(word.data):
            assert word.ids == (own.vocabulary.tokens[word.data],)
        else:
            assert tuple(symbols) == word.ids


def test_only_a_vocabulary_that_looks_up_has_whole_words():
    word = OWN.token_bytes(OWN.vocab_size - 1)
    assert not Merger(OWN).is_whole(word)
    assert Merger(WHOLE).is_whole(b"the")
    assert not Merger(WHOLE).is_whole(b"thezz")


def test_a_vocabulary_that_lacks_bytes_can_be_shown():
    tokens = {token: number for token, number in OWN.vocabulary.tokens.items() if token != b"\xff"}
    own = Tokenizer(tokens, OWN.merges, {}, "gpt2")
    (word,) = words_of(own, "the")
    assert Merger(own).merges(word.data) == Merger(OWN).merges(b"the")
    assert data_of(tokens_page(own, "the"))["words"][0]["ids"] == list(word.ids)


# ---- what is seen


def test_bytes_are_made_visible():
    for data, expected in (
        (b" a\tb\n", "·a⇥b⏎"),
        ("é".encode()[:1], r"\xc3"),
        ("é😀".encode(), "é😀"),
        (b"\xff\x80x", r"\xff\x80x"),
        ("\u0301".encode(), "◌\u0301"),
        ("e\u0301".encode(), "e\u0301"),
        (" \u0301".encode(), "·◌\u0301"),
        ("\u202e\u200d\x1b\r\x85\xa0".encode(), r"\u202e\u200d\x1b\r\x85\xa0"),
        (b"", ""),
    ):
        assert shown(data) == expected
    assert pieces(b"a \n\x00") == [("text", "a"), ("sign", "·⏎"), ("escape", r"\x00")]


@given(st.binary() | st.text().map(str.encode))
def test_nothing_that_is_seen_acts(data):
    assert shown(data).isprintable()
    parts = pieces(data)
    assert all(one.kind != other.kind for one, other in pairwise(parts))
    assert all(not unicodedata.category(p.shown[0]).startswith("M") for p in parts)


@given(st.text())
def test_a_printed_name_is_one_line(name):
    assert printed(name).isprintable()
    if name.isprintable():
        assert printed(name) == name


# ---- the page's data


def replayed(word):
    """Symbols and ranks after each merge, by the numbers of the page alone, as its script does it."""
    symbols, ranks = list(word["start"]), list(word["ranks"])
    yield list(symbols), list(ranks)
    for at, _, made, before, after in word["merges"]:
        symbols[at : at + 2] = [made]
        del ranks[at]
        if at > 0:
            ranks[at - 1] = before
        if at < len(ranks):
            ranks[at] = after
        yield list(symbols), list(ranks)


@both
@given(text=WORDS_LEARNED.map("".join))
def test_the_page_knows_every_rank_at_every_step(own, text):
    merger, data = Merger(own), page_data(own, words_of(own, text))
    assert [i for number in data["text"] for i in data["words"][number]["ids"]] == own.encode(text).tolist()
    for word in data["words"]:
        last = None
        for (symbols, ranks), merge in zip(replayed(word), [*word["merges"], None], strict=True):
            assert ranks == [merger.rank(*pair) for pair in pairwise(symbols)]
            assert {*symbols} <= data["tokens"].keys()
            if merge:
                assert merge[1] == min(rank for rank in ranks if rank is not None) == ranks[merge[0]]
            last = symbols
        assert word["kind"] in ("merged", "whole")
        assert word["kind"] == "whole" or last == word["ids"]
    for number, (held, _) in data["tokens"].items():
        assert bytes.fromhex(held) == own.token_bytes(number)


def test_kinds_of_words():
    text = "the zz<|endoftext|>" + "x" * (WORD_BYTES + 1)
    words = page_data(WHOLE, words_of(WHOLE, text, special=True))["words"]
    assert [word["kind"] for word in words] == ["whole", "merged", "special", "long"]
    assert words[0]["merges"]
    assert words[2]["start"] == words[3]["start"] == words[3]["merges"] == []
    assert page_data(OWN, words_of(OWN, "x" * WORD_BYTES))["words"][0]["kind"] == "merged"
    assert page_data(WHOLE, words_of(WHOLE, "z"))["words"][0]["kind"] == "merged"


class Reader(html.parser.HTMLParser):
    """Collects elements and the visible text of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.inside, self.text = [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside.append(tag)

    def handle_endtag(self, tag):
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data):
        if not {"script", "style"} & {*self.inside}:
            self.text += data


@pytest.mark.parametrize("own", [OWN, WHOLE, tokenizer_of(r"[^z]+|z+")], ids=["gpt2", "whole", "one word"])
def test_a_hostile_text_changes_nothing_of_the_page(own):
    page, tame = tokens_page(own, HOSTILE, special=True), tokens_page(own, "tame")
    assert [tag for tag, _ in Reader(page).tags] == [tag for tag, _ in Reader(tame).tags]
    for sign in ("</script", "<script", "<!--"):  # what ends a script, or begins another inside it
        assert page.count(sign) == tame.count(sign)
    data = data_of(page)
    held = b"".join(bytes.fromhex(data["tokens"][str(i)][0]) for n in data["text"] for i in data["words"][n]["ids"])
    assert held.decode() == HOSTILE
    assert "http://" not in page
    assert "https://" not in page


def test_a_pattern_of_ones_own_is_not_put_into_the_page():
    own = Tokenizer(OWN.vocabulary.tokens, OWN.merges, {}, r"<b>|\w+|\W")
    assert "<b>" not in tokens_page(own, "<b>x")
    assert "<code>gpt2</code>" in tokens_page(OWN, "x")


def test_the_page_says_how_much_it_shows():
    text = Reader(tokens_page(OWN, "the the  zq")).text
    size, tokens = 11, len(OWN.encode("the the  zq"))
    assert f"{size} bytes, 4 words, {tokens} tokens: {size / tokens:.2f} bytes per token" in text
    assert "left out" not in text
    page = tokens_page(OWN, " a" * (WORDS + 1234))
    assert "The 1,234 words after these are left out of this page." in Reader(page).text
    assert len(data_of(page)["text"]) == WORDS
    assert "1 word, 1 token:" in Reader(tokens_page(OWN, "q")).text


def test_an_empty_text_has_no_page():
    with pytest.raises(ValueError, match="the text is empty"):
        tokens_page(OWN, "")
    with pytest.raises(ValueError, match="lone surrogate"):
        tokens_page(OWN, "a\ud800")


# ---- in a browser


@pytest.fixture(scope="module")
def browser():
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("playwright is not installed")
    if BROWSER is None:
        pytest.skip("neither chromium nor google-chrome is on PATH")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Opens the page of a text; whatever it complains about or asks the network for is an error."""
    complaints, contexts = [], []

    def open_page(text, own=OWN, size=(1280, 900), scheme="light"):
        path = tmp_path / "page.html"
        path.write_text(tokens_page(own, text, special=True), encoding="utf-8")
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, has_touch=size[0] < 500
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: request.url.startswith("file:") or complaints.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("body[data-ready]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def glyphs(page):
    return page.locator("#symbols .glyph").all_inner_texts()


def choose(page, text):
    page.locator(".word", has_text=re.compile(f"^{re.escape(text)}$")).first.click()


def test_stepping_shows_each_merge(opened):
    page = opened("zz theory zz")
    choose(page, "·theory")
    (word,) = [w for w in words_of(OWN, "zz theory zz") if w.data == b" theory"]
    merges, states = Merger(OWN).merges(word.data), list(replayed(page_data(OWN, [word])["words"][0]))
    assert len(merges) >= 3
    for step, (symbols, ranks) in enumerate(states):
        assert glyphs(page) == [shown(OWN.token_bytes(i)) for i in symbols]
        assert page.locator(".pair").all_inner_texts() == ["–" if r is None else str(r) for r in ranks]
        assert page.locator("#merges li").count() == step
        assert page.inner_text("#count") == f"{step} of {len(merges)}"
        assert page.input_value("#slider") == str(step)
        if step < len(merges):
            assert page.locator(".pair.best").all_inner_texts() == [str(merges[step].rank)]
            joins = [shown(OWN.token_bytes(i)) for i in symbols[merges[step].at : merges[step].at + 2]]
            assert page.locator(".joins .glyph").all_inner_texts() == joins
            assert f"{joins[0]} + {joins[1]}" in page.inner_text("#said")
            page.click("#next")
    assert page.locator(".pair.best").count() == 0
    assert page.is_disabled("#next")
    assert [int(x) for x in page.locator("#ids .id").all_inner_texts()] == list(word.ids)
    assert page.get_attribute("#said", "aria-live") == "polite"
    rank = merges[1].rank
    assert f"rank {rank}, id {merges[1].made}" in page.inner_text("#merges li:nth-child(2)")
    page.click("#merges li:nth-child(2) button")
    assert page.inner_text("#count") == f"2 of {len(merges)}"
    assert glyphs(page) == [shown(OWN.token_bytes(i)) for i in states[2][0]]


def test_keys_buttons_and_the_slider_agree(opened):
    page = opened("theory return")
    choose(page, "theory")
    last = page.inner_text("#count").split()[-1]
    page.focus("#next")
    for key, step in (("End", last), ("Home", "0"), ("ArrowLeft", "0"), ("ArrowRight", "1"), ("ArrowRight", "2")):
        page.keyboard.press(key)
        assert page.inner_text("#count") == f"{step} of {last}"
    page.click("#last")
    assert page.inner_text("#count") == f"{last} of {last}"
    page.click("#first")
    assert page.inner_text("#count") == f"0 of {last}"
    page.focus("#slider")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#count") == f"1 of {last}"
    page.click("#previous")
    assert page.inner_text("#count") == f"0 of {last}"
    page.focus(".word[aria-checked=true]")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#word") == "·return"
    assert page.evaluate("document.activeElement.textContent") == "·return"
    page.keyboard.press("ArrowRight")  # there is no word after it
    assert page.inner_text("#word") == "·return"
    page.keyboard.press("Home")
    assert page.inner_text("#word") == "theory"
    assert page.locator(".word[tabindex='0']").count() == page.locator(".word[aria-checked=true]").count() == 1


def test_it_plays_to_the_end_and_stops(opened):
    page = opened("theory")
    page.clock.install()
    last = int(page.inner_text("#count").split()[-1])
    page.click("#play")
    assert page.get_attribute("#play", "aria-label") == "Pause"
    assert page.get_attribute("#said", "aria-live") == "off"
    page.clock.run_for(1200)
    assert page.inner_text("#count") == f"1 of {last}"
    page.clock.run_for(1200 * last)
    assert page.inner_text("#count") == f"{last} of {last}"
    assert page.get_attribute("#play", "aria-label") == "Play"
    page.keyboard.press("p")
    page.clock.run_for(1200)
    assert page.inner_text("#count") == f"1 of {last}"
    page.click("#next")
    assert page.get_attribute("#play", "aria-label") == "Play"
    page.clock.run_for(5000)
    assert page.inner_text("#count") == f"2 of {last}"


WIDE = """() => {
  const inner = document.querySelectorAll("#text, #symbols, #merges, #word, #ids");
  const wide = [], parts = [document.documentElement, ...inner];
  for (const word of document.querySelectorAll(".word")) {
    word.click();
    for (const id of ["first", "last"]) {
      document.getElementById(id).click();
      for (const part of parts) if (part.scrollWidth > part.clientWidth + 1) wide.push([word.textContent, id, part.id]);
    }
  }
  return wide;
}"""


@pytest.mark.parametrize(("size", "scheme"), [((1280, 900), "dark"), ((390, 844), "light"), ((320, 600), "dark")])
def test_any_text_fits_the_page(opened, size, scheme):
    page = opened(f"{HOSTILE} {'w' * 600} {'-' * 50}\n{'=' * 64}\n{' ' * 40} theory", size=size, scheme=scheme)
    assert page.title() == "How a text becomes tokens"
    assert max(page.evaluate("[...document.querySelectorAll('.token')].map((e) => e.textContent.length)")) == 64
    assert page.evaluate(WIDE) == []
    page.tap("#first") if size[0] < 500 else page.click("#first")
    assert page.inner_text("#count").startswith("0 of")


def test_words_that_are_not_merged_say_why(opened):
    page = opened("the<|endoftext|>zz" + "q" * 600, WHOLE)
    choose(page, "the")
    assert "looks a word up before it merges" in page.inner_text("#note")
    assert "lead to the same token" in page.inner_text("#note")
    choose(page, "<|endoftext|>")
    assert "special token" in page.inner_text("#note")
    assert not page.is_visible("#controls")
    page.keyboard.press("ArrowRight")
    assert "too long" in page.inner_text("#note")
    assert page.inner_text("#ids li:last-child") == "and 102 more tokens"
    choose(page, "the")
    assert page.is_visible("#controls")
