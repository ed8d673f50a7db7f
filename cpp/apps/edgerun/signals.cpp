#include "signals.hpp"

#include <signal.h>
#include <sys/time.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdlib>
#include <cstring>

#include "edgebuild/status.hpp"
#include "held_stderr.hpp"
#include "json_writer.hpp"

namespace edgerun {
namespace {

using edgebuild::JsonWriter;

constexpr std::size_t kSlots = 4096;

// Written by the program, read by a signal handler: lock-free atomics only. The strings are never freed.
std::array<std::atomic<const char*>, kSlots> g_temporaries{};
struct Text {
  const char* data = "";
  std::size_t size = 0;
};
Text g_interrupted;
Text g_deadline;
bool g_json = false;
std::atomic<int> g_messages{STDERR_FILENO};

Text keep(const std::string& text) {
  char* copy = ::strdup(text.c_str());
  return copy == nullptr ? Text{} : Text{copy, text.size()};
}

void write_text(const Text& text) {
  const int to = g_json ? STDOUT_FILENO : g_messages.load(std::memory_order_relaxed);
  std::size_t done = 0;
  while (done < text.size) {
    const ssize_t written = ::write(to, text.data + done, text.size - done);
    if (written <= 0) return;
    done += static_cast<std::size_t>(written);
  }
}

void remove_temporaries() {
  for (const auto& slot : g_temporaries) {
    if (const char* path = slot.load(std::memory_order_acquire)) ::unlink(path);
  }
}

extern "C" void edgerun_on_signal(int signal) {
  remove_temporaries();
  release_stderr();
  if (signal == SIGALRM) {
    write_text(g_deadline);
    ::_exit(edgebuild::exit_code(edgebuild::Code::kDeadlineExceeded));
  }
  if (signal == SIGINT) write_text(g_interrupted);
  ::_exit(128 + signal);
}

void handle(int signal) {
  struct sigaction action = {};
  if (signal != SIGALRM && ::sigaction(signal, nullptr, &action) == 0 && action.sa_handler == SIG_IGN) return;
  action.sa_handler = edgerun_on_signal;
  sigfillset(&action.sa_mask);
  ::sigaction(signal, &action, nullptr);
}

std::string message(const char* command, bool json, edgebuild::Code code, int exit_code, const char* text) {
  if (!json) return std::string("edgerun: error: ") + text + "\n";
  JsonWriter writer;
  writer.begin_object().member("schema", std::string("edgebuild.") + command + "/1");
  writer.key("error").begin_object().member("code", edgebuild::code_name(code)).member("message", text);
  writer.key("hint").null().end_object();
  writer.member("exit_code", exit_code).end_object();
  return writer.text() + "\n";
}

}  // namespace

void install_signal_handlers(const char* command, bool json) {
  using edgebuild::Code;
  g_json = json;
  g_interrupted = keep(message(command, json, Code::kCancelled, kExitInterrupted, "interrupted"));
  g_deadline = keep(message(command, json, Code::kDeadlineExceeded, edgebuild::exit_code(Code::kDeadlineExceeded),
                            "the deadline passed and the engine could not be stopped, so the process ended itself"));
  handle(SIGINT);
  handle(SIGTERM);
  handle(SIGHUP);
  handle(SIGALRM);
  hold_hard_deadline(false);   // also if the program that started this one had it blocked
  ::signal(SIGPIPE, SIG_IGN);  // a closed pipe is then an error of write(), like a full disk
}

void set_message_descriptor(int fd) { g_messages.store(fd, std::memory_order_relaxed); }

int remove_on_signal(const std::string& path) {
  const char* copy = ::strdup(path.c_str());
  if (copy == nullptr) return -1;
  for (std::size_t i = 0; i < kSlots; ++i) {
    const char* expected = nullptr;
    if (g_temporaries[i].compare_exchange_strong(expected, copy, std::memory_order_release)) return static_cast<int>(i);
  }
  std::free(const_cast<char*>(copy));
  return -1;
}

void keep_on_signal(int slot) {
  // The text is leaked on purpose: a handler may be reading it.
  if (slot >= 0) g_temporaries[static_cast<std::size_t>(slot)].store(nullptr, std::memory_order_release);
}

void hold_hard_deadline(bool hold) {
  sigset_t alarm;
  sigemptyset(&alarm);
  sigaddset(&alarm, SIGALRM);
  ::sigprocmask(hold ? SIG_BLOCK : SIG_UNBLOCK, &alarm, nullptr);
}

void set_hard_deadline(double seconds) {
  struct itimerval timer = {};
  if (seconds > 0.0) {
    const double whole = std::floor(std::fmin(seconds, 1e9));
    timer.it_value.tv_sec = static_cast<time_t>(whole);
    timer.it_value.tv_usec = static_cast<suseconds_t>(std::fmin((seconds - whole) * 1e6, 999999.0));
    if (timer.it_value.tv_sec == 0 && timer.it_value.tv_usec == 0) timer.it_value.tv_usec = 1;
  }
  ::setitimer(ITIMER_REAL, &timer, nullptr);
}

}  // namespace edgerun
