"""Rows in safetensors files: the same bits as in memory, in little memory, or refused.

Not proven here: speed (benchmarks/scale.py), and files on a network disk.
"""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from aggregators import AGGREGATORS, aggregate, aggregate_with_report
from aggregators.engine.files import FileRows
from aggregators.engine.gram import gram
from aggregators.engine.pool import limit_threads
from aggregators.engine.rows import combine, squared_norms, stretches

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
MIXED = [
    (name, chain)
    for name, rule in AGGREGATORS.items()
    for chain in ((), ("nnm",))
    if not (chain and rule.memory == "history")
]


def gaussian(n, d, seed=0, dtype=torch.float32):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).to(dtype)


def write(folder, rows, name="update"):
    paths = [folder / f"client-{i}.safetensors" for i in range(len(rows))]
    for path, row in zip(paths, rows, strict=True):
        save_file({name: row.clone()}, path)
    return paths


def refuse(message):
    return pytest.raises(ValueError, match=re.escape(message))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_is_read_as_it_was_written(tmp_path, dtype):
    rows = gaussian(4, 1001, dtype=dtype)
    files = FileRows(write(tmp_path, rows))
    assert (len(files), files.num_columns, files.dtype) == (4, 1001, dtype)
    assert torch.equal(torch.stack(list(files)), rows)
    assert torch.equal(torch.stack(files[1:3]), rows[1:3])
    assert torch.equal(files[-1], rows[3])
    out = torch.empty(2, 5, dtype=dtype)
    assert torch.equal(files.read(slice(7, 12), [3, 0], out), rows[[3, 0], 7:12])


def test_tensors_are_laid_end_to_end_in_the_order_asked_for(tmp_path):
    parts = {
        "b": gaussian(3, 12),
        "a": gaussian(3, 7, 1),
        "none": gaussian(3, 0),
        "c": gaussian(3, 1),
    }
    paths = [tmp_path / f"{i}.safetensors" for i in range(3)]
    for i, path in enumerate(paths):
        save_file({name: part[i].reshape(-1, 1) for name, part in parts.items()}, path)
    files = FileRows(paths, ["c", "b", "none", "a"])
    want = torch.cat([parts["c"], parts["b"], parts["a"]], dim=1)
    assert torch.equal(torch.stack(list(files)), want)
    for start in range(20):
        for stop in range(start + 1, 21):
            out = torch.empty(3, stop - start)
            assert torch.equal(files.read(slice(start, stop), range(3), out), want[:, start:stop])


@pytest.mark.parametrize(("name", "chain"), MIXED)
def test_every_rule_gives_the_bits_of_the_tensor(tmp_path, name, chain, shrink):
    rows = gaussian(11, 200_001 // shrink)
    assert len(stretches(rows)) == 2
    rows[4] *= 1e8
    rule, given = AGGREGATORS[name], {"f": 2, "mixing": chain}
    if rule.takes_reference:
        given["reference"] = rows[1] / 2
    apart = [row.clone() for row in rows]
    results = []
    for source in (rows, apart, FileRows(write(tmp_path, rows))):
        with limit_threads(len(results) + 1):
            generator = torch.Generator().manual_seed(0)
            report = aggregate_with_report(source, name, generator=generator, **given)
            generator = torch.Generator().manual_seed(0)
            alone = aggregate(source, name, generator=generator, **given)
        assert torch.equal(alone, report.aggregate)
        results.append(report)
    for other in results[1:]:
        assert torch.equal(other.aggregate, results[0].aggregate)
        assert torch.equal(other.weights, results[0].weights)
        assert other.report == results[0].report
        assert all(torch.equal(value, results[0].state[key]) for key, value in other.state.items())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_gives_the_bits_of_the_tensor(tmp_path, dtype):
    rows = gaussian(6, 70_001, dtype=dtype)
    files = FileRows(write(tmp_path, rows))
    weights = torch.tensor([0.5, 0, 0.25, 0.125, 0, 1.0])
    extra = [gaussian(1, 70_001, 1)[0]]
    assert torch.equal(gram(files, extra=extra).centred, gram(rows, extra=extra).centred)
    assert torch.equal(squared_norms(files), squared_norms(rows))
    assert torch.equal(combine(files, weights), combine(rows, weights))
    with_extra = torch.cat([weights, torch.tensor([2.0])])
    got = combine(files, with_extra, extra=extra)
    assert got.dtype == dtype
    assert torch.equal(got, combine(rows, with_extra, extra=extra))


def test_a_file_of_weight_zero_is_never_read(tmp_path):
    rows = gaussian(3, 100)
    paths = write(tmp_path, rows)
    files = FileRows(paths)
    paths[1].unlink()
    assert torch.equal(combine(files, torch.tensor([0.0, 0.0, 1.0])), rows[2])


def test_rows_that_are_not_finite_are_named(tmp_path):
    rows = gaussian(9, 300_001)
    rows[3, -1] = torch.nan
    rows[7, 5] = torch.inf
    files = FileRows(write(tmp_path, rows))
    assert len(stretches(files)) == 2
    for name, chain in (("median", ()), ("median", ("nnm",)), ("krum", ())):
        for call in (aggregate, aggregate_with_report):
            with refuse("got inf or nan in rows [3, 7]; reject these clients"):
                call(files, name, f=2, mixing=chain)


def test_a_file_that_changes_is_refused(tmp_path):
    rows = gaussian(3, 1000)
    paths = write(tmp_path, rows)
    files = FileRows(paths)
    save_file({"update": rows[0] + 1}, paths[2])
    os.utime(paths[2], ns=(1, 1))
    with refuse("client-2.safetensors has changed while it was read"):
        aggregate(files, "mean", f=0)


def header(entries, data=b"", length=None):
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "needs to be a safetensors file: got 0 bytes that are none"),
        (b"\x01\x02", "needs to be a safetensors file"),
        (header({"a": ONE}, bytes(8), length=2**63), "no room for the header"),
        (header({"a": ONE}, bytes(8), length=200), "no room for the header"),
        (header(b"[1, 2]"), "the header is no mapping"),
        (header(b"{'a'}"), "needs to be a safetensors file"),
        (header(b"\xff\xff"), "needs to be a safetensors file"),
        (header(b"[" * 100_000), "needs to be a safetensors file"),
        (header({}), "needs one tensor: got []"),
        (header({"a": ONE, "b": ONE}, bytes(8)), "needs one tensor: got ['a', 'b']; name those"),
        (header({"a": ONE}, bytes(7)), "needs a shape that fills its bytes"),
        (header({"a": {**ONE, "shape": [3]}}, bytes(8)), "got shape [3] in bytes [0, 8] of 8"),
        (header({"a": {**ONE, "shape": [-2]}}, bytes(8)), "needs a shape that fills its bytes"),
        (header({"a": {**ONE, "shape": [True, 2]}}, bytes(8)), "needs a shape that fills"),
        (header({"a": {**ONE, "shape": None}}, bytes(8)), "needs a shape that fills its bytes"),
        (header({"a": {**ONE, "data_offsets": [-8, 0]}}, bytes(8)), "needs a shape that fills"),
        (header({"a": {**ONE, "data_offsets": [8]}}, bytes(8)), "needs a shape that fills"),
        (header({"a": {**ONE, "dtype": "I32"}}, bytes(8)), "needs a dtype of F16, BF16, F32, F64"),
        (header({"a": {**ONE, "dtype": ["F32"]}}, bytes(8)), "got ['F32']; convert"),
        (header({"a": 3}, bytes(8)), "needs a dtype of F16, BF16, F32, F64: got None"),
    ],
)
def test_what_is_no_safetensors_file_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "evil.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"evil\.safetensors") as caught:
        FileRows([path])
    assert message in str(caught.value)


def test_files_that_differ_are_refused(tmp_path):
    with refuse("FileRows needs a file per client: got none"):
        FileRows([])
    short, half = tmp_path / "short", tmp_path / "half"
    paths = write(tmp_path, gaussian(2, 10))
    save_file({"update": torch.zeros(9)}, short)
    save_file({"update": torch.zeros(10, dtype=torch.float16)}, half)
    with refuse("got torch.float32 [(9,)]; every client sends the same tensors"):
        FileRows([*paths, short])
    with refuse("got torch.float16 [(10,)]"):
        FileRows([*paths, half])
    with refuse("needs the tensors ['lora']: got ['update']"):
        FileRows(paths, ["lora"])
    save_file({"a": torch.zeros(1), "b": torch.zeros(1, dtype=torch.float64)}, short)
    with refuse("needs one dtype: got ['torch.float32', 'torch.float64']"):
        FileRows([short], ["a", "b"])


def test_no_columns_and_too_few_files_are_refused(tmp_path):
    files = FileRows(write(tmp_path, torch.zeros(3, 0)))
    with refuse("updates needs d >= 1 coordinates: got the empty shape (3, 0)"):
        aggregate(files, "mean", f=0)
    with refuse("krum needs n >= 2f + 3: got n=3, f=1"):
        aggregate(files, "krum", f=1)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([torch.zeros(3), torch.zeros(4)], "got (4,), torch.float32, cpu, torch.strided for row 1"),
        ([torch.zeros(3), torch.zeros(3, dtype=torch.float64)], "torch.float64"),
        ([torch.zeros(1, 3)], "updates needs rows of one shape (d,)"),
        ([torch.zeros(3).to_sparse()], "torch.sparse_coo for row 0"),
    ],
)
def test_a_list_of_unlike_rows_is_refused(rows, message):
    with refuse(message):
        aggregate(rows, "mean", f=0)


def test_a_list_of_rows_that_require_grad_is_detached():
    rows = [torch.ones(3, requires_grad=True) for _ in range(3)]
    assert not aggregate(rows, "mean", f=0).requires_grad


MEASURE = """
import resource, sys
import torch
from aggregators import aggregate
from aggregators.engine.files import FileRows
from aggregators.engine.pool import limit_threads

def peak():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

files = FileRows(sys.argv[1:])
with limit_threads(2):
    small = [torch.randn(8, 600_000), torch.randn(8, 600_000)]
    for name in ("trimmed_mean", "geometric_median"):
        aggregate(small[0], name, f=1, mixing=("nnm",))
    before = peak()
    for name in ("trimmed_mean", "geometric_median"):
        aggregate(files, name, f=1, mixing=("nnm",))
print((peak() - before) / 1024)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux's VmHWM")
def test_files_are_never_all_in_memory(tmp_path):
    # 8 rows of 4 M float32 are 128 MiB, the aggregate is 16. The two runs leave 16 each at most
    # beside buffers of at most 2 threads x (8 MB read + 5 blocks of 2 MB).
    row = gaussian(1, 1 << 22)[0]
    paths = [tmp_path / f"{i}.safetensors" for i in range(8)]
    for i, path in enumerate(paths):
        save_file({"update": row * (i + 1)}, path)
    command = [sys.executable, "-c", MEASURE, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 70
