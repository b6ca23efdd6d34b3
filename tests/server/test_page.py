"""The page at `/`, in a real Chromium: it chats, streams, branches, and asks for nothing from elsewhere."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright
from serving import PATIENCE_S, Served, serving

from promptd.config import GraphSettings, KeySettings, ServerSettings, Settings
from promptd.server.keys import key_hash

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 800}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        if os.environ.get("CI") == "true":
            pytest.fail("there is no Chromium")
        pytest.skip("there is no Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        # Chromium's own sandbox cannot be had by root, as whom CI runs.
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def page(browser: Browser, served: Served) -> Iterator[Page]:
    """Return the page, whose every request and complaint is checked at the end."""
    context = browser.new_context(viewport=DESK, permissions=["clipboard-read", "clipboard-write"])
    opened = context.new_page()
    opened.set_default_timeout(PATIENCE_S * 1000)
    expect.set_options(timeout=PATIENCE_S * 1000)
    asked: list[str] = []
    complaints: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("console", lambda message: complaints.append(message.text) if _is_complaint(message) else None)
    opened.goto(served.url)
    expect(opened.locator("#model option")).not_to_have_count(0)
    yield opened
    assert [url for url in asked if not url.startswith(served.url)] == []
    assert complaints == []
    context.close()


def _is_complaint(message: ConsoleMessage) -> bool:
    # That a request was answered with an error status, the browser logs by itself.
    return message.type in ("error", "warning") and not message.text.startswith("Failed to load resource")


def _say(page: Page, model: str, text: str) -> None:
    page.select_option("#model", model)
    page.fill("#input", text)
    page.press("#input", "Enter")


def _replies(page: Page) -> list[str]:
    expect(page.locator("body")).not_to_have_class(re.compile("running"))
    return page.locator("#thread .assistant .body").all_inner_texts()


def test_a_graph_and_a_guest_can_be_talked_to(page: Page) -> None:
    assert {"chat", "echo", "guest/handler"} <= set(
        page.locator("#model option").evaluate_all("all => all.map(o => o.value)")
    )
    _say(page, "echo", "hello there")
    assert _replies(page) == ["hello there"]
    _say(page, "guest/handler", "and you")
    assert _replies(page) == ["hello there", "1/3 and you"]
    expect(page).to_have_title("promptd")


def test_a_reply_streams_and_shows_its_figures(page: Page, served: Served) -> None:
    _say(page, "chat", "Are dogs real?")
    assert _replies(page)[0]
    stats = page.locator(".stats").last
    expect(stats).to_contain_text("tokens/s")
    expect(stats).to_contain_text("to first token")
    expect(stats).to_contain_text("30 tokens")
    expect(stats).to_contain_text("cut at the token limit")
    expect(page.locator("#engine-name")).to_have_text("chat")
    expect(page.locator("#kv-note")).to_contain_text("of")


def test_markdown_is_drawn_and_markup_is_not(page: Page) -> None:
    text = (
        "# Title\n\n**bold** and `code` and [link](https://example.com) and [trap](javascript:alert(1))\n\n"
        "- one\n- two\n  1. nested\n\n```html\n<b>raw</b>\n```\n\n| a | b |\n|---|--:|\n| 1 | 2 |\n\n"
        "<img src=x onerror=alert(1)><script>alert(1)</script>"
    )
    _say(page, "echo", text)
    _replies(page)
    body = page.locator(".assistant .body")
    expect(body.locator("h2")).to_have_text("Title")
    expect(body.locator("strong")).to_have_text("bold")
    expect(body.locator("p code")).to_have_text("code")
    expect(body.locator("li li")).to_have_text("nested")
    expect(body.locator("pre")).to_have_text("<b>raw</b>")
    expect(body.locator("td")).to_have_count(2)
    expect(body.locator("a")).to_have_attribute("href", "https://example.com")
    assert body.locator("img, script, b").count() == 0
    expect(body).to_contain_text("<img src=x onerror=alert(1)>")
    expect(body).to_contain_text("[trap](javascript:alert(1))")


ATTACKS = [
    "<svg onload=alert(1)>",
    "<a href='javascript:alert(1)'>x</a>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](data:text/html,<script>alert(1)</script>)",
    "![x](https://example.com/beacon.png)",
    "[x](&#106;avascript:alert(1))",
    '[x](https://example.com/" onmouseover="alert(1))',
    '```"><img src=x onerror=alert(1)>\nx\n```',
    "[<img src=x>](https://a.b)",
    "| <iframe src=//evil.example> |\n|---|\n| <style>*{display:none}</style> |",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "# <meta http-equiv=refresh content=0;url=//evil.example>",
    "> <object data=//evil.example>",
    "[x](vbscript:x)",
    "[x](file:///etc/passwd)",
]


def test_no_markdown_becomes_markup_that_does_something(page: Page) -> None:
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    _say(page, "echo", "\n\n".join(ATTACKS))
    body = page.locator(".assistant .body")
    _replies(page)
    dangerous = "script, img, svg, iframe, object, embed, style, meta, link, form, input, base"
    assert body.locator(dangerous).count() == 0
    harmless = """all => all.flatMap(each => each.getAttributeNames()
        .filter(name => !["class", "href", "target", "rel", "type", "start"].includes(name)))"""
    assert body.locator("*").evaluate_all(harmless) == []
    for link in body.locator("a").all():
        assert re.match("https?://|mailto:", link.get_attribute("href") or "")
        assert "noopener" in (link.get_attribute("rel") or "")
    assert dialogs == []


def test_the_engine_view_shows_the_cells_of_closed_conversations_apart(page: Page) -> None:
    _say(page, "chat", "Are cats real?")
    _replies(page)
    expect(page.locator("#kv .kept")).to_have_attribute("title", re.compile("[1-9][0-9]* cells"))


def test_a_message_can_be_edited_and_both_branches_are_kept(page: Page) -> None:
    _say(page, "echo", "first")
    _replies(page)
    page.press("#input", "ArrowUp")
    expect(page.locator("#hint")).to_contain_text("new branch")
    _say(page, "echo", "second")
    assert _replies(page) == ["second"]
    expect(page.locator(".branches")).to_have_text("2 / 2")
    page.keyboard.press("Alt+ArrowLeft")
    assert _replies(page) == ["first"]
    page.get_by_label("Next branch").click()
    assert _replies(page) == ["second"]


def test_a_conversation_forks_at_any_reply(page: Page) -> None:
    for text in ("one", "two"):
        _say(page, "echo", text)
        _replies(page)
    page.locator(".assistant").first.hover()
    page.get_by_label("Fork here").first.click()
    assert _replies(page) == ["one"]
    _say(page, "echo", "other")
    assert _replies(page) == ["one", "other"]
    page.get_by_label("Previous branch").click()
    assert _replies(page) == ["one", "two"]
    page.reload()
    expect(page.locator(".assistant")).to_have_count(2)
    assert _replies(page) == ["one", "two"], "conversations outlive the page"


def test_both_branches_are_seen_side_by_side(page: Page) -> None:
    for text in ("one", "left"):
        _say(page, "echo", text)
        _replies(page)
    page.locator(".assistant").first.hover()
    page.get_by_label("Fork here").first.click()
    _say(page, "echo", "right")
    _replies(page)
    page.get_by_text("2 / 2").click()
    columns = page.locator("#beside .column")
    expect(columns).to_have_count(2)
    assert [column.locator(".body").all_inner_texts() for column in columns.all()] == [["left"] * 2, ["right"] * 2]
    columns.first.get_by_role("button", name="Go on here").click()
    expect(page.locator("#beside")).not_to_be_visible()
    assert _replies(page) == ["one", "left"]


def test_a_reply_can_be_made_again_stopped_and_copied(page: Page, served: Served) -> None:
    _say(page, "guest/handler", "#loops for ever")
    expect(page.locator(".assistant .body")).to_contain_text("#loops")
    page.get_by_label("Stop").click()
    _replies(page)
    expect(page.locator(".stats")).to_contain_text("stopped")
    page.select_option("#model", "echo")
    page.get_by_label("Answer again, as a new branch").click()
    assert _replies(page) == ["#loops for ever"]
    expect(page.locator(".branches")).to_have_text("2 / 2")
    page.get_by_label("Copy").last.click()
    assert page.evaluate("navigator.clipboard.readText()") == "#loops for ever"


def test_a_failure_is_told_in_place(page: Page) -> None:
    _say(page, "guest/handler", "!")
    expect(page.locator(".error")).to_contain_text("try later")


def test_the_page_fits_a_phone_and_follows_the_scheme(page: Page) -> None:
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    _say(page, "echo", "a" * 200 + "\n\n```\n" + "b" * 200 + "\n```")
    _replies(page)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    page.locator("#menu").click()
    expect(page.locator("#new")).to_be_in_viewport()
    page.keyboard.press("Escape")

    def background() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    page.emulate_media(color_scheme="light")
    light = background()
    page.emulate_media(color_scheme="dark")
    assert background() != light
    page.locator("#menu").click()
    page.locator("#theme").click()
    assert background() == light


def test_a_daemon_with_keys_asks_for_one(browser: Browser) -> None:
    keys = (KeySettings(name="me", sha256=key_hash("pd-secret")),)
    settings = Settings(graphs={"echo": GraphSettings(model="echo")}, server=ServerSettings(keys=keys))
    with serving(settings) as served:
        page = browser.new_page()
        page.goto(served.url)
        expect(page.locator("#ask-key")).to_contain_text("asks for a key")
        page.fill("#key", "pd-wrong")
        page.press("#key", "Enter")
        expect(page.locator("#ask-key")).to_contain_text("does not know that key")
        page.fill("#key", "pd-secret")
        page.press("#key", "Enter")
        expect(page.locator("#model option")).to_have_count(1)
        _say(page, "echo", "let in")
        assert _replies(page) == ["let in"]
        page.close()


def test_the_page_says_what_it_may_load(served: Served) -> None:
    response = served.http.get("/")
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in response.headers["Content-Security-Policy"]
    assert served.http.get("/page/app.js").headers["Content-Type"].startswith("text/javascript")
    for script in re.findall(r'from "./(\w+\.js)"', served.http.get("/page/app.js").text):
        assert served.http.get(f"/page/{script}").status_code == 200
    assert served.http.get("/page/nothing.js").status_code == 404
    assert served.http.get("/page/..%2fapp.py").status_code == 404
