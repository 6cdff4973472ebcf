"""Routes of signing in to the pages."""

from typing import Final

from gateway.http import sign_in_links
from gateway.http.routes.vocabulary import ADMIN, STORE
from gateway.http.routing import Route
from gateway.problems import Code

ROUTES: Final = (
    Route(
        "POST", "/v1/sign-in-links", "sign_in_link.create", sign_in_links.create,
        "Make a link that signs in to the pages once",
        scopes=ADMIN,
        status=201,
        answer=sign_in_links.SignInLinkView,
        description=(
            "Whoever opens it within five minutes, and presses the button there, is signed in as the caller. The answer is "
            "the only one that ever shows it."
        ),
        problems=(Code.RATE_LIMITED, *STORE),
    ),
)  # fmt: skip
