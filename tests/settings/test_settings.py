"""The settings file: what lies in config/, what the environment says, where paths start, what text becomes."""

import contextlib
import ipaddress
import re
import tomllib
from pathlib import Path

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from gateway.settings import (
    BUILT_IN_OAUTH,
    Egress,
    EgressRule,
    Http,
    MasterKey,
    PostgresqlUrl,
    SecretSource,
    Settings,
    SqliteUrl,
    SystemdSocket,
    TcpAddress,
    UnixAddress,
    VaultToken,
    default_path,
    load,
)
from tests.settings.writing import faults, fixed_keys, loaded

PROJECT = Path(__file__).parents[2]
CONFIG = PROJECT / "config"
OPERATOR_NAMED = {"connectors", "connections", "oauth"}


class TestShippedFiles:
    """What lies in config/."""

    def test_run(self) -> None:
        """The file of `make run` keeps everything within the project and on loopback."""
        settings = load(CONFIG / "gateway.toml", {})
        assert settings.paths.base == PROJECT
        assert settings.http.listen == (TcpAddress("127.0.0.1", 8025),)
        assert settings.mail_catcher.listen == TcpAddress("127.0.0.1", 1025)
        assert settings.store.url == SqliteUrl(PROJECT / "var/gateway.db")
        assert settings.provision.files == (CONFIG / "tenants.toml",)

    def test_run_demo(self) -> None:
        """The demo sends with a key that the sample tenants provision for the demo's tenant."""
        settings = load(CONFIG / "gateway.toml", {})
        keys = tomllib.loads((CONFIG / "tenants.toml").read_text(encoding="utf-8"))["keys"]
        assert settings.demo is not None
        assert (settings.demo.tenant, settings.demo.key_file) in [
            (key["tenant"], settings.paths.base / key["file"]) for key in keys
        ]

    def test_run_reaches_its_catcher(self) -> None:
        """Egress of `make run` allows the relay of the sample profiles, and that is the mail catcher."""
        settings = load(CONFIG / "gateway.toml", {})
        profiles = tomllib.loads((CONFIG / "tenants.toml").read_text(encoding="utf-8"))["profiles"]
        relays = {TcpAddress(profile["host"], profile["port"]) for profile in profiles}
        assert relays == {settings.mail_catcher.listen}
        assert settings.egress.allow == (EgressRule(ipaddress.IPv4Network("127.0.0.1/32"), 1025),)

    def test_example_shows_defaults(self, folder: Path) -> None:
        """What the example says uncommented of a fixed section is the default."""
        example = loaded(folder, (CONFIG / "gateway.example.toml").read_text(encoding="utf-8"))
        defaults = loaded(folder, "")
        for section in Settings.model_fields.keys() - OPERATOR_NAMED:
            assert getattr(example, section) == getattr(defaults, section)

    @pytest.mark.parametrize(("section", "key"), list(fixed_keys()))
    def test_example_is_complete(self, section: str, key: str) -> None:
        """The example shows every key of the fixed sections, under its section, if only commented out."""
        text = (CONFIG / "gateway.example.toml").read_text(encoding="utf-8")
        [body] = re.findall(rf"^\[{section}\][^\n]*\n(.*?)(?=^\[|\Z)", text, re.MULTILINE | re.DOTALL)
        assert re.search(rf"^(# )?(\[{section}\.)?{key}( = |\])", body, re.MULTILINE)

    def test_example_has_every_kind(self) -> None:
        """The example shows a connection of each kind."""
        settings = load(CONFIG / "gateway.example.toml", {})
        kinds = {connection.kind for connection in settings.connections.values()}
        assert kinds == {"vault", "azure_key_vault", "cyberark", "conjur"}


class TestEnvironment:
    """NOTIFICATION_GATEWAY_<SECTION>__<KEY>."""

    def test_wins_over_the_file(self, folder: Path) -> None:
        """A variable replaces what the file says, and only that key."""
        settings = loaded(folder, "[relay]\nconnections = 3\ndrain_seconds = 5", RELAY__CONNECTIONS="7")
        assert (settings.relay.connections, settings.relay.drain_seconds) == (7, 5)

    def test_without_a_file(self) -> None:
        """Without a file the defaults and the environment make the settings."""
        assert load(None, {"NOTIFICATION_GATEWAY_LOG__FORMAT": "text"}).log.format == "text"

    def test_listen(self, folder: Path) -> None:
        """A listener can be set, although the file may give a list of them."""
        settings = loaded(folder, "", HTTP__LISTEN="[::1]:0", MAIL_CATCHER__LISTEN="127.0.0.1:0")
        assert settings.http.listen == (TcpAddress("::1", 0),)
        assert settings.mail_catcher.listen == TcpAddress("127.0.0.1", 0)

    def test_true_and_false(self, folder: Path) -> None:
        """Switches take TOML's words."""
        assert loaded(folder, "", METRICS__TENANT_LABEL="true").metrics.tenant_label

    def test_text_that_looks_like_a_number(self, folder: Path) -> None:
        """A key that holds text keeps it, however it looks."""
        assert loaded(folder, "", MASTER_KEY__FILE="17").master_key.file == folder / "17"

    def test_store(self, folder: Path) -> None:
        """A key with several forms can be set."""
        assert loaded(folder, "", STORE__URL="sqlite:///x.db").store.url == SqliteUrl(folder / "x.db")

    def test_optional_path(self, folder: Path) -> None:
        """An optional key can be set."""
        assert loaded(folder, "", UI__PUBLIC_URL="https://n.example.test/").ui.public_url == "https://n.example.test"

    def test_fault_names_the_variable(self, folder: Path) -> None:
        """A refused variable is told by its name, not as a key of the file."""
        [fault] = faults(folder, "", RELAY__CONNECTIONS="canary")
        assert (fault.file, fault.key) == ("environment", "NOTIFICATION_GATEWAY_RELAY__CONNECTIONS")
        assert "canary" not in str(fault)

    def test_unknown(self, folder: Path) -> None:
        """An unknown variable is a fault that suggests the nearest known one."""
        [fault] = faults(folder, "", HTTP__LISTNE="canary")
        assert fault.remedy == "did you mean NOTIFICATION_GATEWAY_HTTP__LISTEN?"

    @pytest.mark.parametrize("name", ["EGRESS__PORTS", "LOCAL_SECRETS__ALLOW", "UI__OIDC", "MASTER_KEY__KEYS"])
    def test_lists_and_tables(self, folder: Path, name: str) -> None:
        """Only scalar keys come from the environment."""
        [fault] = faults(folder, "", **{name: "25"})
        assert "list or a table" in fault.problem

    def test_operator_named_tables(self, folder: Path) -> None:
        """Tables that the operator names cannot come from the environment."""
        [fault] = faults(folder, "", CONNECTIONS__CORP="x")
        assert fault.problem == "is not a setting"

    def test_other_names_are_not_settings(self, folder: Path) -> None:
        """The command line's own variables are left alone."""
        assert loaded(folder, "", CONFIG="x", KEY="y", URL="z") == loaded(folder, "")


class TestPaths:
    """Where relative paths start."""

    def test_at_the_file(self, folder: Path) -> None:
        """They start at the settings file's folder."""
        assert loaded(folder, '[admin]\nsocket = "run/a.sock"').admin.socket == folder / "run/a.sock"

    def test_at_base(self, folder: Path) -> None:
        """They start at [paths] base, which starts at the file's folder; defaults too."""
        (folder / "etc").mkdir()
        settings = loaded(folder / "etc", '[paths]\nbase = ".."\n[local_secrets]\ndirectory = "s"')
        assert settings.local_secrets.directory == folder / "s"
        assert settings.admin.socket == folder / "var/admin.sock"

    def test_without_a_file(self, folder: Path) -> None:
        """Without a file they start at the current directory."""
        with contextlib.chdir(folder):
            assert load(None, {}).store.url == SqliteUrl(folder / "var/gateway.db")

    def test_absolute(self, folder: Path) -> None:
        """Absolute paths stay."""
        assert loaded(folder, '[admin]\nsocket = "/run/a.sock"').admin.socket == Path("/run/a.sock")

    def test_unix_listener(self, folder: Path) -> None:
        """A Unix listener's path starts there as well."""
        assert loaded(folder, '[http]\nlisten = "unix:h.sock"').http.listen == (UnixAddress(folder / "h.sock"),)

    def test_nested(self, folder: Path) -> None:
        """So do paths deep in a connection's table."""
        text = """
            [connections.v]
            kind = "vault"
            url = "https://v.test"
            auth = {method = "token", token = {file = "t"}}
            """
        connection = loaded(folder, text).connections["v"]
        assert connection.kind == "vault"
        assert isinstance(connection.auth, VaultToken)
        assert connection.auth.token.file == folder / "t"

    def test_links_are_kept(self, folder: Path) -> None:
        """A linked file is named by its link, which may point elsewhere after a renewal."""
        trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(folder / "now.pem")
        (folder / "tls.pem").symlink_to("now.pem")
        http = loaded(folder, '[http]\ntls_certificate = "tls.pem"\ntls_key = "tls.pem"').http
        assert http.tls_certificate == folder / "tls.pem"

    def test_default_path(self) -> None:
        """The settings file is named by the environment, else it lies under /etc."""
        assert default_path({}) == Path("/etc/notification-gateway/gateway.toml")
        assert default_path({"NOTIFICATION_GATEWAY_CONFIG": "/x.toml"}) == Path("/x.toml")


class TestValues:
    """What text becomes."""

    def test_listeners(self, folder: Path) -> None:
        """A list of listeners keeps its order; every form has its type."""
        text = '[http]\nlisten = ["127.0.0.1:8025", "[0:0::1]:8025", "localhost:0", "unix:/run/h.sock", "systemd"]'
        assert loaded(folder, text).http.listen == (
            TcpAddress("127.0.0.1", 8025),
            TcpAddress("::1", 8025),
            TcpAddress("localhost", 0),
            UnixAddress(Path("/run/h.sock")),
            SystemdSocket(),
        )

    def test_port_zero_is_never_taken(self, folder: Path) -> None:
        """Listeners on port 0 are not in each other's way."""
        assert loaded(folder, "", HTTP__LISTEN="127.0.0.1:0", METRICS__LISTEN="127.0.0.1:0")

    def test_metrics_can_be_off(self, folder: Path) -> None:
        """An empty list switches the metrics listener off."""
        assert loaded(folder, "[metrics]\nlisten = []").metrics.listen == ()

    @pytest.mark.parametrize(
        ("text", "network", "port"),
        [
            ("127.0.0.1/32:1025", "127.0.0.1/32", 1025),
            ("10.0.0.0/8", "10.0.0.0/8", None),
            ("192.0.2.1", "192.0.2.1/32", None),
            ("fd00::/8", "fd00::/8", None),
            ("[fd00::/8]:25", "fd00::/8", 25),
            ("[::1]", "::1/128", None),
        ],
    )
    def test_egress(self, folder: Path, text: str, network: str, port: int | None) -> None:
        """A rule is a network with or without a port."""
        rules = loaded(folder, f'[egress]\ndeny = ["{text}"]').egress.deny
        assert rules == (EgressRule(ipaddress.ip_network(network), port),)

    @given(st.ip_addresses(), st.integers(0, 128), st.none() | st.integers(1, 65535))
    def test_egress_round_trip(
        self, address: ipaddress.IPv4Address | ipaddress.IPv6Address, prefix: int, port: int | None
    ) -> None:
        """A rule reads back from its own text."""
        network = ipaddress.ip_network(f"{address}/{min(prefix, address.max_prefixlen)}", strict=False)
        rule = EgressRule(network, port)
        assert Egress.model_validate({"allow": [str(rule)]}).allow == (rule,)

    @given(st.text())
    def test_any_text_is_a_listener_or_refused(self, text: str) -> None:
        """No text makes reading an address fail in any other way than by refusal."""
        try:
            listeners = Http.model_validate({"listen": text}).listen
        except ValueError:
            return
        assert len(listeners) == 1

    @pytest.mark.parametrize(("url", "path"), [("sqlite:///x/y.db", "x/y.db"), ("sqlite:////x/y.db", "/x/y.db")])
    def test_sqlite(self, folder: Path, url: str, path: str) -> None:
        """Three slashes begin a relative path, four an absolute one."""
        assert loaded(folder, f'[store]\nurl = "{url}"').store.url == SqliteUrl(folder / path)

    def test_sqlite_round_trip(self, folder: Path) -> None:
        """The URL of a loaded store names the same file."""
        url = loaded(folder, "").store.url
        assert loaded(folder, f'[store]\nurl = "{url}"').store.url == url

    def test_postgresql_hides_its_password(self, folder: Path) -> None:
        """The shared store's URL shows neither the password nor the options, and keeps both."""
        text = "postgresql://gateway:canary@db.example.test:5432/mail?password=canary"
        settings = loaded(folder, f'[store]\nurl = "{text}"')
        assert isinstance(settings.store.url, PostgresqlUrl)
        assert settings.store.url.url.get_secret_value() == text
        assert str(settings.store.url) == "postgresql://gateway@db.example.test:5432/mail"
        assert "canary" not in repr(settings)

    def test_hosts(self, folder: Path) -> None:
        """Hosts have one form, whatever their case, final dot or script."""
        text = '[egress]\nplaintext_auth = ["Mail.Example.TEST.", "bücher.example", "192.0.2.1", "2001:DB8::0"]'
        hosts = loaded(folder, text).egress.plaintext_auth
        assert hosts == ("mail.example.test", "xn--bcher-kva.example", "192.0.2.1", "2001:db8::")

    def test_ehlo_literal(self, folder: Path) -> None:
        """A machine without a name greets with its address."""
        assert loaded(folder, "", RELAY__EHLO_NAME="[192.0.2.1]").relay.ehlo_name == "[192.0.2.1]"

    def test_ehlo_default(self, folder: Path) -> None:
        """By default the greeting is acceptable when it is given explicitly."""
        name = loaded(folder, "").relay.ehlo_name
        assert loaded(folder, "", RELAY__EHLO_NAME=name).relay.ehlo_name == name

    def test_master_key_file(self, folder: Path) -> None:
        """One file is the only source, and seals."""
        key = loaded(folder, "").master_key
        assert key.sources == (SecretSource(file=folder / "var/master.key"),)

    def test_master_keys(self, folder: Path) -> None:
        """Of several keys the first seals; the default file is not among them."""
        key = loaded(folder, '[master_key]\nkeys = [{credential = "new"}, {env = "OLD"}]').master_key
        assert key.file is None
        assert key.sources == (SecretSource(credential="new"), SecretSource(env="OLD"))

    def test_loopback_without_tls(self, folder: Path) -> None:
        """An agent on the same machine may be spoken to without TLS."""
        text = """
            [connections.v]
            kind = "vault"
            url = "http://127.0.0.1:8200/"
            auth = {method = "token", token = {env = "T"}}
            """
        assert loaded(folder, text).connections["v"].url == "http://127.0.0.1:8200"

    def test_connector_name_from_its_secret(self, folder: Path) -> None:
        """A proxy's user name may come with its password, from one secret."""
        text = """
            [connectors.dmz]
            kind = "http_connect"
            address = "proxy.example.test:3128"
            credential = {source = "file", key = "proxy", username_property = "user"}
            """
        assert loaded(folder, text).connectors["dmz"].username is None

    @pytest.mark.parametrize("name", sorted(BUILT_IN_OAUTH))
    def test_known_provider(self, folder: Path, name: str) -> None:
        """A provider that is known needs no address."""
        assert loaded(folder, f'[oauth.{name}]\nallow = ["acme"]').oauth[name].allow == ("acme",)

    def test_provider_of_another_cloud(self, folder: Path) -> None:
        """A provider that is known may be elsewhere, and known by a private authority's certificates."""
        trustme.CA().cert_pem.write_to_path(folder / "ca.pem")
        text = """
            [oauth.microsoft365]
            authority = "https://login.microsoftonline.us/"
            scope = "https://outlook.office365.us/.default"
            ca_certificates = "ca.pem"
            client_authentication = "client_secret_post"
            """
        provider = loaded(folder, text).oauth["microsoft365"]
        assert (provider.authority, provider.token_url) == ("https://login.microsoftonline.us", None)
        assert provider.ca_certificates == folder / "ca.pem"

    def test_immutable(self, folder: Path) -> None:
        """Loaded settings cannot be changed, tables included."""
        settings = loaded(folder, "")
        with pytest.raises(ValueError, match="frozen"):
            settings.relay.connections = 1  # type: ignore[misc]
        with pytest.raises(TypeError):
            settings.connections["x"] = None  # type: ignore[index]

    def test_invariants_hold_in_code(self) -> None:
        """A section built in code keeps its rules."""
        with pytest.raises(ValueError, match="contradicts"):
            MasterKey(file=Path("a"), keys=(SecretSource(env="B"),))
