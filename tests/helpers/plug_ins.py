"""Packages of entry points, installed for one test."""

import pytest


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Return a function: a package's name, its code and its entry points -> it is installed."""

    def install(package, code, group="fedtune.rewards", **points):
        folder = tmp_path / package
        info = folder / f"{package}-1.0.dist-info"
        info.mkdir(parents=True)
        (folder / f"{package}.py").write_text(code)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"{name} = {package}:{what}" for name, what in points.items()]
        (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines]))
        monkeypatch.syspath_prepend(folder)

    return install
