"""Routes of the tree of tenants: their preferences, their audit log, and files that say how all of it should be."""

from typing import Final

from gateway.directory.shapes import Tenant
from gateway.http import apply, audit, tenants
from gateway.http.directory_views import (
    ApplyBody,
    ApplyView,
    AuditList,
    AuditVerdict,
    PreferencesBody,
    PreferencesView,
    TenantChange,
    TenantList,
    TenantView,
)
from gateway.http.routes.vocabulary import (
    ADMIN,
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
from gateway.http.schema import ApplyQuery, PageQuery, TenantQuery
from gateway.problems import Code

ROUTES: Final = (
    Route(
        "GET", "/v1/tenants", "tenant.list", tenants.listing,
        "List the tenants in reach",
        scopes=READ,
        query=TenantQuery,
        answer=TenantList,
        problems=(Code.NOT_FOUND,),
    ),
    Route(
        "POST", "/v1/tenants", "tenant.create", tenants.create,
        "Make a tenant",
        scopes=ADMIN,
        body=Tenant,
        status=201,
        answer=TenantView,
        description="`parent` is the caller's own tenant, unless told otherwise.",
        answer_headers={**VERSION, "Location": "The tenant."},
        problems=(Code.NAME_TAKEN, Code.NOT_FOUND, Code.QUOTA_EXCEEDED, *STORE),
    ),
    Route(
        "GET", "/v1/tenants/{tenant}", "tenant.show", tenants.show,
        "Show a tenant",
        scopes=READ,
        answer=TenantView,
        answer_headers=VERSION,
    ),
    Route(
        "PUT", "/v1/tenants/{tenant}", "tenant.replace", tenants.save,
        "Replace a tenant",
        scopes=ADMIN,
        body=TenantChange,
        answer=TenantView,
        description="`parent`, `enabled`, `own_profiles` and `limits` are for an administrator of a tenant above.",
        request_headers=IF_MATCH,
        answer_headers=VERSION,
        problems=(Code.LOCKED_BY_PARENT, *SAVE),
    ),
    Route(
        "PATCH", "/v1/tenants/{tenant}", "tenant.patch", tenants.save,
        "Change a tenant",
        scopes=ADMIN,
        body=TenantChange,
        answer=TenantView,
        description=PATCH_NOTE,
        request_headers=IF_MATCH,
        answer_headers=VERSION,
        problems=(Code.LOCKED_BY_PARENT, *SAVE),
    ),
    Route(
        "DELETE", "/v1/tenants/{tenant}", "tenant.delete", tenants.delete,
        "Delete a tenant that nothing depends on",
        scopes=ADMIN,
        status=204,
        request_headers=IF_MATCH,
        problems=(Code.TENANT_IN_USE, Code.LOCKED_BY_PARENT, *CHANGE),
    ),
    Route(
        "GET", "/v1/tenants/{tenant}/preferences", "preferences.show", tenants.show_preferences,
        "Show whom the tenant copies",
        scopes=READ,
        answer=PreferencesView,
        answer_headers=VERSION,
    ),
    Route(
        "PUT", "/v1/tenants/{tenant}/preferences", "preferences.replace", tenants.save_preferences,
        "Replace whom the tenant copies",
        scopes=PROFILES,
        body=PreferencesBody,
        answer=PreferencesView,
        description="All matching rules add up; without rules nobody gets a copy.",
        request_headers=IF_MATCH,
        answer_headers=VERSION,
        problems=SAVE,
    ),
    Route(
        "GET", "/v1/tenants/{tenant}/audit", "audit.list", audit.listing,
        "List who changed what, newest first",
        scopes=ADMIN,
        query=PageQuery,
        answer=AuditList,
        problems=(Code.UNAVAILABLE,),
    ),
    Route(
        "GET", "/v1/tenants/{tenant}/audit/verify", "audit.verify", audit.verify,
        "Check that the audit log is whole",
        scopes=ADMIN,
        answer=AuditVerdict,
        problems=(Code.UNAVAILABLE,),
    ),
    Route(
        "POST", "/v1/apply", "apply", apply.apply,
        "Make tenants, profiles, links, preferences and templates what files say",
        scopes=ADMIN,
        query=ApplyQuery,
        body=ApplyBody,
        answer=ApplyView,
        description="All of it in one change, or nothing. `dry_run` only tells what would change.",
        problems=(
            Code.NOT_FOUND, Code.NOT_A_CHILD, Code.NOT_OWNED, Code.ALREADY_INHERITED, Code.PROFILE_IN_USE,
            Code.TENANT_IN_USE, *SAVE_PROFILE,
        ),
    ),
)  # fmt: skip
