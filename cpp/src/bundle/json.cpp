#include "bundle/json.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

namespace edgebuild::bundle::json {

const char* kind_name(Kind kind) noexcept {
  switch (kind) {
    case Kind::kNull:
      return "null";
    case Kind::kBool:
      return "a bool";
    case Kind::kInteger:
      return "an integer";
    case Kind::kReal:
      return "a number with fraction or exponent";
    case Kind::kString:
      return "a string";
    case Kind::kArray:
      return "an array";
    case Kind::kObject:
      return "an object";
  }
  return "?";
}

namespace {

void append_escaped(std::string& out, std::string_view text, std::size_t limit) {
  for (const char c : text.substr(0, limit)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7f) {
      out += c;
    } else {
      char escaped[8];
      std::snprintf(escaped, sizeof escaped, "\\x%02x", static_cast<unsigned>(byte));
      out += escaped;
    }
  }
  if (text.size() > limit) out += "...";
}

constexpr std::size_t kQuotedBytes = 80;

}  // namespace

std::string in_quotes(std::string_view text) {
  std::string out = "'";
  append_escaped(out, text, kQuotedBytes);
  return out + "'";
}

std::string Value::path() const {
  std::vector<std::string> steps;
  for (std::uint32_t index = index_; index != 0;) {
    const Document::Node& here = document_->node(index);
    const Document::Node& parent = document_->node(here.parent);
    std::string step;
    if (parent.kind == Kind::kObject) {
      if (here.parent != 0) step += '.';
      append_escaped(step, document_->text(here.key_offset, here.key_size), kQuotedBytes);
    } else {
      std::size_t position = 0;
      for (std::uint32_t item = parent.children.first; item != index; item = document_->node(item).next) ++position;
      step = "[" + std::to_string(position) + "]";
    }
    steps.push_back(std::move(step));
    index = here.parent;
  }
  if (steps.empty()) return "the top level";
  std::string path;
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) path += *step;
  return path;
}

/// Receives nlohmann's SAX events. A handler that returns false stops the parser; then `error_` says why.
class Builder {
 public:
  explicit Builder(std::size_t text_size) {
    document_.strings_.reserve(text_size);  // no decoded string is longer than its source
  }

  bool null() { return add(Kind::kNull) != nullptr; }
  bool boolean(bool value) { return add_integer(Kind::kBool, value ? 1 : 0); }
  bool number_integer(std::int64_t value) {
    return value < -kMaxInteger ? too_large() : add_integer(Kind::kInteger, value);
  }
  bool number_unsigned(std::uint64_t value) {
    return value > static_cast<std::uint64_t>(kMaxInteger)
               ? too_large()
               : add_integer(Kind::kInteger, static_cast<std::int64_t>(value));
  }
  bool number_float(double value, const std::string& source) {
    // nlohmann turns an integer beyond 64 bits into a double; its source tells.
    if (source.find_first_of(".eE") == std::string::npos) return too_large();
    if (!std::isfinite(value)) return fail(here() + ": the number " + in_quotes(source) + " is not finite in binary64");
    Document::Node* node = add(Kind::kReal);
    if (node == nullptr) return false;
    node->real = value;
    return true;
  }
  bool string(const std::string& value) {
    if (value.find('\0') != std::string::npos) return fail(here() + ": the string holds a NUL character");
    Document::Node* node = add(Kind::kString);
    if (node == nullptr) return false;
    node->string.offset = store(value);
    node->string.size = static_cast<std::uint32_t>(value.size());
    return true;
  }
  bool binary(const nlohmann::json::binary_t&) { return fail("binary values do not exist in JSON"); }
  bool start_object(std::size_t) { return start(Kind::kObject); }
  bool start_array(std::size_t) { return start(Kind::kArray); }
  bool end_array() { return end(); }
  bool key(const std::string& value) {
    if (value.find('\0') != std::string::npos) return fail(here() + ": a key holds a NUL character");
    key_offset_ = store(value);
    key_size_ = static_cast<std::uint32_t>(value.size());
    return true;
  }
  bool end_object() {
    const std::uint32_t object = open_.back().index;
    std::vector<std::pair<std::string_view, std::uint32_t>> keys;
    keys.reserve(document_.nodes_[object].children.count);
    for (std::uint32_t member = document_.nodes_[object].children.first; member != 0;
         member = document_.nodes_[member].next) {
      keys.emplace_back(document_.text(document_.nodes_[member].key_offset, document_.nodes_[member].key_size), member);
    }
    std::sort(keys.begin(), keys.end());
    const auto twice =
        std::adjacent_find(keys.begin(), keys.end(), [](const auto& a, const auto& b) { return a.first == b.first; });
    if (twice != keys.end()) return fail(Value(document_, twice->second).path() + ": the key stands there twice");
    return end();
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception& error) {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: syntax error while …": from "parse error" on.
    std::string_view what = error.what();
    if (const std::size_t bracket = what.find("] "); bracket != std::string_view::npos) what.remove_prefix(bracket + 2);
    std::string text = "not valid JSON: ";
    append_escaped(text, what, 300);
    return fail(std::move(text));
  }

  [[nodiscard]] const std::string& error() const noexcept { return error_; }
  [[nodiscard]] Document take() { return std::move(document_); }

 private:
  struct Open {
    std::uint32_t index;
    std::uint32_t last = 0;  ///< Last child so far; 0: none.
  };

  bool fail(std::string message) {
    error_ = std::move(message);
    return false;
  }
  bool too_large() { return fail(here() + ": integers must lie within +-(2^53 - 1)"); }

  /// Where the next value stands.
  [[nodiscard]] std::string here() const {
    if (open_.empty()) return "the top level";
    const std::uint32_t parent = open_.back().index;
    std::string path = parent == 0 ? std::string() : Value(document_, parent).path();
    if (document_.nodes_[parent].kind == Kind::kArray) {
      return path + "[" + std::to_string(document_.nodes_[parent].children.count) + "]";
    }
    if (!path.empty()) path += '.';
    append_escaped(path, document_.text(key_offset_, key_size_), kQuotedBytes);
    return path;
  }

  std::uint32_t store(const std::string& value) {
    const auto offset = static_cast<std::uint32_t>(document_.strings_.size());
    document_.strings_ += value;
    return offset;
  }

  Document::Node* add(Kind kind) {
    if (document_.nodes_.size() >= kMaxValues) {
      fail("more than " + std::to_string(kMaxValues) + " values");
      return nullptr;
    }
    const auto index = static_cast<std::uint32_t>(document_.nodes_.size());
    Document::Node& node = document_.nodes_.emplace_back();
    node.kind = kind;
    if (open_.empty()) return &node;
    Open& parent = open_.back();
    node.parent = parent.index;
    Document::Node& parent_node = document_.nodes_[parent.index];
    if (parent_node.kind == Kind::kObject) {
      node.key_offset = key_offset_;
      node.key_size = key_size_;
    }
    ++parent_node.children.count;
    (parent.last == 0 ? parent_node.children.first : document_.nodes_[parent.last].next) = index;
    parent.last = index;
    return &node;
  }
  bool add_integer(Kind kind, std::int64_t value) {
    Document::Node* node = add(kind);
    if (node == nullptr) return false;
    node->integer = value;
    return true;
  }
  bool start(Kind kind) {
    if (open_.size() >= kMaxDepth) {
      return fail(here() + ": more than " + std::to_string(kMaxDepth) + " levels of nesting");
    }
    Document::Node* node = add(kind);
    if (node == nullptr) return false;
    node->children.first = 0;
    node->children.count = 0;
    open_.push_back({static_cast<std::uint32_t>(document_.nodes_.size() - 1)});
    return true;
  }
  bool end() {
    open_.pop_back();
    return true;
  }

  Document document_;
  std::vector<Open> open_;
  std::uint32_t key_offset_ = 0;
  std::uint32_t key_size_ = 0;
  std::string error_;
};

Result<Document> parse(std::string_view text) {
  if (text.size() > kMaxBytes) {
    return Status(Code::kCorrupt,
                  std::to_string(text.size()) + " bytes, at most " + std::to_string(kMaxBytes) + " are allowed");
  }
  // Two liberties of nlohmann's lexer: it skips a byte order mark, and takes a NUL for the end of the text.
  if (text.substr(0, 3) == "\xEF\xBB\xBF")
    return Status(Code::kCorrupt, "not valid JSON: begins with a byte order mark");
  if (const std::size_t nul = text.find('\0'); nul != std::string_view::npos) {
    return Status(Code::kCorrupt, "not valid JSON: a NUL byte at offset " + std::to_string(nul));
  }
  Builder builder(text.size());
  if (!nlohmann::json::sax_parse(text.begin(), text.end(), &builder)) return Status(Code::kCorrupt, builder.error());
  return builder.take();
}

namespace {

void append_string(std::string& out, std::string_view text) {
  out += '"';
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte < 0x20) {
      char escaped[8];
      std::snprintf(escaped, sizeof escaped, "\\u%04x", static_cast<unsigned>(byte));
      out += escaped;
    } else {
      out += c;
    }
  }
  out += '"';
}

void append_compact(std::string& out, const Value& value) {
  switch (value.kind()) {
    case Kind::kNull:
      out += "null";
      return;
    case Kind::kBool:
      out += value.boolean() ? "true" : "false";
      return;
    case Kind::kInteger:
      out += std::to_string(value.integer());
      return;
    case Kind::kReal: {
      char digits[40];
      std::snprintf(digits, sizeof digits, "%.17g", value.real());
      std::string text = digits;
      std::replace(text.begin(), text.end(), ',', '.');  // a locale's decimal comma
      if (text.find_first_of(".e") == std::string::npos) text += ".0";
      out += text;
      return;
    }
    case Kind::kString:
      append_string(out, value.string());
      return;
    case Kind::kArray:
    case Kind::kObject: {
      const bool object = value.is(Kind::kObject);
      out += object ? '{' : '[';
      bool first = true;
      for (const Value item : value) {
        if (!first) out += ',';
        first = false;
        if (object) {
          append_string(out, item.key());
          out += ':';
        }
        append_compact(out, item);
      }
      out += object ? '}' : ']';
      return;
    }
  }
}

}  // namespace

std::string compact(const Value& value) {
  std::string out;
  append_compact(out, value);
  return out;
}

}  // namespace edgebuild::bundle::json
