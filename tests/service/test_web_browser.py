"""The web page in a real Chromium: what a person does with it.

Where there is no Chromium the tests are skipped; with ``SPARSIGHT_BROWSER=required`` in the environment they fail.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

if os.environ.get("SPARSIGHT_BROWSER") == "required":
    import playwright  # noqa: F401 - a failure, where importorskip would skip
pytest.importorskip("playwright")
pytest.importorskip("uvicorn")

from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from sparsight.retrieval.collection import Collection
from sparsight.retrieval.engine import Database
from sparsight.service.web import WebServer
from sparsight.types import Edit, FeatureFamily, Query
from tests.service.web_collection import COLLECTION, HOSTILE, make_database

REQUIRED = os.environ.get("SPARSIGHT_BROWSER") == "required"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
TIMEOUT_MS = 5_000

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None and not REQUIRED,
                       reason="there is no Chromium (SPARSIGHT_BROWSER=required makes this a failure)"),
]
expect.set_options(timeout=TIMEOUT_MS)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    with make_database(tmp_path_factory.mktemp("browser")) as database:
        yield database


@pytest.fixture(scope="module")
def server(database: Database) -> Iterator[WebServer]:
    with WebServer(database, port=0) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM is not None, "SPARSIGHT_BROWSER=required, but there is no Chromium"
    with sync_playwright() as playwright:
        # Chromium's sandbox does not run as root.
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*flags, "--disable-background-networking"])
        yield browser
        browser.close()


@dataclass
class Visit:
    """Pages of one test, and what they complained of or asked of others."""

    browser: Browser
    url: str
    complaints: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)

    def open(self, query: str = "", **context: Any) -> Page:
        """The page at ``?query``, in a profile of its own."""
        context.setdefault("viewport", {"width": 1200, "height": 900})
        profile = self.browser.new_context(**context)
        profile.set_default_timeout(TIMEOUT_MS)
        profile.on("request", lambda request: self._asked(request.url))
        page = profile.new_page()
        page.on("console", lambda message: self._said(message.type, message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(self.url + query)
        return page

    def _asked(self, url: str) -> None:
        if urlsplit(url).hostname != "127.0.0.1":
            self.strangers.append(url)

    def _said(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(text)


@pytest.fixture
def visit(browser: Browser, server: WebServer) -> Iterator[Visit]:
    """Whatever a test does: nothing may be asked of other machines, and nothing be complained of in the console."""
    visit = Visit(browser, server.url)
    yield visit
    for context in browser.contexts:
        context.close()
    assert visit.strangers == []
    assert visit.complaints == []


def ids(page: Page) -> list[str]:
    """Ids of the hits, once no answer is waited for."""
    page.wait_for_function("""() => {
        const hits = document.getElementById("hits");
        return hits && !hits.hasAttribute("aria-busy") && hits.dataset.address === location.search;
    }""")
    return page.locator(".hit").evaluate_all("hits => hits.map((hit) => hit.dataset.id)")


def search(page: Page, text: str) -> list[str]:
    page.get_by_role("searchbox", name="Search", exact=True).fill(text)
    page.keyboard.press("Enter")
    expect(page.get_by_role("status").first).to_contain_text("hits in")
    return ids(page)


def add_slider_of_last_hit(page: Page) -> str:
    """Makes a slider of the strongest feature of the last hit, and gives its number."""
    button = page.locator(".hit").last.locator("button.feature").first
    number = str(button.get_attribute("data-feature"))
    button.click()
    expect(page.locator(f".slider[data-feature='{number}']")).to_be_visible()
    return number


# --- searching ----------------------------------------------------------------------------------------------------


def test_a_search_shows_hits_with_their_words_and_features(visit: Visit, database: Database):
    page = visit.open()
    expect(page.locator("#welcome")).to_contain_text("1 document in plain")
    page.get_by_label("Collection").select_option(COLLECTION)
    expect(page.locator("#welcome")).to_contain_text(f"151 documents in {COLLECTION}")
    found = search(page, "cat on the mat")
    expected = database[COLLECTION].search("cat on the mat", explain=True)
    assert found == expected.ids
    first = page.locator(".hit").first
    assert set(first.locator(".passage mark").all_text_contents()) == {"cat", "mat"}
    expect(first.locator("h4").first).to_contain_text("bm25")
    bm25, dense = expected[0].explanation.retrievers  # type: ignore[union-attr]
    words = first.locator(".group").first.locator(".bar-row")
    assert words.locator(".name").all_text_contents() == [part.label for part in bm25.contributions]
    assert words.locator(".number").all_text_contents() == [f"+{part.score:.3f}" for part in bm25.contributions]
    features = first.locator("button.feature")
    assert [int(number) for number in features.evaluate_all("all => all.map((one) => one.dataset.feature)")] == [
        part.index for part in dense.contributions[:4]]


def test_typing_searches_without_enter(visit: Visit):
    page = visit.open(f"?c={COLLECTION}")
    page.get_by_role("searchbox", name="Search", exact=True).press_sequentially("dog")
    expect(page.locator(".hit")).to_have_count(10)
    assert parse_qs(urlsplit(page.url).query) == {"c": [COLLECTION], "q": ["dog"]}
    page.locator("#k").select_option("20")
    expect(page.locator(".hit")).to_have_count(20)


def test_texts_are_never_markup(visit: Visit):
    page = visit.open(f"?c={COLLECTION}&q=zebras&by=bm25")
    hit = page.locator(".hit[data-id='hostile']")
    expect(hit.locator("h3")).to_have_text(HOSTILE)
    expect(hit.locator(".passage")).to_have_text("cats <b>and</b> zebras & cat")
    assert page.locator("#results img, #results b").count() == 0
    page.goto(f"{visit.url}?c={COLLECTION}&q=<script>zyx()</script>&by=bm25")
    expect(page.get_by_role("status").first).to_contain_text("No document matches “<script>zyx()</script>”.")


def test_no_hits_are_said(visit: Visit):
    page = visit.open(f"?c={COLLECTION}&q=xylophone&by=bm25")
    expect(page.get_by_role("status").first).to_have_text("No document matches “xylophone”.")
    assert ids(page) == []


def test_an_answer_that_comes_late_is_dropped(visit: Visit):
    page = visit.open(f"?c={COLLECTION}")
    held: list[Route] = []

    def hold(route: Route) -> None:
        if '"text":"dog"' in (route.request.post_data or ""):
            held.append(route)
        else:
            route.continue_()

    page.route("**/search", hold)
    box = page.get_by_role("searchbox", name="Search", exact=True)
    box.fill("dog")
    page.keyboard.press("Enter")
    expect(page.locator("body.waiting")).to_have_count(1)  # something moves while one waits
    box.fill("tree")
    page.keyboard.press("Enter")
    expect(page.locator(".hit")).to_have_count(10)
    found = ids(page)
    assert len(held) == 1
    held[0].fulfill(json={"hits": [], "milliseconds": 1, "steered": False, "warnings": []})
    page.wait_for_timeout(200)
    assert ids(page) == found
    assert "tree" in page.locator(".hit .passage mark").first.inner_text()


# --- steering -----------------------------------------------------------------------------------------------------


def test_a_slider_moves_hits_and_shows_from_where(visit: Visit, database: Database):
    page = visit.open(f"?c={COLLECTION}&by=dense")
    before = search(page, "cat")
    number = add_slider_of_last_hit(page)
    slider = page.locator(f".slider[data-feature='{number}']").get_by_role("slider")
    expect(slider).to_have_value("1")
    slider.press("End")
    expect(slider).to_have_value("3")
    expect(page.get_by_role("status").first).to_contain_text("moved by steering")
    query = Query("cat", ["dense"], edits=[Edit(int(number), "boost", 3.0)], explain=True)
    steered = database[COLLECTION].search(query)
    assert ids(page) == steered.ids != before
    ways = set()
    for hit, item in zip(steered, page.locator(".hit").all(), strict=True):
        movement = hit.explanation.movement  # type: ignore[union-attr]
        assert movement is not None and movement.rank_before > 0
        climbed = movement.rank_before - hit.rank
        ways.add((climbed > 0) - (climbed < 0))
        arrow = f"▲ {climbed}" if climbed > 0 else f"▼ {-climbed}" if climbed < 0 else "="
        assert item.locator(".rail").inner_text().split("\n") == [str(hit.rank), arrow, f"was {movement.rank_before}"]
        assert item.locator(".scores .was").inner_text() == f"was {movement.score_before:.3f}"
        assert item.locator(".score").inner_text() == f"{hit.score:.3f}"
    assert 1 in ways
    slider.press("Home")
    expect(page.locator(".slider output")).to_have_text("−3.00")
    for _ in range(12):
        slider.press("ArrowRight")
    expect(page.locator(".slider output")).to_have_text("0.00")
    expect(page.get_by_role("status").first).not_to_contain_text("steering")
    assert ids(page) == before  # strength 0 changes nothing
    page.get_by_role("button", name="Remove feature").click()
    expect(page.locator(".slider")).to_have_count(0)
    assert "e=" not in page.url


def test_features_are_found_by_words_and_become_sliders(visit: Visit, database: Database):
    page = visit.open(f"?c={COLLECTION}&q=cat")
    expect(page.locator(".found")).to_have_count(12)
    page.get_by_role("button", name="More features").click()
    expect(page.locator(".found")).to_have_count(24)
    page.get_by_role("searchbox", name="Search features by words").fill("dog")
    expected = [str(feature.index) for feature in database[COLLECTION].features("dog").features[:12]]
    expect(page.locator("#finder-status")).to_have_text("")
    assert page.locator(".found").evaluate_all("all => all.map((one) => one.dataset.feature)") == expected
    for button in page.locator(".found").all()[:2]:
        button.click()
        expect(button).to_have_attribute("aria-pressed", "true")
    expect(page.locator(".slider")).to_have_count(2)
    page.locator(".slider").first.get_by_text("About").click()
    about = page.locator(".slider").first.locator(".examples")
    expect(about).to_contain_text("Text")
    known = database[COLLECTION].feature(int(expected[0]))
    if known.label_source == "contrast":
        expect(about).to_contain_text("named by words of its passages against all others")
    heights = about.locator(".histogram span").evaluate_all("all => all.map((bar) => bar.offsetHeight)")
    counts = known.histogram
    assert len(heights) == 10 and max(heights) > 15
    assert [height > 0 for height in heights] == [count > 0 for count in counts]
    page.get_by_role("button", name="Set all to 0").click()
    expect(page.locator(".slider output")).to_have_text(["0.00", "0.00"])
    page.get_by_role("button", name="Remove all").click()
    expect(page.locator(".slider")).to_have_count(0)


def test_words_as_a_whole_become_sliders(visit: Visit, database: Database):
    page = visit.open(f"?c={COLLECTION}&q=cat&by=dense")
    button, words = page.locator("#steer-words"), page.get_by_role("searchbox", name="Search features by words")
    expect(button).to_be_hidden()
    words.fill("the old dog")
    expect(button).to_be_visible()
    shown = page.locator(".found .share").all_text_contents()
    assert shown == [f"{cosine:.2f}" for cosine in database[COLLECTION].features("the old dog").cosines[:12]]
    button.click()
    expected = [item for item in database[COLLECTION].find_features(words="the old dog", count=12)
                if item.edit(0.4).strength >= 0.005]
    expect(page.locator(".slider")).to_have_count(len(expected))
    edits = [Edit(item.feature.index, "boost", round(item.edit(0.4).strength, 2)) for item in expected]
    assert ids(page) == database[COLLECTION].search(Query("cat", ["dense"], edits=edits)).ids
    words.fill("house")  # in place of those
    expected = database[COLLECTION].find_features(words="house", count=12)
    expect(page.locator(".found .share").first).not_to_have_text(shown[0])
    button.click()
    expect(page.locator(f".slider[data-feature='{expected[0].feature.index}']")).to_have_count(1)
    expect(page.locator(".slider")).to_have_count(sum(item.edit(0.4).strength >= 0.005 for item in expected))


def test_a_feature_can_be_required(visit: Visit, database: Database):
    page = visit.open(f"?c={COLLECTION}&q=cat&k=100")
    ids(page)
    number = add_slider_of_last_hit(page)
    page.locator(".slider select").select_option("require")
    page.locator(".slider").get_by_role("slider").press("Home")
    expect(page.locator(".slider output")).to_have_text("0.00")
    expect(page.get_by_role("status").first).to_contain_text("hits in")
    expected = database[COLLECTION].search(Query("cat", k=100, edits=[Edit(int(number), "require", 0.0)])).ids
    assert ids(page) == expected and len(expected) < 100


def test_a_family_is_steered_as_one(visit: Visit, database: Database, monkeypatch: pytest.MonkeyPatch):
    """So small a collection has none: one is put in, of its own features."""
    parent, *children = database[COLLECTION].features().features[:4]
    family = FeatureFamily(parent, tuple(children), (parent.index,) * 3, (0.5,) * 3)
    monkeypatch.setattr(Collection, "families", lambda *_, **__: (family,))
    page = visit.open(f"?c={COLLECTION}&q=cat&by=dense&e={parent.index}:boost:-2")
    page.locator(".slider").get_by_text("About").click()
    button = page.get_by_role("button", name="Steer all")
    expect(button).to_have_attribute("title", re.compile(r"these 4 features, all at \+1\.00"))
    button.click()
    expect(page.locator(".slider output")).to_have_text(["+1.00"] * 4)
    numbers = page.locator(".slider").evaluate_all("all => all.map((one) => Number(one.dataset.feature))")
    assert numbers == [feature.index for feature in (parent, *children)]
    page.go_back()  # one step of the history
    expect(page.locator(".slider output")).to_have_text(["−2.00"])


# --- profiles and examples ----------------------------------------------------------------------------------------


def test_a_profile_steers_and_is_in_the_link(visit: Visit, database: Database):
    collection = database[COLLECTION]
    page = visit.open(f"?c={COLLECTION}&q=cat&by=dense")
    plain = ids(page)
    expect(page.locator("#profile-choice")).to_be_hidden()  # there are none
    edits = [Edit(feature.index, "boost", 3.0) for feature in collection.features().features[20:23]]
    collection.save_profile("mine", edits, note="for a test")
    try:
        page.reload()
        page.get_by_label("Profile").select_option("mine")
        expect(page.get_by_label("Profile").locator("option")).to_have_text(["none", "mine (3 edits)"])
        expect(page.get_by_role("status").first).to_contain_text("moved by steering")
        steered = collection.search(Query("cat", ["dense"], edits=edits)).ids
        assert ids(page) == steered != plain
        assert parse_qs(urlsplit(page.url).query)["profile"] == ["mine"]
        fresh = visit.open("?" + urlsplit(page.url).query + "@1")  # that version for good
        expect(fresh.get_by_label("Profile")).to_have_value("mine@1")
        assert ids(fresh) == steered and fresh.url.endswith("profile=mine@1")
        page.get_by_label("Profile").select_option("")
        expect(page.locator(".hit").first).to_have_attribute("data-id", plain[0])
        expect(page.get_by_role("status").first).not_to_contain_text("steering")
        assert ids(page) == plain and "profile" not in page.url
    finally:
        collection.drop_profile("mine")


def test_examples_become_sliders(visit: Visit, database: Database):
    page = visit.open(f"?c={COLLECTION}&q=cat&by=dense")
    found = ids(page)
    hits, panel = page.locator(".hit"), page.locator("#examples")
    expect(panel).to_be_hidden()
    less = hits.nth(0).get_by_role("button", name="Less like this")
    less.click()
    expect(less).to_have_attribute("aria-pressed", "true")
    expect(panel).to_contain_text("Mark a hit as “more like this”, too.")
    for place in (4, 7):
        hits.nth(place).get_by_role("button", name="More like this").click()
    expected = database[COLLECTION].find_features([found[4], found[7]], [found[0]], count=12)
    expect(page.locator("#example-features li")).to_have_count(len(expected))
    texts = page.locator("#example-features .number").all_text_contents()
    strengths = [float(text.replace("−", "-")) for text in texts]
    assert strengths == pytest.approx([item.edit(0.4).strength for item in expected], abs=0.0051)
    page.get_by_role("button", name="Steer towards them").click()
    expect(page.locator(".slider")).to_have_count(len(expected))
    expect(page.get_by_role("status").first).to_contain_text("moved by steering")
    edits = [Edit(item.feature.index, "boost", round(item.edit(0.4).strength, 2)) for item in expected]
    assert ids(page) == database[COLLECTION].search(Query("cat", ["dense"], edits=edits)).ids
    link = parse_qs(urlsplit(page.url).query)["e"]
    assert [float(edit.split(":")[2]) for edit in link] == [edit.strength for edit in edits]
    fresh = visit.open("?" + urlsplit(page.url).query)
    assert ids(fresh) == ids(page) and fresh.url == page.url
    # Other examples take the place of these; what was moved by hand stays.
    moved = page.locator(".slider").first
    moved.get_by_role("slider").press("End")
    number = str(moved.get_attribute("data-feature"))
    page.get_by_role("button", name="Remove the example").last.click()
    expected = database[COLLECTION].find_features([found[4]], [found[0]], count=12)
    with_hand = {number} | {str(item.feature.index) for item in expected}
    expect(page.locator("#example-features .number")).to_have_text(
        [f"{item.edit(0.4).strength:+.2f}".replace("-", "−") for item in expected])
    page.get_by_role("button", name="Steer towards them").click()
    expect(page.locator(".slider")).to_have_count(len(with_hand))
    page.get_by_role("button", name="Forget them").click()
    expect(panel).to_be_hidden()
    assert page.locator(".marks [aria-pressed=true]").count() == 0


# --- the map ------------------------------------------------------------------------------------------------------


def open_map(page: Page) -> list[dict[str, Any]]:
    """Opens the map, and gives its points with their places in the picture, by feature."""
    with page.expect_response("**/map*") as answer:
        page.get_by_role("heading", name="Map").click()
    expect(page.locator("#map-canvas")).to_be_visible()
    width, height = page.locator("#map-canvas").evaluate("canvas => [canvas.clientWidth, canvas.clientHeight]")
    unit = 0.93 * min(width, height) / 2
    return [{**point, "left": width / 2 + unit * point["x"], "top": height / 2 - unit * point["y"]}
            for point in answer.value.json()["points"]]


def lone(points: list[dict[str, Any]]) -> dict[str, Any]:
    """The point farthest from all others, which the pointer cannot miss."""
    return max(points, key=lambda one: min(abs(one["left"] - other["left"]) + abs(one["top"] - other["top"])
                                           for other in points if other is not one))


def ink(page: Page) -> int:
    """Pixels of the picture that are not transparent, once it has been drawn."""
    return int(page.evaluate("""() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => {
        const canvas = document.getElementById("map-canvas");
        const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        done(data.filter((value, at) => at % 4 === 3 && value > 0).length);
    })))"""))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_click_on_the_map_makes_a_slider(visit: Visit, database: Database, scheme: str):
    asked: list[str] = []
    page = visit.open(f"?c={COLLECTION}&q=cat&by=dense", color_scheme=scheme)
    page.on("request", lambda request: asked.append(request.url))
    ids(page)
    assert not [url for url in asked if "/map" in url]  # only when it is opened
    points = open_map(page)
    assert len(points) == len(database[COLLECTION].feature_map().points)
    plain = ink(page)
    assert plain > 200
    point, canvas = lone(points), page.locator("#map-canvas")
    canvas.hover(position={"x": point["left"], "y": point["top"]})
    expect(page.locator("#map-tip")).to_contain_text(point["label"] or f"feature {point['index']}")
    canvas.click(position={"x": point["left"], "y": point["top"]})
    expect(page.locator(f".slider[data-feature='{point['index']}']")).to_be_visible()
    page.mouse.move(0, 0)
    expect(page.locator("#map-tip")).to_be_hidden()
    canvas.click(position={"x": point["left"], "y": point["top"]})
    expect(page.get_by_role("slider")).to_be_focused()  # there is one already
    expect(page.locator(".slider")).to_have_count(1)
    page.get_by_role("heading", name="Map").click()
    page.get_by_role("heading", name="Map").click()
    expect(canvas).to_be_visible()
    assert len([url for url in asked if "/map" in url]) == 1


def test_the_map_by_keyboard(visit: Visit):
    page = visit.open(f"?c={COLLECTION}&q=cat")
    points = {point["label"] or f"feature {point['index']}": point for point in open_map(page)}
    page.locator("#map-canvas").focus()
    seen = []
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp"):
        before = page.locator("#map-said").inner_text()
        page.keyboard.press(key)
        expect(page.locator("#map-said")).not_to_have_text(before)
        seen.append(next(point for name, point in points.items()
                         if page.locator("#map-said").inner_text().startswith(f"{name}, on ")))
    assert seen[1]["x"] > seen[0]["x"] and seen[2]["y"] < seen[1]["y"]
    assert seen[3]["x"] < seen[2]["x"] and seen[4]["y"] > seen[3]["y"]
    page.keyboard.press("Enter")
    expect(page.locator(f".slider[data-feature='{seen[4]['index']}']")).to_be_visible()
    expect(page.locator("#map-canvas")).to_be_focused()
    assert page.locator(".hit:focus").count() == 0


def test_the_map_zooms_pans_and_grows(visit: Visit):
    page = visit.open(f"?c={COLLECTION}&q=cat")
    point = lone(open_map(page))
    canvas, tip = page.locator("#map-canvas"), page.locator("#map-tip")
    name = point["label"] or f"feature {point['index']}"
    at = {"x": point["left"], "y": point["top"]}
    canvas.hover(position=at)
    page.mouse.wheel(0, -300)  # nearer, around the pointer
    page.mouse.move(0, 0)
    canvas.hover(position=at)
    expect(tip).to_contain_text(name)
    box = canvas.bounding_box()
    assert box is not None
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=4)
    page.mouse.up()
    expect(page.locator(".slider")).to_have_count(0)  # that was no click
    page.mouse.move(0, 0)
    expect(tip).to_be_hidden()
    canvas.hover()
    expect(tip).to_contain_text(name)  # it was dragged to the middle
    page.get_by_role("button", name="All", exact=True).click()
    canvas.hover(position=at)
    expect(tip).to_contain_text(name)
    page.get_by_role("button", name="Nearer").click()
    page.get_by_role("button", name="Farther").click()
    canvas.hover(position=at)
    expect(tip).to_contain_text(name)
    page.get_by_role("button", name="Larger").click()
    wide = canvas.bounding_box()
    assert wide is not None and wide["width"] > 2 * box["width"] and wide["height"] > 2 * box["height"]
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Larger")).to_be_visible()


def test_the_map_in_words(visit: Visit, database: Database):
    page = visit.open(f"?c={COLLECTION}&q=cat")
    open_map(page)
    found = database[COLLECTION].feature_map()
    groups = page.locator("#map-lobes > li")
    alone = any(point.lobe < 0 for point in found.points)
    assert groups.count() == len(found.lobes) + alone
    first = [point for point in found.points if point.lobe == 0]
    expect(groups.first).to_contain_text(str(len(first)))
    groups.first.locator("summary").click()
    frequent = max(first, key=lambda point: point.density)
    button = groups.first.get_by_role("button").first
    expect(button).to_have_attribute("data-feature", str(frequent.index))
    button.click()
    expect(button).to_have_attribute("aria-pressed", "true")
    expect(page.locator(f".slider[data-feature='{frequent.index}']")).to_be_visible()


# --- links --------------------------------------------------------------------------------------------------------


def test_a_link_brings_the_same_view(visit: Visit):
    page = visit.open(f"?c={COLLECTION}&by=dense&k=20")
    search(page, "red house & sea")
    number = add_slider_of_last_hit(page)
    page.get_by_role("slider").press("End")
    page.get_by_role("slider").press("PageDown")
    expect(page.get_by_role("status").first).to_contain_text("moved by steering")
    strength, found = page.get_by_role("slider").input_value(), ids(page)
    link = parse_qs(urlsplit(page.url).query)
    assert link == {"c": [COLLECTION], "q": ["red house & sea"], "by": ["dense"], "k": ["20"],
                    "e": [f"{number}:boost:{strength}:sae"]}
    fresh = visit.open("?" + urlsplit(page.url).query)
    expect(fresh.get_by_role("status").first).to_contain_text("moved by steering")
    assert ids(fresh) == found and len(found) == 20
    assert fresh.get_by_role("slider").input_value() == strength
    expect(fresh.get_by_role("searchbox", name="Search", exact=True)).to_have_value("red house & sea")
    expect(fresh.get_by_label("Search by")).to_have_value("dense")
    assert fresh.url == page.url
    assert fresh.locator(".rail").all_inner_texts() == page.locator(".rail").all_inner_texts()


def test_back_and_forward(visit: Visit):
    page = visit.open(f"?c={COLLECTION}&by=dense")
    box = page.get_by_role("searchbox", name="Search", exact=True)
    cats = search(page, "cat")
    trees = search(page, "tree")
    add_slider_of_last_hit(page)
    page.get_by_role("slider").press("End")
    expect(page.locator(".slider output")).to_have_text("+3.00")
    page.go_back()
    expect(page.locator(".slider output")).to_have_text("+1.00")
    page.go_back()
    expect(page.locator(".slider")).to_have_count(0)
    expect(box).to_have_value("tree")
    assert ids(page) == trees
    page.go_back()
    expect(box).to_have_value("cat")
    assert ids(page) == cats
    page.go_forward()
    expect(box).to_have_value("tree")
    assert ids(page) == trees


# --- keyboard -----------------------------------------------------------------------------------------------------


def test_the_keyboard(visit: Visit):
    page = visit.open(f"?c={COLLECTION}&q=cat")
    found = ids(page)
    box = page.get_by_role("searchbox", name="Search", exact=True)
    words = page.get_by_role("searchbox", name="Search features by words")
    page.keyboard.press("/")
    expect(box).to_be_focused()
    page.keyboard.type("dog / f")  # letters there are letters
    expect(box).to_have_value("dog / f")
    page.keyboard.press("Escape")
    expect(box).not_to_be_focused()
    expect(box).to_have_value("dog / f")
    page.go_back()
    expect(box).to_have_value("cat")
    assert ids(page) == found
    for position in (0, 1, 2):
        page.keyboard.press("ArrowDown")
        expect(page.locator(".hit").nth(position)).to_be_focused()
    more = page.locator(".hit").nth(2).locator(".more")
    expect(more).to_have_attribute("aria-expanded", "false")
    page.keyboard.press("Enter")
    expect(more).to_have_attribute("aria-expanded", "true")
    expect(page.locator(".hit").nth(2)).to_be_focused()
    for _ in range(3):
        page.keyboard.press("ArrowUp")
    expect(box).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(page.locator(".hit").first).to_be_focused()
    page.keyboard.press("f")
    expect(words).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("body")).to_be_focused()


# --- errors, and other screens ------------------------------------------------------------------------------------


def test_errors_are_shown_and_can_be_mended(visit: Visit):
    page = visit.open(f"?c={COLLECTION}&q=cat&e=9999")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("has features 0 to 47; got 9999")
    expect(alert).to_contain_text("UNKNOWN_FEATURE")
    assert ids(page) == []
    page.get_by_role("button", name="Remove feature 9999").click()
    expect(page.locator(".hit")).to_have_count(10)
    expect(alert).to_be_empty()
    page.goto(f"{visit.url}?c=none&q=cat")
    expect(alert).to_contain_text("no collection 'none'")
    page.get_by_label("Collection").select_option(COLLECTION)
    expect(page.locator(".hit")).to_have_count(10)
    assert all("status of 404" in text for text in visit.complaints)  # Chromium's own lines for such answers
    visit.complaints.clear()


def test_a_server_that_has_gone_is_said(visit: Visit):
    page = visit.open(f"?c={COLLECTION}&q=cat")
    ids(page)
    page.route("**/search", lambda route: route.abort("connectionrefused"))
    page.get_by_label("Search by").select_option("bm25")
    expect(page.get_by_role("alert")).to_contain_text("The server cannot be reached.")
    page.unroute("**/search")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".hit")).to_have_count(10)
    assert all("ERR_CONNECTION_REFUSED" in text for text in visit.complaints)
    visit.complaints.clear()


def test_a_collection_without_features(visit: Visit):
    page = visit.open("?c=plain&q=cat")
    expect(page.locator(".hit")).to_have_count(1)
    expect(page.locator("#finder-status")).to_contain_text("no features yet")
    expect(page.locator("#map")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone(visit: Visit, scheme: str):
    page = visit.open(f"?c={COLLECTION}&q=cat&e=1:boost:2:sae", viewport={"width": 360, "height": 740},
                      color_scheme=scheme)
    expect(page.locator(".hit")).to_have_count(10)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    expect(page.locator(".found").first).to_be_hidden()
    page.get_by_role("heading", name="Find features").click()
    expect(page.locator(".found").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    red, green, blue = map(int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor")))
    assert (min(red, green, blue) > 200) == (scheme == "light")


def test_looking_at_a_feature_marks_its_words(visit: Visit) -> None:
    page = visit.open(f"?c={COLLECTION}&q=cat+dog&by=dense")
    hit = page.locator(".hit").first
    feature = hit.locator(".feature").first
    plain = hit.locator(".passage").inner_text()
    feature.hover()
    expect(hit.locator("mark.fired").first).to_be_visible()
    assert hit.locator(".passage").inner_text() == plain  # the same text, with other words marked
    page.mouse.move(0, 0)
    expect(hit.locator("mark.fired")).to_have_count(0)
    feature.focus()
    expect(hit.locator("mark.fired").first).to_be_visible()
