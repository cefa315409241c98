"""The deployment folder: the launcher's half, a bundle for each node, and what both agree on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex

from cryptography import x509

from fedtune.deployment.certificates import check_host, new_server_certificate
from fedtune.deployment.description import MAX_NODES, Description, read_description
from fedtune.deployment.making import make_deployment
from fedtune.deployment.node_keys import public_key_pem
from fedtune.deployment.scripts import join_address
from fedtune.deployment.writing import PUBLIC, SECRET, write_new
from fedtune.durable import put_in_place

DESCRIPTION = "deployment.json"


@dataclass(frozen=True)
class DeploymentFolder:
    """A folder that `fedtune deploy init` made, wherever it lies now.

    Args:
        path: Absolute.
        description: What ``deployment.json`` says.
    """

    path: Path
    description: Description

    @classmethod
    def create(
        cls, path: Path, nodes: int, host: str, port: int, *, days: int = 365
    ) -> DeploymentFolder:
        """Make certificates, keys, scripts and a bundle for each node: all of it, or nothing.

        Args:
            path: A folder that is not there yet, or is empty.
            nodes: How many may join, 1 to 1000.
            host: What the nodes dial, an IP address or a DNS name.
            port: What they dial there, 1 to 65535.
            days: For how long the SuperLink's certificate holds.

        Raises:
            ValueError: If a number or the host is out of bounds.
            OSError: If the folder holds something, or cannot be written. Nothing is left then.
        """
        if not 1 <= nodes <= MAX_NODES:
            raise ValueError(f"--nodes needs 1 to {MAX_NODES}: got {nodes}")
        if not 1 <= port <= 65_535:
            raise ValueError(f"--port needs 1 to 65535: got {port}")
        path = path.expanduser().resolve()
        make_deployment(path, nodes, check_host(host), port, days=days)
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> DeploymentFolder:
        """Open a folder that `fedtune deploy init` made.

        Raises:
            OSError: If no deployment is there, or it cannot be read.
            ValueError: If ``deployment.json`` is wrong, or the certificate has run out.
        """
        folder = cls._read(path)
        if folder.expires <= datetime.now(UTC):
            raise ValueError(
                f"{folder.server_certificate} needs to be valid: it ran out on "
                f"{folder.expires:%Y-%m-%d}; run: fedtune deploy renew {path}"
            )
        return folder

    @classmethod
    def renew(cls, path: Path, *, days: int = 365) -> DeploymentFolder:
        """Make the SuperLink's certificate and key anew; the nodes need nothing new.

        Raises:
            OSError: If no deployment is there, or ``server/ca.key`` is not.
            ValueError: If the authority's certificate and key are not of each other.
        """
        folder = cls._read(path)
        if not folder.ca_key.is_file():
            raise FileNotFoundError(
                f"renewing needs {folder.ca_key}: it is not there; put it back from where you "
                "keep it"
            )
        certificate, key = new_server_certificate(
            folder.ca.read_bytes(), folder.ca_key.read_bytes(), host=folder.host, days=days
        )
        # In one file each: between the two renames a starting SuperLink would refuse the pair.
        _replace(folder.server_key, key, mode=SECRET)
        _replace(folder.server_certificate, certificate, mode=PUBLIC)
        return cls.open(path)

    @classmethod
    def _read(cls, path: Path) -> DeploymentFolder:
        path = path.expanduser().absolute()
        if not (path / DESCRIPTION).is_file():
            raise FileNotFoundError(
                f"{path} holds no deployment: it needs a {DESCRIPTION}; make one with: "
                f"fedtune deploy init {path} --nodes 3"
            )
        folder = cls(path, read_description(path / DESCRIPTION))
        for needed in (folder.ca, folder.server_certificate, folder.server_key):
            if not needed.is_file():
                raise FileNotFoundError(
                    f"{path} is not a whole deployment: {needed.relative_to(path)} is not there; "
                    "put it back, or make a new folder with: fedtune deploy init"
                )
        return folder

    @property
    def host(self) -> str:
        """What the nodes dial."""
        return self.description.host

    @property
    def port(self) -> int:
        """What they dial there."""
        return self.description.port

    @property
    def address(self) -> str:
        """Where the nodes find the SuperLink, host:port."""
        return join_address(self.host, self.port)

    @property
    def local_address(self) -> str:
        """Where the SuperLink's own machine finds it: only from there is it commanded."""
        return join_address("::1" if ":" in self.host else "127.0.0.1", self.port)

    @property
    def server(self) -> Path:
        """The launcher's half: certificates, the SuperLink's scripts and its state."""
        return self.path / "server"

    @property
    def ca(self) -> Path:
        """The authority's certificate, by which everyone knows the SuperLink."""
        return self.server / "ca.pem"

    @property
    def ca_key(self) -> Path:
        """The authority's key; may be kept elsewhere, for only renewing needs it."""
        return self.server / "ca.key"

    @property
    def server_certificate(self) -> Path:
        """What the SuperLink shows."""
        return self.server / "server.pem"

    @property
    def server_key(self) -> Path:
        """The key of what the SuperLink shows."""
        return self.server / "server.key"

    @property
    def names(self) -> list[str]:
        """The nodes' names; client number c is node number c."""
        return [node.name for node in self.description.nodes]

    @property
    def public_keys(self) -> list[bytes]:
        """The nodes' keys in the clients' order, as the SuperLink lists them (PEM)."""
        return [public_key_pem(node.public_key) for node in self.description.nodes]

    @property
    def node_folders(self) -> list[Path]:
        """The bundles in the clients' order; handed out, they need not be there any more."""
        return [self.path / "nodes" / name for name in self.names]

    @property
    def expires(self) -> datetime:
        """When the SuperLink's certificate runs out, UTC."""
        content = self.server_certificate.read_bytes()
        return x509.load_pem_x509_certificate(content).not_valid_after_utc


def _replace(path: Path, content: bytes, *, mode: int) -> None:
    beside = path.with_name(f".{path.name}-{token_hex(4)}.unfinished")
    try:
        write_new(beside, content, mode=mode)
        put_in_place(beside, path)
    finally:
        beside.unlink(missing_ok=True)
