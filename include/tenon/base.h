/* tenon/base.h - errors, options, the context, dtypes and buffers: what every other header builds on.
 *
 * Thread rules. A tn_context may be shared by any number of threads. Every other object may be read by many
 * threads at once, and is opened and closed by one. Functions without a context or object are thread-safe.
 *
 * The library never prints, never exits, never aborts because of data, and never reads the environment.
 */
#ifndef TENON_BASE_H
#define TENON_BASE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TN_VERSION_MAJOR 0
#define TN_VERSION_MINOR 1
#define TN_VERSION_PATCH 0
#define TN_VERSION_STRING "0.1.0"

#if defined(__GNUC__)
#define TN_API __attribute__((visibility("default")))
#else
#define TN_API
#endif

/* The version of the library that is linked, TN_VERSION_STRING of its headers. Static text. */
TN_API const char *tn_version(void);

/* ---- errors ---------------------------------------------------------------------------------------------- */

/* Each code is a different thing for the caller to do. */
typedef enum tn_status {
	TN_OK = 0,
	TN_E_ARG,         /* the call is wrong: mend the program */
	TN_E_NOMEM,       /* memory, or the memory budget, ran out: free some or raise the budget */
	TN_E_IO,          /* the system refused; sys_errno says how: mend the disk or the permissions */
	TN_E_FORMAT,      /* a file is damaged or is not what its name says: get it again */
	TN_E_LIMIT,       /* a file asks for more than a sane file does: refuse it, or raise the limit */
	TN_E_UNSUPPORTED, /* well formed, and tenon does not do it */
	TN_E_MISMATCH,    /* two inputs do not belong together, for example an adapter and its base */
	TN_E_NOTFOUND,    /* the named file, tensor or key does not exist */
	TN_E_EXISTS,      /* the output exists already */
	TN_E_CANCELLED    /* the progress callback asked to stop */
} tn_status;

/* Filled by the function that fails. Every fallible function takes `struct tn_error *err` last; NULL is allowed.
 * On TN_OK *err is not touched. On failure the other outputs are not touched and nothing is left behind. */
struct tn_error {
	tn_status code;
	int sys_errno;    /* errno of the failing system call, or 0 */
	uint64_t pos;     /* byte position in the file that `where` names, or 0 */
	char where[128];  /* the tensor, key or file; a long name keeps its end */
	char msg[384];    /* what was found, what was expected, what to do */
};

/* "TN_E_FORMAT" and so on. Static text, never NULL. */
TN_API const char *tn_status_name(tn_status code);

/* ---- the context ----------------------------------------------------------------------------------------- */

/* Where the library's heap comes from. `alloc` returns memory aligned as malloc's is, or NULL; sizes are never 0.
 * `release` gets the size that was asked for. All may be called from any thread. Small documents (configuration files)
 * are parsed by jansson, which uses malloc itself. */
struct tn_allocator {
	void *(*alloc)(void *user, size_t bytes);
	void *(*resize)(void *user, void *ptr, size_t old_bytes, size_t new_bytes);
	void (*release)(void *user, void *ptr, size_t bytes);
	void *user;
};

typedef enum tn_log_level { TN_LOG_DEBUG, TN_LOG_INFO, TN_LOG_WARNING } tn_log_level;

/* Called on the thread that called the library. `message` is valid during the call only. */
typedef void (*tn_log_fn)(void *user, tn_log_level level, const char *message);

struct tn_progress {
	uint64_t done_bytes;   /* read and written so far */
	uint64_t total_bytes;
	const char *phase;     /* "fuse", "verify", ...: static text */
};

/* Called on the thread that called the library, about ten times a second, and once at the end. Return nonzero to
 * stop: the call then cleans up and returns TN_E_CANCELLED. */
typedef int (*tn_progress_fn)(void *user, const struct tn_progress *progress);

/* Start from TN_OPTIONS_INIT; zero fields mean the defaults. */
struct tn_options {
	size_t struct_bytes;            /* sizeof(struct tn_options): lets the library know which fields exist */
	struct tn_allocator allocator;  /* default: malloc, realloc, free */
	tn_log_fn log;                  /* default: silence */
	void *log_user;
	tn_progress_fn progress;        /* default: none */
	void *progress_user;
	unsigned threads;               /* that compute, the caller included. 0: one for each CPU of this process. Unless 1 is asked
	                                 * for, jobs that stream files start a few more, which wait for the disk */
	uint64_t memory_budget_bytes;   /* for the buffers of streaming work. 0: 256 MiB */
	const char *isa;                /* "portable", "avx2", ...: the kernels to use. NULL: the best this CPU has */
};
#define TN_OPTIONS_INIT { sizeof(struct tn_options), { 0, 0, 0, 0 }, 0, 0, 0, 0, 0, 0, 0 }

typedef struct tn_context tn_context;

/* Makes a context from `options` (NULL: all defaults), copied. Starts no thread: workers start with the first work that
 * needs them. TN_E_ARG: struct_bytes is 0 or too large, or `isa` is unknown or not usable on this CPU. */
TN_API tn_status tn_context_create(const struct tn_options *options, tn_context **out, struct tn_error *err);

/* Frees it, NULL allowed, after everything that was made with it. */
TN_API void tn_context_destroy(tn_context *ctx);

/* The kernels in use ("portable", "avx2", ...). Static text. */
TN_API const char *tn_context_isa(const tn_context *ctx);

/* ---- dtypes ---------------------------------------------------------------------------------------------- */

/* The dtypes of safetensors 0.8 (safetensors/src/tensor.rs), in its order of alignment, which is the order of tensors in
 * a file reversed. */
typedef enum tn_dtype {
	TN_BOOL, TN_F4, TN_F6_E2M3, TN_F6_E3M2, TN_U8, TN_I8, TN_F8_E5M2, TN_F8_E4M3, TN_F8_E8M0, TN_F8_E4M3FNUZ,
	TN_F8_E5M2FNUZ, TN_I16, TN_U16, TN_F16, TN_BF16, TN_I32, TN_U32, TN_F32, TN_C64, TN_F64, TN_I64, TN_U64
} tn_dtype;
#define TN_DTYPE_COUNT 22

TN_API const char *tn_dtype_name(tn_dtype dtype);      /* "BF16"; static text */
TN_API unsigned tn_dtype_bits(tn_dtype dtype);         /* 16 */
TN_API int tn_dtype_is_float(tn_dtype dtype);          /* F4 to F64, E8M0 excepted */
/* TN_E_NOTFOUND when no dtype has that name; names are exact ("bf16" is not one). */
TN_API tn_status tn_dtype_from_name(const char *name, tn_dtype *out, struct tn_error *err);

/* ---- buffers --------------------------------------------------------------------------------------------- */

/* Bytes that the caller owns, aligned to 64. Release with tn_buffer_release, which empties it. */
struct tn_buffer {
	void *data;
	size_t bytes;
};
TN_API void tn_buffer_release(tn_context *ctx, struct tn_buffer *buffer);

#ifdef __cplusplus
}
#endif
#endif
