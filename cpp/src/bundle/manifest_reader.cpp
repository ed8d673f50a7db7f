#include "bundle/manifest_reader.hpp"

#include <algorithm>
#include <cstdio>

namespace edgebuild::bundle {

using json::Kind;
using json::Value;

void ManifestReader::fail(const Value& at, const std::string& message, Code code) {
  if (status_.ok()) status_ = Status(code, at.path() + ": " + message);
}

std::optional<Value> ManifestReader::member(const Value& object, std::string_view key) {
  if (!object.is(Kind::kObject)) return std::nullopt;
  for (const Value value : object) {
    if (value.key() == key) return value;
  }
  return std::nullopt;
}

std::optional<Value> ManifestReader::required(const Value& object, std::string_view key) {
  if (!expect(object, Kind::kObject)) return std::nullopt;
  std::optional<Value> value = member(object, key);
  if (!value) fail(object, "the key '" + std::string(key) + "' is missing");
  return value;
}

bool ManifestReader::expect(const Value& value, Kind kind) {
  if (value.is(kind)) return true;
  fail(value, std::string("expected ") + json::kind_name(kind) + ", got " + json::kind_name(value.kind()));
  return false;
}

std::int64_t ManifestReader::integer(const Value& value, std::int64_t minimum, std::int64_t maximum) {
  if (!expect(value, Kind::kInteger)) return minimum;
  const std::int64_t number = value.integer();
  if (number < minimum || number > maximum) {
    fail(value, "expected an integer from " + std::to_string(minimum) + " to " + std::to_string(maximum) + ", got " +
                    std::to_string(number));
    return minimum;
  }
  return number;
}

double ManifestReader::number(const Value& value, double minimum) {
  double number = minimum;
  if (value.is(Kind::kInteger)) {
    number = static_cast<double>(value.integer());
  } else if (value.is(Kind::kReal)) {
    number = value.real();
  } else {
    fail(value, std::string("expected a number, got ") + json::kind_name(value.kind()));
    return minimum;
  }
  if (number >= minimum) return number;
  char text[96];
  std::snprintf(text, sizeof text, "expected a number of at least %g, got %g", minimum, number);
  fail(value, text);
  return minimum;
}

std::string ManifestReader::string(const Value& value) {
  return expect(value, Kind::kString) ? std::string(value.string()) : std::string();
}

std::string ManifestReader::name(const Value& value) {
  std::string text = string(value);
  if (ok() && (text.empty() || text.size() > kMaxNameBytes)) {
    fail(value,
         "expected a name of 1 to " + std::to_string(kMaxNameBytes) + " bytes, got " + std::to_string(text.size()));
  }
  return text;
}

std::string ManifestReader::segment(const Value& value) {
  std::string text = string(value);
  if (ok() && !is_valid_segment(text)) {
    fail(value, "expected 1 to 100 characters out of A-Z a-z 0-9 . _ -, not . or .., not beginning with -, got " +
                    json::in_quotes(text));
  }
  return text;
}

std::string ManifestReader::path(const Value& value) {
  std::string text = string(value);
  if (ok() && !is_valid_path(text)) fail(value, "not a path that a bundle may hold: " + json::in_quotes(text));
  return text;
}

std::string ManifestReader::sha256(const Value& value) {
  std::string text = string(value);
  const bool hex = text.size() == 64 && std::all_of(text.begin(), text.end(), [](char c) {
                     return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
                   });
  if (ok() && !hex) fail(value, "expected 64 lower-case hexadecimal digits, got " + json::in_quotes(text));
  return text;
}

std::string ManifestReader::dotted_pair(const Value& value) {
  std::string text = string(value);
  if (!ok()) return text;
  const auto is_number = [](std::string_view part) {
    return !part.empty() && part.size() <= 4 &&
           std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
  };
  const std::string_view view = text;
  const std::size_t dot = view.find('.');
  if (dot == std::string_view::npos || !is_number(view.substr(0, dot)) || !is_number(view.substr(dot + 1))) {
    fail(value, "expected NUMBER.NUMBER such as \"2.28\", got " + json::in_quotes(text));
  }
  return text;
}

DType ManifestReader::dtype(const Value& value) {
  const std::string text = string(value);
  if (!ok()) return EB_DTYPE_UNDEFINED;
  const std::optional<DType> dtype = dtype_from_name(text);
  if (!dtype) fail(value, "unknown dtype " + json::in_quotes(text));
  return dtype.value_or(EB_DTYPE_UNDEFINED);
}

std::vector<std::string> ManifestReader::strings(const Value& value) {
  std::vector<std::string> out;
  if (!expect(value, Kind::kArray)) return out;
  for (const Value item : value) {
    out.push_back(string(item));
    if (!ok()) break;
  }
  return out;
}

std::map<std::string, std::string> ManifestReader::string_map(const Value& value) {
  std::map<std::string, std::string> out;
  if (!expect(value, Kind::kObject)) return out;
  for (const Value item : value) {
    out.emplace(item.key(), string(item));
    if (!ok()) break;
  }
  return out;
}

void ManifestReader::object_or_null(const Value& value) {
  if (!value.is(Kind::kNull) && !value.is(Kind::kObject)) {
    fail(value, std::string("expected an object or null, got ") + json::kind_name(value.kind()));
  }
}

void ManifestReader::at_most(const Value& value, std::size_t limit, std::string_view what) {
  if (value.size() > limit) {
    fail(value, "at most " + std::to_string(limit) + " " + std::string(what) + " are allowed, got " +
                    std::to_string(value.size()));
  }
}

std::size_t ManifestReader::one_of(const Value& value, const std::vector<std::string_view>& choices) {
  const std::string text = string(value);
  if (!ok()) return 0;
  std::string expected;
  for (std::size_t index = 0; index < choices.size(); ++index) {
    if (text == choices[index]) return index;
    if (index > 0) expected += index + 1 == choices.size() ? " or " : ", ";
    expected += choices[index];
  }
  fail(value, "expected " + expected + ", got " + json::in_quotes(text));
  return 0;
}

std::string ManifestReader::reference(const Value& value, const Manifest& manifest) {
  std::string text = path(value);
  if (!ok()) return text;
  if (manifest.files.find(text) == manifest.files.end()) {
    fail(value, "refers to " + json::in_quotes(text) + ", which is not in 'files'");
  }
  referred_.insert(text);
  return text;
}

}  // namespace edgebuild::bundle
