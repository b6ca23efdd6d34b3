// The properties of a graph, in phase 3.
#include "../nn_resources.h"

static bool expect_set(nn_graph graph, string name, string value, enum code expected) {
  empty_result result;
  graph_set_property(graph, name.data, name.length, value.data, value.length, &result);
  return expect_code("set-property", take_error(result.failed, result.error), expected);
}

static bool expect_value(nn_graph graph, string name, string expected) {
  property_result result;
  graph_get_property(graph, name.data, name.length, &result);
  if (!result.present) return fail("the property %t has no value", name);
  return expect_bytes("the property's value", result.value.data, result.value.length, expected.data, expected.length);
}

static bool expect_no_value(nn_graph graph, string name) {
  property_result result;
  graph_get_property(graph, name.data, name.length, &result);
  return !result.present || fail("the property %t has the value %t and should have none", name, result.value);
}

static bool is_listed(nn_graph graph, string name) {
  property_names names;
  graph_list_properties(graph, &names);
  for (size_t i = 0; i < names.count; i++) {
    if (same(names.items[i], name)) return true;
  }
  return fail("the property %t is not listed", name);
}

static bool set_and_get(string name, string value) {
  nn_graph graph;
  return load_echo(&graph) && expect_set(graph, name, value, SUCCESS) && expect_value(graph, name, value);
}

CHECK(properties_listed, "properties/listed") {
  static const char *const NAMES[] = {
      "temperature", "top-k", "top-p", "min-p", "repeat-penalty", "seed", "max-tokens", "stop", "template"};
  nn_graph graph;
  EXPECT(load_echo(&graph));
  for (size_t i = 0; i < LENGTH(NAMES); i++) EXPECT(is_listed(graph, text(NAMES[i])));
}

CHECK(properties_listed_once, "properties/listed-once") {
  nn_graph graph;
  property_names names;
  EXPECT(load_echo(&graph));
  graph_list_properties(graph, &names);
  for (size_t i = 0; i < names.count; i++) {
    for (size_t j = 0; j < i; j++) EXPECT_THAT(!same(names.items[i], names.items[j]), "%t is listed twice", names.items[i]);
  }
}

CHECK(property_set, "properties/set") {
  EXPECT(set_and_get(STRING("temperature"), STRING("0.25")) && set_and_get(STRING("top-k"), STRING("1")));
  EXPECT(set_and_get(STRING("top-p"), STRING("0.5")) && set_and_get(STRING("min-p"), STRING("0.125")));
  EXPECT(set_and_get(STRING("repeat-penalty"), STRING("1.5")) && set_and_get(STRING("seed"), STRING("4294967295")));
  EXPECT(set_and_get(STRING("max-tokens"), STRING("16")));
}

CHECK(property_list, "properties/stop") {
  EXPECT(set_and_get(STRING("stop"), STRING("[]")) && set_and_get(STRING("stop"), text("[\"###\", \"конец\"]")));
}

CHECK(property_without_value, "properties/no-value") {
  nn_graph graph;
  EXPECT(load_echo(&graph) && expect_no_value(graph, STRING("seed")));
  EXPECT(expect_set(graph, STRING("seed"), STRING("7"), SUCCESS) && expect_value(graph, STRING("seed"), STRING("7")));
  EXPECT(expect_set(graph, STRING("seed"), STRING(""), SUCCESS) && expect_no_value(graph, STRING("seed")));
}

CHECK(property_unknown, "properties/unknown") {
  static const char *const NAMES[] = {"", "no-such-property", "Temperature", " seed", "top_k", "model", "system", "path"};
  nn_graph graph;
  EXPECT(load_echo(&graph));
  for (size_t i = 0; i < LENGTH(NAMES); i++) {
    EXPECT(expect_no_value(graph, text(NAMES[i])) && expect_set(graph, text(NAMES[i]), STRING("1"), NOT_FOUND));
  }
}

CHECK(property_read_only, "properties/read-only") {
  nn_graph graph;
  EXPECT(load_echo(&graph) && expect_value(graph, STRING("template"), STRING("none")));
  EXPECT(expect_set(graph, STRING("template"), STRING("auto"), UNSUPPORTED_OPERATION));
  EXPECT(expect_value(graph, STRING("template"), STRING("none")));
}

static bool expect_bad(const char *name, string value) {
  nn_graph graph;
  if (!load_echo(&graph) || !expect_set(graph, text(name), STRING(""), SUCCESS)) return false;
  return expect_set(graph, text(name), value, INVALID_ARGUMENT) && expect_no_value(graph, text(name));
}

CHECK(property_bad_number, "properties/bad-number") {
  EXPECT(expect_bad("seed", STRING("seven")) && expect_bad("seed", STRING("-1")) && expect_bad("seed", STRING("4294967296")));
  EXPECT(expect_bad("seed", STRING("1.5")) && expect_bad("seed", STRING("7\0")) && expect_bad("seed", STRING("true")));
  EXPECT(expect_bad("max-tokens", STRING("0")) && expect_bad("max-tokens", text("１６")));
}

static bool expect_kept(const char *name, string bad) {
  nn_graph graph;
  property_result before;
  if (!load_echo(&graph)) return false;
  graph_get_property(graph, name, text(name).length, &before);
  return expect_set(graph, text(name), bad, INVALID_ARGUMENT) && expect_value(graph, text(name), before.value);
}

CHECK(property_out_of_range, "properties/out-of-range") {
  EXPECT(expect_kept("temperature", STRING("-0.1")) && expect_kept("temperature", STRING("NaN")));
  EXPECT(expect_kept("temperature", STRING("Infinity")) && expect_kept("temperature", STRING("1e999")));
  EXPECT(expect_kept("temperature", STRING("")) && expect_kept("top-p", STRING("1.01")) && expect_kept("top-k", STRING("-1")));
  EXPECT(expect_kept("repeat-penalty", STRING("0")));
}

CHECK(property_bad_list, "properties/bad-list") {
  EXPECT(expect_kept("stop", STRING("###")) && expect_kept("stop", STRING("[1]")) && expect_kept("stop", STRING("[\"\"]")));
  EXPECT(expect_kept("stop", STRING("{}")) && expect_kept("stop", STRING("[")) && expect_kept("stop", STRING("\"###\"")));
}

CHECK(property_too_large, "properties/value-of-1mb") {
  enum { SIZE = 1 << 20 };
  nn_graph graph;
  char *value = allocate(SIZE, 1);
  __builtin_memset(value, '[', SIZE);
  EXPECT(load_echo(&graph) && expect_set(graph, STRING("stop"), (string){value, SIZE}, TOO_LARGE));
}

CHECK(property_of_one_handle, "properties/of-one-handle") {
  nn_graph left, right;
  EXPECT(load_echo(&left) && load_echo(&right));
  EXPECT(expect_set(left, STRING("seed"), STRING("1"), SUCCESS) && expect_no_value(right, STRING("seed")));
  EXPECT(load_echo(&right) && expect_no_value(right, STRING("seed")) && expect_value(left, STRING("seed"), STRING("1")));
}

CHECK(property_and_contexts, "properties/contexts-go-on") {
  nn_graph graph;
  nn_context before, after;
  tensor value = {DIMENSIONS(2), U8, "ok", 2};
  EXPECT(load_echo(&graph) && open_context(graph, &before) && expect_set(graph, STRING("top-k"), STRING("5"), SUCCESS));
  EXPECT(open_context(graph, &after) && expect_echo(before, &value, 1) && expect_echo(after, &value, 1));
}
