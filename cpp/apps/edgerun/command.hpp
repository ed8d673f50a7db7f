// What edgerun's commands share: options, how a bundle is loaded, and how an end is told.

#ifndef EDGEBUILD_APPS_EDGERUN_COMMAND_HPP_
#define EDGEBUILD_APPS_EDGERUN_COMMAND_HPP_

#include <chrono>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "edgebuild/runner.hpp"
#include "io.hpp"
#include "json_writer.hpp"

namespace edgerun {

using edgebuild::JsonWriter;

/// Options of every command that loads a model.
struct CommonOptions {
  std::string bundle;  ///< Never empty once parsed: by default the one that holds this program.
  std::string backend;
  std::string variant;
  std::string state_dir;
  std::map<std::string, std::string> options;
  std::optional<double> deadline;  ///< Seconds that loading, and each inference, may take.
  bool no_fallback = false;
  bool no_tuning = false;
  bool wait = false;  ///< Prepare the first variant that can be, before a load.
  bool json = false;
  bool verbose = false;
};

struct VerifyOptions : CommonOptions {
  bool all_variants = false;
};

struct RunCommandOptions : CommonOptions {
  InputFiles inputs;
  OutputFiles outputs;
  bool preprocess = false;  ///< The inputs that the manifest's preprocessing names are decoded images.
  bool each = false;        ///< One inference for each index of an extra leading axis.
};

struct BenchOptions : CommonOptions {
  InputFiles inputs;
  std::optional<unsigned> threads;
  unsigned concurrency = 1;
  double seconds = 3.0;
  unsigned warmup = 3;
  bool profile = false;
  std::chrono::steady_clock::time_point started;  ///< When the program began.
};

struct TuneOptions : CommonOptions {
  InputFiles inputs;
  std::vector<unsigned> threads = {0};  ///< Thread counts to tune for; 0: the variants' own.
  double seconds = 10.0;                ///< Time after which no further round begins, for each thread count.
};

struct PrepareOptions : CommonOptions {
  bool all = false;   ///< Every variant that can be prepared; else the first that succeeds.
  bool anew = false;  ///< Make it anew, whatever is there.
};

/// Each prints its result on stdout (text, or one JSON object) and returns what went wrong, printed by `report_error`.
/// `exit_code` is set where a command has told its end itself, e.g. a failed gate with all its numbers.
edgebuild::Status inspect_command(const CommonOptions& options);
edgebuild::Status verify_command(const VerifyOptions& options, int& exit_code);
edgebuild::Status run_command(const RunCommandOptions& options);
edgebuild::Status bench_command(const BenchOptions& options);
edgebuild::Status tune_command(const TuneOptions& options, int& exit_code);
edgebuild::Status prepare_command(const PrepareOptions& options, int& exit_code);

/// From now on messages call the bundle at `path` as the user did: `edgebuild` runs this program on a copy in its cache
/// and tells the name in EDGEBUILD_BUNDLE_NAME.
void name_bundle(const std::string& path);
/// `message` with that name in it.
[[nodiscard]] std::string in_users_words(std::string message);
/// Why a load of one variant alone failed, without the words around it that only a choice of several needs.
[[nodiscard]] std::string why_not(const edgebuild::Status& failure, const std::string& bundle,
                                  const std::string& variant);

/// One line on stderr, or with `json` one object on stdout. @return The exit code.
int report_error(const std::string& command, bool json, const edgebuild::Status& status);
/// Prints `text` on stdout at once. kIo if it can't be written.
edgebuild::Status print(const std::string& text);

[[nodiscard]] edgebuild::LoadOptions load_options(const CommonOptions& options);
/// Runner::load of the bundle as this program does it: within the deadline, on the C library that the bundle brings, if
/// it brings one, and without the noise of its engine (but with --verbose).
edgebuild::Result<edgebuild::Runner> load_bundle(const CommonOptions& options, const edgebuild::LoadOptions& load);
/// Loads what the options say; says on stderr which variant was taken and why others were passed over.
edgebuild::Result<edgebuild::Runner> load_runner(const CommonOptions& options);
/// The deadline of a run that begins now.
[[nodiscard]] edgebuild::RunOptions run_options(const CommonOptions& options);
/// While one lives, a step has its time (the deadline and `extra` seconds), after which the process ends itself; see
/// signals.hpp. One at a time: what comes between the steps, such as inputs from a pipe, takes as long as it takes.
class HardDeadline {
 public:
  explicit HardDeadline(const CommonOptions& options, double extra = 0.0);
  HardDeadline(const HardDeadline&) = delete;
  HardDeadline& operator=(const HardDeadline&) = delete;
  ~HardDeadline();
};

/// The members "variant", "backend", "engine_version", "passed_over", "order" of a JSON object.
void write_choice(JsonWriter& json, const edgebuild::Runner& runner);

/// The bundle that holds this program at bin/; empty if there is none.
[[nodiscard]] std::string own_bundle();

}  // namespace edgerun

#endif  // EDGEBUILD_APPS_EDGERUN_COMMAND_HPP_
