#include "bundle/json.hpp"

#include <doctest/doctest.h>

#include <string>

namespace edgebuild::bundle::json {
namespace {

std::string repeated(const std::string& text, std::size_t count) {
  std::string out;
  for (std::size_t i = 0; i < count; ++i) out += text;
  return out;
}

/// The message of the refusal; "" if the text is accepted.
std::string refusal(const std::string& text) {
  const Result<Document> document = parse(text);
  if (document.ok()) return "";
  CHECK(document.status().code() == Code::kCorrupt);
  CHECK(!document.status().message().empty());
  return document.status().message();
}

TEST_CASE("texts that the format allows are read") {
  const std::string texts[] = {"null",
                               " \t\r\n[1]\n",
                               "{}",
                               "[]",
                               "-0",
                               "9007199254740991",
                               "-9007199254740991",
                               "1e308",
                               "1e-400",
                               "-0.0",
                               R"("\ud83d\ude00")",
                               "\"\xF0\x9F\x98\x80\"",
                               R"({"a": 1, "A": 2, "": 3})",
                               R"([{"a": 1}, {"a": 1}])",
                               R"("\u0001\n\/")",
                               "\"\x7f\"",
                               "1E+2",
                               repeated("[", 32) + repeated("]", 32),
                               "[" + repeated("0,", 999998) + "0]"};
  for (const std::string& text : texts) {
    CAPTURE(text.substr(0, 60));
    CHECK(refusal(text) == "");
  }
}

TEST_CASE("texts that the format forbids are refused") {
  const std::string nul("\0", 1);
  const std::string texts[] = {"",
                               " ",
                               "{",
                               "[1",
                               "[1,]",
                               "{\"a\":1,}",
                               "01",
                               "+1",
                               ".5",
                               "1.",
                               "1e",
                               "NaN",
                               "Infinity",
                               "-Infinity",
                               "nul",
                               "'a'",
                               "[1] x",
                               "// c\n1",
                               "1 2",
                               "\xEF\xBB\xBF{}",  // byte order mark
                               "{}" + nul,
                               nul,
                               "[1" + nul + "]",
                               "{}" + nul + "garbage",
                               "9007199254740992",
                               "-9007199254740992",
                               "18446744073709551616",
                               "123456789012345678901234567890",
                               "[1, {\"unknown\": 9007199254740993}]",
                               "1e309",
                               "-1e400",
                               R"("\ud800")",
                               R"("\udc00")",
                               R"("\ud800x")",
                               R"("\udc00\ud800")",
                               "\"\xED\xA0\x80\"",  // lone surrogates
                               R"("a\u0000b")",
                               R"({"a\u0000b": 1})",
                               "\"a" + nul + "b\"",
                               "\"\xC0\x80\"",
                               "\"\xFF\"",
                               "\"\xE2\x82\"",
                               "\"\xF4\x90\x80\x80\"",  // not UTF-8
                               "\"\n\"",
                               R"("\x41")",
                               R"({"a": 1, "a": 2})",
                               R"({"a": 1, "\u0061": 2})",
                               R"({"b": {"a": 1, "c": 2, "a": 3}})",
                               R"({"": 1, "": 1})",
                               repeated("[", 33) + repeated("]", 33),
                               repeated("{\"a\":", 33) + "1" + repeated("}", 33),
                               repeated("[", 100000),
                               "[" + repeated("0,", 999999) + "0]",
                               std::string(kMaxBytes, ' ') + "1"};
  for (const std::string& text : texts) {
    CAPTURE(text.substr(0, 60));
    CHECK(refusal(text) != "");
  }
}

TEST_CASE("a refusal says where") {
  CHECK(refusal("{\n  \"a\": x}").find("line 2") != std::string::npos);
  CHECK(refusal(R"({"b": [0, {"a": 1, "a": 2}]})").find("b[1].a") != std::string::npos);
  CHECK(refusal(R"({"b": [0, 9007199254740992]})").find("b[1]") != std::string::npos);
  CHECK(refusal(R"({"b": {"c": 1e999}})") != "");
  CHECK(refusal("{\"\xFF\x1b[31m").find('\x1b') == std::string::npos);  // nothing that a terminal would act on
}

TEST_CASE("values keep their kinds, keys and order") {
  const Result<Document> document = parse(R"({"b": [1, 1.0, -0, "x", true, false, null], "a": {}})");
  REQUIRE(document.ok());
  const Value root(document.value(), 0);
  REQUIRE(root.is(Kind::kObject));
  CHECK(root.size() == 2);
  auto member = root.begin();
  const Value array = *member;
  CHECK(array.key() == "b");
  CHECK((*++member).key() == "a");
  const Kind kinds[] = {Kind::kInteger, Kind::kReal, Kind::kInteger, Kind::kString,
                        Kind::kBool,    Kind::kBool, Kind::kNull};
  std::size_t index = 0;
  for (const Value item : array) {
    CHECK(item.kind() == kinds[index]);
    CHECK(item.path() == "b[" + std::to_string(index) + "]");
    ++index;
  }
  CHECK(index == 7);
}

TEST_CASE("compact text parses back to itself") {
  const std::string text = R"({"b":[1,1.5,0.10000000000000001,"a\"\\\u0001é",true,null,2.0],"a":{},"c":[]})";
  const Result<Document> document = parse(text);
  REQUIRE(document.ok());
  CHECK(compact(Value(document.value(), 0)) == text);
}

}  // namespace
}  // namespace edgebuild::bundle::json
