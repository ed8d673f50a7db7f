#include "loader.hpp"

#include <fcntl.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "runner/requirements.hpp"
#include "signals.hpp"

namespace edgerun {
namespace {

using edgebuild::Code;
using edgebuild::Result;
using edgebuild::Status;
using edgebuild::bundle::FileDescriptor;

constexpr char kSelf[] = "/proc/self/exe";
// Tells the second of the two when the first began (nanoseconds of CLOCK_MONOTONIC), and that there was a first.
constexpr char kBegan[] = "EDGERUN_STARTED_AT_NS";

char** g_arguments = nullptr;
bool g_started_again = false;
std::chrono::steady_clock::time_point g_began;

// Whether the kernel says that this process was started as the program `path`. An emulator shows its program's path in
// the link, and itself behind it, so both ways are tried.
bool is_self(const std::string& path) {
  struct stat wanted = {};
  if (::stat(path.c_str(), &wanted) != 0) return false;
  const auto same = [&](const char* other) {
    struct stat info = {};
    return ::stat(other, &info) == 0 && info.st_dev == wanted.st_dev && info.st_ino == wanted.st_ino;
  };
  if (same(kSelf)) return true;
  char target[4096];
  const ssize_t size = ::readlink(kSelf, target, sizeof target - 1);
  if (size <= 0) return false;
  target[size] = '\0';
  return same(target);
}

// This program's file. Started by hand through a loader (the kernel then loaded no interpreter), the process is that
// loader for the kernel, and only the loader says what it was given.
const char* own_program() {
  const auto* name = reinterpret_cast<const char*>(::getauxval(AT_EXECFN));
  return ::getauxval(AT_BASE) == 0 && name != nullptr ? name : kSelf;
}

// The path of a descriptor that the next program may use. It is never closed.
std::string pass_on(FileDescriptor file) {
  const int copy = ::fcntl(file.get(), F_DUPFD, 3);  // without close-on-exec
  return copy < 0 ? std::string() : "/proc/self/fd/" + std::to_string(copy);
}

Status start_again(const edgebuild::bundle::Bundle& bundle, const edgebuild::bundle::Loader& loader) {
  const auto open = [&](const std::string& path, std::string* out) -> Status {
    Result<FileDescriptor> file = bundle.open_file(path);
    if (!file.ok()) return file.status();
    *out = pass_on(std::move(file).value());
    if (out->empty()) return Status(Code::kResourceExhausted, path + ": " + std::strerror(errno));
    return {};
  };
  std::string program;
  EDGEBUILD_RETURN_IF_ERROR(open(loader.program, &program));
  std::string libraries;
  for (const std::string& path : loader.libraries) {
    std::string library;
    EDGEBUILD_RETURN_IF_ERROR(open(path, &library));
    libraries += (libraries.empty() ? "" : ":") + library;
  }
  const std::string self = pass_on(FileDescriptor(::open(own_program(), O_RDONLY | O_CLOEXEC)));
  if (self.empty()) {
    return Status(Code::kIncompatible, std::string("this program can't be started again: ") + std::strerror(errno));
  }
  // No cache and no search paths: what is preloaded is all that this program needs, and nobody has hashed the rest.
  std::vector<std::string> words = {(bundle.root() / loader.program).string(), "--inhibit-cache"};
  if (!libraries.empty()) words.insert(words.end(), {"--preload", libraries});
  words.insert(words.end(), {"--argv0", g_arguments[0], self});
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  for (char** argument = g_arguments + 1; *argument != nullptr; ++argument) argv.push_back(*argument);
  argv.push_back(nullptr);
  const auto began = std::chrono::duration_cast<std::chrono::nanoseconds>(g_began.time_since_epoch()).count();
  ::setenv(kBegan, std::to_string(began).c_str(), 1);
  hold_hard_deadline(true);
  ::execv(program.c_str(), argv.data());
  const int error = errno;
  hold_hard_deadline(false);
  ::unsetenv(kBegan);
  return Status(Code::kIncompatible, "the bundle's own loader " + loader.program + " does not start: " +
                                         std::strerror(error) + "; on a system without /proc, or under an emulator, " +
                                         "start it yourself: LOADER --library-path BUNDLE/lib BUNDLE/bin/edgerun …");
}

}  // namespace

std::chrono::steady_clock::time_point keep_arguments(char** argv) {
  g_arguments = argv;
  g_began = std::chrono::steady_clock::now();
  const char* const text = std::getenv(kBegan);
  if (text == nullptr) return g_began;
  g_started_again = true;
  long long began = 0;
  const auto [end, error] = std::from_chars(text, text + std::strlen(text), began);
  if (error == std::errc() && *end == '\0') {
    const std::chrono::steady_clock::time_point first{
        std::chrono::duration_cast<std::chrono::steady_clock::duration>(std::chrono::nanoseconds(began))};
    if (first < g_began) g_began = first;
  }
  ::unsetenv(kBegan);  // it is about this process, not about one that it may start
  ::prctl(PR_SET_NAME, "edgerun");
  return g_began;
}

Status enter_loader(const edgebuild::bundle::Bundle& bundle) {
  const auto& loader = bundle.manifest().loader;
  if (!loader || g_arguments == nullptr || bundle.manifest().arch != edgebuild::runner::process_arch()) return {};
  if (is_self((bundle.root() / loader->program).string())) return {};
  if (g_started_again) {
    return Status(Code::kIncompatible, "it was started through the bundle's own loader " + loader->program +
                                           ", but /proc/self/exe does not say so; expected a system with /proc");
  }
  return start_again(bundle, *loader);
}

}  // namespace edgerun
