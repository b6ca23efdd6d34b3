// The guest behind `promptd chat`. The words of the command line are one turn; without any, each line of stdin is a turn.
// PROMPTD_TTY=1 says that a person types them: there is a banner, a prompt to type at, and commands.
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "promptd.h"
#include "turns.h"

static const char HELP[] =
    "/undo  forget the last question and its answer\n"
    "/help  show this list\n"
    "/exit  leave, as Ctrl-D and Ctrl-C do; while a reply is made, Ctrl-C stops that\n";

static bool report(chat_error error) {
  fprintf(stderr, "%.*s\n", (int)error.sentence.length, error.sentence.data);
  free(error.sentence.data);
  return false;
}

static bool open_session(char *graph, chat_session *session) {
  chat_open_parameters parameters = {.graph = {graph, strlen(graph)}};
  chat_session_result opened;
  chat_open(&parameters, &opened);
  if (opened.failed) return report(opened.error);
  *session = opened.session;
  return true;
}

// Says on stderr what a reply lacks that did not come to its own end.
static void explain(uint8_t stop_reason) {
  if (stop_reason == CHAT_MAX_TOKENS) fputs("(cut short: the reply reached its limit of tokens, max-tokens)\n", stderr);
  if (stop_reason == CHAT_CONTEXT_FULL) fputs("(cut short: the context is full)\n", stderr);
}

// Prints the reply as it comes, until it ends or nobody reads any more.
static bool turn(chat_session session, char *prompt) {
  if (mbstowcs(NULL, prompt, 0) == (size_t)-1) {
    fputs("The question is not UTF-8 text.\n", stderr);
    return false;
  }
  chat_message message = {CHAT_USER, {prompt, strlen(prompt)}};
  chat_reply_result started;
  chat_stream(session, &message, 1, &started);
  if (started.failed) return report(started.error);

  chat_piece_result next;
  while (chat_next(started.reply, &next), !next.failed && next.piece.given) {
    string piece = next.piece.value;
    fwrite(piece.data, 1, piece.length, stdout);
    free(piece.data);
    if (fflush(stdout) != 0) break;
  }
  putchar('\n');
  fflush(stdout);
  chat_completion_result finished = {.failed = true};
  if (!next.failed && !next.piece.given) chat_finish(started.reply, &finished);
  if (!finished.failed) {
    explain(finished.completion.stop_reason);
    free(finished.completion.text.data);
  }
  chat_drop(started.reply);
  return !next.failed || report(next.error);
}

static void undo(chat_session session) {
  chat_result rewound;
  chat_rewind(session, 1, &rewound);
  if (!rewound.failed) puts("Forgotten.");
  else if (rewound.error.code == CHAT_INVALID_ARGUMENT) puts("There is nothing to forget.");
  else report(rewound.error);
}

// A person's chat: errors are told, and the chat goes on.
static void talk(chat_session session, const char *model) {
  printf("promptd chat%s%s · /help for commands\n", model ? " · " : "", model ? model : "");
  while (!ferror(stdout)) {
    fputs("> ", stdout);
    fflush(stdout);
    char *line = read_line();
    if (!line) putchar('\n');
    if (!line || strcmp(line, "/exit") == 0) return;
    if (strcmp(line, "/help") == 0) fputs(HELP, stdout);
    else if (strcmp(line, "/undo") == 0) undo(session);
    else if (*line == '/') printf("There is no command %s; /help lists them.\n", line);
    else if (*line) turn(session, line);
  }
}

// A program's chat: a failed turn does not end it, but shows in the exit code.
static bool answer_lines(chat_session session) {
  bool answered = true;
  for (char *line; !ferror(stdout) && (line = read_line());) {
    if (*line) answered &= turn(session, line);
  }
  return answered;
}

int main(int argc, char **argv) {
  char *graph = getenv("GRAPH");
  char *tty = getenv("PROMPTD_TTY");
  setlocale(LC_CTYPE, "C.UTF-8");
  chat_session session;
  if (!open_session(graph ? graph : "chat", &session)) return EXIT_FAILURE;
  if (argc > 1) return turn(session, join_words(argv + 1)) ? EXIT_SUCCESS : EXIT_FAILURE;
  if (!tty || strcmp(tty, "1") != 0) return answer_lines(session) ? EXIT_SUCCESS : EXIT_FAILURE;
  talk(session, getenv("PROMPTD_MODEL"));
  return EXIT_SUCCESS;
}
