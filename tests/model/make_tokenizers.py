"""Tokenizers of random shapes, and what tokenizers and transformers make of random texts with them.

usage: make_tokenizers.py OUT.tar.xz [COUNT]

OUT holds random/<seed>/ (tokenizer.json alone, golden.json with the fields of models/tok/*/golden.json: `ids`, `ids_special`,
`decoded`, `decoded_skip`, `stream`, `stream_skip`) and class/<name>/ (tokenizer.json and tokenizer_config.json, golden.json with
`ids_special`, `decoded` and `decoded_skip` of transformers' AutoTokenizer). Made with tokenizers 0.23.3, transformers 5.23.0.
"""
import json, os, random, shutil, sys, tarfile, tempfile
from tokenizers import AddedToken, Regex, Tokenizer, decoders as D, models, normalizers as N, pre_tokenizers as P, processors, trainers
from tokenizers.decoders import DecodeStream

WORDS = ("sea ship wind harbour the a of and to with from over under bright cold seven sails storm captain's don't we'll I've rope "
         "anchor lantern whale island map gold coin knot deck mast öl früh schön grüßen où déjà naïve cœur ещё корабль море ветер "
         "πλοίο θάλασσα سفينة بحر ספינה ים जहाज़ समुद्र เรือ ทะเล 船 海 風 島 地図 港 배 바다 바람").split()
SIGNS = list("  \t\n.,;:!?-_/\\(){}[]<>'\"#*+=0123456789AZazĠ▁") + [
    "é", "e\u0301", "ß", "ﬁ", "İ", "ſ", "Å", "\u0301", "\u0323", "½", "Ⅷ", "²", "ｆ", "１", "٣", "①", "ﷺ", "…", "—", "’", "“",
    "😀", "👩‍👧", "🏳️‍🌈", "🇫🇷", "\u200b", "\ufeff", "\u00a0", "\u3000", "\u2028", "\x00", "\x1f", "\x85", "\u180e", "\r\n", "\r",
    "\U00031350", "\U0001e030", "<0x41>", "<s>", "</s>", "<unk>", "the ", "ing ", "'S", "'ll"]
ADDED = ["<a>", "<b b>", "sea", "Ship", "e\u0301x", "  ", "\n\n", "[X]", "<|im|>", " lead", "trail ", "THE", "ﬁx", "12", "<a><b>", "▁▁"]
GPT4O = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
PATTERNS = [
    GPT4O, r" ?[^(\s|[.,!?…。，、।۔،])]+", r"\w+|[^\w\s]+", r"\s+", r"\p{N}{1,3}+", r"[\p{Han}]+|\p{L}[\p{Ll}\p{M}&&[^\p{Greek}]]+",
    r"\d+(?=\d{3}\b)|\b\w", r"^.", r".$", r"(?<=[a-z])[A-Z]", r"", r"(?i)the|ſ", r"[^\P{L}a-f]+", r"\R|\h+", r"a|ab|abc",
    r"(?m:.)\s", r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
    r"[[:upper:]][[:^digit:]]?|[[:punct:]]{,2}", r"[^\W\d_]+|\B.", r"\p{Letter}+|\p{^Letter}"]
CUTS = ["removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"]
BYTES = ["<0x%02X>" % i for i in range(256)]


def text(r, words=12):
    parts = [r.choice(WORDS) if r.random() < 0.7 else "".join(r.choice(SIGNS) for _ in range(r.randint(1, 5))) for _ in range(r.randint(1, words))]
    return r.choice(["", " ", "\n"]) + r.choice([" ", " ", "  ", ""]).join(parts) + r.choice(["", "", " ", ".", "\n"])


def coin(r, p=0.5):
    return r.random() < p


def normalizer(r, inner=False):
    k = r.randrange(14)
    if k < 7:
        return [N.NFC, N.NFD, N.NFKC, N.NFKD, N.Lowercase, N.StripAccents, N.Nmt][k]()
    if k == 7: return N.Strip(left=coin(r), right=coin(r))
    if k == 8: return N.Replace(r.choice([" ", "a", "  ", "é", "\n"]), r.choice(["▁", "", "xx", " "]))
    if k == 9: return N.Replace(Regex(r.choice(PATTERNS[1:] + [" {2,}", r"^\s+", r"(.)\1"])), r.choice(["▁", "", " ", "é"]))
    if k == 10: return N.Prepend(r.choice(["▁", " ", "ab"]))
    if k == 11: return N.BertNormalizer(clean_text=coin(r), handle_chinese_chars=coin(r), strip_accents=r.choice([None, True, False]), lowercase=coin(r))
    if k == 12: return N.ByteLevel()
    return N.NFC() if inner else N.Sequence([normalizer(r, True) for _ in range(r.randint(1, 3))])


def pre_tokenizer(r, inner=False):
    k = r.randrange(15)
    if k == 0: return P.ByteLevel(add_prefix_space=coin(r), use_regex=coin(r))
    if k == 1: return P.Split(r.choice([" ", "a", "\n", "▁", "--", ""]), r.choice(CUTS), invert=coin(r, 0.2))
    if k < 5: return P.Split(Regex(r.choice(PATTERNS)), r.choice(CUTS), invert=coin(r, 0.2))
    if k < 8: return P.Metaspace(replacement=r.choice(["▁", "▁", "_"]), prepend_scheme=r.choice(["first", "always", "never"]), split=coin(r))
    if k == 8: return P.Whitespace()
    if k == 9: return P.WhitespaceSplit()
    if k == 10: return P.Punctuation(r.choice(CUTS))
    if k == 11: return P.Digits(individual_digits=coin(r))
    if k == 12: return r.choice([P.BertPreTokenizer(), P.CharDelimiterSplit("e"), P.FixedLength(r.randint(1, 7))])
    return P.Whitespace() if inner else P.Sequence([pre_tokenizer(r, True) for _ in range(r.randint(1, 4))])


def decoder(r, inner=False):
    k = r.randrange(11)
    if k == 0: return D.ByteLevel()
    if k == 1: return D.Metaspace(prepend_scheme=r.choice(["first", "always", "never"]))
    if k == 2: return D.ByteFallback()
    if k == 3: return D.Fuse()
    if k == 4: return D.Replace(r.choice(["▁", "a", Regex("[aeiou]")]), r.choice([" ", ""]))
    if k == 5: return D.Strip(r.choice([" ", "a"]), r.randint(0, 2), 0)
    if k == 6: return D.WordPiece(prefix=r.choice(["##", "@@"]), cleanup=coin(r))
    if k == 7: return D.BPEDecoder(suffix="</w>")
    if k == 8 or inner: return D.Fuse() if inner else D.Sequence([D.Replace("▁", " "), D.ByteFallback(), D.Fuse(), D.Strip(" ", 1, 0)])
    return D.Sequence([decoder(r, True) for _ in range(r.randint(1, 4))])


def trained(r, corpus):
    kind = r.choice(["bpe", "bpe", "bytes", "unigram", "unigram", "wordpiece", "wordlevel"])
    specials = ["<unk>", "<s>", "</s>"] + (BYTES if kind == "bytes" or coin(r, 0.2) else [])
    size, marks = len(specials) + r.choice([120, 200, 300]) + 400 * (kind == "unigram"), {}
    if kind == "bpe":
        marks = r.choice([{}, {}, {"continuing_subword_prefix": "##"}, {"end_of_word_suffix": "</w>"}])
        t = Tokenizer(models.BPE(fuse_unk=coin(r), ignore_merges=coin(r, 0.3), **marks, **r.choice([{}, {"unk_token": "<unk>"}])))
    elif kind == "bytes":
        t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=coin(r), byte_fallback=True))
    else:
        t = Tokenizer({"unigram": models.Unigram(), "wordpiece": models.WordPiece(unk_token="<unk>", max_input_chars_per_word=20), "wordlevel": models.WordLevel(unk_token="<unk>")}[kind])
    if coin(r, 0.8): t.normalizer = normalizer(r)
    if coin(r, 0.9): t.pre_tokenizer = pre_tokenizer(r)
    common = dict(vocab_size=size, special_tokens=specials, show_progress=False)
    trainer = {"unigram": lambda: trainers.UnigramTrainer(unk_token="<unk>", max_piece_length=8, **common),
               "wordpiece": lambda: trainers.WordPieceTrainer(limit_alphabet=90, **common), "wordlevel": lambda: trainers.WordLevelTrainer(**common)}
    bpe = lambda: trainers.BpeTrainer(limit_alphabet=90, initial_alphabet=P.ByteLevel.alphabet() if coin(r, 0.4) else [], **marks, **common)
    t.train_from_iterator(corpus, trainer.get(kind, bpe)())
    j = json.loads(t.to_str())
    j["added_tokens"] = [a for a in j["added_tokens"] if not a["content"].startswith("<0x")]
    if kind == "unigram":
        j["model"]["byte_fallback"] = len(specials) > 3
    merges = j["model"].get("merges")
    if merges and coin(r, 0.4) and not any(" " in x for m in merges for x in m):
        j["model"]["merges"] = [" ".join(m) for m in merges]    # the older form
    return json.dumps(j)


def tokenizer(r, corpus):
    t = Tokenizer.from_str(trained(r, corpus))
    seen = set()
    for c in r.sample(ADDED, r.randint(0, 6)):
        a = AddedToken(c, single_word=coin(r, 0.25), lstrip=coin(r, 0.25), rstrip=coin(r, 0.25), normalized=coin(r), special=coin(r, 0.4))
        normal = t.normalizer.normalize_str(c) if t.normalizer and a.normalized else c
        if (normal, a.normalized) not in seen:                  # which of two equal ones is found is not defined
            seen.add((normal, a.normalized))
            (t.add_special_tokens if a.special else t.add_tokens)([a])
    s, e = ("<s>", t.token_to_id("<s>")), ("</s>", t.token_to_id("</s>"))
    frames = [processors.BertProcessing(e, s), processors.RobertaProcessing(e, s), processors.TemplateProcessing(single="$A </s> </s>", pair="$B $A </s>", special_tokens=[e]),
              processors.Sequence([processors.ByteLevel(), processors.TemplateProcessing(single="<s> $A", pair="<s> $A </s> $B:1", special_tokens=[s, e])])]
    if coin(r, 0.8): t.post_processor = r.choice(frames)
    if coin(r, 0.85): t.decoder = decoder(r)
    return t


def stream(t, ids, skip):
    s = DecodeStream(skip_special_tokens=skip)
    try:
        return [s.step(t, i) for i in ids]
    except BaseException:
        return "error"


def record(t, s):
    """None where the library itself panics"""
    try:
        plain, ids = t.encode(s, add_special_tokens=False).ids, t.encode(s).ids
        d = dict(text=s, ids=plain, ids_special=ids, decoded=t.decode(ids, skip_special_tokens=False), decoded_skip=t.decode(ids, skip_special_tokens=True))
    except BaseException:
        return None
    d.update(stream=stream(t, ids, False), stream_skip=stream(t, ids, True))
    return d


def write(path, data):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as f:
        f.write(data if isinstance(data, str) else json.dumps(data, separators=(",", ":")))


def make_random(out, count):
    for seed in range(count):
        r = random.Random(seed)
        t = tokenizer(r, [text(r) for _ in range(150)])
        folder = os.path.join(out, "random", "%03d" % seed)
        write(folder + "/tokenizer.json", t.to_str())
        t = Tokenizer.from_file(folder + "/tokenizer.json")
        added = [a.content for a in t.get_added_tokens_decoder().values()]
        texts = [text(r, 5) for _ in range(14)] + [r.choice(["", "x", " ", "\n"]) + a + r.choice(["", "y", "  ", a]) for a in r.sample(added, min(8, len(added)))] + ["", " ", "  \n"]
        golden = dict(strings=[d for d in (record(t, s) for s in texts) if d])
        golden["pairs"] = [dict(text=["one", " two"], ids_special=t.encode("one", " two").ids)]
        write(folder + "/golden.json", golden)


def make_classes(out):
    import transformers
    base, gpt, llama = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}, {"eos_token": "</s>"}, "LlamaTokenizer"
    plans = [("bytes", llama, {}), ("bytes", llama, {"legacy": True}), ("bytes", llama, {"add_prefix_space": False}), ("bytes", "CodeLlamaTokenizer", {}), ("bytes", "GemmaTokenizer", {}),
             ("bytes", "PreTrainedTokenizerFast", {"pad_token": "[PAD]", "image_token": "<image>", "additional_special_tokens": ["<x1>", "12"], "add_eos_token": True}),
             ("bytes", "LlamaTokenizerFast", {"added_tokens_decoder": {"0": {"content": "<unk>", "special": True}, "1": {"content": "<s>", "lstrip": True, "special": True},
                                              "2": {"content": "</s>", "special": True}, "7": {"content": "sea", "single_word": True, "rstrip": True}}}),
             ("bpe", "GPT2Tokenizer", {}), ("bpe", "GPT2Tokenizer", {"add_prefix_space": True}), ("bpe", "Qwen2Tokenizer", {}), ("bpe", llama, {}), ("unigram", "T5Tokenizer", {}),
             ("unigram", "XLMRobertaTokenizer", {}), ("wordpiece", "BertTokenizer", {}), ("wordpiece", "BertTokenizer", {"do_lower_case": False, "clean_up_tokenization_spaces": True})]
    for i, (kind, name, more) in enumerate(plans):
        r = random.Random(1000 + i)
        corpus = [text(r) for _ in range(150)]
        specials = {"bytes": ["<unk>", "<s>", "</s>"] + BYTES, "bpe": ["<unk>", "<s>", "</s>"], "unigram": ["<s>", "</s>", "<unk>", "<pad>"], "wordpiece": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]}[kind]
        common = dict(vocab_size=len(specials) + {"bpe": 400, "unigram": 500}.get(kind, 150), special_tokens=specials, show_progress=False)
        if kind in ("bytes", "bpe"):
            t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True) if kind == "bytes" else models.BPE())
            t.pre_tokenizer = P.Metaspace() if kind == "bytes" else P.ByteLevel(add_prefix_space=False)
            t.train_from_iterator(corpus, trainers.BpeTrainer(limit_alphabet=400, initial_alphabet=[] if kind == "bytes" else P.ByteLevel.alphabet(), **common))
            t.decoder = D.ByteLevel() if kind == "bpe" else D.Fuse()
            t.normalizer = N.Prepend("▁") if kind == "bytes" else None
        elif kind == "unigram":
            t = Tokenizer(models.Unigram())
            t.normalizer, t.pre_tokenizer, t.decoder = N.Sequence([N.NFKC(), N.Replace(Regex(" {2,}"), " ")]), P.Metaspace(), D.Metaspace()
            t.train_from_iterator(corpus, trainers.UnigramTrainer(unk_token="<unk>", **common))
        else:
            t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
            t.pre_tokenizer, t.decoder = P.Whitespace(), D.WordPiece()
            t.train_from_iterator(corpus, trainers.WordPieceTrainer(limit_alphabet=120, **common))
        folder = os.path.join(out, "class", "%02d_%s" % (i, name))
        j = json.loads(t.to_str())
        j["added_tokens"] = [a for a in j["added_tokens"] if not a["content"].startswith("<0x")]
        write(folder + "/tokenizer.json", json.dumps(j, separators=(",", ":")))
        names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"} if kind == "wordpiece" else base if kind != "bpe" else gpt
        write(folder + "/tokenizer_config.json", dict(names, tokenizer_class=name, **more))
        t = transformers.AutoTokenizer.from_pretrained(folder)
        strings = []
        for s in [text(r, 6) for _ in range(16)] + ["Hello , world ! it 's", "<image>[PAD] 12 <x1>", "<s> a </s>", " the sea  sea", "<extra_id_7><mask>", ""]:
            ids = t(s)["input_ids"]
            strings.append(dict(text=s, ids_special=ids, decoded=t.decode(ids), decoded_skip=t.decode(ids, skip_special_tokens=True)))
        write(folder + "/golden.json", dict(strings=strings))


def main():
    with tempfile.TemporaryDirectory() as tmp:
        make_random(tmp, int(sys.argv[2]) if len(sys.argv) > 2 else 60)
        make_classes(tmp)
        with tarfile.open(sys.argv[1], "w:xz", preset=9) as tar:
            for name in ("random", "class"):
                tar.add(os.path.join(tmp, name), arcname="more/" + name, filter=lambda i: (setattr(i, "mtime", 0), setattr(i, "uname", ""), setattr(i, "gname", ""), i)[3])


main()
