say() { printf '%b' "$1"; }
from() { # TEXT, then the command: what it makes of the text
	text=$1
	shift
	say "$text" >in
	printf '%s\n' "--- $text"
	try "$@" <in
}
from 'Once upon a time' tenon tokenize --model examples/base
from 'Once upon a time\n' tenon tokenize --model examples/base
from '' tenon tokenize --model examples/base
from '<|user|>caf\0303\0251 \0000' tenon tokenize --model examples/base --json
from 'Hi' tenon tokenize --model examples/base/tokenizer.json --no-special
from '[43, 76]' tenon tokenize --model examples/base --decode
from '2 43,76\n3' tenon tokenize --model examples/base --decode --json
from '2 43,76\n3' tenon tokenize --model examples/base --decode --no-special --json
from '43 x' tenon tokenize --model examples/base --decode
from '4294967295' tenon tokenize --model examples/base --decode
from 'a\0377' tenon tokenize --model examples/base
try tenon tokenize
try tenon tokenize --model examples
echo "--- there and back"
cat examples/README.md | tenon tokenize --model examples/base | tenon tokenize --model examples/base --decode >back
cmp examples/README.md back && echo same
echo "--- llama's frame"
mkdir llama
printf '%s' '{"model":{"type":"BPE","vocab":{"<s>":0,"a":1,"b":2,"ab":3},"merges":["a b"]},"added_tokens":[{"id":0,"content":"<s>",
"special":true}],"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":
{"id":"A","type_id":0}}],"pair":[],"special_tokens":{"<s>":{"id":"<s>","ids":[0],"tokens":["<s>"]}}}}' >llama/tokenizer.json
from 'aba' tenon tokenize --model llama
from 'aba' tenon tokenize --model llama --no-special
printf '%s' '{"model":{"type":"BPE","vocab":{},"merges":[]},"pre_tokenizer":{"type":"UnicodeScripts"}}' >llama/tokenizer.json
from 'aba' tenon tokenize --model llama --json
echo "--- a file of a few lines that multiplies texts"
step='{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}'
steps="$(yes "$step," | head -n 59 | tr '\n' ' ') $step"
sed "s/\"normalizer\": null/\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [$steps]}/" examples/base/tokenizer.json \
	>grows.json
printf 'a cat' | try tenon tokenize --model grows.json
echo "--- a text without end"
try tenon tokenize --model examples/base </dev/zero
echo "--- SentencePiece's tokenizer.model"
mkdir pieces
piece() { printf '\012\'"$(printf %03o $((${#1} + 4)))"'\012\'"$(printf %03o ${#1})%s"'\030\'"00$2" "$1"; } # TEXT TYPE
{
	piece '<unk>' 2
	piece '<s>' 3
	for text in a b ab; do piece $text 1; done
	printf '\022\002\030\002' # BPE
} >pieces/tokenizer.model
from 'aba<s>' tenon tokenize --model pieces
echo '{"tokenizer_class": "LlamaTokenizer", "add_bos_token": true}' >pieces/tokenizer_config.json
from 'aba<s>' tenon tokenize --model pieces
from 'aba<s>' tenon tokenize --model pieces/tokenizer.model --json
echo '{"tokenizer_class": "T5Tokenizer"}' >pieces/tokenizer_config.json
from 'aba' tenon tokenize --model pieces
echo 'IQ== 0' >pieces/tokenizer.model
from 'aba' tenon tokenize --model pieces
