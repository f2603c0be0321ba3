# Chat templates: text without a newline of its own, what is absent, what a template refuses, which one is taken.
cat >talk.json <<'T'
[{"role": "user", "content": "Hi \u0022there\u0022"}, {"role": "assistant", "content": "Ahoy!  "}]
T
render() { try tenon render "$@"; }
render --model examples/base --messages talk.json
render --model examples/base --messages talk.json --add-generation-prompt
render --model examples/base --messages talk.json --continue-final-message --json
try tenon render --model examples/base --messages - <talk.json
mkdir -p model/additional_chat_templates
cat >model/chat_template.jinja <<'T'
{{ strftime_now("%d %b %Y") }} {{ tools is none }} {{ documents }} {{ mood | default("calm") }}
{%- for m in messages %}
{% generation %}{{ m.content | upper }}{% endgeneration %}
{%- endfor %}
T
echo 'tools: {{ tools | tojson }}' >model/additional_chat_templates/tool_use.jinja
echo '{{ raise_exception("Only one turn, please: " ~ messages | length) }}' >model/additional_chat_templates/strict.jinja
echo '{{ messages[7].content }}' >model/additional_chat_templates/far.jinja
echo '{% for m in messages %}' >model/additional_chat_templates/open.jinja
echo '[{"name": "f"}]' >tools.json
echo '{"mood": "merry", "documents": 1}' >names.json
echo '[{"title": "T"}]' >documents.json
render --model model --messages talk.json --now 2026-11-21T18:30:00
render --model model --messages talk.json --now 2026-11-21T18:30:00 --variables names.json --documents documents.json --json
render --model model --messages talk.json --tools tools.json
render --model model --messages talk.json --template strict
render --model model --messages talk.json --template far
render --model model --messages talk.json --template open
render --model model --messages talk.json --template none
render --model model --messages talk.json --now yesterday
render --model model --messages talk.json --add-generation-prompt --continue-final-message
render --model model --messages names.json
render --model model --messages nowhere.json
render --model nowhere --messages talk.json
render --model model
rm -r model/chat_template.jinja model/additional_chat_templates
render --model model --messages talk.json --json
