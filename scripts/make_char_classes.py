#!/usr/bin/env python3
"""Writes src/tokenizer/char_classes.def: where the tables of tokenizers differ from those of utf8proc.

usage: make_char_classes.py >src/tokenizer/char_classes.def     (needs tokenizers, and the libutf8proc that tenon links)
"""
import ctypes
import json

from tokenizers import Tokenizer

utf8proc = ctypes.CDLL("libutf8proc.so.2")
CODES = [c for c in range(0x80, 0x110000) if not 0xD800 <= c < 0xE000]
MARKS, NUMBERS, PUNCTUATION, OTHER = range(6, 9), range(9, 12), range(12, 19), range(26, 31)
BYTES = {"<0x%02X>" % i: i for i in range(256)}


def pieces(normalizer, pre_tokenizer=None):
    """What becomes of every character between an a and a b, as bytes."""
    model = dict(type="BPE", dropout=None, unk_token=None, continuing_subword_prefix=None, end_of_word_suffix=None, fuse_unk=False,
                 byte_fallback=True, ignore_merges=False, vocab=BYTES, merges=[])
    t = Tokenizer.from_str(json.dumps(dict(version="1.0", truncation=None, padding=None, added_tokens=[], normalizer=normalizer,
                                           pre_tokenizer=pre_tokenizer, post_processor=None, decoder=None, model=model)))
    out = []
    for at in range(0, len(CODES), 8000):
        text = "|".join("a%sb" % chr(c) for c in CODES[at:at + 8000])
        out += bytes(t.encode(text).ids).split(b"|")
    return dict(zip(CODES, out, strict=True))


def bert(**flags):
    return dict(dict(type="BertNormalizer", clean_text=False, handle_chinese_chars=False, strip_accents=False, lowercase=False), **flags)


def runs(values):
    """(code, value) as [first, last, value]."""
    out = []
    for c, v in values:
        if out and out[-1][1] == c - 1 and out[-1][2] == v:
            out[-1][1] = c
        else:
            out.append([c, c, v])
    return out


def classes(name, theirs, categories, codes=CODES):
    ours = {c: utf8proc.utf8proc_category(c) in categories for c in codes}
    for first, last, is_one in runs((c, int(theirs(c))) for c in codes if theirs(c) != ours[c]):
        print("OTHERWISE(%s, 0x%X, 0x%X, %d)" % (name, first, last, is_one))


def lower():
    small = {c: p[1:-1].decode() for c, p in pieces(dict(type="Lowercase")).items()}
    single = [(c, ord(t) - c) for c, t in small.items() if len(t) == 1 and ord(t) != utf8proc.utf8proc_tolower(c)]
    for first, last, distance in runs(single):
        print("LOWER(0x%X, 0x%X, %d)" % (first, last, distance))


print("""/* What tokenizers 0.23 says of characters, where utf8proc 2.8 (Unicode 15) says something else: the library's tables of punctuation,
 * controls and marks are those of older Unicodes, those of numbers and small letters are newer. By class, then in order.
 * OTHERWISE(class, first, last, is one); LOWER(first, last, distance of the small letter). Made by scripts/make_char_classes.py. */""")
marks, nonspacing, clean = pieces(dict(type="StripAccents")), pieces(bert(strip_accents=True)), pieces(bert(clean_text=True))
decomposed = pieces(dict(type="NFD"))
parts = pieces(None, dict(type="Sequence", pretokenizers=[
    dict(type="Punctuation", behavior="Isolated"),
    dict(type="Metaspace", replacement="\u2581", prepend_scheme="always", split=False)]))
digits = pieces(None, dict(type="Sequence", pretokenizers=[
    dict(type="Digits", individual_digits=True),
    dict(type="Metaspace", replacement="\u2581", prepend_scheme="always", split=False)]))
classes("PUNCTUATION", lambda c: c != 0x2581 and "\u2581".encode() in parts[c][4:-4], PUNCTUATION)
classes("CONTROL", lambda c: clean[c] == b"ab" and c != 0xFFFD, OTHER)
classes("MARK", lambda c: marks[c] == b"ab", MARKS)
classes("NONSPACING", lambda c: nonspacing[c] == b"ab", [6], [c for c in CODES if decomposed[c] == b"a%sb" % chr(c).encode()])
classes("NUMERIC", lambda c: c != 0x2581 and digits[c].endswith("\u2581b".encode()), NUMBERS)
lower()
