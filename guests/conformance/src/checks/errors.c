// The error resource, by the one error every host has: a graph that is not there.
#include "../nn_resources.h"

enum { NOT_FOUND_CASE = 6 };

static bool make_error(error_handle *error) {
  handle_result result;
  string name = STRING("no-graph-has-this-name");
  graph_load_by_name(name.data, name.length, &result);
  *error = result.handle;
  return result.failed || fail("a graph that is not there was loaded");
}

static bool expect_not_found(error_handle error) {
  uint32_t code = error_code(error);
  return code == NOT_FOUND_CASE || fail("the error's code is case %u of error-code and should be %u, not-found", code, NOT_FOUND_CASE);
}

CHECK(error_has_code, "errors/code") {
  error_handle error;
  EXPECT(make_error(&error) && expect_not_found(error));
}

CHECK(error_has_text, "errors/data") {
  error_handle error;
  string data;
  EXPECT(make_error(&error));
  error_data(error, &data);
  EXPECT_THAT(data.length > 0, "the error says nothing");
}

CHECK(error_read_twice, "errors/read-twice") {
  error_handle error;
  string first, second;
  EXPECT(make_error(&error));
  error_data(error, &first);
  error_data(error, &second);
  EXPECT(expect_bytes("the error's data", second.data, second.length, first.data, first.length));
  EXPECT(expect_not_found(error) && expect_not_found(error));
}

CHECK(errors_at_once, "errors/100-at-once") {
  error_handle errors[100];
  for (size_t i = 0; i < LENGTH(errors); i++) EXPECT(make_error(&errors[i]));
  for (size_t i = 0; i < LENGTH(errors); i++) EXPECT(expect_not_found(errors[i]));
  for (size_t i = LENGTH(errors); i > 0; i--) error_drop(errors[i - 1]);
}

CHECK(errors_in_a_row, "errors/1000-in-a-row") {
  for (size_t i = 0; i < 1000; i++) {
    error_handle error;
    EXPECT(make_error(&error));
    error_drop(error);
  }
}

CHECK(error_outlives_graph, "errors/outlives-graph") {
  nn_graph graph;
  nn_context context;
  error_handle error;
  EXPECT(load_echo(&graph) && open_context(graph, &context) && make_error(&error));
  nn_drop_context(context);
  nn_drop_graph(graph);
  EXPECT(expect_not_found(error));
  error_drop(error);
}

CHECK(error_before_graph, "errors/dropped-before-graph") {
  nn_graph graph;
  nn_context context;
  error_handle error;
  tensor value = {DIMENSIONS(2), U8, "ok", 2};
  EXPECT(load_echo(&graph) && make_error(&error));
  error_drop(error);
  EXPECT(open_context(graph, &context) && expect_echo(context, &value, 1));
}
