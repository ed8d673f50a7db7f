#include "json_writer.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>

using edgebuild::JsonWriter;

TEST_CASE("objects and arrays nest with commas between members only") {
  JsonWriter json;
  json.begin_object().member("a", 1).key("b").begin_array().value(true).null().value("x").end_array();
  json.key("c").begin_object().end_object().end_object();
  CHECK(json.text() == R"({"a":1,"b":[true,null,"x"],"c":{}})");
}

TEST_CASE("strings are escaped and stay UTF-8") {
  JsonWriter json;
  json.value(std::string("\"\\\n\x01é😀"));
  CHECK(json.text() == "\"\\\"\\\\\\n\\u0001é😀\"");
}

TEST_CASE("bytes that are not UTF-8 become replacement characters") {
  for (const char* bad : {"\xFF", "\xC0\x80", "\xED\xA0\x80", "\xE2\x82", "\xF5\x80\x80\x80"}) {
    JsonWriter json;
    json.value(std::string(bad));
    CHECK(json.text().find("\xEF\xBF\xBD") != std::string::npos);
    CHECK(json.text().find(bad) == std::string::npos);
  }
}

TEST_CASE("numbers that are not finite become null, others read back as they were") {
  JsonWriter json;
  json.begin_array()
      .value(std::nan(""))
      .value(std::numeric_limits<double>::infinity())
      .value(0.1)
      .value(1e300)
      .end_array();
  CHECK(json.text() == "[null,null,0.1,1e+300]");
}
