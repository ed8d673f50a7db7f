// What a failed run means in terms of its inputs. The engine speaks of nodes and says values without their place.

#include <charconv>
#include <optional>

#include "onnxruntime/context.hpp"

namespace edgebuild::onnxruntime {
namespace {

/// An index and the range that it should be in, both ends included.
struct WrongIndex {
  std::int64_t index = 0;
  std::int64_t low = 0;
  std::int64_t high = 0;
};

/// The number behind the first `mark` at or after `*at`, which is moved behind it.
std::optional<std::int64_t> number_after(std::string_view text, std::string_view mark, std::size_t* at) {
  const std::size_t found = text.find(mark, *at);
  if (found == std::string_view::npos) return std::nullopt;
  const char* const begin = text.data() + found + mark.size();
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(begin, text.data() + text.size(), number);
  if (error != std::errc()) return std::nullopt;
  *at = static_cast<std::size_t>(end - text.data());
  return number;
}

/// From "… idx=70 must be within the inclusive range [-50,49]" (Gather), or "… must be within bounds [-50,49]. Actual
/// value is 70" (GatherElements).
std::optional<WrongIndex> find_wrong_index(std::string_view text) {
  std::size_t at = 0;
  std::optional<std::int64_t> index = number_after(text, "idx=", &at);
  const char* const range = index ? "inclusive range [" : "within bounds [";
  const std::optional<std::int64_t> low = number_after(text, range, &at);
  const std::optional<std::int64_t> high = low ? number_after(text, ",", &at) : std::nullopt;
  if (high && !index) index = number_after(text, "Actual value is ", &at);
  if (!index || !low || !high) return std::nullopt;
  return WrongIndex{*index, *low, *high};
}

template <typename Integer>
std::optional<std::uint64_t> find_element(const eb_value& value, std::int64_t wanted) {
  const auto* const elements = static_cast<const Integer*>(value.data);
  const std::uint64_t count = value.byte_size / sizeof(Integer);
  for (std::uint64_t i = 0; i < count; ++i) {
    if (elements[i] == wanted) return i;
  }
  return std::nullopt;
}

/// E.g. "[0,3]": the place of a flat index in a row-major tensor.
std::string place_of(std::uint64_t flat, const eb_value& value) {
  std::string text;
  for (std::uint32_t axis = value.rank; axis-- > 0;) {
    const auto size = static_cast<std::uint64_t>(value.shape[axis]);
    const std::string part = std::to_string(flat % size);
    text = text.empty() ? part : part + "," + text;
    flat /= size;
  }
  return "[" + text + "]";
}

/// "in node 'NAME' (TYPE): TEXT" for the engine's "… while running TYPE node. Name:'NAME' Status Message: TEXT".
std::string in_words(std::string_view message) {
  constexpr std::string_view kRunning = "while running ";
  constexpr std::string_view kName = " node. Name:'";
  constexpr std::string_view kText = "' Status Message: ";
  const std::size_t type = message.find(kRunning);
  const std::size_t name = message.find(kName, type == std::string_view::npos ? 0 : type);
  const std::size_t text = message.find(kText, name == std::string_view::npos ? 0 : name);
  if (type == std::string_view::npos || name == std::string_view::npos || text == std::string_view::npos) {
    return std::string(message);
  }
  const std::size_t type_begin = type + kRunning.size();
  const std::size_t name_begin = name + kName.size();
  return "in node '" + std::string(message.substr(name_begin, text - name_begin)) + "' (" +
         std::string(message.substr(type_begin, name - type_begin)) +
         "): " + std::string(message.substr(text + kText.size()));
}

}  // namespace

eb_status* Context::explain_failure(const Bindings& bindings, OrtStatus* status) const {
  const std::string_view message = backend().api().GetErrorMessage(status);
  const std::optional<WrongIndex> wrong = find_wrong_index(message);
  for (std::size_t i = 0; wrong && i < bindings.inputs.size(); ++i) {
    const eb_value& value = bindings.inputs[i].seen;
    if (value.kind != EB_KIND_TENSOR || value.data == nullptr) continue;
    std::optional<std::uint64_t> found;
    if (value.dtype == EB_INT64) found = find_element<std::int64_t>(value, wrong->index);
    if (value.dtype == EB_INT32) found = find_element<std::int32_t>(value, wrong->index);
    if (!found) continue;
    const std::string text = "input '" + model_.inputs()[i].name + "', element " + place_of(*found, value) +
                             ": expected an index from 0 to " + std::to_string(wrong->high) + ", got " +
                             std::to_string(wrong->index) +
                             "; the model looks it up in a table of that size: are these ids of its own vocabulary?";
    backend().discard(status);
    return plugin::make_error(backend().host(), EB_INVALID_ARGUMENT, text);
  }
  const std::string text = in_words(message);
  if (text == message) return backend().take(status, "ONNX Runtime failed");
  std::string line = "ONNX Runtime failed " + text;
  for (char& character : line) {
    if (character == '\n' || character == '\r') character = ' ';
  }
  const eb_code code = code_of(backend().api().GetErrorCode(status), EB_INTERNAL);
  backend().discard(status);
  return plugin::make_error(backend().host(), code, line);
}

}  // namespace edgebuild::onnxruntime
