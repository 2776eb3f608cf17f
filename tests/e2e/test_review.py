"""The tab Review: real services with reviewers' keys, and a real browser."""

import hashlib
import json
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Route, expect

from tests.e2e.conftest import opened
from tests.support.service import Served

SCOPES = {
    "alice": "predict+review",
    "bob": "predict+review",
    "carol": "review",
    "page": "predict+feedback",
    "ops": "admin",
}
HOSTILE = "<script>document.title='hit'</script><img src=x onerror=alert(1)> </p> & &lt;b&gt; end"
ARABIC = "يا له من مهرج، اجلس"


def secret(name: str) -> str:
    return f"the secret key of {name}"


KEYS = ",".join(
    f"{name}:{hashlib.sha256(secret(name).encode()).hexdigest()}:{scopes}"
    for name, scopes in SCOPES.items()
)


class Reviewed(Served):
    """A service with reviewers; its queue has only what `wait_for_review` puts there."""

    def __init__(self, bundle: Path, folder: Path, **settings: str) -> None:
        settings = {
            "API_KEYS": KEYS,
            "REVIEW_RANDOM_SHARE": "0",
            "REVIEW_SECOND_SHARE": "0",
            "MAX_QUEUE_SECONDS": "60",
        } | settings
        self.folder = folder
        super().__init__(bundle, folder, **settings)

    def call(self, name: str, method: str, path: str, content: object = None) -> httpx.Response:
        """Send a request with a key."""
        headers = {"authorization": f"Bearer {secret(name)}"}
        reply = self.http.request(method, path, json=content, headers=headers)
        assert reply.status_code < 300, reply.text
        return reply

    def wait_for_review(self, *texts: str) -> list[str]:
        """Predict texts, and contradict the model, so that they wait; return the ids.

        The newest comes first: the queue gives the last of the texts first.
        """
        ids = []
        for text in texts:
            reply = self.call("page", "POST", "/v1/predict", {"texts": [text]}).json()
            ids.append(reply["predictions"][0]["id"])
            label = "hate" if reply["predictions"][0]["label"] != "hate" else "neither"
            feedback = {"prediction_id": ids[-1], "label": label}
            self.call("page", "POST", "/v1/feedback", feedback)
        return ids

    def reviews(self) -> list[tuple[str, str, str, str | None]]:
        """The stored reviews: reviewer, text, label and note; the oldest first."""
        with closing(sqlite3.connect(f"file:{self.folder / 'outbox.db'}?mode=ro", uri=True)) as db:
            rows = [json.loads(body) for (body,) in db.execute("SELECT body FROM review")]
        rows.sort(key=lambda row: row["ts"])
        return [(row["reviewer"], row["text"], row["label"], row.get("note")) for row in rows]


@contextmanager
def reviewed(bundle: Path, folder: Path, **settings: str) -> Iterator[Reviewed]:
    """Run a service with reviewers."""
    folder.mkdir(exist_ok=True)
    service = Reviewed(bundle, folder, **settings)
    try:
        yield service
    finally:
        service.stop()


@pytest.fixture
def service(bundle: Path, tmp_path: Path) -> Iterator[Reviewed]:
    with reviewed(bundle, tmp_path) as service:
        yield service


@contextmanager
def reviewer(browser: Browser, url: str, name: str = "alice", **options: Any) -> Iterator[Page]:
    """Open the tab Review with a reviewer's key."""
    with opened(browser, f"{url}/healthz", **options) as page:
        page.evaluate("key => sessionStorage.setItem('tweet-tagger-key', key)", secret(name))
        page.goto(f"{url}/#review")
        yield page


def expect_text(page: Page, text: str) -> None:
    """Wait until a text is the one to review."""
    expect(page.locator("#review-text")).to_have_text(text)


def expect_counts(page: Page, reviewed: int, waiting: int) -> None:
    tiles = page.locator("#review-counts .tile-count")
    expect(tiles.nth(0)).to_have_text(str(reviewed))
    expect(tiles.nth(1)).to_have_text(str(waiting))


def tab_to(page: Page, target: str, key: str = "Tab") -> None:
    """Move the focus with the keyboard to an element, which must show it."""
    for _ in range(40):
        page.keyboard.press(key)
        if page.evaluate("s => document.activeElement.matches(s)", target):
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline != "none", f"{target} shows no focus"
            return
    pytest.fail(f"{key} does not reach {target}")


def violations(page: Page) -> list[str]:
    """What axe finds, with the elements."""
    return [
        f"{rule['id']}: {[node['target'] for node in rule['nodes']]}"
        for rule in Axe().run(page).response["violations"]
    ]


def test_a_review_needs_the_keyboard_only(browser: Browser, service: Reviewed) -> None:
    service.wait_for_review("five", "four", "three", "two", "one")
    with opened(browser, service.url) as page:
        tab_to(page, "#tab-one")
        page.keyboard.press("ArrowLeft")  # around, to the last tab
        expect(page.locator("#review")).to_be_visible()
        expect(page.locator("#review-error")).to_contain_text("an API key with the scope review")
        tab_to(page, "#key", "Shift+Tab")
        page.keyboard.type(secret("alice"))
        page.keyboard.press("Enter")
        expect(page.get_by_role("tab", name="Review")).to_have_attribute("aria-selected", "true")
        for text, key, said in (
            ("one", "h", "Stored as “hate”."),
            ("two", "O", "Stored as “offensive”."),
            ("three", "n", "Stored as “neither”."),
            ("four", "u", "Stored as “unsure”."),
            ("five", "s", "Skipped."),
        ):
            expect_text(page, text)
            expect(page.locator("#review-reason")).to_have_text("feedback contradicts the model")
            page.keyboard.press(key)
            expect(page.locator("#review-status")).to_contain_text(said)
        expect(page.locator("#review-state")).to_have_text("Nothing waits for review.")

        tab_to(page, "#review-again")
        service.wait_for_review("six")
        page.keyboard.press("Enter")
        expect_text(page, "six")
        service.wait_for_review("seven")
        tab_to(page, "#review-scroll")
        tab_to(page, "#review-note")
        page.keyboard.type("hons: a note, not a decision")
        tab_to(page, "#decisions [data-label=hate]")
        tab_to(page, "#decisions [data-label=neither]")
        page.keyboard.press("Enter")
        expect_text(page, "seven")
        tab_to(page, "#undo", "Shift+Tab")
        page.keyboard.press("Space")
        expect_text(page, "six")
        expect(page.get_by_label("Note")).to_have_value("hons: a note, not a decision")
        page.keyboard.press("o")
        expect_text(page, "seven")
        expect(page.locator("#review-status")).to_contain_text("Stored as “offensive”.")
        expect_counts(page, reviewed=5, waiting=1)
    assert service.reviews() == [
        ("alice", "one", "hate", None),
        ("alice", "two", "offensive", None),
        ("alice", "three", "neither", None),
        ("alice", "four", "unsure", None),
        ("alice", "five", "skip", None),
        ("alice", "six", "offensive", "hons: a note, not a decision"),
    ]


def test_the_item_shows_what_the_model_said_and_why(browser: Browser, service: Reviewed) -> None:
    text = "you absolute clown, sit down and stop talking rubbish 🤡"
    service.wait_for_review(text)
    said = service.call("page", "POST", "/v1/predict", {"texts": [text]}).json()["predictions"][0]
    with reviewer(browser, service.url) as page:
        expect_text(page, text)
        expect(page.locator("#review-label")).to_have_text(said["label"].capitalize())
        shown = [page.locator(f"#review-{part} .number") for part in ("scores", "attributes")]
        for cells, values in zip(shown, (said["scores"], said["attributes"]), strict=True):
            found = [float(cell.removesuffix(" %")) for cell in cells.all_text_contents()]
            assert found == pytest.approx([100 * p for p in values.values()], abs=0.51)
        expect(page.locator("#review-text .word")).to_have_count(10)
        expect(page.locator("#review-why")).to_contain_text(f"probability of “{said['label']}”")
        assert page.locator("#review-text").text_content() == text
        for key, label in zip("HONUS", ("Hate", "Offensive", "Neither", "Unsure", "Skip"),
                              strict=True):  # fmt: skip
            button = page.get_by_role("button", name=label, exact=True)
            expect(button).to_have_attribute("aria-keyshortcuts", key)


def test_undo_goes_back_several_decisions(browser: Browser, service: Reviewed) -> None:
    service.wait_for_review("three", "two", "one")
    with reviewer(browser, service.url) as page:
        expect_text(page, "one")
        expect_counts(page, reviewed=0, waiting=3)
        page.keyboard.press("z")
        expect(page.locator("#review-status")).to_contain_text("There is nothing to undo.")
        page.keyboard.press("h")
        expect_text(page, "two")
        page.keyboard.press("h")
        expect_text(page, "three")
        page.keyboard.press("h")
        expect(page.locator("#review-state")).to_have_text("Nothing waits for review.")
        assert len(service.reviews()) == 3
        for text in ("three", "two", "one"):
            page.keyboard.press("z")
            expect_text(page, text)
        expect(page.locator("#review-status")).to_contain_text("Undone: “hate”.")
        expect_counts(page, reviewed=0, waiting=3)
        assert service.reviews() == []
        page.keyboard.press("n")
        expect_text(page, "two")
        expect_counts(page, reviewed=1, waiting=2)
    assert service.reviews() == [("alice", "one", "neither", None)]


def test_a_decision_and_its_undo_keep_their_order(browser: Browser, service: Reviewed) -> None:
    """Keys may be faster than the service."""
    service.wait_for_review("two", "one")

    def slowly(route: Route) -> None:
        time.sleep(0.3)
        route.continue_()

    with reviewer(browser, service.url) as page:
        expect_text(page, "one")
        page.route("**/v1/review/*", slowly)
        page.keyboard.press("h")
        expect_text(page, "two")  # at once, before the review is stored
        for key in ("z", "o", "z", "n"):
            page.keyboard.press(key)
        expect(page.locator("#review-status")).to_contain_text("Stored as “neither”.")
        expect_text(page, "two")
        expect_counts(page, reviewed=1, waiting=1)
    assert service.reviews() == [("alice", "one", "neither", None)]


def test_a_page_that_is_closed_too_early_asks_first(browser: Browser, service: Reviewed) -> None:
    service.wait_for_review("two", "one")
    with reviewer(browser, service.url) as page:
        expect_text(page, "one")
        page.route("**/v1/review/*", lambda _: None)  # never answered
        page.keyboard.press("h")
        expect_text(page, "two")
        leave = "() => dispatchEvent(new Event('beforeunload', { cancelable: true }))"
        assert page.evaluate(leave) is False  # the browser asks


def test_keys_do_nothing_in_the_note_and_where_they_are_switched_off(
    browser: Browser, service: Reviewed
) -> None:
    service.wait_for_review("three", "two", "one")
    with reviewer(browser, service.url) as page:
        expect_text(page, "one")
        page.get_by_label("Note").click()
        page.keyboard.type("honus z")
        expect_text(page, "one")
        page.keyboard.press("Escape")
        page.keyboard.press("Control+h")
        page.keyboard.press("h")
        expect_text(page, "two")
        expect(page.get_by_label("Note")).to_have_value("")
        expect(page.locator("#review-status")).to_contain_text("Stored")
        page.get_by_label("Letter keys decide").uncheck()
        page.keyboard.press("h")
        page.reload()
        expect_text(page, "two")
        page.keyboard.press("h")
        button = page.get_by_role("button", name="Hate", exact=True)
        assert button.get_attribute("aria-keyshortcuts") is None
        button.click()
        expect_text(page, "three")
        page.get_by_label("Letter keys decide").check()
        page.get_by_role("tab", name="Many texts").click()
        page.keyboard.press("h")
        page.get_by_role("tab", name="Review").click()
        page.keyboard.down("u")
        page.keyboard.down("u")  # a key that is held repeats
        expect(page.locator("#review-state")).to_have_text("Nothing waits for review.")
    assert service.reviews() == [
        ("alice", "one", "hate", "honus z"),
        ("alice", "two", "hate", None),
        ("alice", "three", "unsure", None),
    ]


def test_a_key_that_is_held_decides_once(browser: Browser, service: Reviewed) -> None:
    service.wait_for_review("two", "one")
    with reviewer(browser, service.url) as page:
        expect_text(page, "one")
        for _ in range(5):
            page.keyboard.down("h")
        expect(page.locator("#review-status")).to_contain_text("Stored")
        expect_text(page, "two")
    assert len(service.reviews()) == 1


def test_the_tab_keeps_its_state(browser: Browser, service: Reviewed) -> None:
    service.wait_for_review("two", "one")
    with reviewer(browser, service.url) as page:
        expect_text(page, "one")
        page.get_by_label("Note").fill("half a note")
        service.wait_for_review("newer, and so before them in the queue")
        page.get_by_role("tab", name="One text").click()
        page.keyboard.press("h")
        page.get_by_role("tab", name="Review").click()
        expect_counts(page, reviewed=0, waiting=3)
        expect_text(page, "one")
        expect(page.get_by_label("Note")).to_have_value("half a note")
        expect(page.locator("#review-text .word").first).to_be_visible()
    assert service.reviews() == []


def test_an_empty_queue_says_so_and_is_asked_again(browser: Browser, service: Reviewed) -> None:
    with reviewer(browser, service.url) as page:
        expect(page.locator("#review-state")).to_have_text("Nothing waits for review.")
        expect(page.locator("#review-item")).to_be_hidden()
        expect_counts(page, reviewed=0, waiting=0)
        page.get_by_role("button", name="Look again").focus()
        service.wait_for_review("one")
        page.keyboard.press("Enter")
        expect_text(page, "one")
        expect(page.locator("#review-text-head")).to_be_focused()
        expect(page.locator("#review-status")).to_contain_text("A text waits for your decision.")
        page.get_by_role("button", name="Hate", exact=True).click()
        expect(page.locator("#review-state")).to_have_text("Nothing waits for review.")
        expect(page.locator("#review-head")).to_be_focused()


@pytest.mark.parametrize(
    ("keys", "name", "reason"),
    [
        (KEYS, "page", "This API key does not have the scope review."),
        (KEYS, "nobody", "The service does not know this API key."),
        ("", None, "Reviews need an API key with the scope review."),
    ],
)
def test_without_the_scope_the_tab_says_how_to_make_a_key(
    browser: Browser, bundle: Path, tmp_path: Path, keys: str, name: str | None, reason: str
) -> None:
    with reviewed(bundle, tmp_path, API_KEYS=keys) as service:
        tab = reviewer(browser, service.url, name) if name else opened(browser, service.url)
        with tab as page:
            page.get_by_role("tab", name="Review").click()
            expect(page.locator("#review-error")).to_contain_text(reason)
            command = "tweet-tagger key new alice --scope review --scope predict"
            expect(page.locator("#review-error code")).to_have_text(command)
            expect(page.get_by_label("API key of a reviewer")).to_be_visible()
            expect(page.locator("#review-item")).to_be_hidden()


def test_a_key_without_predict_reviews_without_the_words(
    browser: Browser, service: Reviewed
) -> None:
    service.wait_for_review("two", "one")
    with reviewer(browser, service.url, "carol") as page:
        expect_text(page, "one")
        expect(page.locator("#review-why")).to_contain_text("needs the scope predict")
        page.keyboard.press("h")
        expect_text(page, "two")


def test_a_review_does_not_wait_for_the_words(browser: Browser, service: Reviewed) -> None:
    service.wait_for_review("two", "one")
    with reviewer(browser, service.url) as page:
        page.route("**/v1/explain", lambda _: None)  # never answered
        expect_text(page, "one")
        page.keyboard.press("h")
        expect_text(page, "two")
        expect(page.locator("#review-status")).to_contain_text("Stored as “hate”.")


def test_a_reviewer_who_works_keeps_the_text(
    browser: Browser, bundle: Path, tmp_path: Path
) -> None:
    with reviewed(bundle, tmp_path, REVIEW_LEASE_SECONDS="8") as service:
        service.wait_for_review("one")
        with reviewer(browser, service.url) as page:
            expect_text(page, "one")
            for i in range(12):  # seconds
                page.mouse.move(300 + i, 300)
                page.wait_for_timeout(1000)
                assert service.call("bob", "GET", "/v1/review").json()["items"] == []
            expect_text(page, "one")
            page.keyboard.press("h")
            expect(page.locator("#review-status")).to_contain_text("Stored as “hate”.")
        assert service.reviews() == [("alice", "one", "hate", None)]


def test_a_reviewer_who_is_away_is_told_that_the_lease_ran_out(
    browser: Browser, bundle: Path, tmp_path: Path
) -> None:
    with reviewed(bundle, tmp_path, REVIEW_LEASE_SECONDS="3") as service:
        service.wait_for_review("one")
        with reviewer(browser, service.url) as page:
            expect_text(page, "one")
            page.get_by_label("Note").fill("typed before")
            expect(page.locator("#review-state")).to_contain_text("Your time for the text ran out")
            expect(page.locator("#review-item")).to_be_hidden()
            page.keyboard.press("h")  # decides nothing that is not shown
            page.get_by_role("button", name="Go on").click()
            expect_text(page, "one")
            expect(page.get_by_label("Note")).to_have_value("typed before")
        assert service.reviews() == []


def test_a_decision_after_the_lease_is_dropped_and_the_next_text_shown(
    browser: Browser, bundle: Path, tmp_path: Path
) -> None:
    def promise_more(route: Route) -> None:
        """The page believes in a lease of an hour, as if its machine had been asleep."""
        reply = route.fetch()
        content = reply.json()
        for item in content["items"]:
            item["lease_until"] = "2100-01-01T00:00:00+00:00"
        route.fulfill(response=reply, json=content)

    with reviewed(bundle, tmp_path, REVIEW_LEASE_SECONDS="2") as service:
        service.wait_for_review("two", "one")
        with reviewer(browser, f"{service.url}") as page:
            expect_text(page, "one")
            page.route("**/v1/review?*", promise_more)
            page.reload()
            expect_text(page, "one")
            page.wait_for_timeout(2500)
            taken = service.call("bob", "GET", "/v1/review").json()["items"]
            assert [item["text"] for item in taken] == ["one"]
            page.keyboard.press("h")
            expect_text(page, "two")
            expect(page.locator("#review-status")).to_contain_text(
                "“Hate” was not stored: your time for that text ran out."
            )
        assert service.reviews() == []


def test_an_erased_text_is_dropped(browser: Browser, service: Reviewed) -> None:
    _, first = service.wait_for_review("two", "one")
    with reviewer(browser, service.url) as page:
        expect_text(page, "one")
        service.call("ops", "DELETE", f"/v1/predictions/{first}")
        page.keyboard.press("h")
        expect_text(page, "two")
        expect(page.locator("#review-status")).to_contain_text("that text was erased")


def test_a_service_that_stops_loses_no_decision(
    browser: Browser, bundle: Path, tmp_path: Path
) -> None:
    with reviewed(bundle, tmp_path) as service:
        service.wait_for_review("two", "one")
        with reviewer(browser, service.url) as page:
            expect_text(page, "one")
            page.get_by_label("Note").fill("kept")
            page.keyboard.press("Escape")
            service.stop()
            page.keyboard.press("h")
            expect(page.locator("#review-error")).to_contain_text(
                "“Hate” was not stored: The service cannot be reached."
            )
            expect_text(page, "one")
            expect(page.get_by_label("Note")).to_have_value("kept")
            with reviewed(bundle, tmp_path, PORT=str(service.port)) as again:
                expect(page.locator("#review-status")).to_contain_text("The service answers again.")
                expect(page.locator("#review-error")).to_be_hidden()
                page.keyboard.press("h")
                expect(page.locator("#review-status")).to_contain_text("Stored as “hate”.")
                expect_text(page, "two")
                assert again.reviews() == [("alice", "one", "hate", "kept")]


@pytest.mark.parametrize(
    ("status", "message"),
    [(429, "Server overloaded, retry later"), (503, "The review store is unavailable")],
)
def test_a_busy_service_is_asked_again(
    browser: Browser, service: Reviewed, status: int, message: str
) -> None:
    def refuse(route: Route) -> None:
        route.fulfill(
            status=status,
            headers={"retry-after": "6"},
            json={"error": {"type": "overloaded", "message": message}},
        )

    service.wait_for_review("one")
    with reviewer(browser, service.url) as page:
        expect_text(page, "one")
        page.route("**/v1/review**", refuse)
        page.keyboard.press("h")
        error = page.locator("#review-error")
        expect(error).to_have_text(f"“Hate” was not stored: {message}. Try again in 6 s.")
        expect_text(page, "one")
        page.unroute("**/v1/review**")
        expect(page.locator("#review-status")).to_contain_text("The service answers again.")
        page.route("**/v1/review**", refuse)
        page.reload()
        expect(error).to_have_text(f"The queue cannot be read: {message}. Try again in 6 s.")
        page.unroute("**/v1/review**")
        expect_text(page, "one")
        expect(error).to_be_hidden()


def test_a_service_that_stores_no_texts_says_so(
    browser: Browser, bundle: Path, tmp_path: Path
) -> None:
    with (
        reviewed(bundle, tmp_path, STORE_TEXT="hash") as service,
        reviewer(browser, service.url) as page,
    ):
        expect(page.locator("#review-error")).to_contain_text("TAGGER_STORE_TEXT")
        expect(page.locator("#review-item")).to_be_hidden()


def test_two_reviewers_get_different_texts_and_their_agreement(
    browser: Browser, bundle: Path, tmp_path: Path
) -> None:
    texts = [f"text {i}" for i in range(6)]
    with reviewed(bundle, tmp_path, REVIEW_SECOND_SHARE="1") as service:
        service.wait_for_review(*texts)
        with reviewer(browser, service.url) as alice, reviewer(browser, service.url, "bob") as bob:
            for page in (alice, bob):
                expect(page.locator("#review-text")).to_contain_text(re.compile(r"text \d"))
            seen = [page.locator("#review-text").text_content() for page in (alice, bob)]
            assert seen[0] != seen[1]
            kappa = alice.locator("#review-counts .tile").nth(2)
            expect(kappa).to_contain_text("—")
            assert review_all(alice) == 3
            assert review_all(bob) == 6  # three are alice's, for a second opinion
            alice.reload()
            expect(alice.locator("#review-reason")).to_have_text("second opinion")
            expect(kappa).to_contain_text("1.00")
            expect(kappa).to_contain_text("3 pairs")


def review_all(page: Page) -> int:
    """Decide on texts that end with a number until none is left; return how many there were."""
    shown = page.locator("#review-text:visible, #review-again:visible")
    count = 0
    while (text := shown.first.text_content()) != "Look again":
        page.keyboard.press("h" if int((text or "")[-1]) % 2 else "n")
        count += 1
        expect(page.locator("#review-counts .tile-count").first).to_have_text(str(count))
    return count


@pytest.mark.parametrize("text", [HOSTILE, ARABIC, "🤡👩‍👩‍👧 \u202eback\u202c", "word " * 1900])
def test_any_text_is_shown_as_it_is(browser: Browser, service: Reviewed, text: str) -> None:
    service.wait_for_review(text)
    with reviewer(browser, service.url) as page:
        expect(page.locator("#review-item")).to_be_visible()
        expect(page.locator("#review-why")).to_contain_text(re.compile("Shaded|no words"))
        assert page.locator("#review-text").text_content() == text
        assert page.title() == "Tweet Tagger"
        assert page.locator("#review img, #review script").count() == 0
        direction = page.locator("#review-text").evaluate("e => getComputedStyle(e).direction")
        assert direction == ("rtl" if text == ARABIC else "ltr")
        box = page.locator("#review-scroll").bounding_box()
        assert box
        assert box["height"] <= 400
        assert page.evaluate("document.documentElement.scrollWidth") <= 1280


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 320])
def test_axe_finds_no_violation(
    browser: Browser, service: Reviewed, scheme: str, width: int
) -> None:
    def check() -> None:
        assert not violations(page)
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, "the page scrolls sideways"

    service.wait_for_review("long " * 800, "you absolute clown, sit down 🤡")
    look = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
    with reviewer(browser, service.url, "page", **look, reduced_motion="reduce") as page:
        expect(page.locator("#review-error")).to_be_visible()
        check()
        page.evaluate("key => sessionStorage.setItem('tweet-tagger-key', key)", secret("alice"))
        page.reload()
        expect(page.locator("#review-text .word").first).to_be_visible()
        check()
        page.keyboard.press("h")
        expect(page.locator("#review-text")).to_contain_text("long")
        expect(page.locator("#review-text .word").first).to_be_visible()
        check()
        page.keyboard.press("s")
        expect(page.locator("#review-state")).to_have_text("Nothing waits for review.")
        check()
