import csv
import io
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from serving.bundle import ATTRIBUTES, content_version
from tests.e2e.conftest import SHOTS, TIMEOUT_MS, serving

TEXT = "you absolute clown, sit down and stop talking rubbish 🤡"
HOSTILE = (
    "<script>document.title='hit'</script></script><img src=x onerror=alert(1)> \"quoted\" 'it' "
    "`${1}` &lt;b&gt; \u202eright to left\u202c עברית <!-- </textarea> 😂 \\u003c end"
)


def classify(page: Page, text: str) -> None:
    page.get_by_label("Your text").fill(text)
    page.get_by_role("button", name="Classify").click()
    expect(page.locator("#result")).to_be_visible()


def stored(log: Path) -> list[dict[str, object]]:
    """The records in the outbox, oldest first."""
    with closing(sqlite3.connect(f"file:{log / 'outbox.db'}?mode=ro", uri=True)) as outbox:
        return [json.loads(body) for (body,) in outbox.execute("SELECT body FROM log ORDER BY seq")]


def serious(page: Page) -> list[str]:
    """The serious problems that axe finds, with their elements."""
    violations = Axe().run(page).response["violations"]
    return [
        f"{rule['id']}: {[node['target'] for node in rule['nodes']]}"
        for rule in violations
        if rule["impact"] in {"serious", "critical"}
    ]


def test_a_text_gets_a_label_an_explanation_and_the_raw_response(page: Page) -> None:
    classify(page, TEXT)
    expect(page.locator("#weights tr").first).to_be_visible()
    shown = json.loads(page.locator("#raw").inner_text() or page.locator("#raw").text_content())
    predicted = shown["predict"]["predictions"][0]
    expect(page.locator("#label")).to_have_text(predicted["label"].capitalize())
    expect(page.locator("#scores tr")).to_have_count(3)
    names = page.locator("#attributes th").all_text_contents()
    assert [name.upper().replace(" ", "_") for name in names] == list(ATTRIBUTES)
    for cell, p in zip(
        page.locator("#attributes .number").all_text_contents(),
        predicted["attributes"].values(),
        strict=True,
    ):
        assert float(cell.removesuffix(" %")) == pytest.approx(100 * p, abs=0.51)
    expect(page.locator("#meta")).to_contain_text(shown["predict"]["model"]["version"])
    assert page.locator("#shaded").text_content() == TEXT
    words = shown["explain"][0]["words"]
    assert page.locator("#shaded .word").all_text_contents() == [
        row["word"] for row in sorted(words, key=lambda row: row["begin"])
    ]
    expect(page.locator("#weights th").first).to_have_text(words[0]["word"])

    expect(page.get_by_label("Explain")).to_have_value(predicted["label"])
    for name, shown_name in (("neither", "“neither”"), ("SEVERE_TOXICITY", "“severe toxicity”")):
        page.get_by_label("Explain").select_option(name)
        expect(page.locator("#why-status")).to_contain_text(shown_name)
    shown = json.loads(page.locator("#raw").text_content() or "")
    assert shown["explain"][-1]["label"] == "SEVERE_TOXICITY"


def test_another_result_moves_nothing_but_its_own_card(page: Page) -> None:
    """The tables have their rows before the explanation comes, and as many for every text."""
    classify(page, TEXT)
    card = page.locator("article.decision .tables")
    before = card.bounding_box()
    expect(page.locator("#weights tr").first).to_be_visible()
    assert card.bounding_box() == before
    page.get_by_label("Explain").select_option("THREAT")
    expect(page.locator("#why-status")).to_contain_text("“threat”")
    assert card.bounding_box() == before
    classify(page, "have a lovely day")
    expect(page.locator("#weights th").first).to_be_visible()
    assert card.bounding_box() == before


def test_examples_can_be_clicked(page: Page) -> None:
    page.locator("#examples button").first.click()
    expect(page.locator("#result")).to_be_visible()
    assert len(page.get_by_label("Your text").input_value()) > 20


def test_feedback_reaches_the_log(page: Page, log: Path) -> None:
    classify(page, "the log has this text")
    page.locator("#labels").get_by_text("Neither").click()
    page.get_by_label("Comment").fill("it quotes somebody")
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#feedback-status")).to_have_text("Thank you. Stored as “neither”.")
    records = stored(log)
    (prediction,) = [row for row in records if row.get("text") == "the log has this text"]
    (feedback,) = [row for row in records if row.get("comment") == "it quotes somebody"]
    assert feedback["label"] == "neither"
    assert feedback["prediction_id"] == prediction["_id"]


def test_a_private_text_is_not_stored_and_takes_no_feedback(page: Page, log: Path) -> None:
    page.get_by_label("Do not store this text").check()
    classify(page, "this text is not stored")
    expect(page.locator("#feedback-status")).to_contain_text("was not stored")
    expect(page.get_by_role("button", name="Send")).to_be_hidden()
    assert not [row for row in stored(log) if row.get("text") == "this text is not stored"]


def test_a_csv_of_500_rows_is_classified(page: Page, tmp_path: Path) -> None:
    texts = [f"you absolute clown number {i}" if i % 2 else f"a fine day, {i}" for i in range(500)]
    texts[7], texts[8] = '=HYPERLINK("http://x")', '@SUM(1) said "two\nlines", and more'
    path = tmp_path / "tweets.csv"
    with path.open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([("id", "tweet"), *enumerate(texts)])
    page.get_by_role("tab", name="Many texts").click()
    page.locator("#file").set_input_files(path)
    expect(page.locator("#column")).to_have_value("1")
    expect(page.locator("#ready-count")).to_have_text("500 texts")
    page.get_by_role("button", name="Classify all").click()
    expect(page.locator("#progress-text")).to_contain_text("500 of 500 texts classified")
    counts = [int(count) for count in page.locator(".tile-count").all_text_contents()[:3]]
    assert sum(counts) == 500
    expect(page.locator("#picture svg")).to_be_visible()
    expect(page.locator("#rows tr")).to_have_count(50)
    expect(page.locator("#page")).to_have_text("Page 1 of 10")

    page.get_by_role("button", name="Offensive").click()
    expect(page.locator("#heads [aria-sort=descending]")).to_contain_text("Offensive")
    column = [float(cell) for cell in page.locator("#rows tr td:nth-child(5)").all_text_contents()]
    assert column == sorted(column, reverse=True)
    page.get_by_label("Contains").fill("clown number 33")
    expect(page.locator("#rows-status")).to_have_text("6 of 500 texts")  # 33, 331, 333, … 339

    page.get_by_label("Contains").fill("")
    page.get_by_role("button", name="#").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    content = Path(download.value.path()).read_text(encoding="utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(content, newline="")))
    assert [int(row["row"]) for row in rows] == list(range(1, 501))
    # What a spreadsheet would run is text now.
    assert [rows[7]["text"], rows[8]["text"]] == ["'" + texts[7], "'" + texts[8]]
    assert rows[9]["text"] == texts[9]
    assert all(0 <= float(rows[9][name]) <= 1 for name in ATTRIBUTES)
    total = sum(float(rows[9][label]) for label in ("hate", "offensive", "neither"))
    assert total == pytest.approx(1, abs=1e-4)


def choose(page: Page, name: str, content: str | bytes) -> None:
    buffer = content.encode() if isinstance(content, str) else content
    page.get_by_role("tab", name="Many texts").click()
    page.locator("#file").set_input_files({"name": name, "mimeType": "", "buffer": buffer})


@pytest.mark.parametrize(
    ("name", "content", "count"),
    [
        ("a.csv", "sep=;\r\nid;text\r\n1;hi, you\r\n2;\r\n", "1 texts, 1 blank ones are left out"),
        ("A.CSV", "\ufeffid;text\n1;hi, you\n2;ho\n", "2 texts"),
        ("a.tsv", "id\ttext\n1\thi, you\n2\tho\n", "2 texts"),
        ("a.jsonl", '{"id": 1, "text": "hi"}\n\n{"text": "two\\nlines"}\n', "2 texts"),
        ("a.csv", 'id,text\r1,"two\r\nlines"\r2,ho\r', "2 texts"),
        ("a.TXT", "\ufeffhi, you\r\nho\r\n", "2 texts"),
    ],
)
def test_what_spreadsheets_write_is_read(page: Page, name: str, content: str, count: str) -> None:
    choose(page, name, content)
    expect(page.locator("#ready-count")).to_have_text(count)
    expect(page.locator("#many-error")).to_be_hidden()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "text,label\nwell, you,hate\n", "line 2: 3 fields, the first line has 2."),
        (
            "a.csv",
            "text,n\n" + "a,b,c\n" * 7,
            "line 6: 3 fields, the first line has 2; 7 lines in all",
        ),
        ("a.csv", 'text,label\n"hi,hate\nho,hate\n', "line 2: a quotation mark is not closed"),
        ("a.csv", 'text,label\n"hi,hate\nho",hate\n', "line 2: a cell has other rows in it"),
        ("a.csv", "text\na\0b\n", "line 2: a NUL byte"),
        ("a.csv", b"text\nok\n\x93hi\x94\n", "line 3: not UTF-8. In Excel, save it as"),
        ("a.xlsx", b"PK\x03\x04", "The file is a spreadsheet or a ZIP archive. In Excel, save"),
        ("a.jsonl", '{"text": "hi"}\nho\n', "line 2: not a JSON object"),
        ("a.json", '[{"text": "hi"}]', "Please write one object on each line"),
        ("a.csv", "\n", "The file is empty."),
    ],
)
def test_a_row_that_does_not_fit_is_an_error(
    page: Page, name: str, content: str | bytes, message: str
) -> None:
    choose(page, name, content)
    expect(page.locator("#many-error")).to_contain_text(message)
    expect(page.locator("#ready-count")).to_have_text("")


def test_the_export_can_be_uploaded_again(page: Page) -> None:
    texts = ["=1+1", "'=1", "'quoted'", " -x", "a fine day"]
    page.get_by_role("tab", name="Many texts").click()
    page.get_by_label("Or paste texts").fill("\n".join(texts))
    for _ in range(2):
        page.get_by_role("button", name="Classify all").click()
        expect(page.locator("#progress-text")).to_contain_text("5 of 5 texts classified")
        assert page.locator("#rows .text").all_text_contents() == texts
        with page.expect_download() as download:
            page.get_by_role("button", name="Download CSV").click()
        choose(page, "tweet-tagger.csv", Path(download.value.path()).read_bytes())
        expect(page.locator("#ready-count")).to_have_text("5 texts")


def test_a_pasted_list_is_sent_again_after_a_429(page: Page) -> None:
    refused: list[str] = []

    def refuse_twice(route: object) -> None:
        if len(refused) < 2:
            refused.append("")
            route.fulfill(  # type: ignore[attr-defined]
                status=429,
                headers={"retry-after": "1"},
                json={"error": {"type": "overloaded", "message": "Too much waits already."}},
            )
        else:
            route.continue_()  # type: ignore[attr-defined]

    page.route("**/v1/predict", refuse_twice)
    page.get_by_role("tab", name="Many texts").click()
    page.get_by_label("Or paste texts").fill("one\n\n  \ntwo\nthree")
    page.get_by_role("button", name="Classify all").click()
    expect(page.locator("#progress-text")).to_contain_text("3 of 3 texts classified")
    assert len(refused) == 2


def test_errors_are_shown_as_sentences(page: Page) -> None:
    page.get_by_role("button", name="Classify").click()
    expect(page.locator("#one-error")).to_have_text("Please type or paste a text first.")
    page.get_by_label("Your text").fill("a" * 10_001)
    page.get_by_role("button", name="Classify").click()
    expect(page.locator("#one-error")).to_contain_text("10001 characters are too many")
    page.route("**/v1/predict", lambda route: route.abort())
    page.get_by_label("Your text").fill("hello")
    page.get_by_role("button", name="Classify").click()
    expect(page.locator("#one-error")).to_contain_text("cannot be reached")
    page.unroute("**/v1/predict")
    page.route("**/v1/explain", lambda route: route.fulfill(status=502, body="<html>"))
    classify(page, "hello")
    expect(page.locator("#one-error")).to_be_hidden()
    expect(page.locator("#why-status")).to_contain_text("No explanation: The service answered with")

    page.get_by_role("tab", name="Many texts").click()
    page.get_by_role("button", name="Classify all").click()
    expect(page.locator("#many-error")).to_contain_text("choose a file or paste a list")
    file = {"name": "x.csv", "mimeType": "text/csv", "buffer": b"\xff\xfe\x00a"}
    page.locator("#file").set_input_files(file)
    expect(page.locator("#many-error")).to_contain_text("The file is UTF-16, not UTF-8.")
    page.get_by_label("Or paste texts").fill("fine\n" + "b" * 10_001)
    page.get_by_role("button", name="Classify all").click()
    expect(page.locator("#many-error")).to_contain_text("Text 2: 10001 characters are too many")


def test_a_text_without_words_says_so(page: Page) -> None:
    classify(page, "?! …")
    expect(page.locator("#why-status")).to_have_text("The text has no words to explain.")


def test_the_page_works_with_the_keyboard_only(page: Page, log: Path) -> None:
    def tab_to(target: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("s => document.activeElement.matches(s)", target):
                outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                assert outline != "none", f"{target} shows no focus"
                return
        pytest.fail(f"Tab does not reach {target}")

    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the content")).to_be_focused()
    tab_to("#tab-one")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#many")).to_be_visible()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#one")).to_be_visible()
    tab_to("#text")
    page.keyboard.type("typed, never clicked")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#weights tr").first).to_be_visible()
    tab_to("#why-label")
    page.keyboard.press("End")
    expect(page.locator("#why-status")).to_contain_text("“threat”")
    tab_to("#labels input")
    before = page.locator("#labels input:checked").input_value()
    page.keyboard.press("ArrowDown")
    after = page.locator("#labels input:checked").input_value()
    assert after != before
    tab_to("#comment")
    page.keyboard.type("by keyboard")
    page.keyboard.press("Enter")
    expect(page.locator("#feedback-status")).to_contain_text("Thank you")
    rows = [row for row in stored(log) if row.get("comment") == "by keyboard"]
    assert [row["label"] for row in rows] == [after]


def test_a_text_with_markup_is_shown_as_text(page: Page) -> None:
    title, scripts = page.title(), page.locator("script").count()
    classify(page, HOSTILE)
    expect(page.locator("#weights tr").first).to_be_visible()
    assert page.locator("#shaded").text_content() == HOSTILE
    page.get_by_role("tab", name="Many texts").click()
    page.get_by_label("Or paste texts").fill(HOSTILE)
    page.get_by_role("button", name="Classify all").click()
    expect(page.locator("#rows .text")).to_have_text(HOSTILE)
    assert page.title() == title
    assert page.locator("script").count() == scripts
    assert page.locator("main img, main b, main textarea").count() == 2  # the two text areas


def test_limes_page_shows_markup_as_text_and_runs_no_script(page: Page, url: str) -> None:
    reply = page.request.post(
        f"{url}/v1/explain", data={"text": HOSTILE}, headers={"accept": "text/html"}
    )
    page.route("**/lime", lambda route: route.fulfill(
        status=reply.status, headers=reply.headers, body=reply.body()
    ))  # fmt: skip
    page.goto(f"{url}/lime")
    expect(page.locator(".text_div")).to_contain_text("<script>document.title='hit'</script>")
    assert page.title() == "LIME"
    assert page.locator("img").count() == 0
    assert page.locator(".text_div span span").count() > 5


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("device", "width"), [("desktop", 1280), ("phone", 390)])
def test_axe_finds_no_serious_problem(
    browser: Browser, url: str, scheme: str, device: str, width: int
) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme="dark" if scheme == "dark" else "light",
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.set_default_timeout(TIMEOUT_MS)

    def check(name: str) -> None:
        page.screenshot(path=SHOTS / f"{name}-{device}-{scheme}.png", full_page=True)
        assert not serious(page)
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, "the page scrolls sideways"

    page.goto(url)
    expect(page.locator("#served")).not_to_be_empty()
    check("start")
    text = "Those clowns are a disgrace! My neighbour doesn't trust them 😂 but @user_1 does"
    classify(page, text)
    expect(page.locator("#weights tr").first).to_be_visible()
    check("one")
    page.get_by_role("tab", name="Many texts").click()
    lines = (
        "have a lovely day",
        "you absolute clown",
        "go back to where you came from",
        "thanks all",
    )
    page.get_by_label("Or paste texts").fill(
        "\n".join(f"{line}, number {i}" for i in range(20) for line in lines)
    )
    page.get_by_role("button", name="Classify all").click()
    expect(page.locator("#progress-text")).to_contain_text("80 of 80 texts classified")
    check("many")
    page.goto(f"{url}/card")
    expect(page.locator("#facts dt").first).to_be_visible()
    expect(page.locator("#card h2").first).to_be_visible()
    check("card")
    context.close()


def test_the_page_says_if_the_model_is_of_the_sample(page: Page, bundle: Path) -> None:
    manifest = json.loads((bundle / "bundle.json").read_text())
    expect(page.locator("#served")).to_contain_text(manifest["version"])
    banner = page.locator("#banner").inner_text()
    assert ("Sample model" in banner) == (manifest["data"] == "sample")


def test_the_page_says_that_the_service_is_not_ready_and_why(
    browser: Browser, bundle: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "bundle"
    shutil.copytree(bundle, broken)
    content = json.loads((broken / "bundle.json").read_text())
    content["golden"][0]["scores"] = {"hate": 1.0, "offensive": 0.0, "neither": 0.0}
    content["version"] = content_version(content)
    (broken / "bundle.json").write_text(json.dumps(content))
    with serving(broken, tmp_path) as url:
        page = browser.new_page()
        page.goto(url)
        expect(page.locator("#banner")).to_contain_text("does not reproduce the bundle's golden")
        page.get_by_label("Your text").fill("hello")
        page.get_by_role("button", name="Classify").click()
        expect(page.locator("#one-error")).to_contain_text("Not ready")
        page.close()


def test_the_page_asks_for_a_key_if_one_is_needed(
    browser: Browser, bundle: Path, tmp_path: Path
) -> None:
    digest = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"  # of "secret"
    with serving(bundle, tmp_path, API_KEYS=f"page:{digest}") as url:
        page = browser.new_page()
        page.goto(url)
        page.get_by_label("This service needs an API key").fill("secret")
        page.get_by_role("button", name="Use key").click()
        expect(page.locator("#served")).not_to_be_empty()
        classify(page, "hello")
        expect(page.get_by_label("This service needs an API key")).to_be_hidden()
        page.close()
