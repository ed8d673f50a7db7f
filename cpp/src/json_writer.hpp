// Writes one JSON document into a string.

#ifndef EDGEBUILD_SRC_JSON_WRITER_HPP_
#define EDGEBUILD_SRC_JSON_WRITER_HPP_

#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>

namespace edgebuild {

/// Commas and quoting are kept by the writer; opening and closing in the right order is the caller's duty.
///
/// Bytes that are not UTF-8 become U+FFFD, a number that is not finite becomes null: the text is always valid JSON.
class JsonWriter {
 public:
  JsonWriter& begin_object() { return open('{'); }
  JsonWriter& end_object() { return close('}'); }
  JsonWriter& begin_array() { return open('['); }
  JsonWriter& end_array() { return close(']'); }
  JsonWriter& key(std::string_view name);

  JsonWriter& null() { return literal("null"); }
  JsonWriter& value(bool flag) { return literal(flag ? "true" : "false"); }
  /// Shortest text that reads back as the same number.
  JsonWriter& value(double number);
  JsonWriter& value(std::string_view text);
  JsonWriter& value(const char* text) { return value(std::string_view(text)); }
  JsonWriter& value(const std::string& text) { return value(std::string_view(text)); }
  template <typename Integer>
  requires(std::is_integral_v<Integer> && !std::is_same_v<Integer, bool>) JsonWriter& value(Integer number) {
    return literal(std::to_string(number));
  }
  /// A value that is JSON text already.
  JsonWriter& raw(std::string_view json) { return literal(json); }

  template <typename T>
  JsonWriter& member(std::string_view name, const T& content) {
    key(name);
    return value(content);
  }

  [[nodiscard]] const std::string& text() const noexcept { return text_; }

 private:
  JsonWriter& open(char bracket);
  JsonWriter& close(char bracket);
  JsonWriter& literal(std::string_view text);
  void separate();
  void quote(std::string_view text);

  std::string text_;
  bool first_ = true;  // nothing stands before the next value in its object, in its array, or after its key
};

}  // namespace edgebuild

#endif  // EDGEBUILD_SRC_JSON_WRITER_HPP_
