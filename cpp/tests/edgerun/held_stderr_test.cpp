#include "held_stderr.hpp"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
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
      CHECK(::write(STDERR_FILENO, "second\n", 7) == 7);
      for (int i = 0; i < 5000; ++i) std::fputs("Schema error: Y already registered\n", stderr);
      std::fputs("no line break", stderr);
    }
    std::fputs("\nafter\n", stderr);
  });
  CHECK(text == "before\nfirst\nsecond\nno line break\nafter\n");
}
