// The guest that scripts/bench measures with. A plain message is one turn of its conversation over wasi:nn/prompt.
// `!stream TEXT` streams a reply on, `!fork N TEXT` lets N forks of a conversation answer, `!echo N` asks the graph
// "echo" N times.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "promptd.h"
#include "wasi_nn.h"

#define STRING(literal) {literal, sizeof literal - 1}
#define MOST_FORKS 64

static handler_result done(string reply) { return (handler_result){.reply = reply}; }

static handler_result refuse(string sentence) {
  return (handler_result){.failed = true, .error = {CHAT_RUNTIME_ERROR, sentence}};
}

static handler_result fail(const char *sentence) { return refuse((string){strdup(sentence), strlen(sentence)}); }

static bool open_context(const char *graph, nn_context *context) {
  nn_load_result loaded;
  nn_graph_load(graph, strlen(graph), &loaded);
  if (loaded.failed) return false;
  nn_init_result opened;
  nn_prompt_init(loaded.graph, &opened);
  *context = opened.context;
  return !opened.failed;
}

// One turn of the conversation that this instance keeps.
static handler_result turn(string text) {
  static nn_context chat;
  static bool opened;
  if (!opened && !(opened = open_context("chat", &chat))) return fail("the graph chat cannot be had");
  nn_compute_result answer;
  nn_context_compute(chat, text.data, text.length, &answer);
  return answer.failed ? refuse(answer.error) : done(answer.reply);
}

static handler_result echo(int times) {
  nn_context context;
  if (!open_context("echo", &context)) return fail("the graph echo cannot be had");
  for (int i = 0; i < times; i++) {
    nn_compute_result answer;
    nn_context_compute(context, "Hello", 5, &answer);
    if (answer.failed) return fail("echo failed");
    free(answer.reply.data);
  }
  nn_context_drop(context);
  return done((string){strdup("done"), 4});
}

// Lets the reply go on to the client as it comes, and returns it.
static handler_result finish(chat_reply reply) {
  chat_piece_result next;
  while (chat_next(reply, &next), !next.failed && next.piece.given) {
    output_write(next.piece.value.data, next.piece.value.length);
    free(next.piece.value.data);
  }
  chat_completion_result finished;
  chat_finish(reply, &finished);
  chat_drop(reply);
  return finished.failed ? fail("a reply failed") : done(finished.completion.text);
}

static bool open_session(chat_session *session) {
  static bool opened;
  static chat_session kept;
  if (!opened) {
    chat_session_result result;
    chat_open(&(chat_open_parameters){.graph = STRING("chat")}, &result);
    if (result.failed) return false;
    kept = result.session;
    opened = true;
  }
  *session = kept;
  return true;
}

static handler_result stream(string text) {
  chat_session session;
  if (!open_session(&session)) return fail("the graph chat cannot be had");
  chat_reply_result started;
  chat_stream(session, &(chat_message){CHAT_USER, text}, 1, &started);
  return started.failed ? fail(started.error.sentence.data) : finish(started.reply);
}

// All forks answer at once; what the last says is returned.
static handler_result fork_chat(int count, string text) {
  chat_session session;
  if (count < 1 || count > MOST_FORKS || !open_session(&session)) return fail("no conversation can be forked");
  chat_reply replies[MOST_FORKS];
  for (int i = 0; i < count; i++) {
    chat_session_result forked;
    chat_fork(session, &forked);
    if (forked.failed) return refuse(forked.error.sentence);
    chat_reply_result started;
    chat_stream(forked.session, &(chat_message){CHAT_USER, text}, 1, &started);
    if (started.failed) return refuse(started.error.sentence);
    replies[i] = started.reply;
  }
  handler_result result = fail("");
  for (int i = 0; i < count; i++) {
    free(result.failed ? result.error.sentence.data : result.reply.data);
    result = finish(replies[i]);
  }
  return result;
}

static handler_result answer(string text) {
  char *end;
  if (text.length && text.data[0] != '!') return turn(text);
  if (!strncmp(text.data, "!stream ", 8)) return stream((string){text.data + 8, text.length - 8});
  if (!strncmp(text.data, "!echo ", 6)) return echo(atoi(text.data + 6));
  if (!strncmp(text.data, "!fork ", 6)) {
    int count = strtol(text.data + 6, &end, 10);
    end += *end == ' ';
    return fork_chat(count, (string){end, text.length - (end - text.data)});
  }
  return fail("that is no command of this guest");
}

EXPORT_RESPOND handler_result *respond(chat_message *messages, size_t count) {
  static handler_result result;
  free(result.failed ? result.error.sentence.data : result.reply.data);  // the last call's
  string last = messages[count - 1].content;
  char *text = strndup(last.data, last.length);
  result = answer((string){text, last.length});
  free(text);
  for (size_t i = 0; i < count; i++) free(messages[i].content.data);
  free(messages);
  return &result;
}
