#include "held_stderr.hpp"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdio>
#include <string>

#include "signals.hpp"

namespace edgerun {
namespace {

void write_all(int fd, std::string_view text) noexcept {
  while (!text.empty()) {
    const ssize_t written = ::write(fd, text.data(), text.size());
    if (written <= 0) return;
    text.remove_prefix(static_cast<std::size_t>(written));
  }
}

}  // namespace

bool is_noise(std::string_view line) noexcept {
  return line.starts_with("Schema error: ") && line.find("already registered") != std::string_view::npos;
}

HeldStderr::HeldStderr() noexcept {
  std::fflush(stderr);
  // The system call itself: glibc has it since 2.27, and this program runs on older ones.
  memory_ = static_cast<int>(::syscall(SYS_memfd_create, "stderr", 1U /* close-on-exec */));
  stderr_ = memory_ < 0 ? -1 : ::fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
  if (stderr_ < 0) return;  // then nothing is held back
  set_message_descriptor(stderr_);
  ::dup2(memory_, STDERR_FILENO);
}

HeldStderr::~HeldStderr() {
  if (stderr_ >= 0) {
    std::fflush(stderr);
    ::dup2(stderr_, STDERR_FILENO);
    set_message_descriptor(STDERR_FILENO);
    ::close(stderr_);
    std::string text;
    char buffer[16384];
    ::lseek(memory_, 0, SEEK_SET);
    for (ssize_t got = 0; (got = ::read(memory_, buffer, sizeof buffer)) > 0;) {
      text.append(buffer, static_cast<std::size_t>(got));
    }
    for (std::string_view rest = text; !rest.empty();) {
      const std::size_t end = rest.find('\n');
      const std::string_view line = rest.substr(0, end == std::string_view::npos ? rest.size() : end + 1);
      if (!is_noise(line)) write_all(STDERR_FILENO, line);
      rest.remove_prefix(line.size());
    }
  }
  if (memory_ >= 0) ::close(memory_);
}

}  // namespace edgerun
