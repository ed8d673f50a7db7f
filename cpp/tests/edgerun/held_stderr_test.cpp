#include "held_stderr.hpp"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>

namespace {

using edgerun::HeldStderr;
using edgerun::is_noise;

// What reaches stderr while `work` runs.
template <typename Work>
std::string written(Work work) {
  char name[] = "/tmp/edgebuild-held-XXXXXX";
  const int file = ::mkstemp(name);
  REQUIRE(file >= 0);
  ::unlink(name);
  const int saved = ::dup(STDERR_FILENO);
  ::dup2(file, STDERR_FILENO);
  work();
  std::fflush(stderr);
  ::dup2(saved, STDERR_FILENO);
  ::close(saved);
  std::string text(static_cast<std::size_t>(::lseek(file, 0, SEEK_END)), '\0');
  ::lseek(file, 0, SEEK_SET);
  CHECK(::read(file, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
  ::close(file);
  return text;
}

// How a process of its own ends in which `work` runs while stderr is held, and what reached stderr.
struct End {
  int status = 0;
  std::string text;
};

template <typename Work>
End ended(Work work) {
  End end;
  end.text = written([&] {
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      for (const int signal : {SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGQUIT, SIGSEGV, SIGTERM}) ::signal(signal, SIG_DFL);
      const HeldStderr held;
      work();
      ::_exit(99);
    }
    CHECK(::waitpid(child, &end.status, 0) == child);
  });
  return end;
}

}  // namespace

TEST_CASE("only a schema that is registered already is noise") {
  CHECK(is_noise("Schema error: Trying to register schema with name Relu but it is already registered from file x.cc"));
  CHECK_FALSE(is_noise("Schema error: Relu is wrong"));
  CHECK_FALSE(is_noise("edgerun: warning: Schema error: is already registered"));
  CHECK_FALSE(is_noise(""));
}

TEST_CASE("held lines come out in their order, but for noise, from C and from C++'s streams alike") {
  const std::string text = written([] {
    std::fputs("before\n", stderr);
    {
      const HeldStderr held;
      std::fputs("first\nSchema error: X is already registered\n", stderr);
      CHECK(::write(STDERR_FILENO, "second\n\n", 8) == 8);
      // As the engine does: each with an empty line behind it.
      for (int i = 0; i < 5000; ++i) std::fputs("Schema error: Y already registered\n\n", stderr);
      std::fputs("no line break", stderr);
    }
    std::fputs("\nafter\n", stderr);
  });
  CHECK(text == "before\nfirst\nsecond\n\nno line break\nafter\n");
}

TEST_CASE("what is said before the process dies of a signal is not lost, and the exit status is the signal's") {
  for (const int signal : {SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGQUIT, SIGSEGV}) {
    CAPTURE(signal);
    const End end = ended([signal] {
      std::fputs("Schema error: X is already registered\nlast ", stderr);
      std::fputs("words", stderr);
      ::raise(signal);
    });
    CHECK(WIFSIGNALED(end.status));
    CHECK(WTERMSIG(end.status) == signal);
    CHECK(end.text == "last words");
  }
}

TEST_CASE("what is said before abort(), terminate() and exit() is not lost") {
  const End aborted = ended([] {
    std::fputs("corrupted\n", stderr);
    std::abort();
  });
  CHECK(WTERMSIG(aborted.status) == SIGABRT);
  CHECK(aborted.text == "corrupted\n");
  const End terminated = ended([] {
    std::fputs("thrown\n", stderr);
    std::terminate();
  });
  CHECK(WTERMSIG(terminated.status) == SIGABRT);
  CHECK(terminated.text.starts_with("thrown\n"));
  const End left = ended([] {
    std::fputs("no licence\n", stderr);
    std::exit(3);
  });
  CHECK(WEXITSTATUS(left.status) == 3);
  CHECK(left.text == "no licence\n");
}

TEST_CASE("a signal that is handled or ignored afterwards finds its action unchanged") {
  struct sigaction before = {};
  struct sigaction after = {};
  REQUIRE(::sigaction(SIGQUIT, nullptr, &before) == 0);
  ::signal(SIGQUIT, SIG_IGN);
  const std::string text = written([] {
    const HeldStderr held;
    ::raise(SIGQUIT);
    std::fputs("still here\n", stderr);
    ::signal(SIGILL, SIG_IGN);  // as an engine may do
  });
  CHECK(text == "still here\n");
  REQUIRE(::sigaction(SIGQUIT, &before, &after) == 0);
  CHECK(after.sa_handler == SIG_IGN);
  REQUIRE(::sigaction(SIGILL, nullptr, &after) == 0);
  CHECK(after.sa_handler == SIG_IGN);
  ::signal(SIGILL, SIG_DFL);
}

TEST_CASE("lines longer than any buffer come out whole, noise of any length does not") {
  const std::string wide(10000, 'w');
  const std::string noise = "Schema error: X is already registered" + std::string(9000, 'n');
  const std::string text = written([&] {
    const HeldStderr held;
    std::fputs((wide + "\n" + noise + "\nshort\n" + noise).c_str(), stderr);
  });
  CHECK(text == wide + "\nshort\n");
}

TEST_CASE("held twice at a time, it is held until the first one ends") {
  const std::string text = written([] {
    const HeldStderr outer;
    {
      const HeldStderr inner;
      std::fputs("Schema error: X is already registered\na\n", stderr);
    }
    std::fputs("Schema error: X is already registered\nb\n", stderr);
  });
  CHECK(text == "a\nb\n");
}
