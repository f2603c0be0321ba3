#!/usr/bin/env python3
"""Writes src/chat/jinja_unicode.def: the cases and classes of characters as this Python's str has them.

usage: make_unicode_tables.py >src/chat/jinja_unicode.def
"""
import textwrap
import unicodedata

CODES = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def runs(pairs):
    """(code, value) with equal values at equal distances as [first, last, step, value]."""
    out = []
    for c, v in pairs:
        if out and out[-1][3] == v:
            first, last, step, _ = out[-1]
            if first == last and c - first <= 2:
                out[-1] = [first, c, c - first, v]
                continue
            if c - last == step:
                out[-1][1] = c
                continue
        out.append([c, c, 1, v])
    return out


def table(name, kind, rows):
    text = " ".join("{%s}," % ",".join(str(x) for x in r) for r in rows)
    print("static const struct %s %s[] = {" % (kind, name))
    print("\n".join(textwrap.wrap(text, 116, initial_indent="\t", subsequent_indent="\t", break_on_hyphens=False)))
    print("};")


def mapping(name, function):
    pairs = [(c, function(chr(c))) for c in CODES if function(chr(c)) != chr(c)]
    table(name + "_map", "mapping", runs([(c, ord(t) - c) for c, t in pairs if len(t) == 1]))
    table(name + "_special", "special", [[c, "{%s}" % ",".join(str(ord(x)) for x in t)] for c, t in pairs if len(t) > 1])


def members(name, function):
    table(name, "range", [r[:3] for r in runs([(c, 1) for c in CODES if function(chr(c))])])


print("/* Made by scripts/make_unicode_tables.py from Unicode %s. */" % unicodedata.unidata_version)
mapping("lower", str.lower)
mapping("upper", str.upper)
mapping("title", str.title)
mapping("fold", str.casefold)
members("alpha", str.isalpha)
members("printable", str.isprintable)
members("is_lower", str.islower)
members("is_upper", str.isupper)
members("is_title", lambda s: unicodedata.category(s) == "Lt")
members("decimal_zero", lambda s: unicodedata.decimal(s, -1) == 0)
members("digit", lambda s: s.isdigit() and not s.isdecimal())
members("numeric", lambda s: s.isnumeric() and not s.isdigit())
