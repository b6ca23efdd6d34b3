// A handler for `promptd serve`: the graph "chat" answers the client's messages, as a pirate.
#include <stdlib.h>
#include <string.h>

#include "promptd.h"

#define STRING(literal) {literal, sizeof literal - 1}

static const chat_message PERSONA = {
    CHAT_SYSTEM,
    STRING("You are Captain Tensor, an old pirate. Answer what you are asked, shortly and rightly, in a pirate's words."),
};

static handler_result fail(chat_error error) {
  return (handler_result){.failed = true, .error = error};
}

// Streams the reply on to the client as it comes, and returns it.
static handler_result answer(chat_session session, const chat_message *messages, size_t count) {
  chat_reply_result started;
  chat_stream(session, messages, count, &started);
  if (started.failed) return fail(started.error);

  chat_piece_result next;
  while (chat_next(started.reply, &next), !next.failed && next.piece.given) {
    output_write(next.piece.value.data, next.piece.value.length);
    free(next.piece.value.data);
  }
  chat_completion_result finished;
  chat_finish(started.reply, &finished);
  chat_drop(started.reply);
  return finished.failed ? fail(finished.error) : (handler_result){.reply = finished.completion.text};
}

EXPORT_RESPOND handler_result *respond(chat_message *messages, size_t count) {
  static handler_result result;
  free(result.failed ? result.error.sentence.data : result.reply.data);  // the last call's

  chat_session_result opened;
  chat_open(&(chat_open_parameters){.graph = STRING("chat")}, &opened);
  if (opened.failed) {
    result = fail(opened.error);
    return &result;
  }
  messages = realloc(messages, (count + 1) * sizeof *messages);
  memmove(messages + 1, messages, count * sizeof *messages);
  messages[0] = PERSONA;
  result = answer(opened.session, messages, count + 1);
  chat_close(opened.session);

  for (size_t i = 1; i <= count; i++) free(messages[i].content.data);
  free(messages);
  return &result;
}
