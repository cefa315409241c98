"""Proves in a real browser that the page of a running federation shows what its folder holds.

Needs Chromium on the PATH and playwright; run by `make test-browser`. What the page looks like is
not proven, only that it fits.
"""

import json
import shutil
import threading

import pytest
from made_up_run import LAST, RECORDS, append, make_run, make_stages

from fedtune.records.event_log import EventLog
from fedtune.records.events import Refused, Replied, RoundStarted, RunStarted
from fedtune.report.dash.page import Source
from fedtune.report.dash.server import DashServer

pytestmark = pytest.mark.browser
SIZES = {"desktop": (1400, 900), "phone": (390, 844)}
EVIL = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
SOON_MS = 60_000  # a poll each two seconds; a machine that is busy with other things


@pytest.fixture(scope="module")
def browser():
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.fail("needs playwright: pip install 'fedtune[browser]', or make test-browser")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.fail("needs Chromium on the PATH: apt-get install chromium")
    with sync_playwright() as player:
        opened = player.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


class Served:
    """A dash of one folder, that can be ended before the test is."""

    def __init__(self, path):
        self.server = DashServer(Source(path), "127.0.0.1", 0)
        self.url = self.server.url
        self._thread = threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()

    def end(self):
        if self._thread.is_alive():
            self.server.shutdown()
            self._thread.join()
            self.server.server_close()


@pytest.fixture
def visit(browser):
    """Return a function: folder -> (page, dash). What else is fetched, or complained of, fails."""
    faults, contexts, dashes = [], [], []

    def show(path, size="desktop", **options):
        dash = Served(path)
        dashes.append(dash)
        width, height = SIZES[size]
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(SOON_MS)
        allowed = {dash.url, f"{dash.url}data.json"}
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda one: None if one.url in allowed else faults.append(one.url))
        page.goto(dash.url)
        return page, dash

    show.faults = faults
    yield show
    for context in contexts:
        context.close()
    for dash in dashes:
        dash.end()
    assert faults == []


@pytest.fixture
def folder(tmp_path):
    return make_run(tmp_path / "run")


def fits(page):
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def facts(page):
    rows = page.locator("#facts > div").all()
    return {row.locator("dt").inner_text(): row.locator("dd").inner_text() for row in rows}


def table(page, name="clients"):
    return [row.locator("th, td").all_inner_texts() for row in page.locator(f"#{name} tr").all()]


def until(page, selector, words):
    page.wait_for_function(
        "([selector, words]) => document.querySelector(selector)?.textContent.includes(words)",
        arg=[selector, words],
        timeout=SOON_MS,
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_shows_the_records_and_fits(visit, folder, size, scheme):
    page, _ = visit(folder.path, size, color_scheme=scheme)
    assert page.title() == "stopped: run"
    assert page.locator("#say").inner_text() == "2 of 3 rounds are done."
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    shown = facts(page)
    assert shown["Held-out loss"] == (
        f"{lines[0]['eval']['loss']:.3f} to {lines[-1]['eval']['loss']:.3f}"
    )
    assert shown["Held-out perplexity"] == "403.4 to 190.6"
    assert shown["Traffic"] == "7.0 kB up, 9.0 kB down"
    assert shown["A round"] == "6.0 s"
    for row, (client, facts_) in zip(table(page), lines[-1]["clients"].items(), strict=True):
        asked, dropped = lines[-1]["asked_rounds"][client], lines[-1]["dropped_rounds"].get(client)
        assert row[:5] == [
            client, "-", f"{facts_['train_loss']:.3f}", str(asked), str(dropped or 0),
        ]  # fmt: skip
    assert page.locator("#refusals li").all_inner_texts() == [
        "client 2, round 2: it sent no reply",
        "client 3, round 1: NaN at 5 of 16 numbers",
    ]
    assert page.locator("#commands code").inner_text() == f"fedtune run --resume {folder.path}"
    assert page.locator("#curve svg path.run").count() == 1
    assert page.locator("#stages-part").is_hidden()
    assert fits(page)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(253, 252, 250)", "dark": "rgb(20, 24, 28)"}[scheme]


def test_it_follows_a_run_to_its_end(visit, folder):
    with folder.locked(), EventLog(folder.path, lambda _: None) as note:
        note(RunStarted([]))
        note(RoundStarted(3, 0, [0, 1, 2, 3]))
        page, _ = visit(folder.path)
        assert page.title() == "running: run"
        assert page.locator("#say").inner_text() == "Round 3 of 3: training; 0 of 4 replied."
        bar = "document.getElementById('share').value"
        assert page.evaluate(bar) == pytest.approx(2 / 3)
        note(Replied(3, 0, 1000, 3.5))
        note(Refused(3, 3, "Inf at 1 of 16 numbers"))
        until(page, "#say", "1 of 4 replied, 1 refused")
        assert [row[1] for row in table(page)] == ["replied", "waiting", "waiting", "refused"]
        assert facts(page)["Traffic"] == "8.0 kB up, 9.0 kB down"
        until(page, "#refusals", "client 3, round 3: Inf at 1 of 16 numbers")
        assert page.evaluate(bar) == pytest.approx(2.5 / 3)
        append(folder, LAST)
        until(page, "#facts", "6.000 to 4.125")
        folder.adapter.mkdir()
    until(page, "#state", "finished")
    assert page.title() == "finished: run"
    assert page.evaluate(bar) == 1
    assert page.locator("#commands code").first.inner_text() == f"fedtune report {folder.path}"


@pytest.mark.parametrize("size", SIZES)
def test_strangers_words_are_text(visit, tmp_path, size):
    long = EVIL + "w" * 2000
    records = [RECORDS[0], {**RECORDS[1], "refused": {"3": long, "2": "</script>" + EVIL}}]
    folder = make_run(tmp_path / "run", records)
    with folder.locked(), EventLog(folder.path, lambda _: None) as note:
        note(RunStarted([]))
        note(RoundStarted(2, 0, [0, 1, 2, 3]))
        note(Refused(2, 1, EVIL))
        page, _ = visit(folder.path, size)
        until(page, "#refusals", "client 1, round 2")
        page.wait_for_timeout(2500)
        assert page.title() == "running: run"
        assert page.locator("img").count() == 0
        assert f"client 1, round 2: {EVIL}" in page.locator("#refusals").inner_text()
        assert fits(page)


def test_a_damaged_and_a_lost_folder_are_told_of_and_the_figures_stay(visit, folder):
    page, _ = visit(folder.path)
    with folder.metrics.open("a") as stream:
        stream.write("{broken}\n")
    until(page, "#say", "line 4 needs JSON")
    assert page.title() == "damaged: run"
    assert facts(page)["Held-out loss"] == "6.000 to 5.250"
    assert page.locator("#commands code").count() == 0
    shutil.rmtree(folder.path)
    until(page, "#say", "no longer there")
    assert len(table(page)) == 4
    make_run(folder.path, [*RECORDS, LAST])
    until(page, "#facts", "6.000 to 4.125")
    assert page.title() == "stopped: run"


def test_the_page_says_so_when_its_server_is_gone(visit, folder):
    page, dash = visit(folder.path)
    assert page.locator("#lost").is_hidden()
    dash.end()
    until(page, "#lost", "does not answer")
    assert page.locator("#lost").is_visible()
    assert facts(page)["Held-out loss"] == "6.000 to 5.250"
    # the browser itself notes each refused connection, and nothing else is complained of
    assert all("ERR_CONNECTION_REFUSED" in fault for fault in visit.faults)
    visit.faults.clear()


def test_a_crowd_of_clients_and_long_rounds_fit(visit, tmp_path):
    sections = {
        "federation": {"num_clients": 500, "num_rounds": 300},
        "aggregator": {"name": "mean"},
    }
    records = [RECORDS[0]] + [
        {
            "round": at,
            "sampled": list(range(500)),
            "refused": {str(client): f"reason {client}" for client in range(0, 500, 5)},
            "clients": {str(client): {"train_loss": 1.0} for client in range(500) if client % 5},
            "eval": {"loss": 6.0 - at / 100 if at != 7 else None},
            "round_s": 3600.0,
        }
        for at in range(1, 30)
    ]
    folder = make_run(tmp_path / "run", records, **sections)
    for size in SIZES:
        page, _ = visit(folder.path, size)
        assert len(table(page)) == 32
        assert "468 clients" in page.locator("#clients-left-out").inner_text()
        assert page.locator("#refusals li").count() == 41
        assert facts(page)["A round"] == "1:00:00"
        assert facts(page)["Time left"] == "271:00:00, once it goes on"
        assert fits(page)


@pytest.mark.parametrize("size", SIZES)
def test_stages_have_a_row_each(visit, tmp_path, size):
    folder = make_stages(tmp_path / "all", ["sft"])
    page, _ = visit(folder.path, size)
    assert table(page, "stages") == [
        ["sft", "sft", "done", "3 of 3", "loss 6.000 to 4.125"],
        ["reward", "reward", "stopped", "2 of 3", "loss 6.000 to 5.250"],
        ["dpo", "dpo", "to do", "-", "-"],
    ]
    assert page.locator("#commands code").inner_text() == f"fedtune run --resume {folder.path}"
    assert fits(page)
    with folder.locked():
        until(page, "#stages", "running")
    stages = {"stages": dict.fromkeys(("sft", "reward", "dpo"), "done")}
    (folder.path / "stages.json").write_text(json.dumps(stages))
    until(page, "#say", "3 of 3 stages are done.")
    assert page.title() == "finished: all"


def test_a_selection_stays_while_nothing_changes(visit, folder):
    page, _ = visit(folder.path)
    chosen = "getSelection().selectAllChildren(document.getElementById('refusals'))"
    page.evaluate(chosen)
    page.wait_for_timeout(5000)
    assert "it sent no reply" in page.evaluate("String(getSelection())")
