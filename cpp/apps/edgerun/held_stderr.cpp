#include "held_stderr.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "signals.hpp"

namespace edgerun {
namespace {

// Of those that end a process. The ones of signals.hpp have handlers already, which release stderr too.
constexpr std::array kDeadly{SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGQUIT, SIGSEGV, SIGSYS, SIGTRAP, SIGXCPU, SIGXFSZ};
// Room for a handler where the stack itself has run out; the state of a processor's vector registers lies there too.
constexpr std::size_t kStackBytes = std::size_t{64} << 10;

// Read by signal handlers, hence no members. Whoever takes the memory out of its place releases it.
std::atomic<int> g_memory{-1};
std::atomic<int> g_stderr{-1};
std::array<struct sigaction, kDeadly.size()> g_before{};

alignas(64) std::array<std::byte, kStackBytes> g_stack;
stack_t g_stack_before{};

void write_all(int fd, std::string_view text) noexcept {
  while (!text.empty()) {
    const ssize_t written = ::write(fd, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;
    text.remove_prefix(static_cast<std::size_t>(written));
  }
}

// Writes the lines of a file that are no noise, without any memory but this stack's.
void copy_lines(int from, int to) noexcept {
  char buffer[4096];
  std::size_t filled = 0;
  off_t at = 0;
  bool line_goes_on = false;  // at the start of the buffer, since a line was longer than it
  bool noise = false;
  while (true) {
    const ssize_t got = ::pread(from, buffer + filled, sizeof buffer - filled, at);
    if (got < 0 && errno == EINTR) continue;
    if (got > 0) at += got;
    filled += static_cast<std::size_t>(got > 0 ? got : 0);
    std::string_view rest(buffer, filled);
    while (!rest.empty()) {
      const std::size_t end = rest.find('\n');
      if (end == std::string_view::npos && got > 0 && rest.size() < sizeof buffer) break;  // more of it may follow
      const std::string_view line = rest.substr(0, end == std::string_view::npos ? rest.size() : end + 1);
      if (!line_goes_on) noise = is_noise(line) || (noise && line == "\n");  // the engine ends them with an empty one
      if (!noise) write_all(to, line);
      line_goes_on = end == std::string_view::npos;
      rest.remove_prefix(line.size());
    }
    if (got <= 0) return;
    std::memmove(buffer, rest.data(), rest.size());
    filled = rest.size();
  }
}

extern "C" void edgerun_on_deadly_signal(int signal) {
  release_stderr();
  for (std::size_t i = 0; i < kDeadly.size(); ++i) {
    if (kDeadly[i] == signal) ::sigaction(signal, &g_before[i], nullptr);
  }
  ::raise(signal);  // it waits until this handler has returned, and then does what it would have done
}

void catch_deadly_signals() noexcept {
  stack_t stack = {};
  stack.ss_sp = g_stack.data();
  stack.ss_size = g_stack.size();
  if (::sigaltstack(nullptr, &g_stack_before) != 0 || (g_stack_before.ss_flags & SS_DISABLE) != 0) {
    ::sigaltstack(&stack, nullptr);  // one that is there already serves
  }
  for (std::size_t i = 0; i < kDeadly.size(); ++i) {
    struct sigaction action = {};
    action.sa_handler = edgerun_on_deadly_signal;
    action.sa_flags = SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    if (::sigaction(kDeadly[i], nullptr, &g_before[i]) != 0 || g_before[i].sa_handler == SIG_IGN) continue;
    ::sigaction(kDeadly[i], &action, nullptr);
  }
}

// What an engine has installed in the meantime stays.
void leave_deadly_signals() noexcept {
  for (std::size_t i = 0; i < kDeadly.size(); ++i) {
    struct sigaction now = {};
    if (::sigaction(kDeadly[i], nullptr, &now) != 0 || now.sa_handler != edgerun_on_deadly_signal) continue;
    ::sigaction(kDeadly[i], &g_before[i], nullptr);
  }
  stack_t now = {};
  if (::sigaltstack(nullptr, &now) == 0 && now.ss_sp == g_stack.data()) ::sigaltstack(&g_stack_before, nullptr);
}

}  // namespace

bool is_noise(std::string_view line) noexcept {
  return line.starts_with("Schema error: ") && line.find("already registered") != std::string_view::npos;
}

void release_stderr() noexcept {
  const int memory = g_memory.exchange(-1);
  if (memory < 0) return;
  const int to = g_stderr.exchange(-1);
  ::dup2(to, STDERR_FILENO);
  set_message_descriptor(STDERR_FILENO);
  ::close(to);
  copy_lines(memory, STDERR_FILENO);
  ::close(memory);
}

HeldStderr::HeldStderr() noexcept {
  if (g_memory.load() >= 0) return;  // held already
  std::fflush(stderr);
  // The system call itself: glibc has it since 2.27, and this program runs on older ones.
  const int memory = static_cast<int>(::syscall(SYS_memfd_create, "stderr", 1U /* close-on-exec */));
  const int to = memory < 0 ? -1 : ::fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
  if (to < 0) {  // then nothing is held back
    if (memory >= 0) ::close(memory);
    return;
  }
  static const int at_exit = std::atexit(release_stderr);  // an engine may call exit()
  static_cast<void>(at_exit);
  set_message_descriptor(to);
  g_stderr.store(to);
  g_memory.store(memory);
  catch_deadly_signals();
  holds_ = true;
  ::dup2(memory, STDERR_FILENO);
}

HeldStderr::~HeldStderr() {
  if (!holds_) return;
  std::fflush(stderr);
  release_stderr();
  leave_deadly_signals();
}

}  // namespace edgerun
