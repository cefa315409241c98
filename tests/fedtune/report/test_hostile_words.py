"""A run and a bench whose every text is hostile: their pages hold words, and nothing else of them.

Read by Python's parser, and by none of a browser's: tests/browser opens pages of such words in
Chromium. The scripts are read as text; they make elements of fixed names and set text alone.
"""

import json
import re
from html.parser import HTMLParser
from importlib.resources import files

import pytest
from made_up_run import LAST, RECORDS, make_run
from small_bench import small

from fedtune.records.event_log import EventLog
from fedtune.records.events import Ignored, Refused, RoundStarted, RunStarted
from fedtune.report.dash.page import Source, dash_page, data_json
from fedtune.report.pages.bench import bench_page
from fedtune.report.pages.writing import write_page

EVILS = [
    "</script><script>owned()</script>",
    '"><img src=x onerror=owned()>',
    "' onmouseover='owned()' x='",
    '" autofocus onfocus="owned()',
    "javascript:owned()",
    "<a href=javascript:owned()>owned</a>",
    "</title><svg/onload=owned()>",
    "</style><style>@import '//owned'</style>",
    "<!--owned",
    "--><owned>",
    "]]><owned>",
    "<base href=//owned><form action=//owned>",
    "<plaintext>owned",
    '<noscript><p title="</noscript><img src=x onerror=owned()>">',
    "&lt;img src=x onerror=owned()&gt;&#60;owned&#62;",
    "</code></pre></dd><owned x=1>",
    "\x00<owned>\x1b]8;;http://owned\x07",
    "\u2028owned\u2029\ud800<owned>".encode("utf-8", "replace").decode(),
    "${owned()}`owned`{{owned}}",
]
FIXED = {"status", "goal"}  # words of ours, by which a page is laid out
FETCHES = {
    "href", "src", "srcset", "action", "formaction", "xlink:href", "style", "poster", "background",
    "ping", "data", "srcdoc", "manifest", "cite", "codebase", "usemap",
}  # fmt: skip
SHOWN = {"title", "aria-label"}  # and data-...: text by their nature


def made_hostile(value, evil, key=None):
    """The same with every text, and every name that is no word of ours, hostile."""
    if isinstance(value, dict):
        return {name: made_hostile(each, evil, name) for name, each in value.items()}
    if isinstance(value, list):
        return [made_hostile(each, evil, key) for each in value]
    return f"{evil}{value}" if isinstance(value, str) and key not in FIXED else value


def tamed(evil):
    """Letters in the place of each sign; of no page's own words."""
    return re.sub(r"[^a-z]", "x", evil.lower())


def hostile_run(path, evil):
    """A run's folder: its name, reasons, figures, samples, manifest and recipe."""
    name = evil.replace("/", "|").replace("\0", "0")
    folder = make_run(path / name, RECORDS[:1], data={"source": f"x{evil}"})
    said = {"client_eval": {"0": {"loss": 5.0, evil: 1.0}}, evil: {evil: evil}}
    for record in (*RECORDS[1:], {**LAST, **said}):
        made = made_hostile(record, evil)
        made["clients"]["0"] |= {"said": {evil: 1.0}, evil: evil}
        made["eval"] |= {evil: 3.5}
        with folder.metrics.open("a", encoding="utf-8") as lines:  # as no fedtune would write it
            lines.write(json.dumps(made) + "\n")
    manifest = {"client_rows": [10, 20, 30, 40], "client_names": [evil] * 4, evil: {evil: [evil]}}
    folder.manifest.write_text(json.dumps({**manifest, "device": evil, "versions": {evil: evil}}))
    sample = json.dumps(dict.fromkeys(("prompt", "truth", "before", "after"), evil))
    (folder.path / "samples.jsonl").write_text(sample + "\n")
    (folder.path / "clients.json").write_text(json.dumps({"0": {"rows": 9, evil: evil}}))
    return folder


def pages(path, evil):
    """A run's page, its dash and what the dash is given, and a bench's page, by name."""
    folder = hostile_run(path, evil)
    run = write_page(folder.path).read_text(encoding="utf-8")
    journal = EventLog(folder.path, lambda _: None)
    note = journal.__enter__()  # the process that wrote it is still there
    for event in (RunStarted([]), RoundStarted(4, 0, [0, 1, 2, 3]), Refused(4, 2, evil)):
        note(event)
    note(Ignored(4, 1, evil))
    view = Source(folder.path).view()
    stopped = Source(folder.path)
    journal.__exit__(ValueError, ValueError(evil), None)
    made = {"run": run, "dash": dash_page(view), "stopped": dash_page(stopped.view())}
    gone = Source(path / f"gone{evil}".replace("/", "|").replace("\0", "0"))
    bench = made_hostile(small(), evil) | {"notes": [evil], "versions": {evil: evil}}
    return made | {"gone": dash_page(gone.view()), "bench": bench_page(bench)}, data_json(view)


class Outline(HTMLParser):
    """Elements and the names of their attributes, in order; where hostile words ended up."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.elements, self.fetched, self.misplaced, self.inside = [], [], [], ""
        self.own, self.data = [], ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        if (tag, attrs) == ("wbr", []):  # where a long word may be broken: ours, by its signs
            return
        self.elements.append((tag, [name for name, _ in attrs]))
        self.inside = "data" if ("id", "data") in attrs else tag
        for name, value in attrs:
            if name in FETCHES or name.startswith("on"):
                self.fetched.append((tag, name, value))
            text = name in SHOWN or name.startswith("data-")
            if "owned" in name + tag or ("owned" in (value or "") and not text):
                self.misplaced.append((tag, name, value))

    handle_startendtag = handle_starttag

    def handle_endtag(self, tag):
        self.elements.append(("/", tag))
        self.inside = ""

    def handle_data(self, data):
        if self.inside == "data":
            self.data += data
        elif self.inside in ("script", "style"):
            self.own.append(data)

    def handle_comment(self, data):
        self.misplaced.append(("comment", data, None))

    unknown_decl = handle_pi = handle_comment


@pytest.mark.parametrize("evil", EVILS, ids=range(len(EVILS)))
def test_no_element_attribute_or_address_comes_from_hostile_words(tmp_path, evil):
    wild, view = pages(tmp_path / "wild", evil)
    tame, _ = pages(tmp_path / "tame", tamed(evil))
    assert json.loads(view)["state"]
    for name, page in wild.items():
        found, ordinary = Outline(page), Outline(tame[name])
        assert found.elements == ordinary.elements, name
        assert found.misplaced == [], name
        assert found.fetched == [], name  # no page of ours fetches, or goes, anywhere
        assert found.own == ordinary.own, name  # script and style, to the letter
        json.loads(found.data)


def test_the_words_are_there_all_the_same(tmp_path):
    """Else the test above would hold of empty pages."""
    wild, view = pages(tmp_path, EVILS[1])
    for name in ("run", "dash", "bench"):
        assert wild[name].count("owned()") > 5, name
    assert "owned()" in wild["gone"]
    assert view.count("owned()") > 3


def test_the_pages_scripts_write_text_and_no_markup():
    there = files("fedtune.report.pages").iterdir()
    written = [each for each in there if each.name.endswith(".js")]
    assert len(written) >= 4
    for script in written:
        text = script.read_text(encoding="utf-8")
        sinks = r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function|srcdoc"
        assert not re.search(sinks, text), script.name
        assert not re.search(r"setTimeout\(\s*[\"'`]|\.(href|src)\s*=|location\s*=", text)
        for made in re.findall(r"setAttribute\(\s*([^,]+),", text):
            assert made.startswith('"') or made == "key", script.name  # of a literal table
