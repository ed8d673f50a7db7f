#include "edgebuild/status.hpp"

namespace edgebuild {

int exit_code(Code code) noexcept {
  switch (code) {
    case Code::kOk:
      return 0;
    case Code::kInternal:
      return 1;
    case Code::kNotFound:  // of something that the caller named: a path, a backend, a symbol
    case Code::kUsage:
      return 2;
    case Code::kCorrupt:
      return 3;
    case Code::kInvalidArgument:
    case Code::kBufferTooSmall:
      return 4;
    case Code::kIncompatible:
    case Code::kUnsupported:
      return 5;
    case Code::kGateFailed:
      return 6;
    case Code::kResourceExhausted:
      return 8;
    case Code::kIo:
      return 10;
    case Code::kDeadlineExceeded:
      return 11;
    case Code::kCancelled:
      return 130;
  }
  return 1;  // a number that a plugin made up
}

const char* code_name(Code code) noexcept {
  switch (code) {
    case Code::kOk:
      return "ok";
    case Code::kInternal:
      return "internal error";
    case Code::kInvalidArgument:
      return "invalid argument";
    case Code::kNotFound:
      return "not found";
    case Code::kCorrupt:
      return "corrupt bundle";
    case Code::kIncompatible:
      return "incompatible";
    case Code::kResourceExhausted:
      return "out of resources";
    case Code::kDeadlineExceeded:
      return "deadline exceeded";
    case Code::kCancelled:
      return "cancelled";
    case Code::kUnsupported:
      return "unsupported";
    case Code::kIo:
      return "input/output error";
    case Code::kGateFailed:
      return "gate failed";
    case Code::kUsage:
      return "usage error";
    case Code::kBufferTooSmall:
      return "buffer too small";
  }
  return "unknown error";
}

Status::Status(Code code, std::string message) {
  if (code != Code::kOk) state_ = std::make_unique<State>(State{code, std::move(message)});
}

Status::Status(const Status& other) {
  if (other.state_) state_ = std::make_unique<State>(*other.state_);
}

Status& Status::operator=(const Status& other) {
  if (this != &other) state_ = other.state_ ? std::make_unique<State>(*other.state_) : nullptr;
  return *this;
}

const std::string& Status::message() const noexcept {
  static const std::string kEmpty;
  return state_ ? state_->message : kEmpty;
}

Status Status::with_context(std::string_view where) const {
  if (!state_) return {};
  return Status(state_->code, std::string(where) + ": " + state_->message);
}

}  // namespace edgebuild
