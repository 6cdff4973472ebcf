"""The bodies and answers of the directory's routes, as the OpenAPI document describes them.

Handlers validate with the directory's own shapes; what is here differs from those only in what may be left out, what
is shown besides, and what is never shown.
"""

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, RootModel, create_model
from pydantic.config import JsonDict

from gateway.directory.kinds import BareAddress, Host, ProfileName, TenantId
from gateway.directory.shapes import (
    Link,
    PauseReason,
    Preferences,
    Profile,
    ProfileFields,
    ProfileLimits,
    Rule,
    Shape,
    Template,
    Tenant,
)
from gateway.http.values import ObjectName, ShownTime
from gateway.http.views import View


def _fields(shape: type[BaseModel], but: tuple[str, ...] = (), *, optional: bool = False) -> dict[str, Any]:
    """Give a shape's fields for another model; `optional`: each of them may be left out."""
    fields: dict[str, Any] = {}
    for name, info in shape.model_fields.items():
        if name in but:
            continue
        kind: Any = info.annotation
        for check in info.metadata:
            kind = Annotated[kind, check]
        default = ... if info.is_required() else info.default
        fields[name] = (
            (kind | None, Field(None, alias=info.alias))
            if optional
            else (kind, Field(default, alias=info.alias, json_schema_extra=info.json_schema_extra))
        )
    return fields


def _unsaid(schema: JsonDict) -> None:
    """What may be left out here has no value that one could say instead."""
    schema.pop("default", None)


class Warned(View):
    """Something that is allowed, and most likely not what was meant."""

    pointer: str
    code: str
    detail: str


_SHOWN: Final[dict[str, Any]] = {
    "tenant": (TenantId, ...),
    "inherited": (bool, False),
    "provisioned": (bool, False),
    "paused": (bool, False),
    "warnings": (tuple[Warned, ...], ()),
}

EXAMPLE: Final[JsonDict] = {
    "name": "main",
    "host": "smtp.example.test",
    "from": {"name": "Acme", "address": "noreply@acme.example"},
    "auth": {"username": "app", "credential": {"source": "stored", "key": "relay-a"}},
    "is_default": True,
}
TEMPLATE: Final[JsonDict] = {"subject": "Welcome, {{ name }}", "text": "Hello {{ name }}"}
COPIES: Final[JsonDict] = {
    "cc": ["ops@acme.example"],
    "rules": [{"category": "security.*", "min_severity": "warning", "cc": True}],
}


def _shown_by(*examples: JsonDict) -> type[Shape]:
    """Give a base for bodies that are explained by these examples."""

    class Explained(Shape):
        model_config = ConfigDict(json_schema_extra={"examples": list(examples)})

    return Explained


ProfileBody = create_model(
    "ProfileBody",
    __base__=_shown_by(EXAMPLE, {"name": "m365", "preset": "microsoft365", "from": "noreply@acme.example"}),
    __doc__="A profile to make. `host` may be left to a preset.",
    **{**_fields(ProfileFields), "host": (Host, Field("", json_schema_extra=_unsaid))},
)
ProfileChange = create_model(
    "ProfileChange",
    __base__=_shown_by({"port": 465, "security": "implicit_tls"}, EXAMPLE),
    __doc__="A profile as it shall be (PUT), or what shall change (PATCH); read-only members may be given back.",
    **{**_fields(ProfileFields, optional=True), **{name: (kind | None, None) for name, (kind, _) in _SHOWN.items()}},
)
ProfileView = create_model(
    "ProfileView", __base__=View, __doc__="A profile under its owner.", **{**_fields(ProfileFields), **_SHOWN}
)


class InheritedProfileView(View):
    """A profile that was pushed to the tenant."""

    name: ProfileName
    is_default: bool
    inherited: bool


class AnyProfileView(RootModel[ProfileView | InheritedProfileView]):
    """A profile of the tenant, own or inherited."""


class ProfileList(View):
    """A tenant's profiles."""

    items: tuple[AnyProfileView, ...]
    next_cursor: str | None


class LinkView(View):
    """A profile that a child inherits now."""

    child: TenantId
    profile: ProfileName
    is_default: bool


class PushView(View):
    """The links that were made."""

    links: tuple[LinkView, ...]


class PresetView(View):
    """What a preset fills in."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str
    host: str | None = None
    port: int | None = None
    security: str | None = None
    limits: ProfileLimits | None = None


class PresetList(View):
    """The presets."""

    items: tuple[PresetView, ...]
    next_cursor: str | None


class NameView(View):
    """Something by its name."""

    name: str


class NameList(View):
    """Names."""

    items: tuple[NameView, ...]
    next_cursor: str | None


TenantChange = create_model(
    "TenantChange",
    __base__=_shown_by({"name": "Acme", "limits": {"per_minute": 600, "queued": 100_000}}),
    __doc__="A tenant as it shall be (PUT), or what shall change (PATCH).",
    **{**_fields(Tenant, optional=True), "provisioned": (bool | None, None)},
)
TenantView = create_model(
    "TenantView", __base__=View, __doc__="A tenant.", **{**_fields(Tenant), "provisioned": (bool, False)}
)


class TenantList(View):
    """The tenants in reach."""

    items: tuple[TenantView, ...]
    next_cursor: str | None


PreferencesBody = create_model(
    "PreferencesBody",
    __base__=_shown_by(COPIES),
    __doc__="Whom the tenant copies.",
    **_fields(Preferences, ("tenant",)),
)


class PreferencesView(View):
    """Whom the tenant copies, and which notifications."""

    cc: tuple[BareAddress, ...]
    bcc: tuple[BareAddress, ...]
    rules: tuple[Rule, ...]


TemplateBody = create_model(
    "TemplateBody",
    __base__=_shown_by(TEMPLATE),
    __doc__="A template to make or to replace.",
    **{**_fields(Template, ("tenant", "name")), "name": (ObjectName | None, None), "provisioned": (bool | None, None)},
)
TemplateView = create_model(
    "TemplateView",
    __base__=View,
    __doc__="A template.",
    **{**_fields(Template, ("tenant",)), "provisioned": (bool, False)},
)


class TemplateList(View):
    """A tenant's templates."""

    items: tuple[TemplateView, ...]
    next_cursor: str | None


class RenderedView(View):
    """A template, filled."""

    subject: str
    text: str | None = None
    html: str | None = None


class AuditRowView(View):
    """Who changed what; `hash` follows from this row and the one before."""

    number: int
    at: ShownTime
    actor: str
    action: str
    object: str
    changes: tuple[dict[str, Any], ...]
    hash: str


class AuditList(View):
    """A tenant's audit log."""

    items: tuple[AuditRowView, ...]
    next_cursor: str | None


class AuditVerdict(View):
    """Is the log whole? `broken_at` is the number of the first row that does not follow."""

    ok: bool
    rows: int
    broken_at: int | None


class ApplyBody(Shape):
    """Tables of objects, as in the declarative files."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"tenants": [{"id": "acme"}], "profiles": [{"tenant": "acme", **EXAMPLE}]}]}
    )

    tenants: tuple[Tenant, ...] = ()
    profiles: tuple[Profile, ...] = ()
    links: tuple[Link, ...] = ()
    preferences: tuple[Preferences, ...] = ()
    templates: tuple[Template, ...] = ()


class AppliedView(View):
    """One object that changed, or would."""

    action: str
    kind: str
    tenant: str
    name: str
    fields: tuple[dict[str, Any], ...] | None = None


class ApplyView(View):
    """What changed, or would."""

    dry_run: bool
    changes: tuple[AppliedView, ...]


class QueueView(View):
    """What waits for one profile; without a name: for one outside the caller's reach, or for none.

    Of what is `uncertain` nobody knows whether it arrived: it rests until a person sends it again or cancels it.
    """

    tenant: str | None
    profile: str | None
    state: str
    ready: int
    deferred: int
    uncertain: int
    oldest_seconds: int | None


class PauseView(View):
    """That all sending is paused; `reason` is for administrators of `system` alone, and null for everybody else."""

    since: ShownTime
    reason: PauseReason | None


class QueuePauseView(View):
    """Whether all sending is paused; null: it is not."""

    paused: PauseView | None


class QueueList(View):
    """What waits, by profile; `paused` unless all of it may go."""

    items: tuple[QueueView, ...]
    next_cursor: str | None
    paused: PauseView | None


class SecretView(View):
    """A secret of the built-in store, without its value."""

    name: ObjectName
    version: int
    created_at: ShownTime
    updated_at: ShownTime
    used_by: tuple[ProfileName, ...]


class SecretList(View):
    """A tenant's secrets."""

    items: tuple[SecretView, ...]
    next_cursor: str | None


class SecretConnectionView(View):
    """A secret store of the operator's; `health` is `unused`, `ok`, or why nobody asks it at the moment."""

    name: str
    kind: str
    entries: tuple[str, ...]
    health: str


class SecretConnectionList(View):
    """The secret stores that a tenant may name."""

    items: tuple[SecretConnectionView, ...]
    next_cursor: str | None
