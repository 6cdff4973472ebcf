"""Routes of templates."""

from typing import Final

from gateway.http import templates
from gateway.http.directory_views import RenderedView, TemplateBody, TemplateList, TemplateView
from gateway.http.routes.vocabulary import CHANGE, IF_MATCH, IF_NEW, PROFILES, READ, SAVE, VERSION
from gateway.http.routing import Route
from gateway.http.schema import PageQuery, RenderRequest

ROUTES: Final = (
    Route(
        "GET", "/v1/tenants/{tenant}/templates", "template.list", templates.listing,
        "List a tenant's templates",
        scopes=READ,
        query=PageQuery,
        answer=TemplateList,
    ),
    Route(
        "GET", "/v1/tenants/{tenant}/templates/{name}", "template.show", templates.show,
        "Show a template",
        scopes=READ,
        locate=templates.locate,
        answer=TemplateView,
        answer_headers=VERSION,
    ),
    Route(
        "PUT", "/v1/tenants/{tenant}/templates/{name}", "template.replace", templates.save,
        "Make or replace a template",
        scopes=PROFILES,
        body=TemplateBody,
        makes=True,
        answer=TemplateView,
        description="201 if it is new.",
        request_headers=IF_NEW,
        answer_headers=VERSION,
        problems=SAVE,
    ),
    Route(
        "DELETE", "/v1/tenants/{tenant}/templates/{name}", "template.delete", templates.delete,
        "Delete a template",
        scopes=PROFILES,
        locate=templates.locate,
        status=204,
        request_headers=IF_MATCH,
        problems=CHANGE,
    ),
    Route(
        "POST", "/v1/tenants/{tenant}/templates/{name}/render", "template.render", templates.preview,
        "Show what a template makes of data",
        scopes=frozenset({"profiles", "read"}),
        locate=templates.locate,
        body=RenderRequest,
        answer=RenderedView,
    ),
)  # fmt: skip
