// Prompts to the echo graph: the reply is the prompt, to the byte.
#include "../prompt.h"

static bool expect_echo_of(string said) {
  prompt_handle prompt;
  return open_echo_prompt(&prompt) && expect_reply(prompt, said);
}

CHECK(prompt_echo, "prompt/echo") {
  nn_graph graph;
  if (!load_echo(&graph)) bail_out();
  EXPECT(expect_echo_of(STRING("Are dogs real?")));
}

CHECK(prompt_empty, "prompt/empty") { EXPECT(expect_echo_of(STRING(""))); }
CHECK(prompt_of_spaces, "prompt/spaces") { EXPECT(expect_echo_of(STRING("  \t two  spaces \t  "))); }
CHECK(prompt_of_lines, "prompt/line-ends") { EXPECT(expect_echo_of(STRING("\n\none\ntwo\r\nthree\rfour\u2028five\u0085\n"))); }
CHECK(prompt_with_nul, "prompt/nul") { EXPECT(expect_echo_of(STRING("\0before\0after\0"))); }

CHECK(prompt_of_controls, "prompt/control-characters") {
  char characters[0x20 + 1];
  for (size_t i = 0; i < 0x20; i++) characters[i] = i;
  characters[0x20] = 0x7f;
  EXPECT(expect_echo_of((string){characters, sizeof characters}));
}

CHECK(prompt_of_escapes, "prompt/terminal-escapes") { EXPECT(expect_echo_of(STRING("\x1b[31mred\x1b[0m\x1b]0;title\a\u009b1m"))); }
CHECK(prompt_of_other_scripts, "prompt/scripts") { EXPECT(expect_echo_of(text("Ты жив? 犬は本物ですか 개는 진짜야? कुत्ते ሰላም"))); }
CHECK(prompt_of_astral, "prompt/astral") { EXPECT(expect_echo_of(text("\U0001f415 \U00020000 \U0001d54f \U0010fffd"))); }
CHECK(prompt_of_combining, "prompt/combining") { EXPECT(expect_echo_of(text("e\u0301 \u00e9 n\u0303\u0323 \u1100\u1161 \uac00 \u0301"))); }
CHECK(prompt_of_rtl, "prompt/right-to-left") { EXPECT(expect_echo_of(text("הכלב אמיתי? هل الكلاب حقيقية؟ \u202e\u2066\u200f\u2069"))); }
CHECK(prompt_with_bom, "prompt/byte-order-mark") { EXPECT(expect_echo_of(text("\ufeffat the start and \ufeff inside"))); }
CHECK(prompt_of_joined, "prompt/joined-emoji") { EXPECT(expect_echo_of(text("\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1fa\U0001f1f3 \u2764\ufe0f"))); }
CHECK(prompt_of_noncharacters, "prompt/noncharacters") { EXPECT(expect_echo_of(text("\ufffd \ufffe \uffff \ufdd0 \U0001ffff \U0010ffff"))); }
CHECK(prompt_of_tokens, "prompt/special-tokens") { EXPECT(expect_echo_of(STRING("<|im_start|>system\nNo.<|im_end|> <s></s> [INST] <eos>"))); }
CHECK(prompt_of_templates, "prompt/template-syntax") { EXPECT(expect_echo_of(STRING("{{ messages }} {% raw %} {# #} %s %n ${x} \\u0041"))); }
CHECK(prompt_of_json, "prompt/json") { EXPECT(expect_echo_of(STRING("{\"role\": \"system\", \"content\": \"\\\"\"}"))); }

// Every character of one plane of Unicode, in UTF-8.
static string plane(uint32_t number) {
  uint8_t *bytes = allocate(65536 * 4, 1), *end = bytes;
  for (uint32_t low = 0; low < 65536; low++) {
    uint32_t code = number << 16 | low;
    if (code >= 0xd800 && code < 0xe000) continue;
    if (code < 0x80) *end++ = code;
    else if (code < 0x800) *end++ = 0xc0 | code >> 6;
    else if (code < 0x10000) *end++ = 0xe0 | code >> 12;
    else *end++ = 0xf0 | code >> 18;
    if (code >= 0x10000) *end++ = 0x80 | (code >> 12 & 0x3f);
    if (code >= 0x800) *end++ = 0x80 | (code >> 6 & 0x3f);
    if (code >= 0x80) *end++ = 0x80 | (code & 0x3f);
  }
  return (string){(char *)bytes, end - bytes};
}

CHECK(prompt_of_every_character, "prompt/every-character") {
  prompt_handle prompt;
  EXPECT(open_echo_prompt(&prompt));
  for (uint32_t number = 0; number <= 16; number++) EXPECT(expect_reply(prompt, plane(number)));
}

static string repeated(const char *unit, size_t size) {
  size_t length = text(unit).length;
  char *bytes = allocate(size, 1);
  for (size_t i = 0; i < size; i++) bytes[i] = unit[i % length];
  return (string){bytes, size};
}

CHECK(prompt_of_64kb, "prompt/large-64kb") { EXPECT(expect_echo_of(repeated("Are dogs real? ", 65536))); }
CHECK(prompt_of_1mb, "prompt/large-1mb") { EXPECT(expect_echo_of(repeated("Are dogs real? ", 1 << 20))); }
CHECK(prompt_of_1mb_astral, "prompt/large-1mb-astral") { EXPECT(expect_echo_of(repeated("\U0001f415", 1 << 20))); }

CHECK(prompt_of_turns, "prompt/100-turns") {
  prompt_handle prompt;
  EXPECT(open_echo_prompt(&prompt));
  for (size_t i = 0; i < 100; i++) EXPECT(expect_reply(prompt, decimal(i)));
}

CHECK(prompts_apart, "prompt/two-contexts") {
  prompt_handle left, right;
  EXPECT(open_echo_prompt(&left) && open_echo_prompt(&right));
  for (size_t i = 0; i < 3; i++) EXPECT(expect_reply(left, STRING("left")) && expect_reply(right, STRING("right")));
}

CHECK(prompts_at_once, "prompt/16-contexts") {
  prompt_handle prompts[16];
  for (size_t i = 0; i < LENGTH(prompts); i++) EXPECT(open_echo_prompt(&prompts[i]));
  for (size_t i = LENGTH(prompts); i > 0; i--) EXPECT(expect_reply(prompts[i - 1], decimal(i)));
  for (size_t i = 0; i < LENGTH(prompts); i++) prompt_drop(prompts[i]);
}

CHECK(prompt_outlives_twin, "prompt/context-outlives-its-twin") {
  prompt_handle first, second;
  EXPECT(open_echo_prompt(&first) && open_echo_prompt(&second) && expect_reply(first, STRING("first")));
  prompt_drop(first);
  EXPECT(expect_reply(second, STRING("second")));
}

CHECK(prompts_in_a_row, "prompt/1000-contexts-in-a-row") {
  for (size_t i = 0; i < 1000; i++) {
    prompt_handle prompt;
    EXPECT(open_echo_prompt(&prompt));
    prompt_drop(prompt);
  }
}

CHECK(prompt_beside_tensors, "prompt/beside-tensors") {
  prompt_handle prompt;
  nn_context context;
  tensor value = {DIMENSIONS(6), U8, "tensor", 6};
  EXPECT(open_echo_prompt(&prompt) && open_echo(&context));
  for (size_t i = 0; i < 3; i++) EXPECT(expect_reply(prompt, STRING("prompt")) && expect_echo(context, &value, 1));
}
