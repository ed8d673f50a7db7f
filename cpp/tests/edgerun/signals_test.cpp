#include "signals.hpp"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "edgebuild/status.hpp"

namespace {

// How a process of its own ends in which `work` runs.
template <typename Work>
int status_of(Work work) {
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    ::dup2(::open("/dev/null", O_WRONLY | O_CLOEXEC), STDERR_FILENO);
    work();
    ::_exit(99);
  }
  int status = 0;
  CHECK(::waitpid(child, &status, 0) == child);
  return status;
}

bool exists(const std::string& path) {
  struct stat info = {};
  return ::stat(path.c_str(), &info) == 0;
}

}  // namespace

TEST_CASE("SIGINT, SIGTERM and SIGHUP remove the temporary files and exit with their number") {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    CAPTURE(signal);
    char name[] = "/tmp/edgebuild-signals-XXXXXX";
    ::close(::mkstemp(name));
    const int status = status_of([&] {
      ::signal(signal, SIG_DFL);
      edgerun::install_signal_handlers("run", false);
      edgerun::remove_on_signal(name);
      ::raise(signal);
    });
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 128 + signal);
    CHECK_FALSE(exists(name));
    ::unlink(name);
  }
}

TEST_CASE("a signal that whoever started the program has it ignore stays ignored") {
  const int status = status_of([] {
    ::signal(SIGHUP, SIG_IGN);
    ::signal(SIGINT, SIG_IGN);
    edgerun::install_signal_handlers("run", false);
    ::raise(SIGHUP);
    ::raise(SIGINT);
    ::_exit(7);
  });
  CHECK(WEXITSTATUS(status) == 7);
}

TEST_CASE("a deadline ends the process, also one that was started with its signal blocked") {
  const int status = status_of([] {
    edgerun::hold_hard_deadline(true);
    edgerun::set_hard_deadline(0.05);
    ::usleep(150'000);  // held: it passes, and nothing happens yet
    edgerun::install_signal_handlers("run", false);
    ::usleep(5'000'000);
  });
  CHECK(WEXITSTATUS(status) == edgebuild::exit_code(edgebuild::Code::kDeadlineExceeded));
  const int lifted = status_of([] {
    edgerun::install_signal_handlers("run", false);
    edgerun::set_hard_deadline(0.05);
    edgerun::set_hard_deadline(0.0);
    ::usleep(150'000);
    ::_exit(7);
  });
  CHECK(WEXITSTATUS(lifted) == 7);
}
