/* tenon/tenon.h - everything. */
#ifndef TENON_TENON_H
#define TENON_TENON_H

#include "tenon/adapter.h"
#include "tenon/base.h"
#include "tenon/chat.h"
#include "tenon/checkpoint.h"
#include "tenon/create.h"
#include "tenon/derive.h"
#include "tenon/foreign.h"
#include "tenon/layer.h"
#include "tenon/linear.h"
#include "tenon/live.h"
#include "tenon/lora_config.h"
#include "tenon/model.h"
#include "tenon/recode.h"
#include "tenon/tokenizer.h"
#include "tenon/transform.h"
#include "tenon/weights.h"

#endif
