"""Routes of stored secrets, and of profiles' credentials."""

from typing import Final

from gateway.http import credentials, profiles, secrets
from gateway.http.directory_views import SecretConnectionList, SecretList, SecretView
from gateway.http.routes.vocabulary import ADMIN, IF_MATCH, IF_NEW, SECRET, STORE, VERSION
from gateway.http.routing import Route
from gateway.http.schema import PageQuery, RewrapQuery, SecretRequest
from gateway.problems import Code

LIMIT_NOTE: Final = "At most ten a minute of a tenant."

ROUTES: Final = (
    Route(
        "GET", "/v1/tenants/{tenant}/secrets", "secret.list", secrets.listing,
        "List a tenant's stored secrets, without their values",
        scopes=SECRET,
        query=PageQuery,
        answer=SecretList,
    ),
    Route(
        "GET", "/v1/tenants/{tenant}/secrets/{name}", "secret.show", secrets.show,
        "Show a stored secret, without its value",
        scopes=SECRET,
        locate=secrets.locate,
        answer=SecretView,
        answer_headers=VERSION,
    ),
    Route(
        "PUT", "/v1/tenants/{tenant}/secrets/{name}", "secret.replace", secrets.save,
        "Keep a secret, or its next version",
        scopes=SECRET,
        body=SecretRequest,
        makes=True,
        answer=SecretView,
        description="201 if it is new. Profiles that stand still for it go on by themselves.",
        request_headers=IF_NEW,
        answer_headers=VERSION,
        problems=(Code.QUOTA_EXCEEDED, Code.PRECONDITION_FAILED, *STORE),
    ),
    Route(
        "DELETE", "/v1/tenants/{tenant}/secrets/{name}", "secret.delete", secrets.delete,
        "Delete a secret that no profile refers to",
        scopes=SECRET,
        locate=secrets.locate,
        status=204,
        request_headers=IF_MATCH,
        problems=(Code.SECRET_IN_USE, Code.PRECONDITION_FAILED, *STORE),
    ),
    Route(
        "POST", "/v1/secrets/rewrap", "secret.rewrap", secrets.rewrap,
        "Seal with the present master key what older ones sealed",
        scopes=ADMIN,
        query=RewrapQuery,
        answer=secrets.RewrapView,
        description=(
            "Of all tenants, so for administrators of `system` alone. Everything sealed is opened: once a run from the "
            "start to the last `next_cursor` finds nothing `unreadable`, the older keys can go."
        ),
        problems=STORE,
    ),
    Route(
        "GET", "/v1/tenants/{tenant}/secret-connections", "secret_connection.list", secrets.connections,
        "List the secret stores that the tenant's profiles may name",
        scopes=frozenset({"read", "secrets"}),
        query=PageQuery,
        answer=SecretConnectionList,
    ),
    Route(
        "GET", "/v1/credentials", "credential.list", credentials.listing,
        "List the credentials that are not in order",
        scopes=SECRET,
        query=PageQuery,
        answer=credentials.CredentialList,
        description=(
            "Of the reach's own profiles that this daemon used since it started: those that cannot be had, are used longer "
            "than their source vouched for, or are about to end. No source is asked."
        ),
    ),
    Route(
        "POST", "/v1/tenants/{tenant}/profiles/{name}/credential/check", "credential.check", credentials.check,
        "Say whether a profile's credentials can be had, and how they stand",
        scopes=SECRET,
        locate=profiles.locate,
        answer=credentials.CredentialVerdict,
        description=LIMIT_NOTE,
        problems=(Code.NOT_OWNER, *STORE),
    ),
    Route(
        "POST", "/v1/tenants/{tenant}/profiles/{name}/credential/refresh", "credential.refresh", credentials.refresh,
        "Fetch a profile's credentials anew, and let the profile go on",
        scopes=SECRET,
        locate=profiles.locate,
        answer=credentials.CredentialVerdict,
        description=LIMIT_NOTE,
        problems=(Code.NOT_OWNER, *STORE),
    ),
)  # fmt: skip
