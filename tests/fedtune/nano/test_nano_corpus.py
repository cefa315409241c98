"""The pre-training corpus: what is read, what is kept out, and that the order never changes."""

import pytest

from fedtune.nano.corpus import SHARED_WORDS, StandardLibrary, read_corpus

STANDARD = """Wait for the first of the given futures to be done or cancelled by someone else.

Every future that is left over when the time is up goes back to the caller untouched."""


def _package(folder, name, **docstrings):
    (folder / name).mkdir(parents=True)
    body = "".join(f'def {key}(x):\n    """{text}"""\n' for key, text in docstrings.items())
    (folder / name / "__init__.py").write_text(body)


def _texts(folder):
    corpus = read_corpus(folder, StandardLibrary([STANDARD]))
    return [document.text for document in corpus.train + corpus.held_out], corpus.dropped


def test_a_document_is_module_signature_and_docstring(tmp_path):
    _package(tmp_path, "pack", f="Do a thing that nobody else does with x.")
    texts, dropped = _texts(tmp_path)
    assert texts == ['# pack\ndef f(x):\n"""Do a thing that nobody else does with x."""']
    assert dropped == {}


def test_a_planted_standard_paragraph_is_removed(tmp_path):
    planted = STANDARD.split("\n\n")[0].upper().replace(" ", "\n   ")  # case, white space
    own = "Our own words about what this function is for."
    _package(tmp_path, "pack", f=f"{own}\n\n{planted}", g=planted)
    texts, dropped = _texts(tmp_path)
    assert texts == [f'# pack\ndef f(x):\n"""{own}"""']
    assert dropped == {"paragraphs of the standard library": 2}


def test_a_document_that_shares_ten_words_in_a_row_is_dropped(tmp_path):
    words = STANDARD.split()
    ten = " ".join(words[2 : 2 + SHARED_WORDS])
    nine = " ".join(words[2 : 1 + SHARED_WORDS])
    _package(tmp_path, "pack", f=f"One could say: {ten}, so to speak.", g=f"Nine: {nine} only.")
    texts, dropped = _texts(tmp_path)
    assert [text.splitlines()[1] for text in texts] == ["def g(x):"]
    assert dropped == {"documents that share words with the standard library": 1}


def test_repeated_paragraphs_are_kept_once(tmp_path):
    text = "The very same sentence in two functions of a package."
    _package(tmp_path, "pack", f=text, g=f"{text}\n\nAnd then something that is new here.")
    texts, _ = _texts(tmp_path)
    assert len(texts) == 2
    assert sum(text in document for document in texts) == 1


@pytest.mark.parametrize("name", ["setuptools", "typing_extensions", "fedtune", "multiprocess"])
def test_copies_of_the_standard_library_and_our_own_text_are_left_out(tmp_path, name):
    _package(tmp_path, name, f="Do a thing that nobody else does with x.")
    _package(tmp_path, f"pack/_vendor/{name}", f="Do another thing that nobody does with x.")
    assert _texts(tmp_path)[0] == []


def test_files_that_are_no_python_are_skipped(tmp_path):
    _package(tmp_path, "pack", f="Do a thing that nobody else does with x.")
    (tmp_path / "pack" / "template.py").write_text("def {{ name }}(:")
    (tmp_path / "pack" / "bytes.py").write_bytes(b"\xff\xfe\x00")
    assert len(_texts(tmp_path)[0]) == 1


def test_the_corpus_is_the_same_twice_and_its_parts_are_disjoint(tmp_path):
    for i in range(120):
        _package(tmp_path, f"pack{i}", f=f"Do the thing of number {i} and no other thing.")
    library = StandardLibrary([STANDARD])
    first, second = read_corpus(tmp_path, library), read_corpus(tmp_path, library)
    assert first == second
    assert {d.package for d in first.train}.isdisjoint(d.package for d in first.held_out)
    assert len(first.train) + len(first.held_out) == 120
    assert 0 < len(first.held_out) < 15  # one file in 50, by hash
