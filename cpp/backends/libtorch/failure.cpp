// LibTorch's exceptions as one line. What it throws holds a traceback of C++ frames or of TorchScript's own code.

#include <torch/csrc/jit/runtime/jit_exception.h>

#include "libtorch/libtorch.hpp"

namespace edgebuild::libtorch {
namespace {

bool contains(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

std::string_view trimmed(std::string_view text) {
  const std::size_t first = text.find_first_not_of(" \t\r");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r") + 1 - first);
}

/// The line that says what happened. TorchScript puts it last, behind the lines of code that led there.
std::string_view telling_line(std::string_view text) {
  constexpr std::string_view kInterpreter = "TorchScript interpreter";
  constexpr std::string_view kError = "Error: ";
  std::string_view chosen;
  if (contains(text.substr(0, text.find('\n')), kInterpreter)) {
    const std::size_t error = text.rfind(kError);
    if (error != std::string_view::npos) chosen = text.substr(error + kError.size());
  }
  if (chosen.empty()) chosen = text;
  while (!chosen.empty()) {
    const std::size_t end = chosen.find('\n');
    const std::string_view line = trimmed(chosen.substr(0, end));
    if (!line.empty()) return line;
    if (end == std::string_view::npos) break;
    chosen.remove_prefix(end + 1);
  }
  return "it gave no reason";
}

eb_code code_of(std::string_view line, eb_code fallback) {
  if (contains(line, "can't allocate memory") || contains(line, "not enough memory") ||
      contains(line, "out of memory")) {
    return EB_RESOURCE_EXHAUSTED;
  }
  if (contains(line, "index out of range") || contains(line, "out of bounds")) return EB_INVALID_ARGUMENT;
  if (contains(line, "Unknown builtin op") || contains(line, "Unsupported operator") ||
      contains(line, "not implemented for")) {
    return EB_UNSUPPORTED;
  }
  return fallback;
}

eb_status* say(const eb_host_api& host, std::string_view what, std::string_view text, eb_code fallback) {
  const std::string_view line = telling_line(text);
  std::string message(what);
  message += ": ";
  message += line;
  return plugin::make_error(host, code_of(line, fallback), message);
}

}  // namespace

eb_status* current_failure(const eb_host_api& host, std::string_view what, eb_code fallback) noexcept {
  try {
    try {
      throw;
    } catch (const std::bad_alloc&) {
      return plugin::make_error(host, EB_RESOURCE_EXHAUSTED, "out of memory");
    } catch (const c10::Error& error) {
      return say(host, what, error.what_without_backtrace(), fallback);
    } catch (const std::exception& error) {
      return say(host, what, error.what(), fallback);
    } catch (...) {
      return plugin::make_error(host, EB_INTERNAL, "LibTorch threw something that is no exception");
    }
  } catch (...) {  // No memory for the message.
    return plugin::make_error(host, EB_RESOURCE_EXHAUSTED, "out of memory");
  }
}

}  // namespace edgebuild::libtorch
