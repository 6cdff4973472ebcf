"""The unit files by themselves: systemd understands them, and their sandbox is as tight as it was measured to be."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Final

import pytest

from gateway.settings import SqliteUrl, load
from tests.process.daemon import ROOT
from tests.systemd.units import DROP_INS, FOLDER, analyze, section

UNITS: Final = ("notification-gateway.service", "notification-gateway@.service", "notification-gateway.socket")
EXPOSURE: Final = 11  # tenths
LOOSER: Final = {"privileged-port": 14}
TIGHTER: Final = {"ip-allow-list": 10}
OWN: Final = {"ExecStart", "RestartSec", "RuntimeDirectory", "LoadCredential", "ExecReload"}
ALSO_INSTALLED: Final = "/usr/local/bin/notification-gateway"


def written(folder: Path, name: str, drop_in: Path | None = None) -> Path:
    """Write a unit whose program is there, with a drop-in."""
    unit = folder / name.replace("@.", "@one.")
    unit.write_text((FOLDER / name).read_text().replace(ALSO_INSTALLED, "/bin/true"))
    if drop_in is not None:
        beside = folder / f"{unit.name}.d"
        beside.mkdir()
        (beside / drop_in.name).write_text(drop_in.read_text())
    return unit


def of_socket(drop_in: Path) -> bool:
    return "[Socket]" in drop_in.read_text()


@pytest.mark.parametrize("name", UNITS)
def test_systemd_understands_the_unit(tmp_path: Path, name: str) -> None:
    """It has nothing to remark."""
    for other in UNITS:
        written(tmp_path, other)
    told = analyze("verify", written(tmp_path, name))
    assert (told.returncode, told.stdout + told.stderr) == (0, "")


@pytest.mark.parametrize("drop_in", DROP_INS, ids=lambda path: path.stem)
def test_systemd_understands_the_drop_in(tmp_path: Path, drop_in: Path) -> None:
    """With each of them it has nothing to remark either."""
    written(tmp_path, "notification-gateway.service")
    told = analyze("verify", written(tmp_path, UNITS[2] if of_socket(drop_in) else UNITS[0], drop_in))
    assert (told.returncode, told.stdout + told.stderr) == (0, "")


@pytest.mark.parametrize("name", UNITS[:2])
def test_the_exposure_is_what_was_measured(tmp_path: Path, name: str) -> None:
    """1.1 of 10, and no lower either, or this says more than is true."""
    unit = written(tmp_path, name)
    assert analyze("security", "--offline=yes", f"--threshold={EXPOSURE}", unit).returncode == 0
    assert analyze("security", "--offline=yes", f"--threshold={EXPOSURE - 1}", unit).returncode == 1


@pytest.mark.parametrize("drop_in", [one for one in DROP_INS if not of_socket(one)], ids=lambda path: path.stem)
def test_a_drop_in_costs_what_it_says(tmp_path: Path, drop_in: Path) -> None:
    """None makes the sandbox wider than it admits."""
    unit = written(tmp_path, UNITS[0])
    unit.write_text(unit.read_text() + drop_in.read_text())  # --offline does not look for drop-ins
    exposure = {**LOOSER, **TIGHTER}.get(drop_in.stem, EXPOSURE)
    assert analyze("security", "--offline=yes", f"--threshold={exposure}", unit).returncode == 0
    assert analyze("security", "--offline=yes", f"--threshold={exposure - 1}", unit).returncode == 1
    said = re.search(r"exposure becomes (\d)\.(\d)", drop_in.read_text())
    assert exposure == (EXPOSURE if said is None else int(said[1] + said[2]))


def test_both_services_are_the_same_but_for_what_is_their_own() -> None:
    """Whoever hardens one hardens the other."""
    one, template = (section((FOLDER / name).read_text(), "Service") for name in UNITS[:2])
    assert [each for each in one if each[0] not in OWN] == [each for each in template if each[0] not in OWN]


def test_the_settings_of_an_installation_are_valid_and_fit_the_unit() -> None:
    """They say journal, name the credential, and lie where the unit lets the daemon write."""
    settings = load(FOLDER / "gateway.toml", {})
    service = dict(section((FOLDER / UNITS[0]).read_text(), "Service"))
    assert settings.log.format == "journal"
    assert isinstance(settings.store.url, SqliteUrl)
    assert settings.store.url.path.parent == Path("/var/lib") / service["StateDirectory"]
    assert settings.admin.socket.parent == Path("/run") / service["RuntimeDirectory"]
    assert settings.relay.drain_seconds < int(service["TimeoutStopSec"])
    assert [source.credential for source in settings.master_key.sources] == [
        service["LoadCredential"].partition(":")[0]
    ]


def test_what_is_locked_for_the_daemon_is_what_is_tested() -> None:
    """`make lock` wrote both files: the same versions by the same hashes, and every dependency is there."""
    tested, daemons = (_locked(name) for name in ("requirements.txt", "requirements-daemon.txt"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(one for name in extras if name not in ("all", "dev") for one in extras[name])]
    assert daemons.items() <= tested.items()
    assert {re.split(r"[\[<>=~! ]", one)[0].lower() for one in wanted} <= daemons.keys()
    assert "pytest" not in daemons


def _locked(name: str) -> dict[str, str]:
    blocks = re.findall(r"^([a-z0-9._-]+)==((?:.*\\\n)*.*)", (ROOT / name).read_text(), re.MULTILINE)
    return dict(blocks)
