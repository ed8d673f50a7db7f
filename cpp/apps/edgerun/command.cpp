#include "command.hpp"

#include <sys/auxv.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "bundle/bundle.hpp"
#include "held_stderr.hpp"
#include "loader.hpp"
#include "prepare.hpp"
#include "runner/access.hpp"
#include "signals.hpp"
#include "table.hpp"

namespace edgerun {
namespace {

using edgebuild::Code;
using edgebuild::Result;
using edgebuild::Runner;
using edgebuild::Status;

// An engine is asked to stop at the deadline; only one that does not within this time costs the process its life.
constexpr double kGraceSeconds = 1.0;

// The bundle's folder if `program` is BUNDLE/bin/edgerun.
std::string bundle_of(const std::string& program) {
  const std::size_t name = program.rfind('/');
  if (name == std::string::npos || name < 4 || program.compare(name - 4, 4, "/bin") != 0) return {};
  const std::string root = program.substr(0, name - 3);  // with its slash
  struct stat info = {};
  return ::stat((root + "manifest.json").c_str(), &info) == 0 && S_ISREG(info.st_mode) ? root : std::string();
}

}  // namespace

std::string own_bundle() {
  char path[4096];
  const ssize_t size = ::readlink("/proc/self/exe", path, sizeof path);
  if (size > 0 && static_cast<std::size_t>(size) < sizeof path) {
    std::string found = bundle_of(std::string(path, static_cast<std::size_t>(size)));
    if (!found.empty()) return found;
  }
  // Started through the bundle's own loader, /proc/self/exe is that loader; the kernel's file name is the next best.
  const auto* name = reinterpret_cast<const char*>(::getauxval(AT_EXECFN));
  if (name == nullptr) return {};
  char* resolved = ::realpath(name, nullptr);
  if (resolved == nullptr) return {};
  std::string found = bundle_of(resolved);
  std::free(resolved);
  return found;
}

namespace {

struct Naming {
  std::string path;
  std::string name;
};

Naming& naming() {
  static Naming instance;
  return instance;
}

}  // namespace

void name_bundle(const std::string& path) {
  const char* const name = std::getenv("EDGEBUILD_BUNDLE_NAME");
  if (name != nullptr && *name != '\0') naming() = {path, name};
}

std::string in_users_words(std::string message) {
  const auto& [path, name] = naming();
  if (path.empty()) return message;
  for (std::size_t at = message.find(path); at != std::string::npos; at = message.find(path, at + name.size())) {
    message.replace(at, path.size(), name);
  }
  return message;
}

namespace {

// A message as people are shown it, whatever an engine or a bundle wrote into it.
std::string one_line(std::string message) {
  message = in_users_words(std::move(message));
  for (char& c : message) {
    if (c == '\n' || c == '\r' || c == '\t') c = ' ';
  }
  return printable(std::move(message));
}

}  // namespace

std::string why_not(const Status& failure, const std::string& bundle, const std::string& variant) {
  const std::string& message = failure.message();
  const std::string around = bundle + ": no variant can run here: " + variant + ": ";
  return message.starts_with(around) ? message.substr(around.size()) : in_users_words(message);
}

Status print(const std::string& text) {
  const bool failed = std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0;
  if (failed)
    return {errno == ENOSPC ? Code::kResourceExhausted : Code::kIo,
            std::string("can't write to stdout: ") + std::strerror(errno)};
  return {};
}

int report_error(const std::string& command, bool json, const Status& status) {
  const int code = edgebuild::exit_code(status.code());
  if (json) {
    JsonWriter writer;
    writer.begin_object().member("schema", "edgebuild." + command + "/1").key("error");
    writer.begin_object()
        .member("code", edgebuild::code_name(status.code()))
        .member("message", in_users_words(status.message()));
    writer.key("hint").null().end_object().member("exit_code", code).end_object();
    if (print(writer.text() + "\n").ok()) return code;
  }
  std::fprintf(stderr, "edgerun: error: %s\n", one_line(status.message()).c_str());
  return code;
}

edgebuild::LoadOptions load_options(const CommonOptions& options) {
  edgebuild::LoadOptions load;
  load.backend = options.backend;
  load.variant = options.variant;
  load.allow_fallback = !options.no_fallback;
  load.options = options.options;
  load.state_dir = options.state_dir;
  load.tuning = !options.no_tuning;
  const eb_severity least = options.verbose ? EB_LOG_DEBUG : EB_LOG_WARNING;
  load.log = [least](eb_severity severity, std::string_view message) {
    if (severity < least) return;
    static constexpr const char* kNames[] = {"debug", "info", "warning", "error"};
    const auto index = static_cast<std::size_t>(severity);
    std::fprintf(stderr, "edgerun: %s: %s\n", index < 4 ? kNames[index] : "log",
                 one_line(std::string(message)).c_str());
  };
  return load;
}

HardDeadline::HardDeadline(const CommonOptions& options, double extra) {
  if (options.deadline) set_hard_deadline(*options.deadline + extra + kGraceSeconds);
}

HardDeadline::~HardDeadline() { set_hard_deadline(0.0); }

edgebuild::RunOptions run_options(const CommonOptions& options) {
  edgebuild::RunOptions run;
  if (options.deadline) {
    run.deadline = std::chrono::steady_clock::now() +
                   std::chrono::nanoseconds(static_cast<std::int64_t>(std::min(*options.deadline, 1e9) * 1e9));
  }
  return run;
}

Result<Runner> load_bundle(const CommonOptions& options, const edgebuild::LoadOptions& load) {
  const HardDeadline deadline(options);
  std::optional<HeldStderr> held;
  return edgebuild::RunnerAccess::load(options.bundle, load, [&](const edgebuild::bundle::Bundle& bundle) -> Status {
    EDGEBUILD_RETURN_IF_ERROR(enter_loader(bundle));
    const auto& variants = bundle.manifest().variants;
    const bool noisy = std::any_of(variants.begin(), variants.end(), [](const auto& variant) {
      return variant.engine && !variant.engine->needed.empty();
    });
    if (noisy && !options.verbose) held.emplace();
    return {};
  });
}

namespace {

/// What --wait waits for. That nothing can be prepared is no reason not to run: the next variant serves.
Status wait_until_prepared(const CommonOptions& options) {
  Result<edgebuild::bundle::Bundle> bundle = edgebuild::bundle::Bundle::open(options.bundle);
  if (!bundle.ok()) return bundle.status();
  EDGEBUILD_RETURN_IF_ERROR(enter_loader(bundle.value()));
  std::vector<Prepared> prepared;
  EDGEBUILD_RETURN_IF_ERROR(prepare_variants(bundle.value(), options, {}, &prepared));
  const Status none = why_none_ready(prepared);
  if (!none.ok()) std::fprintf(stderr, "edgerun: warning: %s\n", in_users_words(none.message()).c_str());
  return {};
}

}  // namespace

Result<Runner> load_runner(const CommonOptions& options) {
  if (options.wait) EDGEBUILD_RETURN_IF_ERROR(wait_until_prepared(options));
  Result<Runner> runner = load_bundle(options, load_options(options));
  if (!runner.ok()) return runner;
  // Those that were passed over have been said as warnings, with their reasons, while it loaded.
  std::fprintf(stderr, "edgerun: variant %s (%s %s)\n", runner.value().variant_name().c_str(),
               runner.value().backend_name().c_str(), runner.value().engine_version().c_str());
  return runner;
}

void write_choice(JsonWriter& json, const Runner& runner) {
  json.member("variant", runner.variant_name()).member("backend", runner.backend_name());
  json.member("engine_version", runner.engine_version()).key("passed_over").begin_array();
  for (const edgebuild::PassedOver& passed : runner.passed_over()) {
    json.begin_object().member("variant", passed.variant).member("reason", passed.reason).end_object();
  }
  json.end_array();
  json.key("order").begin_object().member("tuned", edgebuild::RunnerAccess::order(runner).tuning.has_value());
  json.member("why", runner.variant_order()).end_object();
}

}  // namespace edgerun
