"""What is wrong with a settings file, and in which words it is told.

`broken/` holds one file for each rule, which breaks that rule and no other. Where a file holds a refused value it says
"canary", so that one look at the fault's text shows whether a value was quoted.
"""

from pathlib import Path

import pytest

from gateway.settings import SettingsError, load
from tests.settings.writing import faults, fixed_keys, loaded

BROKEN = Path(__file__).parent / "broken"

EXPECTED = {
    "allow_not_a_list": ("[local_secrets] allow.acme", "must be a list, but is text"),
    "allow_tenant": ("[local_secrets] allow.Acme", "not a well-formed name"),
    "auth_method": ("[connections.corp] auth.method", "none of the words"),
    "auth_unknown_key": ("[connections.corp] auth.token", "not a known key"),
    "authorities_unreadable": ("[oauth.other] ca_certificates", "no certificate can be read"),
    "base_missing": ("[paths] base", "No such file or directory"),
    "certificate_unreadable": ("[http] tls_certificate", "no certificate can be read"),
    "certificate_without_key": ("[http] tls_key", "missing, while tls_certificate is given"),
    "client_certificate_without_key": ("[connections.ccp] client_key", "missing, while client_certificate is given"),
    "connection_kind": ("[connections.corp] kind", "none of the words"),
    "connection_name": ("[connections.Corp]", "not a well-formed name"),
    "connection_without_kind": ("[connections.corp] kind", "missing"),
    "connector_connection": ("[connectors.dmz] credential.connection", "not defined"),
    "connector_password": ("[connectors.dmz] credential", "missing, while username is given"),
    "credential_incomplete": ("[connectors.dmz] credential.key", "missing"),
    "credential_with_path": ("[master_key] keys[0].credential", "not the name of a systemd credential"),
    "demo_incomplete": ("[demo] key_file", "missing"),
    "demo_recipient": ("[demo] to", "not a mail address"),
    "egress_host_bits": ("[egress] allow[0]", "bits set beyond its prefix"),
    "egress_name": ("[egress] deny[0]", "not a network"),
    "egress_port": ("[egress] allow[0]", "port that is out of range"),
    "ehlo_underscore": ("[relay] ehlo_name", "not the name or the address of a host"),
    "empty_list": ("[relay] retry_seconds", "empty"),
    "env_everything": ("[local_secrets] env[0]", "not a pattern"),
    "file_is_a_folder": ("[provision] files[0]", "not a file"),
    "file_missing": ("[connections.corp] ca_certificates", "No such file or directory"),
    "key_unreadable": ("[http] tls_key", "the key of tls_certificate cannot be read"),
    "listen_ipv6_without_brackets": ("[http] listen[0]", "not an address with a port"),
    "listen_nowhere": ("[http] listen", "empty"),
    "listen_number": ("[http] listen", "must be an address or a list of them, but is a whole number"),
    "listen_port_out_of_range": ("[http] listen[1]", "port that is out of range"),
    "listen_twice": ("[metrics] listen", "another listener has too"),
    "listen_within_wildcard": ("[mail_catcher] listen", "another listener has too"),
    "listen_without_port": ("[http] listen[0]", "not an address with a port"),
    "master_key_no_source": ("[master_key] keys[0].file", "gives no source"),
    "master_key_sources": ("[master_key] keys[0].file", "gives file and env"),
    "master_key_twice": ("[master_key] file", "contradicts keys"),
    "metrics_from_systemd": ("[metrics] listen", "sockets that systemd passes, where the API is"),
    "oauth_address": ("[oauth.other] token_url", "missing"),
    "oauth_authority": ("[oauth.other] authority", "is for microsoft365 only"),
    "oauth_authority_without_tls": ("[oauth.microsoft365] authority", "TLS"),
    "oidc_without_public_url": ("[ui] public_url", "missing, while oidc is given"),
    "oidc_scope": ("[ui] oidc.scopes[0]", "is not a scope"),
    "proxy_host_bits": ("[http] trusted_proxies[0]", "bits set beyond its prefix"),
    "public_url_with_path": ("[ui] public_url", "has a path"),
    "secret_as_text": ("[connections.corp] auth.token", "must be a table, but is text"),
    "secret_url_without_tls": ("[connections.corp] url", "without TLS"),
    "store_in_memory": ("[store] url", "must name a database file"),
    "store_two_slashes": ("[store] url", "not the URL of a store"),
    "store_unknown": ("[store] url", "not the URL of a store"),
    "systemd_twice": ("[http] listen", "another listener has too"),
    "toml_bare_value": ("", "not TOML: Invalid value (at line 4"),
    "toml_syntax": ("", "not TOML: Expected ']' at the end of a table declaration (at line 3"),
    "too_large": ("[relay] connections", "too large"),
    "too_small": ("[relay] default_ttl_seconds", "too small"),
    "true_as_number": ("[metrics] tenant_label", "must be true or false, but is a whole number"),
    "unknown_key": ("[http] listen_on", "not a known key"),
    "unknown_nested_key": ("[egress] webhooks.port", "not a known key"),
    "unknown_section": ("[htttp]", "not a known key"),
    "unknown_word": ("[retention] content", "none of the words"),
    "url_with_login": ("[connections.ccp] url", "login"),
    "wrong_kind": ("[relay] connections", "must be a whole number, but is text"),
    "wrong_kind_of_item": ("[relay] retry_seconds[1]", "must be a whole number, but is text"),
    "wrong_kind_of_section": ("[http]", "must be a table, but is text"),
}


class TestBroken:
    """Every rule refuses its broken file."""

    @pytest.mark.parametrize("name", sorted(EXPECTED))
    def test_one_fault(self, name: str) -> None:
        """A file that breaks one rule has one fault: file, key, problem, remedy."""
        path = BROKEN / f"{name}.toml"
        key, problem = EXPECTED[name]
        with pytest.raises(SettingsError) as refused:
            load(path, {})
        [fault] = refused.value.faults
        assert (fault.file, fault.key) == (str(path), key)
        assert problem in fault.problem
        assert fault.remedy

    @pytest.mark.parametrize("name", sorted(EXPECTED))
    def test_value_is_not_quoted(self, name: str) -> None:
        """Neither the faults nor the exception behind them hold the refused value."""
        with pytest.raises(SettingsError) as refused:
            load(BROKEN / f"{name}.toml", {})
        assert "canary" not in str(refused.value)
        assert refused.value.__suppress_context__ or refused.value.__context__ is None

    def test_every_file_is_expected(self) -> None:
        """No broken file lies about without a test."""
        assert {path.stem for path in BROKEN.glob("*.toml")} == EXPECTED.keys()

    def test_all_at_once(self, folder: Path) -> None:
        """Faults of many sections, of one section and of the environment are told together."""
        text = """
            [http]
            listen = "nowhere"
            listne = "127.0.0.1:8025"
            tls_key = "missing.pem"
            [relay]
            connections = 0
            [connections.corp]
            kind = "vault"
            auth = {method = "approle"}
            [provision]
            files = ["one.toml", "two.toml"]
            [logs]
            """
        found = {fault.key for fault in faults(folder, text, RELAY__DRAIN_SECONDS="soon", RELAY__SPEED="1")}
        assert found == {
            "[http] listen[0]",
            "[http] listne",
            "[http] tls_key",
            "[http] tls_certificate",
            "[relay] connections",
            "[connections.corp] url",
            "[connections.corp] auth.role_id",
            "[connections.corp] auth.secret_id",
            "[provision] files[0]",
            "[provision] files[1]",
            "[logs]",
            "NOTIFICATION_GATEWAY_RELAY__DRAIN_SECONDS",
            "NOTIFICATION_GATEWAY_RELAY__SPEED",
        }

    def test_contradiction_beside_a_faulty_key(self, folder: Path) -> None:
        """A contradiction is told although a key of the same table has a fault of its own."""
        text = '[master_key]\nfile = "master.key"\nkeys = [{env = "1"}]'
        assert [fault.key for fault in faults(folder, text)] == ["[master_key] keys[0].env", "[master_key] file"]

    @pytest.mark.parametrize(
        ("text", "nearest"),
        [
            ("[htttp]", "http"),
            ("[http]\nlistne = 1", "listen"),
            ("[egress]\nwebhooks = {port = [443]}", "ports"),
            ('[connections.url]\nkind = "conjur"\nacount = 1', "account"),
            ('[connections.x]\nkind = "vault"\nauth = {method = "ldap", usename = 1}', "username"),
            ("[master_key]\nkeys = [{fil = 1}]", "file"),
        ],
    )
    def test_did_you_mean(self, folder: Path, text: str, nearest: str) -> None:
        """An unknown key that resembles a known one of its table is told which."""
        remedies = [fault.remedy for fault in faults(folder, text) if fault.problem == "is not a known key"]
        assert remedies == [f"did you mean {nearest}?"]

    def test_one_line(self, folder: Path) -> None:
        """A fault reads as one line: file, key, problem; remedy."""
        [fault] = faults(folder, "[relay]\nconnections = 0")
        assert str(fault) == f"{folder}/gateway.toml: [relay] connections: is too small; give 1 at least"

    def test_strange_key_stays_on_its_line(self, folder: Path) -> None:
        """A key with a line break cannot forge a second line."""
        [fault] = faults(folder, '[http]\n"a\\nb" = 1')
        assert fault.key == '[http] "a\\nb"'

    def test_missing_file(self, folder: Path) -> None:
        """A settings file that is not there is a fault like any other."""
        with pytest.raises(SettingsError, match="cannot be read"):
            load(folder / "absent.toml", {})

    def test_not_utf8(self, folder: Path) -> None:
        """A file in another encoding is refused by the place, not by its bytes."""
        path = folder / "gateway.toml"
        path.write_bytes(b'[http]\nlisten = "\xff"')
        with pytest.raises(SettingsError, match="is not UTF-8 at byte 17"):
            load(path, {})

    @pytest.mark.parametrize(("section", "key"), list(fixed_keys()))
    @pytest.mark.parametrize("value", ['"canary-"', '["canary-"]', '{name = "canary-"}', '[["canary-"]]'])
    def test_no_key_quotes_its_value(self, folder: Path, section: str, key: str, value: str) -> None:
        """Whatever lands under whichever key, its fault does not quote it."""
        refused = ""
        try:
            loaded(folder, f"[{section}]\n{key} = {value}")
        except SettingsError as error:
            refused = str(error)
        assert "canary" not in refused
