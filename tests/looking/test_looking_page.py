"""The page in a browser: nothing is asked for, nothing complains, and every control works."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import browser
import numpy as np
import pytest
from conftest import arrays

import mmselect
from mmselect.demo import EMOJI

pytestmark = pytest.mark.skipif(browser.found() is None, reason="there is no Chromium")

NASTY = [
    "</script><script>window.broken = 1</script>",
    '"><img src=x onerror="window.broken = 1">',
    "<!-- <script>",
    "שלום \u202egnihton\u202c עולם",
    "a\x07b\x0bc\u2028d",
    "&lt;b&gt; &amp; 'quotes' `ticks` ${window.broken = 1}",
    "javascript:window.broken=1",
]


@pytest.fixture(scope="module")
def chromium() -> Iterator[browser.Page]:
    with browser.browser() as page:
        yield page


@pytest.fixture(scope="module")
def emoji(tmp_path_factory: pytest.TempPathFactory) -> Path:
    page = tmp_path_factory.mktemp("look") / "emoji.html"
    mmselect.look(EMOJI, output=page, budget=60, where="split=train")
    return page


@pytest.fixture
def page(chromium: browser.Page, emoji: Path) -> Iterator[browser.Page]:
    chromium.events.clear()
    chromium.open(emoji)
    chromium.run("localStorage.clear()")
    chromium.open(emoji)
    yield chromium
    assert chromium.complaints() == [] and chromium.requests() == []


def shown(page: browser.Page) -> list[str]:
    """Headlines of the cards, in order."""
    return page.run("[...document.querySelectorAll('.card h3')].map(e => e.textContent)")


def set_to(page: browser.Page, name: str, value: str) -> None:
    page.run(
        f"(() => {{ const e = document.getElementById({name!r}); e.value = {value!r};"
        "e.dispatchEvent(new Event(e.tagName == 'INPUT' ? 'input' : 'change')); })()"
    )


def test_every_pick_has_a_card(page: browser.Page) -> None:
    assert len(shown(page)) == 60
    assert page.run("document.getElementById('title').textContent") == "60 picks from emoji.h5"
    assert page.run("document.querySelectorAll('.card .sign').length") >= 60
    policy = page.run("document.querySelector('meta[http-equiv]').content")
    assert "default-src 'none'" in policy and "unsafe" not in policy


def test_search_filter_and_sort(page: browser.Page) -> None:
    everyone = shown(page)
    set_to(page, "search", "PERSON walking")
    some = shown(page)
    assert 0 <= len(some) < 60
    set_to(page, "search", "no such thing anywhere")
    assert shown(page) == [] and not page.run("document.getElementById('none').hidden")
    page.run("document.getElementById('reset').click()")
    assert shown(page) == everyone
    set_to(page, "sort", "most in doubt")
    doubted = shown(page)
    sure = page.run("picks && shown.map((i) => picks[i].top[0][1])")
    assert sorted(doubted) == sorted(everyone) and sure == sorted(sure)
    set_to(page, "sort", "pick order")
    assert shown(page) == everyone
    page.run("document.querySelector('#values button').click()")
    held = int(page.run("document.querySelector('#values .number b').textContent"))
    assert len(shown(page)) == held < 60
    page.run("document.querySelector('#values button').click()")
    assert shown(page) == everyone


def test_ticks_are_saved_and_kept(page: browser.Page, emoji: Path) -> None:
    page.run(
        "window.kept = []; URL.createObjectURL = (blob) => (window.kept.push(blob), 'blob:x');"
        "HTMLAnchorElement.prototype.click = function () { window.kept.push(this.download); }"
    )
    assert page.run("document.getElementById('save').disabled")
    page.run("document.querySelectorAll('.card input')[1].click()")
    page.run("document.querySelectorAll('.card input')[0].click()")
    page.run("document.getElementById('save').click()")
    ids = page.run("window.kept[0].text()")
    assert ids.split() == page.run("data.picks.slice(0, 2).map(p => p.id)")
    assert page.run("window.kept[1]") == "exclude.txt"
    how = {"budget": "100%", "clip_budget": True}
    found = mmselect.select(EMOJI, "random", exclude=ids.split(), **how)
    assert not {*found.ids} & {*ids.split()}
    page.open(emoji)
    assert page.run("document.querySelectorAll('.card.ticked').length") == 2
    set_to(page, "filter", "ticked")
    assert len(shown(page)) == 2


def test_keyboard(page: browser.Page) -> None:
    page.press("ArrowRight")
    at = "document.activeElement.dataset.i"
    assert page.run(at) == "0"
    page.press("ArrowRight")
    assert page.run(at) == "1"
    page.press("ArrowDown")
    below = int(page.run(at))
    columns = page.run("getComputedStyle(document.getElementById('cards')).gridTemplateColumns")
    assert below == 1 + len(columns.split())
    page.press("ArrowUp")
    assert page.run(at) == "1"
    page.press(" ", " ")
    assert page.run("document.activeElement.classList.contains('ticked')")
    page.press("Enter", "\r")
    assert page.run("document.activeElement.querySelector('details').open")
    page.press("End")
    assert page.run(at) == "59"
    page.press("/", "/")
    assert page.run("document.activeElement.id") == "search"
    for letter in "zzz":
        page.press(letter, letter)
    assert shown(page) == []
    page.press("Escape")
    assert len(shown(page)) == 60 and page.run("document.activeElement === document.body")


def test_the_map_leads_to_the_card(page: browser.Page) -> None:
    x, y = page.run(
        "(() => { const b = canvas.getBoundingClientRect(), [x, y] = scale()(map.picks[7]);"
        "return [b.left + x, b.top + y]; })()"
    )
    nearest = page.run(f"nearest({{ clientX: {x}, clientY: {y} }})")
    page.click(x, y)
    assert page.run("document.activeElement.dataset.i") == str(nearest)
    assert page.run("pointed") == nearest


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_the_screen(page: browser.Page, emoji: Path, width: int, dark: bool) -> None:
    page.open(emoji, width=width, dark=dark)
    assert page.run("document.documentElement.scrollWidth") == width
    paper, ink = page.run(
        "['backgroundColor', 'color'].map(n => getComputedStyle(document.body)[n])"
    )
    light = [sum(map(int, c[4:-1].split(","))) for c in (paper, ink)]
    assert (light[0] < light[1]) == dark and abs(light[0] - light[1]) > 400


def test_what_users_wrote_stays_text(chromium: browser.Page, tmp_path: Path) -> None:
    given = arrays(len(NASTY))
    given["ids"] = [f"{i} {text}" for i, text in enumerate(NASTY)]
    given["ids"][3:5] = "34"  # ids of a pool hold no control characters, nor turn a line round
    given["metadata"] = {"text": NASTY}
    given["class_names"] = [f"<i>{i}</i>" for i in range(5)]
    pool, page = tmp_path / "<b>&.h5", tmp_path / "page.html"
    given["labeled"] = np.arange(len(NASTY)) == 6
    mmselect.write_pool(pool, **given)
    mmselect.look(pool, given["ids"][:6], output=page)
    chromium.events.clear()
    chromium.open(page)
    assert chromium.run("window.broken") is None
    assert shown(chromium) == NASTY[:6]
    assert chromium.run("document.querySelectorAll('script').length") == 2
    assert chromium.run("document.querySelectorAll('#cards img, #cards b b').length") == 0
    assert "<b>&.h5" in chromium.run("document.title")
    assert chromium.complaints() == [] and chromium.requests() == []


def test_two_thousand_picks_do_not_halt(chromium: browser.Page, tmp_path: Path) -> None:
    pool, page = tmp_path / "many.h5", tmp_path / "page.html"
    mmselect.write_pool(pool, **arrays(2400))
    mmselect.look(pool, output=page, strategy="random", budget=2000)
    chromium.events.clear()
    chromium.open(page)
    cards = "document.querySelectorAll('.card').length"
    before = chromium.run(cards)
    assert 60 <= before < 600
    chromium.run("scrollTo(0, document.documentElement.scrollHeight)")
    until = time.monotonic() + 60
    while chromium.run(cards) == before:
        assert time.monotonic() < until
        time.sleep(0.05)
    paint = "performance.getEntriesByName('first-contentful-paint')"
    while not chromium.run(f"{paint}.length"):  # it is told some time after it has been
        assert time.monotonic() < until
        time.sleep(0.05)
    first = chromium.run(f"{paint}[0].startTime")
    halted = chromium.run(
        "Math.min(...[1, 2, 3].map(() => { const start = performance.now(); arrange();"
        "document.body.offsetHeight; return performance.now() - start; }))"
    )
    assert first < 5000 and halted < 500  # a busy machine; some 200 and 30 on an idle one
    chromium.run("go(1999)")
    assert chromium.run("document.activeElement.dataset.i") == "1999"
    assert chromium.complaints() == []
