"""What is read from Python source, and that nothing of it runs."""

from fedtune.nano.docstrings import definitions, first_paragraph, normalise

SOURCE = '''
raise SystemExit("a parser never runs this")

def plain(a, /, b: int = 1, *, c, **rest) -> None:
    """Plain."""

async def waiting(*items):
    """Waits."""
    def inside():
        """Not a definition of the module."""

class Thing(Base, metaclass=Meta):
    """A thing."""
    def __len__(self):
        """Its length."""
    def _hidden(self):
        """Hidden."""

class _Private:
    """Private."""
    def method(self):
        """Public name in a private class."""

try:
    import fast
except ImportError:
    def slow():
        """The fallback."""
if fast:
    def quick():
        """The fast one."""

def silent():
    pass
'''


def test_signatures_and_names_in_the_order_of_the_text():
    found = [d.signature("m.") for d in definitions(SOURCE, public_only=True)]
    assert found == [
        "def m.plain(a, /, b=1, *, c, **rest):",
        "async def m.waiting(*items):",
        "class m.Thing(Base):",
        "def m.Thing.__len__(self):",
        "def m.slow():",
        "def m.quick():",
    ]


def test_private_definitions_are_read_on_request():
    names = [d.name for d in definitions(SOURCE, public_only=False)]
    assert {"Thing._hidden", "_Private", "_Private.method"} <= set(names)


def test_class_without_bases_has_no_parentheses():
    (definition,) = definitions('class A:\n    """Text."""', public_only=True)
    assert definition.signature() == "class A:"


def test_long_argument_lists_are_cut_at_an_argument():
    # 12 arguments of 6 characters, joined by ", ": 7 of them make 54 characters, 8 make 62 > 60.
    arguments = ", ".join(f"arg_{i:02d}" for i in range(12))
    (definition,) = definitions(f'def f({arguments}):\n    """Text."""', public_only=True)
    assert definition.arguments == ", ".join([f"arg_{i:02d}" for i in range(7)] + ["..."])


def test_first_paragraph_is_one_line():
    assert first_paragraph("  One\n  two.  \n   \n  Three.") == "One two."


def test_normalise_forgets_case_and_white_space():
    assert normalise("  Return\n a  LIST ") == normalise("return a list")
