"""Templates: what they render, what they refuse, and what stops the hostile ones."""

import minijinja
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.message.template import Part, Rendered, TemplateError, check, render

SECRET = "s3cret-value"
LONG = "x" * 90_000
MANY = list(range(9_000))


def body(source: str, **data: object) -> str | None:
    """Return what a text template makes of the data."""
    return render("s", source, None, data).text


def html(source: str, **data: object) -> str | None:
    """Return what an html template makes of the data."""
    return render("s", None, source, data).html


def fault(source: str, **data: object) -> TemplateError:
    """Return the error that a text template ends with."""
    with pytest.raises(TemplateError) as caught:
        render("s", source, None, data)
    return caught.value


def syntax(source: str) -> TemplateError:
    """Return the one error that the check finds in a text template."""
    (error,) = check("s", source, None)
    return error


def test_the_three_parts_are_rendered() -> None:
    """Each part sees the same data."""
    done = render("Hi {{ name }}", "Dear {{ name }}\n", "<p>{{ name }}</p>", {"name": "Zoë 漢"})
    assert done == Rendered("Hi Zoë 漢", "Dear Zoë 漢\n", "<p>Zoë 漢</p>")


def test_a_part_without_template_is_none() -> None:
    """There is no empty body where none was asked for."""
    assert render("s", None, None, {}) == Rendered("s", None, None)


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n"])
def test_a_body_keeps_its_last_line_end(end: str) -> None:
    """The engine would drop one."""
    assert body("a" + end) == "a" + end


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{% for i in list %}{{ loop.index }}{{ i.n }}{% if not loop.last %}, {% endif %}{% endfor %}", "1b, 2a"),
        ("{% for key, value in map|items %}{{ key }}={{ value }};{% endfor %}", "items=1;k=v;"),
        ("{% for key in map %}{{ key }} {% else %}none{% endfor %}", "items k "),
        ("{% for x in none_of_them %}{{ x }}{% else %}none{% endfor %}", "none"),
        ("{{ list[0].n }}{{ list.1.n }}{{ map['k'] }}{{ map.items }}", "bav1"),
        ("{{ list|map(attribute='n')|join(', ') }} {{ list|join('+', attribute='n') }}", "b, a b+a"),
        ("{{ (list|sort(attribute='n')|first).n }}{{ (list|reverse|first).n }}{{ (list|last).n }}", "aaa"),
        ("{{ list|length }} {{ map|length }} {{ 'k' in map }}", "2 2 True"),
        ("{{ 'é'|upper }} {{ 'a b'|title }} {{ 'aB'|capitalize }} {{ ' A '|trim|lower }}", "É A B Ab a"),
        ("{{ 'a&b/ü'|urlencode }} {{ 'aa'|replace('a', 'b') }} {{ 2.345|round(1) }}", "a%26b%2F%C3%BC bb 2.3"),
        ("{{ 'yes' if n > 1 and n != 3 else 'no' }} {{ n + 1 }} {{ 'n' ~ n }}", "yes 3 n2"),
        ("{# a {{ comment }} #}{{ '}}' }}", "}}"),
        ("a  {{- n -}}  b", "a2b"),
    ],
)
def test_the_language(source: str, expected: str) -> None:
    """What a template can say."""
    data = {"list": [{"n": "b"}, {"n": "a"}], "map": {"items": 1, "k": "v"}, "none_of_them": [], "n": 2}
    assert body(source, **data) == expected


def test_html_is_escaped() -> None:
    """Data cannot bring markup."""
    assert html("<b>{{ x }}</b>", x="<i a='\"'>&") == "<b>&lt;i a=&#x27;&quot;&#x27;&gt;&amp;</b>"


def test_what_filters_return_is_escaped() -> None:
    """No filter calls its result safe."""
    assert html("{{ x|join('<br>')|upper }}", x=["<", "a"]) == "&lt;&lt;BR&gt;A"


def test_text_and_subject_are_not_escaped() -> None:
    """They are no markup."""
    assert render("{{ x }}", "{{ x }}", None, {"x": "<&'"}) == Rendered("<&'", "<&'", None)


def test_a_string_that_calls_itself_safe_is_refused() -> None:
    """A subclass of str could bring its own html."""

    class Safe(str):
        __slots__ = ()

        def __html__(self) -> str:
            return str(self)

    with pytest.raises(TemplateError, match="not JSON"):
        html("{{ x }}", x=Safe("<b>"))


@pytest.mark.parametrize("source", ["{{ x }}", "{{ a.x }}", "{{ a.items }}", "{% if x %}{% endif %}", "{{ l[7] }}"])
def test_an_unknown_variable_is_an_error_with_its_line(source: str) -> None:
    """Never an empty place in a message."""
    error = fault(f"one\n{source}", a={"b": SECRET}, l=[])
    assert (str(error), error.part, error.line) == ("In the text, line 2: a variable is unknown.", "text", 2)


@pytest.mark.parametrize("source", ["{{ x|default('d') }}", "{{ a.items|default('d') }}", "{{ a.b|default('d') }}"])
def test_an_unknown_variable_can_have_a_default(source: str) -> None:
    """The template says so itself."""
    assert body(source, a={}) == "d"


@pytest.mark.parametrize("value", [None, [1], {"a": 1}])
def test_only_scalars_are_printed(value: object) -> None:
    """Nobody wants to read None or {'a': 1} in a mail."""
    assert "can be printed" in str(fault("{{ x }}", x=value))


@pytest.mark.parametrize(
    "source",
    ["{{ x|round }}", "{{ x + 1 }}", "{{ x|join }}", "{{ x|first }}", "{{ x|upper(1) }}", "{{ x.y }}", "{{ x|items }}"],
)
def test_errors_never_quote_the_data(source: str) -> None:
    """They go to logs and to the template's author."""
    assert SECRET not in repr(fault(source, x=SECRET))


def test_an_error_carries_no_cause() -> None:
    """A cause would be logged too, and may quote the data."""
    error = fault("{{ x + 1 }}", x=SECRET)
    assert (error.__cause__, error.__suppress_context__) == (None, True)


def test_a_good_template_has_no_errors() -> None:
    """The check knows no data, so names are free."""
    assert check("{{ a }}", "{% for b in c %}{{ b }}{% endfor %}", "<p>") == []


def test_every_faulty_part_is_reported_once() -> None:
    """An author sees all of it at once."""
    errors = check("{{", "fine", "{% if %}{% for %}")
    assert [error.part for error in errors] == ["subject", "html"]


@pytest.mark.parametrize(
    "source", ["{% if %}", "{{ 1 + }", "{{ 1 1 }}", "{% endfor %}", "{{ x|nope }}", "{{ [1] }}", "{#"]
)
def test_a_syntax_error_has_its_line(source: str) -> None:
    """Whether found here or by the engine."""
    assert syntax(f"one\ntwo\n{source}").line == 3


@pytest.mark.parametrize(
    "source",
    [
        "{% include 'x' %}", "{% import 'x' as y %}", "{% from 'x' import y %}", "{% extends 'x' %}",
        "{% block x %}{% endblock %}", "{%- include ['x'] ignore missing %}",
        "{% macro f() %}{% endmacro %}", "{% set x = 1 %}", "{% with x = 1 %}{% endwith %}", "{% do x %}",
        "{% filter upper %}{% endfilter %}", "{% raw %}{% endraw %}", "{%-raw-%}{%endraw%}", "{% call f() %}{% endcall %}",
        "{% autoescape false %}{% endautoescape %}",
        "{% for x in y recursive %}{% endfor %}", "{{ loop(x) }}", "{{ range(9) }}", "{{ namespace() }}", "{{ x.append(x) }}",
        "{{ x['append'](x) }}", "{{ (x)(y) }}", "{{ x|upper()(y) }}", "{{ x.if(y) }}", "{{ x is divisibleby(2) }}",
        "{{ [x, x] }}", "{{ (x, x) }}", "{{ x|default((x, x)) }}", "{{ x|default([x]) }}", "{{ {'a': x} }}", "{{ x[1:] }}",
        "{% for y in (x ~ x,) %}{% endfor %}", "{% for y in [x ~ x] %}{% endfor %}", "{{ 'x' * 9 }}", "{{ 9 ** 9 }}",
        "{{ x|safe }}", "{{ x|indent(9) }}", "{{ x|format(1) }}", "{{ x|tojson }}", "{{ x|list }}", "{{ x|attr('a') }}",
        "{{ x|center(9) }}", "{{ x.__class__ }}", "{{ __charge(1) }}", "{{ x %} }}", "{% if x }} %}", "{{ __touch(x) }}",
        "{{ x y }}", "{{ x.y z }}", "{{ x|upper y }}", "{{ 'x' y }}", "{{ x[0] y }}", "{{ (x) y }}", "{{ 1 x }}",
        "{{ x is eq y }}", "{{ x is not eq y }}", "{{ x is in y }}", "{% for x in y z %}{% endfor %}",
        "{% for x in y %}{{ loop }}{% endfor %}", "{% for x in y %}{{ loop['nextitem'] }}{% endfor %}",
        "{% for x in y %}{{ loop|length }}{% endfor %}", "{% for x in y %}{% for z in loop %}{% endfor %}{% endfor %}",
        "{{ " + "x" * 201 + " }}", "{{ x." + "x" * 201 + " }}", "{{ '" + "x" * 1_999 + "' }}", "{{ " + "'x' ~ " * 9 + "'" + "x" * 1_980 + "' }}",
    ],
)  # fmt: skip
def test_what_is_outside_the_language_is_refused(source: str) -> None:
    """Whatever loads, calls, or binds a name to something that grew."""
    assert syntax(source).part == "text"


@pytest.mark.parametrize(
    "source",
    [
        "{{ " + "-" * 40_000 + "1 }}", "{{ " + "not " * 20_000 + "1 }}", "{{ 1" + "+1" * 40_000 + " }}",
        "{{ a" + ".a" * 40_000 + " }}", "{{ 1" + "|upper" * 10_000 + " }}", "{{ 1" + " if 1 else 1" * 5_000 + " }}",
        "{{ " + "(" * 40_000 + "1" + ")" * 40_000 + " }}", "{% if 0 %}" + "{% elif 0 %}" * 8_000 + "{% endif %}",
        "{% if 1 %}" * 4_000 + "{% endif %}" * 4_000, "{{ 1" + " ~ 1" * 11 + " }}", "x" * 100_001,
        "{{ x }}" * 10_001,
    ],
)  # fmt: skip
def test_what_would_overflow_the_parser_is_refused(source: str) -> None:
    """The engine dies of chains like these, and the process with it."""
    assert syntax(source).part == "text"


def test_the_deepest_template_that_passes_can_be_rendered() -> None:
    """The limits are far from where the engine breaks."""
    chain = "not " * 90
    assert body(f"{{% if {chain}1 %}}" * 50 + "x" + "{% endif %}" * 50) == "x"


@pytest.mark.parametrize("name", ["__class__", "_items", "items", "append", "copy", "keys", "format", "_missed"])
@pytest.mark.parametrize("value", [SECRET, 1, 1.5, True, [1], {"a": 1}])
def test_no_attribute_of_an_object_can_be_reached(name: str, value: object) -> None:
    """By no name, however it is written."""
    assert fault(f"{{{{ x['{name}'] }}}}", x=value).line == 1


@pytest.mark.parametrize("name", ["range", "debug", "namespace", "dict", "cycler", "joiner", "self"])
def test_the_engines_own_names_are_unknown(name: str) -> None:
    """Only the data has names."""
    assert "unknown" in str(fault(f"{{{{ {name} }}}}"))


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in many %}{% for b in many %}{% endfor %}{% endfor %}",
        "{% for a in many %}{% for c in long %}{% endfor %}{% endfor %}",
        "{% for a in many %}{{ long }}{% endfor %}",
        "{% for a in many %}" + LONG + "{% endfor %}",
        "{% for a in many %}{% if true %}{# #}" + LONG + "{% endif %}{% endfor %}",
        "{% for a in many %}{% if long|upper == a %}{% endif %}{% endfor %}",
        "{% for a in many %}{% if many|sort|first == a %}{% endif %}{% endfor %}",
        "{% for a in many %}{% if 0.5 in many %}{% endif %}{% endfor %}",
        "{% for a in many %}{% if many == other %}{% endif %}{% endfor %}",
        "{% for a in many %}{% if map == map_too %}{% endif %}{% endfor %}",
        "{{ many|join(long) }}",
        "{{ long|replace('x', long) }}",
        "{{ long|replace('', long) }}",
        "{{ " + " ~ ".join(["long"] * 11) + " }}{{ " + " ~ ".join(["long"] * 11) + " }}",
        "{% for a in many %}{% if long ~ long %}{% endif %}{% endfor %}",
        "{% for a in many %}{% if long + long %}{% endif %}{% endfor %}",
        "{% for a in many %}{% if long == long %}{% endif %}{% endfor %}",
        "{% for a in many %}{% if 'y' in long %}{% endif %}{% endfor %}",
        "{% for a in many %}{% if long|length %}{% endif %}{% endfor %}",
        "{% for a in many %}{% if long is upper %}{% endif %}{% endfor %}",
        "{% for a in many %}{% if long %}{% endif %}{% endfor %}",
        "{% for a in many %}{% if long.x is defined %}{% endif %}{% endfor %}",
        "{% for a in many %}{% if map[long]|default(0) %}{% endif %}{% endfor %}",
        "{% for a in many %}{% for b in long if false %}{% endfor %}{% endfor %}",
        "{% for a in many %}{% if none|default(long) %}{% endif %}{% endfor %}",
        "{% for x in longs %}{% for a in many %}{% if x ~ x %}{% endif %}{% endfor %}{% endfor %}",
        "{% for x in longs %}{% for a in many %}{% if loop.nextitem ~ x %}{% endif %}{% endfor %}{% endfor %}",
        "{% for a in many %}{% for b in long_key %}{% endfor %}{% endfor %}",
        "{% for a in many %}{{ empty|join(attribute=long) }}{% endfor %}",
        "{% for a in many %}{% if 1" + "|round" * 40 + " %}{% endif %}{% endfor %}",
        "{% for a in many %}{% for b in longs + longs %}{% if b %}{% endif %}{% endfor %}{% endfor %}",
    ],
)
def test_what_grows_or_does_not_end_is_stopped(source: str) -> None:
    """Loops, repetition and joining, by fuel or by the meter."""
    keys = {str(index): index for index in range(500)}
    few = {"long_key": {"k" * 5_000: 1}, "longs": ["x" * 2_000], "empty": []}
    error = fault(source, many=MANY, other=[*MANY], long=LONG, map=keys, map_too={**keys}, **few)
    assert "too many steps" in str(error) or "too long" in str(error)


def test_the_parts_share_what_they_may_do() -> None:
    """What each of them could do alone, the three cannot do together."""
    source = "{% for a in many %}{% if long == a %}{% endif %}{% endfor %}"
    data = {"many": [*range(8)], "long": LONG}
    assert render("s", source, source, data) == Rendered("s", "", "")
    with pytest.raises(TemplateError, match="In the html: the template takes too many steps"):
        render(source + "s", source, source, data)


@pytest.mark.parametrize("source", ["{{ x ~ '' }}", "{{ '' ~ x }}", "{{ x ~ x }}", "{{ (x ~ '')|length }}"])
@pytest.mark.parametrize("value", [[1], {"a": 1}])
def test_only_scalars_are_joined(source: str, value: object) -> None:
    """A list or a mapping is not printed by way of a string either."""
    assert "can be printed" in str(fault(source, x=value))


def test_escaping_counts_for_the_limit() -> None:
    """Six characters for one."""
    with pytest.raises(TemplateError, match="In the html: the result is too long"):
        html("{{ x ~ x ~ x }}", x='"' * 90_000)


@pytest.mark.parametrize("space", ["\n", "\r", "\r\n", "\0", "\x85", "\u2028", "\t", "=?utf-8?q?=0a?="])
def test_a_subject_is_one_line(space: str) -> None:
    """A line break out of the data would start a header."""
    with pytest.raises(TemplateError) as caught:
        render("a {{ x }}", None, None, {"x": f"{SECRET}{space}b"})
    assert (caught.value.part, SECRET in str(caught.value)) == ("subject", False)


def test_a_line_break_in_the_subjects_template_is_refused() -> None:
    """The last one included."""
    with pytest.raises(TemplateError, match="In the subject: the result holds a line break"):
        render("a\n", None, None, {})


def test_a_subject_has_at_most_998_characters() -> None:
    """One more is an error, not a cut."""
    assert render("x" * 998, None, None, {}).subject == "x" * 998
    with pytest.raises(TemplateError, match="In the subject: the result is too long"):
        render("x" * 999, None, None, {})


@pytest.mark.parametrize("value", [object(), {1}, (1,), b"x", {1: 2}, 2**63, float("nan"), float("inf"), "\ud800"])
def test_data_that_is_not_json_is_refused(value: object) -> None:
    """Objects would bring methods; the others cannot be carried over faithfully."""
    assert fault("x", x=[value]).part == "data"


def test_endless_data_is_refused() -> None:
    """A list in itself is nested too deep."""
    data: list[object] = []
    data.append(data)
    assert fault("x", x=data).part == "data"


@pytest.mark.parametrize("value", ["x" * 100_001, [0] * 20_001])
def test_data_is_bounded(value: object) -> None:
    """What a template can do grows with what it is given."""
    assert fault("x", x=value).part == "data"


def test_a_variable_cannot_replace_the_meter() -> None:
    """Its name in the data is ignored."""
    source = "{% for a in many %}" + LONG + "{% endfor %}"
    assert "too long" in str(fault(source, many=MANY, __charge="x"))


@pytest.mark.parametrize("part", ["subject", "text", "html"])
def test_the_same_source_is_rendered_as_its_part(part: Part) -> None:
    """Compiled templates are shared by source and part: html alone is escaped."""
    done = render("{{ x }}", "{{ x }}", "{{ x }}", {"x": "<"})
    assert getattr(done, part) == ("&lt;" if part == "html" else "<")


def test_a_compiled_template_holds_no_data() -> None:
    """What one rendering was given, the next does not have."""
    assert body("{{ x }}", x=SECRET) == SECRET
    assert fault("{{ x }}").line == 1


def test_a_failed_rendering_leaves_nothing_behind() -> None:
    """The meter starts anew."""
    source = "{% for a in many %}{{ long }}{% endfor %}"
    fault(source, many=MANY, long=LONG)
    assert body(source, many=[1], long="x") == "x"


texts = ["  a long text that is metered in loops  ", " \n ", "x", "{#-#}", "{# c -#}", "{#- c #}", "{{- 1 -}}"]
expressions = [
    "a", "a ~ s", "s + s", "m.k", "m['k']", "m[s]|default(a)", "u|default('d')", "u.v|default(s)", "u is defined", "a is not defined",
    "not u is defined", "s if a else u", "u if not a else s", "-a", "(a)", "l[0] + l[-1]", "s in m", "a not in l", "s == s and a < 9",
    "'s' in s or u", "l|length", "s|length", "m.in|default(s)", "m.not", "m.is and s", "m.is in s", "a in m.is|default(l)", "true and a", "a is number", "loop.x|default(0)", "0 and u",
    "u|default(u)|default(s)", "m.m.m.k", "s is string and m.m is mapping",
]  # fmt: skip
pieces = st.sampled_from(
    texts + [f"{{{{ {one} }}}}" for one in expressions] + [f"{{%- if {one} %}}y{{% endif -%}}" for one in expressions]
)
starts = st.sampled_from(
    [
        "{% for a in l %}",
        "{%- for a in l -%}",
        "{% for a in l -%}",
        "{% for a in l if a > 1 %}{{loop.index}}",
        "{%for s in m%}",
    ]
)
ends = st.sampled_from(["{% endfor %}", "{%- endfor -%}", "{% endfor -%}"])
loops = st.builds(lambda start, inner, end: start + "".join(inner) + end, starts, st.lists(pieces, max_size=4), ends)


@given(st.lists(st.one_of(pieces, loops), max_size=5).map("".join))
@example("{% for a in l %}{#-#}    a long text that is metered{% endfor %}")
@example(
    "{% for a in l %}{{ loop.previtem|default('-') }}{{ loop . nextitem|default('-') }}{{ loop.last }}{% endfor %}"
)
@example("{{-a-}}{{- a -}}{%if(a)%}{{(a)}}{%elif u%}{%endif%}")
@example("{%for s in m%}{{ m[s]|default(a) }}{% endfor %}")
def test_metering_does_not_change_the_result(source: str) -> None:
    """The engine makes the same of it alone, but that it prints lists and mappings, too."""
    data = {
        "a": 1,
        "s": "string",
        "l": [1, 2],
        "m": {"k": "v", "not": "n", "is": "string", "m": {"m": {"k": "w"}}},
        "loop": {"x": 3},
    }
    engine = minijinja.Environment(keep_trailing_newline=True, undefined_behavior="strict")
    try:
        expected = engine.render_str(source, **data)
    except minijinja.TemplateError:
        expected = None
    if expected is None or "{" in expected or "[" in expected:
        assert fault(source, **data).part == "text"
    else:
        assert body(source, **data) == expected
