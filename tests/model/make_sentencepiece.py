"""Models of SentencePiece, and what transformers and the sentencepiece library make of random texts with them.

usage: make_sentencepiece.py OUT.tar.xz

OUT holds pieces/<name>/: tokenizer.model, the small files that such a folder has, and golden.json with the fields of
models/tok/*/golden.json (`ids`, `ids_special`, `decoded`, `decoded_skip`, `stream`, `stream_skip`), `pairs` and `tokens`.
They come from AutoTokenizer, of which `as_the_file_says` mends what transformers 5.23 leaves out of the file: merges by the scores of
pieces, for which it has a function and takes ids, and, for models without a class, the space in front and the spaces that go. Where no added token
stands in a text, the ids are compared with those of the sentencepiece library. Made with transformers 5.23.0, sentencepiece 0.2.3.
"""
import io, json, os, random, sys, tarfile, tempfile
import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as protobuf
from tokenizers import Regex, Tokenizer, decoders as D, models, normalizers as N
from tokenizers.decoders import DecodeStream
from transformers import AutoTokenizer
from transformers.convert_slow_tokenizer import generate_merges

WORDS = ("sea ship wind harbour the a of and to with from over under bright cold seven sails storm captain's don't we'll I've rope "
         "anchor lantern whale island map gold coin knot deck mast öl früh schön grüßen où déjà naïve cœur ещё корабль море ветер "
         "πλοίο θάλασσα سفينة بحر ספינה ים जहाज़ समुद्र เรือ ทะเล 船 海 風 島 地図 港 배 바다 바람 for(i=0;i<n;i++) return self.x[0] 3.14 0xFF").split()
SIGNS = list("  \t\n.,;:!?-_/\\(){}[]<>'\"#*+=0123456789AZaz▁") + [
    "é", "e\u0301", "ß", "ﬁ", "Å", "½", "²", "ｆ", "１", "…", "—", "’", "😀", "👩‍👧", "🏳️‍🌈", "\u200b", "\u00a0", "\u3000", "\u2028", "\x00",
    "\x1f", "\r\n", "    ", "<0x41>", "<s>", "</s>", "<unk>", "[INST]", "<|im_start|>", "<start_of_turn>", "<tool>"]
RULES = "41\t61\nFB01\t66 69\nFF11\t31\n3000\t20\nA0\t20\n65 301\tE9\n200B\t\n"


def text(r, words=9):
    parts = [r.choice(WORDS) if r.random() < 0.7 else "".join(r.choice(SIGNS) for _ in range(r.randint(1, 5))) for _ in range(r.randint(1, words))]
    return r.choice(["", "", " ", "\n"]) + r.choice([" ", " ", "  ", ""]).join(parts) + r.choice(["", "", " ", "  ", "\n"])


def worst_scores(data):
    """As Llama's and Mistral's models have it: runs of spaces with early ids and the worst of scores."""
    model = protobuf.ModelProto.FromString(data)
    normal = [p for p in model.pieces if p.type == 1]
    spaces = [p for p in normal if len(p.piece) > 1 and not p.piece.strip("▁")] + [protobuf.ModelProto.SentencePiece(piece="▁" * n) for n in (2, 4, 8, 3, 5)]
    spaces = list({p.piece: p for p in spaces}.values())
    for p in spaces:
        p.score = -1e9
    rest = [p for p in normal if p.piece not in {s.piece for s in spaces}]
    pieces = [p for p in model.pieces if p.type != 1] + spaces + rest
    copies = [protobuf.ModelProto.SentencePiece.FromString(p.SerializeToString()) for p in pieces]
    del model.pieces[:]
    model.pieces.extend(copies)
    return model.SerializeToString()


def train(seed, folder, worst=False, **options):
    r = random.Random(seed)
    lines = [text(r).replace("\n", " ").replace("\x00", "") for _ in range(700)]
    model = io.BytesIO()
    plan = dict(model_type="bpe", vocab_size=700, byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
                character_coverage=0.98, minloglevel=2, hard_vocab_limit=False, num_threads=1)
    plan.update(options)
    if plan.get("normalization_rule_tsv"):
        path = os.path.join(folder, "rules.tsv")
        with open(path, "w") as f:
            f.write(RULES)
        plan.update(normalization_rule_tsv=path)
        plan.pop("normalization_rule_name")
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=model, **plan)
    return worst_scores(model.getvalue()) if worst else model.getvalue()


def as_the_file_says(t, data):
    model = protobuf.ModelProto.FromString(data)
    j, settings = json.loads(t._tokenizer.to_str()), model.normalizer_spec
    if j["model"]["type"] == "BPE":
        merges = generate_merges({p.piece: i for i, p in enumerate(model.pieces)}, [(p.piece, p.score) for p in model.pieces])
        j["model"]["merges"] = [[a, b] for a, b in merges]
    if type(t).__name__ == "TokenizersBackend":
        normal = [N.Precompiled(settings.precompiled_charsmap)] if settings.precompiled_charsmap else []
        normal += [N.Replace(Regex(r"\A +|[ ▁]+\z"), ""), N.Replace(Regex(" {2,}"), " ")] if settings.remove_extra_whitespaces else []
        normal += [N.Prepend("▁")] if settings.add_dummy_prefix else []
        back = [D.Replace("▁", " ")] + ([D.ByteFallback()] if model.trainer_spec.byte_fallback else []) + [D.Fuse()]
        back += [D.Strip(" ", 1, 0)] if settings.add_dummy_prefix or settings.remove_extra_whitespaces else []
        shape = Tokenizer(models.BPE())
        shape.normalizer, shape.decoder = N.Sequence(normal + [N.Replace(" ", "▁")]), D.Sequence(back)
        shape = json.loads(shape.to_str())
        j.update(normalizer=shape["normalizer"], decoder=shape["decoder"])
    t._tokenizer = Tokenizer.from_str(json.dumps(j))


def stream(t, ids, skip):
    d = DecodeStream(skip_special_tokens=skip)
    return [d.step(t, i) for i in ids]


def token(content, **flags):
    return dict(dict(content=content, lstrip=False, normalized=False, rstrip=False, single_word=False), **flags)


def typed(content, **flags):
    return dict(token(content, **flags), __type="AddedToken")


def numbered(tokens):
    return {str(i): token(c, special=s, **f) for i, (c, s, f) in tokens.items()}


MODELS = {
    "llama": dict(user_defined_symbols=["<|im_start|>", "<|im_end|>"], control_symbols=["<tool>"], split_digits=True, allow_whitespace_only_pieces=True),
    "spaces": dict(worst=True, allow_whitespace_only_pieces=True),
    "squeezed": dict(remove_extra_whitespaces=True, vocab_size=600),
    "small": dict(vocab_size=440, user_defined_symbols=["▁▁"]),
    "no_bytes": dict(byte_fallback=False, vocab_size=400, control_symbols=["[INST]"]),
    "gemma": dict(vocab_size=900, pad_id=0, eos_id=1, bos_id=2, unk_id=3, bos_piece="<bos>", eos_piece="<eos>", add_dummy_prefix=False,
                  user_defined_symbols=["<mask>", "<start_of_turn>", "<end_of_turn>", "\n", "  ", "   "], allow_whitespace_only_pieces=True),
    "mistral": dict(control_symbols=["[INST]", "[/INST]", "[control_1]", "[control_2]"]),
    "mapped": dict(normalization_rule_tsv=True, remove_extra_whitespaces=True, unk_piece="[UNK]", bos_id=-1),
    "unigram": dict(model_type="unigram", vocab_size=800, user_defined_symbols=["<|im_start|>"]),
    "unigram_mapped": dict(model_type="unigram", vocab_size=600, byte_fallback=False, normalization_rule_tsv=True, unk_id=2, bos_id=0, eos_id=1),
}
LLAMA, BOS = {"tokenizer_class": "LlamaTokenizer"}, {"add_bos_token": True}
NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
CHAT = {0: ("<unk>", True, {}), 1: ("<s>", True, {}), 2: ("</s>", True, {"rstrip": True}), 700: ("<|user|>", True, {"rstrip": True}),
        701: ("<|end|>", True, {}), 702: ("ships", False, {"normalized": True, "lstrip": True})}
# name: (model, model_type, tokenizer_config.json, special_tokens_map.json, added_tokens.json)
CASES = {
    "llama": ("llama", "llama", dict(LLAMA, **NAMES, **BOS, add_eos_token=False), None, None),
    "llama_legacy": ("llama", "llama", dict(LLAMA, legacy=True, pad_token=None, bos_token=typed("<s>", normalized=True), eos_token=typed("</s>"),
                                            unk_token=typed("<unk>"), **BOS), {k: token(v) for k, v in NAMES.items()}, None),
    "llama_fast": ("llama", "qwen3", dict(tokenizer_class="LlamaTokenizerFast", legacy=None, add_prefix_space=False, add_bos_token=None, add_eos_token=True), None, None),
    "llama_small": ("small", "llama", dict(LLAMA, **BOS, extra_special_tokens=["</s>", "sea"]), None, None),
    "llama_chat": ("llama", "llama", dict(LLAMA, **NAMES, **BOS, pad_token="</s>", legacy=False, added_tokens_decoder=numbered(CHAT)), None, None),
    "llama_older": ("llama", "llama", dict(LLAMA, **BOS), dict(NAMES, pad_token="[PAD]"), {"[PAD]": 700, "<|end|>": 702, "whales": 701}),
    "llama_spaces": ("spaces", "llama", dict(LLAMA, **BOS), None, None),
    "llama_no_bytes": ("no_bytes", "llama", dict(LLAMA, **BOS), None, None),
    "code_llama": ("llama", "llama", dict(tokenizer_class="CodeLlamaTokenizer", **NAMES), None, None),
    "code_llama_plain": ("small", "code_llama", dict(add_bos_token=False, add_prefix_space=False), None, None),
    "gemma": ("gemma", "gemma2", dict(tokenizer_class="GemmaTokenizer", **BOS, additional_special_tokens=["<start_of_turn>", "<end_of_turn>"]), None, None),
    "gemma_unnamed": ("gemma", "gemma3_text", None, None, None),
    "gemma_no_bytes": ("no_bytes", "gemma", dict(tokenizer_class="GemmaTokenizer", **NAMES, **BOS), None, None),
    "mistral_spaces": ("spaces", "mistral", dict(LLAMA, **BOS), None, None),
    "yi": ("squeezed", "llama", dict(tokenizer_class="YiTokenizer"), None, None),
    "mistral": ("llama", "mistral", dict(LLAMA, **NAMES, **BOS), None, None),
    "mistral_control": ("mistral", "mixtral", dict(LLAMA, **BOS, eos_token=None), None, None),
    "phi3_renamed": ("mistral", "phi3", dict(LLAMA, **BOS, eos_token="<|end|>", added_tokens_decoder=numbered(
        {5: ("<|end|>", True, {}), 6: ("<|user|>", False, {"normalized": True}), 3: ("<s>", True, {}), 700: ("<|assistant|>", True, {"lstrip": True})})), None, None),
    "renamed_older": ("mistral", "granite", dict(LLAMA, **NAMES, pad_token=typed("<pad>")), None, {"<|end|>": 5, "<|user|>": 700, "<pad>": 701}),
    "unnamed": ("llama", "llama", None, None, None),
    "no_bytes": ("no_bytes", "llama", dict(tokenizer_class="PreTrainedTokenizerFast", add_eos_token=True), None, None),
    "mapped": ("mapped", "mistral", dict(LLAMA, **BOS), None, None),
    "unigram": ("unigram", "llama", {}, None, None),
    "unigram_mapped": ("unigram_mapped", "mistral", dict(LLAMA, **BOS), None, None),
}


def write(path, data):
    with open(path, "wb") as f:
        f.write(data if isinstance(data, bytes) else json.dumps(data, separators=(",", ":")).encode())


def compare(t, pieces, config, s, ids):
    """The second witness, where it means the same."""
    if not s or "\x00" in s or any(a.content in s for a in t.added_tokens_decoder.values()):
        return 0
    name = type(t).__name__
    if name == "LlamaTokenizer" and (config.get("add_prefix_space") is False or s[0] in " ▁"):
        return 0
    if name not in ("LlamaTokenizer", "TokenizersBackend"):
        return 0
    want = pieces.encode(s)
    if want != ids:
        sys.exit("%r: sentencepiece says %s, transformers %s" % (s, want, ids))
    return 1


def record(t, s):
    plain, ids = t.encode(s, add_special_tokens=False), t.encode(s)
    return dict(text=s, ids=plain, ids_special=ids, decoded=t.decode(ids), decoded_skip=t.decode(ids, skip_special_tokens=True),
                stream=stream(t._tokenizer, ids, False), stream_skip=stream(t._tokenizer, ids, True))


def make(out, files):
    for i, (name, (model, model_type, config, special, added)) in enumerate(CASES.items()):
        r, folder, same = random.Random(i), os.path.join(out, "pieces", name), 0
        os.makedirs(folder)
        write(folder + "/tokenizer.model", files[model])
        for file, data in (("config.json", {"model_type": model_type}), ("tokenizer_config.json", config), ("special_tokens_map.json", special), ("added_tokens.json", added)):
            if data is not None:
                write(os.path.join(folder, file), data)
        t, pieces = AutoTokenizer.from_pretrained(folder), sentencepiece.SentencePieceProcessor(model_proto=files[model])
        as_the_file_says(t, files[model])
        tokens = [a.content for a in t.added_tokens_decoder.values() if a.content != "<FILL_ME>"]  # it asks transformers for more than ids
        texts = ["", " ", "  ", "\n", "▁", " a", "a  b ", "int main() {\n\treturn 0;\n}\n", "def f(x):\n    if x:\n        return  sea\n   the   ship"] + [text(r) for _ in range(16)]
        texts += [r.choice(["", "x", " ", "\n"]) + a + r.choice(["", "y", "  ", a]) for a in tokens]
        strings = [record(t, s) for s in texts]
        if model in ("llama", "small", "spaces", "squeezed", "mistral"):
            same = sum(compare(t, pieces, config or {}, d["text"], d["ids"]) for d in strings)
        pair = dict(text=["one", " two"], ids_special=t("one", " two")["input_ids"])
        write(folder + "/golden.json", dict(tokens=len(t), strings=strings, pairs=[pair]))
        print("%-18s %-18s %4d tokens, %2d texts, %2d as sentencepiece" % (name, type(t).__name__, len(t), len(strings), same))


def main():
    with tempfile.TemporaryDirectory() as tmp:
        models = {name: train(i, tmp, **options) for i, (name, options) in enumerate(MODELS.items())}
        make(tmp, models)
        with tarfile.open(sys.argv[1], "w:xz", preset=9) as tar:
            tar.add(os.path.join(tmp, "pieces"), arcname="pieces", filter=lambda i: (setattr(i, "mtime", 0), setattr(i, "uname", ""), setattr(i, "gname", ""), i)[3])


main()
