// promptd:prompt@0.1.0: conversations with roles, options and streamed replies (wit/promptd-prompt.wit).
#pragma once

#include "component.h"

#define PROMPTD(interface, name) IMPORT("promptd:prompt/" interface "@0.1.0", name)

enum chat_role { CHAT_SYSTEM, CHAT_USER, CHAT_ASSISTANT, CHAT_TOOL };

typedef struct { uint8_t role; string content; } chat_message;

typedef struct { bool given; uint32_t value; } optional_u32;
typedef struct { bool given; float value; } optional_f32;
typedef struct { bool given; string value; } optional_string;

typedef struct {
  optional_u32 max_tokens;
  optional_f32 temperature;
  optional_u32 top_k;
  optional_f32 top_p, min_p, repeat_penalty;
  optional_u32 seed;
  struct { string *items; size_t count; } stop;
  optional_string grammar, json_schema;
} chat_options;

enum chat_stop_reason { CHAT_END_OF_TURN, CHAT_STOP_SEQUENCE, CHAT_MAX_TOKENS, CHAT_CONTEXT_FULL, CHAT_CANCELLED };

typedef struct {
  string text;
  uint8_t stop_reason;
  struct { uint32_t prompt_tokens, cached_tokens, generated_tokens; } usage;
} chat_completion;

enum chat_error_code {
  CHAT_INVALID_ARGUMENT, CHAT_NOT_FOUND, CHAT_TOO_LARGE, CHAT_BUSY, CHAT_TIMEOUT, CHAT_SECURITY, CHAT_RUNTIME_ERROR
};

typedef struct { uint8_t code; string sentence; } chat_error;

typedef int32_t chat_session;  // a conversation
typedef int32_t chat_reply;    // a reply that is being made

// More parameters than the canonical ABI passes one by one.
typedef struct { string graph; struct { bool given; chat_options value; } options; } chat_open_parameters;

typedef struct { bool failed; union { chat_session session; chat_error error; }; } chat_session_result;
typedef struct { bool failed; union { chat_reply reply; chat_error error; }; } chat_reply_result;
typedef struct { bool failed; union { optional_string piece; chat_error error; }; } chat_piece_result;
typedef struct { bool failed; union { chat_completion completion; chat_error error; }; } chat_completion_result;
typedef struct { bool failed; chat_error error; } chat_result;
typedef struct { bool failed; union { uint32_t count; chat_error error; }; } chat_count_result;

PROMPTD("chat", "[static]session.open") void chat_open(const chat_open_parameters *, chat_session_result *);
PROMPTD("chat", "[method]session.send")
void chat_send(chat_session, const chat_message *, size_t count, chat_completion_result *);
PROMPTD("chat", "[method]session.stream")
void chat_stream(chat_session, const chat_message *, size_t count, chat_reply_result *);
PROMPTD("chat", "[method]session.fork") void chat_fork(chat_session, chat_session_result *);
PROMPTD("chat", "[method]session.rewind") void chat_rewind(chat_session, uint32_t turns, chat_result *);
PROMPTD("chat", "[resource-drop]session") void chat_close(chat_session);

PROMPTD("chat", "[method]reply.next") void chat_next(chat_reply, chat_piece_result *);
PROMPTD("chat", "[method]reply.finish") void chat_finish(chat_reply, chat_completion_result *);
PROMPTD("chat", "[resource-drop]reply") void chat_drop(chat_reply);

PROMPTD("tokens", "count")
void tokens_count(const char *graph, size_t graph_length, const char *text, size_t text_length, chat_count_result *);

// Of a handler: what it streams on, and how its `respond` is exported.
PROMPTD("output", "write") void output_write(const char *text, size_t length);

typedef struct { bool failed; union { string reply; chat_error error; }; } handler_result;
#define EXPORT_RESPOND EXPORT("promptd:prompt/handler@0.1.0#respond")
