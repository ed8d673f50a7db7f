#include "table.hpp"

#include <doctest/doctest.h>

using namespace edgerun;

TEST_CASE("names from a bundle can't give a terminal orders") {
  CHECK(printable("a\x1b]0;owned\x07"
                  "b") == "a?]0;owned?b");
  CHECK(printable("line\nbreak\ttab\x7f") == "line?break?tab?");
  CHECK(printable("c1 \xC2\x9B"
                  "31m") == "c1 ?31m");
  CHECK(printable("Größe \xC2\xA0 \U0001F600") == "Größe \xC2\xA0 \U0001F600");
  CHECK(printable("\xC2") == "\xC2");
  Table table({{"name", {}}, {"type", {}}}, 0);
  table.add({"x\x1b[2J", "float32"});
  CHECK(table.text() == "  name   type\n  x?[2J  float32\n");
}
