"""Routes of profiles: own ones, lent ones, tests of them."""

from typing import Final

from gateway.http import profiles, testing
from gateway.http.directory_views import (
    AnyProfileView,
    NameList,
    PresetList,
    ProfileBody,
    ProfileChange,
    ProfileList,
    ProfileView,
    PushView,
)
from gateway.http.routes.vocabulary import (
    CHANGE,
    IF_MATCH,
    PATCH_NOTE,
    PROFILES,
    READ,
    SAVE,
    SAVE_PROFILE,
    STORE,
    VERSION,
)
from gateway.http.routing import Route
from gateway.http.schema import PageQuery, PushRequest, TrialRequest
from gateway.problems import Code

TEST_NOTE: Final = (
    "200 whether it is green or red. With `Accept: text/event-stream` each phase comes at once as an event `phase`, and "
    "the answer last as the event `result`. At most ten a minute of a tenant, all at once if need be."
)

ROUTES: Final = (
    Route(
        "GET", "/v1/tenants/{tenant}/profiles", "profile.list", profiles.listing,
        "List a tenant's profiles, own and inherited",
        scopes=READ,
        query=PageQuery,
        answer=ProfileList,
    ),
    Route(
        "POST", "/v1/tenants/{tenant}/profiles", "profile.create", profiles.create,
        "Make a profile",
        scopes=PROFILES,
        body=ProfileBody,
        status=201,
        answer=ProfileView,
        description="A preset fills what is left open.",
        answer_headers={**VERSION, "Location": "The profile."},
        problems=SAVE_PROFILE,
    ),
    Route(
        "POST", "/v1/tenants/{tenant}/profiles/push", "profile.push", profiles.push,
        "Lend profiles to direct children",
        scopes=PROFILES,
        body=PushRequest,
        answer=PushView,
        description="All of them to all children, or none.",
        problems=(
            Code.NOT_OWNED, Code.NOT_A_CHILD, Code.INVALID_DEFAULT, Code.ALREADY_INHERITED, Code.NAME_TAKEN, *SAVE,
        ),
    ),
    Route(
        "POST", "/v1/tenants/{tenant}/profiles/test", "profile.test_unsaved", testing.unsaved,
        "Test a profile that is not saved",
        scopes=PROFILES,
        body=testing.UnsavedTrialRequest,
        answer=testing.TrialView,
        events=True,
        description=(
            "Checks the profile as saving does, but for its name being taken; an address or port that the operator's "
            f"policy refuses makes it red. {TEST_NOTE} A secret that it refers to takes scope `secrets`; a password "
            "that is there already, given back as it was read, goes nowhere else."
        ),
        problems=(
            Code.NO_PROFILE, Code.TENANT_DISABLED, Code.LOCKED_BY_PARENT, Code.DUPLICATE_PROFILE, Code.PLAINTEXT_AUTH,
            Code.AUTH_UNVERIFIED, Code.SECRET_NOT_ALLOWED, *STORE,
        ),
    ),
    Route(
        "GET", "/v1/tenants/{tenant}/profiles/{name}", "profile.show", profiles.show,
        "Show a profile",
        scopes=READ,
        locate=profiles.locate,
        answer=AnyProfileView,
        description="Of an inherited one: its name, its default mark, and that it is inherited.",
        answer_headers=VERSION,
    ),
    Route(
        "PUT", "/v1/tenants/{tenant}/profiles/{name}", "profile.replace", profiles.save,
        "Replace a profile",
        scopes=PROFILES,
        locate=profiles.locate,
        body=ProfileChange,
        answer=AnyProfileView,
        description="Of an inherited one only `is_default` changes. A password is dropped if it would go elsewhere.",
        request_headers=IF_MATCH,
        answer_headers=VERSION,
        problems=(Code.NOT_OWNER, *SAVE_PROFILE),
    ),
    Route(
        "PATCH", "/v1/tenants/{tenant}/profiles/{name}", "profile.patch", profiles.save,
        "Change a profile",
        scopes=PROFILES,
        locate=profiles.locate,
        body=ProfileChange,
        answer=AnyProfileView,
        description=PATCH_NOTE,
        request_headers=IF_MATCH,
        answer_headers=VERSION,
        problems=(Code.NOT_OWNER, *SAVE_PROFILE),
    ),
    Route(
        "DELETE", "/v1/tenants/{tenant}/profiles/{name}", "profile.delete", profiles.delete,
        "Delete a profile, or the link to an inherited one",
        scopes=PROFILES,
        locate=profiles.locate,
        status=204,
        request_headers=IF_MATCH,
        problems=(Code.PROFILE_IN_USE, *CHANGE),
    ),
    Route(
        "POST", "/v1/tenants/{tenant}/profiles/{name}/test", "profile.test", testing.saved,
        "Send a test message, and tell how each phase goes",
        scopes=PROFILES,
        locate=profiles.locate,
        body=TrialRequest,
        answer=testing.AnyTrialView,
        events=True,
        description=f"{TEST_NOTE} Of an inherited profile each phase says only whether it passed, and the error its code.",
        problems=(Code.NO_PROFILE, Code.TENANT_DISABLED, Code.LOCKED_BY_PARENT, *STORE),
    ),
    Route(
        "POST", "/v1/tenants/{tenant}/profiles/{name}/pause", "profile.pause", profiles.pause,
        "Stop a profile; its mail is held",
        scopes=PROFILES,
        locate=profiles.locate,
        answer=ProfileView,
        problems=(Code.NOT_OWNER, *STORE),
    ),
    Route(
        "POST", "/v1/tenants/{tenant}/profiles/{name}/resume", "profile.resume", profiles.resume,
        "Let a profile go on that was paused or stood still",
        scopes=PROFILES,
        locate=profiles.locate,
        answer=ProfileView,
        problems=(Code.NOT_OWNER, *STORE),
    ),
    Route(
        "GET", "/v1/tenants/{tenant}/connectors", "connector.list", profiles.connectors,
        "List the proxies that the tenant's profiles may name",
        scopes=READ,
        query=PageQuery,
        answer=NameList,
    ),
    Route(
        "GET", "/v1/presets", "preset.list", profiles.presets,
        "List presets",
        scopes=READ,
        query=PageQuery,
        answer=PresetList,
    ),
)  # fmt: skip
