// Status: the result of every fallible call of the C++ API. No exception crosses a public header.

#ifndef EDGEBUILD_STATUS_HPP_
#define EDGEBUILD_STATUS_HPP_

#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "edgebuild/backend_plugin.h"
#include "edgebuild/export.h"

namespace edgebuild {

/// The codes of backend_plugin.h under C++ names; one numbering everywhere.
enum class Code : int {
  kOk = EB_OK,
  kInternal = EB_INTERNAL,
  kInvalidArgument = EB_INVALID_ARGUMENT,
  kNotFound = EB_NOT_FOUND,
  kCorrupt = EB_CORRUPT,
  kIncompatible = EB_INCOMPATIBLE,
  kResourceExhausted = EB_RESOURCE_EXHAUSTED,
  kDeadlineExceeded = EB_DEADLINE_EXCEEDED,
  kCancelled = EB_CANCELLED,
  kUnsupported = EB_UNSUPPORTED,
  kIo = EB_IO,
  kGateFailed = EB_GATE_FAILED,
  kUsage = EB_USAGE,
  kBufferTooSmall = EB_BUFFER_TOO_SMALL,
};

/// The process exit code that edgerun and edgebuild use for a code. The one table (see docs/errors.md).
[[nodiscard]] EDGEBUILD_API int exit_code(Code code) noexcept;

/// The code's name as users see it, e.g. "corrupt bundle". Static storage.
[[nodiscard]] EDGEBUILD_API const char* code_name(Code code) noexcept;

/// Success, or a code with a message: what, where, expected and got, what to do next.
/// Success holds no memory, so that returning it costs nothing.
class [[nodiscard]] EDGEBUILD_API Status {
 public:
  Status() noexcept = default;
  Status(Code code, std::string message);

  Status(const Status& other);
  Status& operator=(const Status& other);
  Status(Status&&) noexcept = default;
  Status& operator=(Status&&) noexcept = default;
  ~Status() = default;

  [[nodiscard]] bool ok() const noexcept { return state_ == nullptr; }
  [[nodiscard]] Code code() const noexcept { return state_ ? state_->code : Code::kOk; }
  /// Empty on success. Lives as long as this object.
  [[nodiscard]] const std::string& message() const noexcept;
  /// A copy whose message begins with `where` and ": ". Success stays success.
  [[nodiscard]] Status with_context(std::string_view where) const;

 private:
  struct State {
    Code code;
    std::string message;
  };
  std::unique_ptr<State> state_;
};

/// A value or the Status that says why there is none.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::make_unique<T>(std::move(value))) {}  // NOLINT: meant to convert
  Result(Status status) : status_(std::move(status)) {                // NOLINT: meant to convert
    if (status_.ok()) status_ = Status(Code::kInternal, "a Result was made from success without a value");
  }

  [[nodiscard]] bool ok() const noexcept { return value_ != nullptr; }
  [[nodiscard]] const Status& status() const noexcept { return status_; }
  /// Only if ok().
  [[nodiscard]] T& value() & noexcept { return *value_; }
  [[nodiscard]] const T& value() const& noexcept { return *value_; }
  [[nodiscard]] T&& value() && noexcept { return std::move(*value_); }

 private:
  std::unique_ptr<T> value_;
  Status status_;
};

}  // namespace edgebuild

/// Returns from the enclosing function if `expression` (a Status) is an error.
#define EDGEBUILD_RETURN_IF_ERROR(expression)              \
  do {                                                     \
    ::edgebuild::Status edgebuild_status_ = (expression);  \
    if (!edgebuild_status_.ok()) return edgebuild_status_; \
  } while (false)

#endif  // EDGEBUILD_STATUS_HPP_
