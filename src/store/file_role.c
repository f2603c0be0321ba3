/* SPDX-License-Identifier: Apache-2.0 */
/* The families of files are those of mlx-lm 0.32.2 (utils.py: what it downloads and copies) and transformers 5.23. */
#include "base/text.h"
#include "store/checkpoint.h"

#include <string.h>
#include <strings.h>

struct rule {
	const char *text;
	tn_file_role role;
};

static const struct rule names[] = {
	{ "config.json", TN_ROLE_CONFIG },
	{ "quantize_config.json", TN_ROLE_CONFIG }, /* how packed weights are to be read: not those of a new model */
	{ "quant_config.json", TN_ROLE_CONFIG },
	{ "hf_quant_config.json", TN_ROLE_CONFIG },
	{ "adapter_config.json", TN_ROLE_ADAPTER },
	{ "adapters.safetensors", TN_ROLE_ADAPTER },
	{ "adapter_model.safetensors", TN_ROLE_ADAPTER },
	{ "adapter_model.bin", TN_ROLE_ADAPTER },
	{ "tenon_receipt.json", TN_ROLE_DOCUMENT },
	{ "CONSUMED-BY-TENON.txt", TN_ROLE_DOCUMENT },
	{ ".gitattributes", TN_ROLE_DOCUMENT },
	{ "LICENSE", TN_ROLE_SIDECAR },
	{ "LICENSE.md", TN_ROLE_SIDECAR },
	{ "NOTICE", TN_ROLE_SIDECAR },
	{ "NOTICE.md", TN_ROLE_SIDECAR },
	{ "USE_POLICY.md", TN_ROLE_SIDECAR },
};

/* The first that matches wins. */
static const struct rule endings[] = {
	{ ".bin.index.json", TN_ROLE_OTHER_WEIGHTS },
	{ ".safetensors.index.json", TN_ROLE_WEIGHTS },
	{ "_adapters.safetensors", TN_ROLE_ADAPTER },
	{ ".safetensors", TN_ROLE_WEIGHTS },
	{ ".json", TN_ROLE_SIDECAR },
	{ ".jsonl", TN_ROLE_SIDECAR },
	{ ".jinja", TN_ROLE_SIDECAR },
	{ ".txt", TN_ROLE_SIDECAR },
	{ ".py", TN_ROLE_SIDECAR },
	{ ".model", TN_ROLE_SIDECAR },
	{ ".spm", TN_ROLE_SIDECAR },
	{ ".bpe", TN_ROLE_SIDECAR },
	{ ".tiktoken", TN_ROLE_SIDECAR },
	{ ".yaml", TN_ROLE_SIDECAR },
	{ ".md", TN_ROLE_DOCUMENT },
	{ ".bin", TN_ROLE_OTHER_WEIGHTS },
	{ ".pt", TN_ROLE_OTHER_WEIGHTS },
	{ ".pth", TN_ROLE_OTHER_WEIGHTS },
	{ ".gguf", TN_ROLE_OTHER_WEIGHTS },
	{ ".npz", TN_ROLE_OTHER_WEIGHTS },
	{ ".h5", TN_ROLE_OTHER_WEIGHTS },
	{ ".msgpack", TN_ROLE_OTHER_WEIGHTS },
	{ ".onnx", TN_ROLE_OTHER_WEIGHTS },
};

tn_file_role tn_file_role_of(const char *name)
{
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (strcasecmp(name, names[i].text) == 0)
			return names[i].role;
	if (name[0] == '.')
		return TN_ROLE_UNKNOWN;
	for (size_t i = 0; i < sizeof endings / sizeof *endings; i++)
		if (tn_ends_with(name, endings[i].text))
			return endings[i].role;
	return TN_ROLE_UNKNOWN;
}
