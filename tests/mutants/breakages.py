"""Twenty ways to break fedtune that no test run may let pass."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Breakage:
    """One line of the code, made wrong.

    Attributes:
        name: What is broken.
        file: Where, from the root of the repository.
        before: The text as it stands, once in the file.
        after: What it becomes.
        tests: The part of the fast tier that has to notice.
    """

    name: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]


_GRAM, _COLUMNS = "aggregators/rules/gram/", "aggregators/rules/columns/"
_RULES = ("tests/aggregators",)
_ROUND = ("tests/fedtune/round",)
_RECORDS = ("tests/fedtune/records",)
_SCREEN = ("tests/hostile", "tests/fedtune/messages/test_wire_and_screen.py")
_PRODUCTS = ("tests/aggregators",)

BREAKAGES = (
    # rules on the Gram matrix
    Breakage("Krum counts one neighbour more", _GRAM + "krum.py",
             "[:, : gram.num_clients - f - 2]", "[:, : gram.num_clients - f - 1]", _RULES),
    Breakage("multi-Krum averages one update more", _GRAM + "multi_krum.py",
             "count = n - f if m is None else m", "count = n - f + 1 if m is None else m", _RULES),
    Breakage("the default's cap lets one more client go", _GRAM + "capped_spectral.py",
             "_weigh(products, 1 / (n - f))", "_weigh(products, 1 / (n - f - 1))", _RULES),
    Breakage("the default cuts at the f-th longest", _GRAM + "capped_spectral.py",
             "norms.sort(descending=True).values[f])", "norms.sort(descending=True).values[f - 1])",
             _RULES),
    Breakage("NNM mixes one row fewer", "aggregators/mixings/nnm.py",
             ".indices[:, : n - f]", ".indices[:, : n - f - 1]", _RULES),
    # rules on columns
    Breakage("the trimmed mean trims one less above", _COLUMNS + "trimmed_mean.py",
             "range(f, n - f)", "range(f, n - f + 1)", _RULES),
    Breakage("the median takes the lower middle", _COLUMNS + "median.py",
             "range((n - 1) // 2, n // 2 + 1)", "range((n - 1) // 2, (n - 1) // 2 + 1)", _RULES),
    Breakage("a tie around the median moves the window up", _COLUMNS + "windows.py",
             "alpha=1 + TIE", "alpha=1 - TIE", _RULES),
    # screening
    Breakage("values that are not finite pass", "fedtune/round/screening/screen.py",
             "if not np.isfinite(values).all():", "if np.isnan(values).all():", _SCREEN),
    Breakage("any npy header passes", "fedtune/round/screening/screen.py",
             "!= need.encode():", "== b'':", _SCREEN),
    Breakage("an array of any shape is read", "fedtune/round/screening/screen.py",
             "if repr(array.shape) != repr(shape):", "if len(array.shape) != len(shape):", _SCREEN),
    # products
    Breakage("a product forgets its scale", "aggregators/geometry/products.py",
             "r = module.scale * torch.linalg.qr(b, mode=\"r\").R",
             "r = torch.linalg.qr(b, mode=\"r\").R", _PRODUCTS),
    Breakage("the cross terms count once", "aggregators/geometry/products.py",
             "total += mixed + mixed.T", "total += mixed", _PRODUCTS),
    Breakage("a stretched client is not refused", "aggregators/geometry/gauge.py",
             "if stretches[i] > max_stretch:", "if stretches[i] > max_stretch**2:", _PRODUCTS),
    # the outer step
    Breakage("the anchor moves against the aggregate", "fedtune/round/aggregation/outer.py",
             "parameter.grad = -aggregate", "parameter.grad = aggregate", _ROUND),
    Breakage("the momentum is forgotten", "fedtune/round/aggregation/outer.py",
             "        self._states[name] = state\n", "        self._states[name] = {}\n", _ROUND),
    Breakage("Nesterov's momentum is plain", "fedtune/round/aggregation/outer.py",
             "nesterov=momentum > 0", "nesterov=False", _ROUND),
    # resume
    Breakage("a checkpoint loses the rule's memory", "fedtune/records/checkpoint.py",
             "state=read_tensors(folder / TENSORS, floats=False),",
             "state={k: t for k, t in read_tensors(folder / TENSORS, floats=False).items() "
             "if k[:5] != \"rule/\"},",
             _ROUND),
    Breakage("a damaged checkpoint is believed", "fedtune/records/checkpoint.py",
             "return loaded if same else None", "return loaded", _RECORDS),
    Breakage("a checkpoint does not bring the momentum back",
             "fedtune/round/aggregation/outer.py",
             "            self._states.setdefault(part, {})[name] = tensor.clone()",
             "            self._states.setdefault(part, {})", _ROUND),
)  # fmt: skip
