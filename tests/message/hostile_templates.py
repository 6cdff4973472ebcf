"""A search for templates that take long: `python -m tests.message.hostile_templates` prints the worst CPU times.

Each condition of `CONDITIONS` stands in each loop of `LOOPS`, filled with each of `DATA`, the largest that are allowed,
in all three parts at once. Each rendering is a process of its own, which is ended after `CAP` seconds.
"""

import itertools
import os
import resource
import sys
import time
from collections.abc import Mapping

from gateway.message.template import TemplateError, check, render

CAP = 20  # seconds of a processor

DATA: Mapping[str, dict[str, object]] = {
    "emoji": {"a": "\N{PILE OF POO}" * 90_000, "l": [*range(9_000)], "m": {"k": 1}},
    "ascii": {"a": "x" * 45_000, "b": "x" * 45_000, "l": [*range(9_000)], "m": {"k": 1}},
    "nested long": {"a": {"a": "\N{PILE OF POO}" * 90_000}, "l": [*range(9_000)], "m": {"k": 1}},
    "medium": {"a": "a" * 2_400, "b": "a" * 600 + "b" + "a" * 600, "l": [*range(9_000)], "m": {"k": 1}},
    "quadratic": {"a": "a" * 29_999, "b": "a" * 49 + "b" + "a" * 49, "l": [*range(9_000)], "m": {"k": 1}},
    "long list": {"a": [*range(9_900)], "b": [*range(9_900)], "l": [*range(99)], "m": {"k": 1}},
    "list of strings": {"a": ["x" * 8 + str(n) for n in range(7_000)][::-1], "l": [*range(1_000)], "m": {"k": 1}},
    "list of floats": {"a": [n + 0.5 for n in range(9_000)][::-1], "l": [*range(9_000)], "m": {"k": 1}},
    "many keys": {"a": {f"{n:05}": n for n in range(9_000)}, "l": [*range(9_000)], "m": {"k": 1}},
    "long key": {"a": {"\N{PILE OF POO}" * 90_000: 1}, "l": [*range(9_000)], "m": {"k": 1}},
    "maps": {"a": [{"k": n} for n in range(6_000)], "l": [*range(6_000)], "m": {"k": 1}},
    "lists": {"a": [[n, [n]] for n in range(4_000)], "l": [*range(4_000)], "m": {"k": 1}},
    "empty": {"a": "", "b": "", "l": [*range(19_000)], "m": {}, "e": []},
    "scalars": {"a": 1.5, "b": 2, "l": [*range(19_000)], "m": {}, "e": []},
    "long and empty": {"a": "\N{PILE OF POO}" * 90_000, "b": "", "l": [*range(9_000)], "m": {}, "e": []},
}
_JOINED = "~".join(["a"] * 11)
_ADDED = "+".join(["a"] * 11)
CONDITIONS = (
    "a", "not a", "a.k is defined", "a.k|default(1)", "a.a", "a.a == a.a", "a[0] is defined", "a[9]|default(0)", "m[a]|default(0)",
    "m[a ~ a]|default(0)", _JOINED, _ADDED, f"({_JOINED}) == ({_JOINED})", f"({_ADDED})|length", f"({_JOINED})|length", "a|length",
    "(a ~ a)|upper", f"9 in ({_ADDED})", f"({_ADDED}) == ({_ADDED})", "a == a", "a == b|default(a)", "a < a", "a != a", "a >= b|default(a)",
    "a in a", "b|default(a) in a", "'zz' in a", "0.25 in a", "a in l", "a in m", "l in a", "a == l", "a and a and a", "a or a",
    "a is string", "a is sequence", "a is mapping", "a is iterable", "a is upper", "a is lower", "a is eq a", "a is in a", "a is sameas a",
    "a is startingwith a", "a is endingwith a", "a is containing a", "a is number", "a is defined", "a is divisibleby 2", "a is safe",
    "a is filter", "a is test", "a is odd", "a if a else a", "a|default(a)", "a|upper", "a|lower", "a|title", "a|capitalize", "a|trim",
    "a|urlencode", "a|urlencode|length", "a|replace('x', 'y')", "a|replace('', '')", "a|replace(b|default('q'), '')",
    "a|replace('x', b|default('q'))", "a|replace('x', '')|default(1)", "a|first is defined", "a|last", "a|items", "a|items|last", "a|sort",
    "a|sort|first", "a|sort(attribute='k')", "a|sort(reverse=a)", "l|sort(reverse=a)|first", "a|reverse|first", "a|reverse|length",
    "a|join", "a|join(',')", "e|join(a)", "e|join(attribute=a)", "a|join('', attribute='k')", "a|map(attribute='k')|length",
    "e|map(attribute=a)", "e|sort(attribute=a)", "a|round", "1.5|round(a)", "l|join(a)", "l|join|length", "loop", "loop.nextitem",
    "loop.nextitem == loop.previtem", "loop.index", "1", "1.5 + 2", "loop.index ~ loop.index", "loop.index // 3 % 2",
    "'" + "y" * 30_000 + "' == a", "'" + "y" * 30_000 + "' ~ 1", "'" + "y" * 30_000 + "'|length", "m." + "y" * 30_000 + " is defined",
    "1|" + "|".join(["default(1)"] * 20), "not " * 90 + "1", "1" + " and 1" * 40, "l[1]", "l[1] == l[2]", "l == l", "l|length", "m == m",
    "a|" + "|".join(["trim"] * 30), "a|" + "|".join(["length"] * 1), "1|" + "|".join(["round"] * 40), "m.k.k.k is defined",
    "a ~ a is upper", f"({_JOINED}) is lower", f"({_JOINED}) in a", f"a in ({_JOINED})", f"({_JOINED})[0]",
)  # fmt: skip
LOOPS = (
    "{%% for i in l %%}{%% if %s %%}{%% endif %%}{%% endfor %%}",
    "{%% for i in l %%}{%% for j in l %%}{%% if %s %%}{%% endif %%}{%% endfor %%}{%% endfor %%}",
    "{%% for i in l %%}{%% for j in %s %%}{%% else %%}{%% endfor %%}{%% endfor %%}",
    "{%% for i in l %%}{%% for j in %s if false %%}{%% endfor %%}{%% endfor %%}",
    "{%% for x in a %%}{%% for i in l %%}{%% if %s %%}{%% endif %%}{%% endfor %%}{%% endfor %%}",
    "{%% for i in l %%}{{ '' if %s else '' }}{%% endfor %%}",
    "{%% for i in l %%}{{ (%s)|default('')|length and '' }}{%% endfor %%}",
    "{%% for i in l %%}{{ %s }}{%% endfor %%}",
    "{{ %s }}",
    # The name is bound by the loop, to an item of the data:
    "{%% for a in (a|items|first) if a is string %%}{%% for i in l %%}{%% if %s %%}{%% endif %%}{%% endfor %%}{%% endfor %%}",
)
_SORTS = "{% for i in l %}{% if a|sort|first %}{% endif %}{% endfor %}"
DENSE = (  # whole templates, as long as they may be: they are compiled, too
    "{{a}}" * 10_000,
    "{%if a%}{%endif%}" * 4_000,
    "{%for a in a%}{%endfor%}" * 2_850,
    "{#a#}" * 20_000,
    "{{a.b.c.d}}" * 2_500,
    ("{{a|trim" + "|trim" * 40 + "}}") * 230,
    ("{{" + "~".join("a" * 11) + "}}") * 900,
    "{{1}}" * 10_000,
    "{%if 0%}{%endif%}" * 3_900 + _SORTS,
    "{%if 0%}{{a~a~a~a~a~a}}{%endif%}" * 1_100 + _SORTS,
    "{% for i in l %}" + "{{1}}" * 9_900 + "{% endfor %}",
    "{% for i in l %}" + "x" * 99_900 + "{% endfor %}",
    "{% for i in l %}" + ("x" * 19 + "{{''}}") * 3_900 + "{% endfor %}",
    "{% for i in l %}" + ("{% if " + "not " * 90 + "1 %}{% endif %}") * 200 + "{% endfor %}",
    "{% for i in l %}{% for j in l %}" + "{{i}}" * 100 + "{% endfor %}{% endfor %}",
    "{% for i in l %}{% for j in l %}{% endfor %}{% endfor %}",
    "{% for i in a %}{% for j in a %}{% endfor %}{% endfor %}",
    "{% for i in a %}{% for j in a %}{{ i }}{% endfor %}{% endfor %}",
    "{% for i in l %}{% if ('" + "y" * 1_900 + "' ~ i" + " ~ i" * 9 + ") %}{% endif %}{% endfor %}",
    "{% for i in l %}{% if '" + "y" * 900 + "z' in '" + "y" * 990 + "' %}{% endif %}{% endfor %}",
    "{% for i in l %}{% for j in '" + "y" * 1_900 + "' if false %}{% endfor %}{% endfor %}",
)


def seconds(source: str, data: Mapping[str, object]) -> tuple[float, str]:
    """Render it in a process of its own; give its processor time, of the system too, and how it ended."""
    out, into = os.pipe()
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_CPU, (CAP, CAP))
        began = time.process_time()
        try:
            render(source, source, source, data)
            end = "rendered"
        except TemplateError as error:
            end = str(error)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        os.write(into, f"{time.process_time() - began}\n{end} [{peak} MB]".encode())
        os._exit(0)
    os.close(into)
    with os.fdopen(out) as said:
        text = said.read()
    os.waitpid(child, 0)
    if not text:
        return CAP, "did not end"
    spent, _, end = text.partition("\n")
    return float(spent), end


def main(argument: str = "") -> None:
    """Print the worst ones, and how many there are of which kind; `argument` is a part of the sources to try."""
    found = []
    sources = [loop % condition for loop, condition in itertools.product(LOOPS, CONDITIONS)]
    for source in [*DENSE, *sources]:
        if argument not in source or check("s", source, None):
            continue
        for name, data in DATA.items():
            found.append((*seconds(source, data), name, source))
            if found[-1][0] > 1:
                print(*found[-1], flush=True)
    found.sort(reverse=True)
    for spent, end, name, source in found[:40]:
        print(f"{spent:7.3f} s  {name}: {source[:130]}  -> {end[:100]}")
    print(len(found), "tried;", sum(spent > 1 for spent, *_ in found), "took more than a second")


if __name__ == "__main__":
    main(*sys.argv[1:])
