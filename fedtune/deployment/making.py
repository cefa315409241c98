"""Everything in a new deployment folder, put in place at once."""

from __future__ import annotations

import errno
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from secrets import token_hex

from cryptography import x509

from fedtune.deployment.certificates import new_authority, new_server_certificate
from fedtune.deployment.description import Description, Member
from fedtune.deployment.node_keys import new_node_key
from fedtune.deployment.scripts import deployment_files, image_files, node_files, server_files
from fedtune.deployment.writing import PUBLIC, SCRIPT, SECRET, make_closed_folder, write_new
from fedtune.durable import make_folder, sync

_SYNCS_AT_ONCE = 16  # 1600 files of 200 nodes: 0.2 s, and 4 to 6 s one after another


def refuse_taken(path: Path) -> None:
    """Refuse a path that is there, unless it is an empty folder.

    Raises:
        FileExistsError: Saying what stands there.
    """
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists():
        what = "holds something" if path.is_dir() else "is no folder"
        raise FileExistsError(
            f"{path} needs to be new, or an empty folder: it {what}; name another"
        )


def make_deployment(path: Path, nodes: int, host: str, port: int, *, days: int) -> None:
    """Make a deployment folder: all of it, or nothing.

    Args:
        path: Absolute; not there yet, or an empty folder.
        nodes: How many may join.
        host: What they dial.
        port: What they dial there.
        days: For how long the SuperLink's certificate holds.

    Raises:
        OSError: If it holds something, or cannot be written. Nothing is left then.
        ValueError: If the host, or a number, is out of bounds.
    """
    refuse_taken(path)
    above = [each for each in path.parents if not each.exists()]  # innermost first
    unfinished = path.parent / f".{path.name}-{token_hex(4)}.unfinished"
    try:
        try:
            make_folder(path.parent)
            make_closed_folder(unfinished)
        except OSError as error:
            raise type(error)(
                f"{path} needs a folder above it that can be written: {error.strerror}; "
                "name another"
            ) from error
        _write_all(unfinished, nodes, host, port, days=days)
        _put_in_place(unfinished, path)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        for folder in above:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        raise


def _write_all(path: Path, nodes: int, host: str, port: int, *, days: int) -> None:
    ca, ca_key = new_authority()
    certificate, key = new_server_certificate(ca, ca_key, host=host, days=days)
    width = max(2, len(str(nodes - 1)))
    names = [f"node-{number:0{width}}" for number in range(nodes)]
    pairs = [new_node_key(name) for name in names]
    members = [
        Member(name=name, public_key=line) for name, (_, line) in zip(names, pairs, strict=True)
    ]
    description = Description(host=host, port=port, nodes=tuple(members))
    expires = x509.load_pem_x509_certificate(certificate).not_valid_after_utc
    _write_texts(path, deployment_files(description, expires))
    make_closed_folder(path / "image")
    _write_texts(path / "image", image_files())
    server = path / "server"
    make_closed_folder(server)
    write_new(server / "ca.pem", ca)
    write_new(server / "ca.key", ca_key, mode=SECRET)
    write_new(server / "server.pem", certificate)
    write_new(server / "server.key", key, mode=SECRET)
    _write_texts(server, server_files(description))
    make_closed_folder(path / "nodes")
    for number, (name, (private, line)) in enumerate(zip(names, pairs, strict=True)):
        bundle = path / "nodes" / name
        make_closed_folder(bundle)
        write_new(bundle / "ca.pem", ca)
        write_new(bundle / "node.key", private, mode=SECRET)
        write_new(bundle / "node.pub", line + "\n")
        _write_texts(bundle, node_files(description, number))


def _write_texts(folder: Path, texts: dict[str, str]) -> None:
    for name, text in texts.items():
        write_new(folder / name, text, mode=SCRIPT if name.endswith(".sh") else PUBLIC)


def _put_in_place(unfinished: Path, final: Path) -> None:
    with ThreadPoolExecutor(_SYNCS_AT_ONCE) as pool:
        list(pool.map(sync, [*unfinished.rglob("*"), unfinished]))
    try:
        os.replace(unfinished, final)
    except OSError as error:
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
            refuse_taken(final)  # it was filled in the meantime
        raise
    sync(final.parent)
