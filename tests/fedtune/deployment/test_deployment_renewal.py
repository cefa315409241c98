"""Opening a deployment again: what is not whole, what ran out, and renewing it."""

import stat
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from fedtune.deployment.folder import DeploymentFolder
from fedtune.recipe import RecipeError


def create(path, **options):
    return DeploymentFolder.create(path, 2, "127.0.0.1", 9443, **options)


def test_opening_what_is_no_deployment(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(
            FileNotFoundError, match=r"holds no deployment: .*; make one with: fedtune"
        ):
            DeploymentFolder.open(path)
    create(tmp_path / "fed")
    (tmp_path / "fed" / "server" / "server.key").unlink()
    with pytest.raises(FileNotFoundError, match=r"server/server.key is not there; put it back"):
        DeploymentFolder.open(tmp_path / "fed")


def aged(folder):
    """Give the folder a certificate that ran out yesterday."""
    authority = x509.load_pem_x509_certificate(folder.ca.read_bytes())
    key = serialization.load_pem_private_key(folder.ca_key.read_bytes(), None)
    now = datetime.now(UTC)
    old = (
        x509.CertificateBuilder()
        .subject_name(authority.subject)
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(9))
        .not_valid_after(now - timedelta(1))
        .sign(key, hashes.SHA384())
    )
    folder.server_certificate.write_bytes(old.public_bytes(serialization.Encoding.PEM))


def test_a_certificate_that_ran_out_is_told_and_renewed(tmp_path):
    folder = create(tmp_path / "fed")
    kept = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    aged(folder)
    with pytest.raises(ValueError, match=r"it ran out on .*; run: fedtune deploy renew"):
        DeploymentFolder.open(folder.path)
    renewed = DeploymentFolder.renew(folder.path, days=10)
    assert timedelta(9) < renewed.expires - datetime.now(UTC) < timedelta(10)
    assert stat.S_IMODE(renewed.server_key.stat().st_mode) == 0o600
    new = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    assert new.keys() == kept.keys()
    changed = {path for path in kept if kept[path] != new[path]}
    assert changed == {folder.server_certificate, folder.server_key}


def test_renewing_needs_the_authoritys_key(tmp_path):
    folder = create(tmp_path / "fed")
    folder.ca_key.write_bytes(create(tmp_path / "other").ca_key.read_bytes())
    with pytest.raises(ValueError, match=r"ca.key is not the key of ca.pem"):
        DeploymentFolder.renew(folder.path)
    folder.ca_key.unlink()
    with pytest.raises(FileNotFoundError, match=r"renewing needs .*ca.key: it is not there; put"):
        DeploymentFolder.renew(folder.path)


def test_a_broken_description_is_told(tmp_path):
    folder = create(tmp_path / "fed")
    (folder.path / "deployment.json").write_text("{}")
    with pytest.raises(RecipeError, match=r"deployment\.json: host: needed, and not given"):
        DeploymentFolder.open(folder.path)
