"""Routes of API keys, and of which profile a notification would get."""

from typing import Final

from gateway.http import keys
from gateway.http.routes.vocabulary import ADMIN, READ, STORE
from gateway.http.routing import Route
from gateway.http.schema import KeyRequest, PageQuery, ResolutionQuery
from gateway.problems import Code

ROUTES: Final = (
    Route(
        "GET", "/v1/tenants/{tenant}/resolution", "tenant.resolution", keys.resolution,
        "Explain which profile and copies a notification would get",
        scopes=READ,
        query=ResolutionQuery,
        answer=keys.ResolutionView,
    ),
    Route(
        "GET", "/v1/tenants/{tenant}/keys", "key.list", keys.listing,
        "List API keys",
        scopes=ADMIN,
        query=PageQuery,
        answer=keys.KeyList,
    ),
    Route(
        "POST", "/v1/tenants/{tenant}/keys", "key.create", keys.create,
        "Make an API key",
        scopes=ADMIN,
        body=KeyRequest,
        status=201,
        answer=keys.NewKeyView,
        description="The answer is the only one that ever shows the key. No key makes one that may more or lasts longer.",
        answer_headers={"Location": "The key."},
        problems=(Code.QUOTA_EXCEEDED, *STORE),
    ),
    Route(
        "GET", "/v1/tenants/{tenant}/keys/{id}", "key.show", keys.show,
        "Show an API key, without its secret",
        scopes=ADMIN,
        locate=keys.locate,
        answer=keys.KeyView,
    ),
    Route(
        "DELETE", "/v1/tenants/{tenant}/keys/{id}", "key.revoke", keys.revoke,
        "Revoke an API key",
        scopes=ADMIN,
        locate=keys.locate,
        status=204,
        problems=STORE,
    ),
)  # fmt: skip
