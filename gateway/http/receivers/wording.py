"""The wording that is always there: for who has no template of their own, and for when that cannot be filled."""

from collections.abc import Mapping
from typing import Final

from gateway.message.template import Rendered, render

_SUBJECT: Final = "{{ title }}"
_TEXT: Final = """\
{{ title }}
{%- if note %}

{{ note }}
{%- endif %}
{%- for alert in alerts %}

{{ alert.status|upper }} {{ alert.labels.alertname|default("alert") }}
{%- for name, value in alert.annotations|items %}
  {{ name }}: {{ value }}
{%- endfor %}
  labels: {% for name, value in alert.labels|items %}{% if not loop.first %}, {% endif %}{{ name }}={{ value }}{% endfor %}
{%- if alert.startsAt %}
  since: {{ alert.startsAt }}{% endif %}
{%- if alert.endsAt %}
  until: {{ alert.endsAt }}{% endif %}
{%- if alert.valueString %}
  value: {{ alert.valueString }}{% endif %}
{%- if alert.generatorURL %}
  source: {{ alert.generatorURL }}{% endif %}
{%- if alert.dashboardURL %}
  dashboard: {{ alert.dashboardURL }}{% endif %}
{%- if alert.panelURL %}
  panel: {{ alert.panelURL }}{% endif %}
{%- if alert.imageURL %}
  image: {{ alert.imageURL }}{% endif %}
{%- if alert.silenceURL %}
  silence: {{ alert.silenceURL }}{% endif %}
{%- endfor %}
{% if truncatedAlerts %}
Alerts not shown: {{ truncatedAlerts }}
{% endif %}
{%- if externalURL %}
{{ externalURL }}
{% endif %}"""
_HTML: Final = """\
<!DOCTYPE html>
<html>
<body style="font-family: sans-serif">
<h2>{{ title }}</h2>
{%- if note %}
<p>{{ note }}</p>
{%- endif %}
{%- for alert in alerts %}
<div style="border-left: 4px solid {% if alert.status == "firing" %}#b3261e{% else %}#2e7d32{% endif %}; padding-left: 1em">
<h3>{{ alert.status|upper }} {{ alert.labels.alertname|default("alert") }}</h3>
{%- for name, value in alert.annotations|items %}
<p style="white-space: pre-line"><b>{{ name }}:</b> {{ value }}</p>
{%- endfor %}
<p>{% for name, value in alert.labels|items %}<code>{{ name }}={{ value }}</code> {% endfor %}</p>
<p>{% if alert.startsAt %}since {{ alert.startsAt }} {% endif %}{% if alert.endsAt %}until {{ alert.endsAt }} {% endif %}
{%- if alert.valueString %}
<br>{{ alert.valueString }}{% endif %}
{%- if alert.generatorURL %}
<br><a href="{{ alert.generatorURL }}">Source</a>{% endif %}
{%- if alert.runbookURL %}
<br><a href="{{ alert.runbookURL }}">Runbook</a>{% endif %}
{%- if alert.dashboardURL %}
<br><a href="{{ alert.dashboardURL }}">Dashboard</a>{% endif %}
{%- if alert.panelURL %}
<br><a href="{{ alert.panelURL }}">Panel</a>{% endif %}
{%- if alert.imageURL %}
<br><a href="{{ alert.imageURL }}">Image</a>{% endif %}
{%- if alert.silenceURL %}
<br><a href="{{ alert.silenceURL }}">Silence</a>{% endif %}</p>
</div>
{%- endfor %}
{%- if truncatedAlerts %}
<p>Alerts not shown: {{ truncatedAlerts }}</p>
{%- endif %}
{%- if externalURL %}
<p><a href="{{ externalURL }}">{{ externalURL }}</a></p>
{%- endif %}
</body>
</html>
"""


def wording(data: Mapping[str, object], note: str = "") -> Rendered:
    """Say it in our words, with a note of ours ahead of the alerts if there is one."""
    return render(_SUBJECT, _TEXT, _HTML, {**data, "note": note})
