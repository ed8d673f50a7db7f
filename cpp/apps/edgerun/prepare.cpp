#include "prepare.hpp"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <mutex>

#include "golden.hpp"
#include "runner/access.hpp"
#include "table.hpp"

namespace edgerun {
namespace {

using edgebuild::Code;
using edgebuild::Result;
using edgebuild::Runner;
using edgebuild::RunnerAccess;
using edgebuild::Status;
using edgebuild::bundle::Bundle;
using edgebuild::bundle::Variant;

/// Steps on stderr: on a terminal one line that changes, else a line for each new step.
class Steps {
 public:
  explicit Steps(std::string variant) : variant_(std::move(variant)), terminal_(use_colour(STDERR_FILENO)) {}
  Steps(const Steps&) = delete;
  Steps& operator=(const Steps&) = delete;
  ~Steps() { wipe(); }

  void tell(std::string_view step, std::uint32_t done, std::uint32_t total) {
    const std::lock_guard lock(mutex_);
    const bool other = step != step_;
    const bool shown = total == 0 ? !other : permille_ == permille(done, total) && !other;
    if (shown) return;
    step_ = step;
    permille_ = permille(done, total);
    const std::string text = "edgerun: " + variant_ + ": " + step_;
    if (terminal_) {
      std::fprintf(stderr, "\r\x1b[K%s", text.c_str());
      if (total != 0) std::fprintf(stderr, " %u/%u", done, total);
      std::fflush(stderr);
      dirty_ = true;
    } else if (other) {
      std::fprintf(stderr, "%s\n", text.c_str());
    }
    told_ = told_ || !step.starts_with("waiting");  // For another process, which makes it.
  }
  void wipe() {
    if (dirty_) std::fprintf(stderr, "\r\x1b[K");
    dirty_ = false;
  }
  [[nodiscard]] bool told() const { return told_; }

 private:
  static std::uint32_t permille(std::uint32_t done, std::uint32_t total) {
    return total == 0 ? 0 : static_cast<std::uint32_t>(std::uint64_t{done} * 1000 / total);
  }

  std::string variant_;
  bool terminal_;
  std::mutex mutex_;  // A builder tells from threads of its own.
  std::string step_;
  std::uint32_t permille_ = 0;
  bool dirty_ = false;
  bool told_ = false;
};

/// Whether the failure says something of this variant alone, so that another may do.
bool is_variants_own(Code code) noexcept {
  return code == Code::kIncompatible || code == Code::kUnsupported || code == Code::kNotFound ||
         code == Code::kResourceExhausted || code == Code::kGateFailed;
}

class Preparer {
 public:
  Preparer(const Bundle& bundle, const CommonOptions& options, const PrepareRequest& request)
      : bundle_(bundle), options_(options), request_(request) {}

  Status prepare(const Variant& variant, Prepared* out) {
    out->variant = variant.name;
    Steps steps(variant.name);
    const auto started = std::chrono::steady_clock::now();
    out->failure = attempt(variant, request_.anew ? EB_PREPARATION_REMAKE : EB_PREPARATION_MAKE, steps, out);
    if (out->failure.code() == Code::kGateFailed) {
      steps.wipe();
      std::fprintf(stderr, "edgerun: %s; it is made anew\n", in_users_words(out->failure.message()).c_str());
      out->failure = attempt(variant, EB_PREPARATION_REMAKE, steps, out);
    }
    out->seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
    out->made = steps.told();
    if (!out->failure.ok()) out->result = Prepared::Result::kFailed;
    return is_variants_own(out->failure.code()) ? Status() : out->failure;
  }

 private:
  /// Makes it, if it is to be made, and judges it. The Runner ends before this returns, and with it its lock.
  Status attempt(const Variant& variant, eb_preparation mode, Steps& steps, Prepared* out) {
    edgebuild::runner::Preparing preparing;
    preparing.mode = mode;
    preparing.progress = [&](std::string_view step, std::uint32_t done, std::uint32_t total) {
      steps.tell(step, done, total);
    };
    Result<std::optional<Runner>> made =
        RunnerAccess::prepare(bundle_, variant.name, load_options(options_), preparing);
    if (!made.ok()) return made.status().with_context("variant " + variant.name);
    if (!made.value()) return {};  // Nothing to make.
    out->result = Prepared::Result::kReady;
    Runner& runner = *made.value();
    const Status verdict = judge(variant, runner, steps);
    const Status settled = RunnerAccess::settle(runner, verdict.ok());
    return verdict.ok() ? settled : verdict;
  }

  Status judge(const Variant& variant, Runner& runner, Steps& steps) {
    const std::size_t count = bundle_.manifest().goldens.size();
    if (count == 0) {
      std::fprintf(stderr, "edgerun: the bundle has no goldens: what was made is not checked\n");
      return {};
    }
    std::vector<OutputReport> reports;
    for (std::size_t i = 0; i < count; ++i) {
      if (steps.told()) {
        steps.tell("checking goldens", static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(count));
      }
      const Status ran = compare_golden(runner, bundle_, variant, i, {}, reports);
      if (ran.code() == Code::kCorrupt) return ran;  // The bundle's files, not what was made.
      if (!ran.ok()) return {Code::kGateFailed, ran.message()};
    }
    if (all_agree(reports)) return {};
    return {Code::kGateFailed, describe_failure(bundle_, variant.name, reports)};
  }

  const Bundle& bundle_;
  const CommonOptions& options_;
  const PrepareRequest& request_;
};

}  // namespace

Status prepare_variants(const Bundle& bundle, const CommonOptions& options, const PrepareRequest& request,
                        std::vector<Prepared>* out) {
  Preparer preparer(bundle, options, request);
  std::string names;
  for (const Variant& variant : bundle.manifest().variants) {
    names.append(names.empty() ? "" : ", ").append(variant.name).append(" (").append(variant.backend).append(")");
    const bool chosen = (options.backend.empty() || variant.backend == options.backend) &&
                        (options.variant.empty() || variant.name == options.variant);
    if (!chosen) continue;
    Prepared one;
    EDGEBUILD_RETURN_IF_ERROR(preparer.prepare(variant, &one));
    const bool ready = one.result == Prepared::Result::kReady;
    out->push_back(std::move(one));
    if (ready && !request.all) return {};
  }
  if (out->empty()) return {Code::kUsage, "no variant matches; the bundle has " + names};
  return {};
}

Status why_none_ready(const std::vector<Prepared>& prepared) {
  const Status* first = nullptr;
  std::string reasons;
  for (const Prepared& one : prepared) {
    if (one.result == Prepared::Result::kReady) return {};
    if (one.result != Prepared::Result::kFailed) continue;
    if (first == nullptr) first = &one.failure;
    reasons += (reasons.empty() ? "" : "; ") + one.failure.message();
  }
  if (first == nullptr) return {};
  // A library that is not there is this machine's lack, not a file's.
  const Code code = first->code() == Code::kNotFound ? Code::kIncompatible : first->code();
  return {code, "nothing could be prepared: " + reasons};
}

}  // namespace edgerun
