// Where a chat command gets its turns: the words of the command line, or the lines of stdin.
#pragma once

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// The words with spaces between them.
static inline char *join_words(char **words) {
  size_t size = 1;
  for (char **word = words; *word; word++) size += strlen(*word) + 1;
  char *text = calloc(size, 1);
  for (char **word = words; *word; word++) {
    if (word != words) strcat(text, " ");
    strcat(text, *word);
  }
  return text;
}

// The next line without its end, good until the next call; NULL at the end of the input.
static inline char *read_line(void) {
  static char *line;
  static size_t size;
  if (getline(&line, &size, stdin) < 0) return NULL;
  line[strcspn(line, "\r\n")] = '\0';
  return line;
}
