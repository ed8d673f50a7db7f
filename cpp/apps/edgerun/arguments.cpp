#include "arguments.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>

namespace edgerun {
namespace {

using edgebuild::Code;
using edgebuild::Result;
using edgebuild::Status;

using Strings = std::vector<std::string>;

// The flags that need more than CLI11's own conversions, as text.
struct RawArguments {
  Strings options;
  Strings inputs;
  Strings outputs;
  Strings shapes;
  double deadline = 0.0;
  unsigned threads = 0;
};

CLI::Option* add_list(CLI::App& app, const std::string& flag, Strings& target, const std::string& help) {
  return app.add_option(flag, target, help)->allow_extra_args(false);
}

void add_bundle(CLI::App& app, CommonOptions& options) {
  app.add_option("BUNDLE", options.bundle, "Folder or .edge file [the one around edgerun]");
  app.add_flag("--json", options.json, "Print one JSON object on stdout");
  app.add_flag("-v,--verbose", options.verbose, "Show what the engine says");
}

void add_state(CLI::App& app, CommonOptions& options) {
  app.add_option("--state-dir", options.state_dir, "What is kept here [$XDG_STATE_HOME/edgebuild/ID]")
      ->type_name("DIR");
  app.add_flag("--no-tuning", options.no_tuning, "The target's order, whatever `tune` kept");
}

void add_loading(CLI::App& app, CommonOptions& options, RawArguments& raw) {
  app.add_option("--backend", options.backend, "Only variants of this backend")->type_name("NAME");
  app.add_option("--variant", options.variant, "Only this variant")->type_name("NAME");
  app.add_flag("--no-fallback", options.no_fallback, "Fail if the first choice can't run here");
  app.add_option("--deadline", raw.deadline, "Limit of the load and of each inference")->type_name("SECONDS");
  add_list(app, "--option", raw.options, "Engine option, repeatable")->type_name("NAME=VALUE");
  add_state(app, options);
}

void add_wait(CLI::App& app, CommonOptions& options) {
  app.add_flag("--wait", options.wait, "First make what it needs here: see `prepare`");
}

void add_inputs(CLI::App& app, InputFiles& inputs, RawArguments& raw) {
  app.add_option("--inputs", inputs.inputs, ".npz file, or folder of .npy and .bin")->type_name("PATH");
  add_list(app, "--input", raw.inputs, "One .npy or raw file, repeatable")->type_name("NAME=FILE");
  add_list(app, "--shape", raw.shapes, "Shape of a raw file: x=1,3,224,224")->type_name("NAME=DIMS");
}

Status fill_pairs(const char* flag, const Strings& texts, std::vector<std::pair<std::string, std::string>>& pairs) {
  for (const std::string& text : texts) {
    auto pair = split_pair(flag, text);
    if (!pair.ok()) return pair.status();
    pairs.push_back(std::move(pair).value());
  }
  return {};
}

Status fill_inputs(const RawArguments& raw, InputFiles& inputs) {
  EDGEBUILD_RETURN_IF_ERROR(fill_pairs("--input", raw.inputs, inputs.files));
  std::vector<std::pair<std::string, std::string>> shapes;
  EDGEBUILD_RETURN_IF_ERROR(fill_pairs("--shape", raw.shapes, shapes));
  for (const auto& [name, text] : shapes) {
    auto shape = parse_shape("--shape", text);
    if (!shape.ok()) return shape.status();
    inputs.shapes[name] = std::move(shape).value();
  }
  return {};
}

Status fill_common(const CLI::App& app, const RawArguments& raw, CommonOptions& options) {
  std::vector<std::pair<std::string, std::string>> pairs;
  EDGEBUILD_RETURN_IF_ERROR(fill_pairs("--option", raw.options, pairs));
  for (auto& [name, value] : pairs) options.options[name] = value;
  const CLI::Option* deadline = app.get_option_no_throw("--deadline");
  if (deadline != nullptr && deadline->count() > 0) {
    if (!std::isfinite(raw.deadline) || raw.deadline <= 0.0) {
      return {Code::kUsage, "--deadline: expected a number of seconds above 0"};
    }
    options.deadline = raw.deadline;
  }
  if (options.bundle.empty()) options.bundle = own_bundle();
  if (options.bundle.empty()) {
    return {Code::kUsage, "no BUNDLE given, and edgerun does not lie in one (BUNDLE/bin/edgerun)"};
  }
  name_bundle(options.bundle);
  return {};
}

// "1,4,default": numbers of threads, or the variants' own.
Status fill_threads(const std::string& text, std::vector<unsigned>& threads) {
  threads.clear();
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    const std::string word = text.substr(begin, end - begin);
    unsigned number = 0;
    if (word != "default") {
      const auto [next, error] = std::from_chars(word.data(), word.data() + word.size(), number);
      if (error != std::errc() || next != word.data() + word.size() || number < 1 || number > 1024) {
        return {Code::kUsage,
                "--threads " + text + ": expected numbers from 1 to 1024 or `default`, with commas between"};
      }
    }
    if (std::find(threads.begin(), threads.end(), number) == threads.end()) threads.push_back(number);
    begin = end + 1;
  }
  return {};
}

Status check_bench(const CLI::App& app, const RawArguments& raw, BenchOptions& options) {
  if (app.get_option("--threads")->count() > 0) {
    if (raw.threads < 1 || raw.threads > 4096) return {Code::kUsage, "--threads: expected 1 to 4096"};
    options.threads = raw.threads;
  }
  if (options.concurrency < 1 || options.concurrency > 1024) return {Code::kUsage, "--concurrency: expected 1 to 1024"};
  if (!std::isfinite(options.seconds) || options.seconds < 0.0) {
    return {Code::kUsage, "--seconds: expected a number from 0 on"};
  }
  return {};
}

// Insertions, deletions, replacements and swaps of neighbours that turn one word into the other.
std::size_t edits(const std::string& a, const std::string& b) {
  std::vector<std::vector<std::size_t>> cost(a.size() + 1, std::vector<std::size_t>(b.size() + 1));
  for (std::size_t i = 0; i <= a.size(); ++i) {
    for (std::size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        cost[i][j] = i + j;
        continue;
      }
      cost[i][j] = std::min({cost[i - 1][j] + 1, cost[i][j - 1] + 1, cost[i - 1][j - 1] + (a[i - 1] != b[j - 1])});
      const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) cost[i][j] = std::min(cost[i][j], cost[i - 2][j - 2] + 1);
    }
  }
  return cost[a.size()][b.size()];
}

// "; did you mean X?", or nothing if no known word is near.
std::string suggestion(const std::string& word, const Strings& known) {
  std::string near;
  std::size_t least = std::max<std::size_t>(2, word.size() / 3) + 1;
  for (const std::string& candidate : known) {
    const std::size_t distance = edits(word, candidate);
    if (distance < least) {
      least = distance;
      near = candidate;
    }
  }
  return near.empty() ? "" : "; did you mean " + near + "?";
}

const Strings kCommands = {"inspect", "verify", "run", "bench", "tune", "prepare"};

// What CLI11 does not say: which word was wrong, and what was probably meant.
Status explain(const CLI::App& app, const CLI::ParseError& error, int argc, const char* const* argv) {
  const std::string see = " (see edgerun --help)";
  const auto chosen = app.get_subcommands();
  if (chosen.empty()) {
    const std::string commands = "commands are inspect, verify, run, bench, tune and prepare";
    if (argc < 2) return {Code::kUsage, "no command is given; " + commands + see};
    const std::string first = argv[1];
    const std::string what = first.starts_with("-") ? "unknown option " : "unknown command ";
    return {Code::kUsage, what + first + suggestion(first, kCommands) + " (" + commands + ")"};
  }
  const CLI::App& scope = *chosen.front();
  Strings known;
  for (const CLI::Option* option : scope.get_options()) {
    for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
  }
  for (const std::string& word : scope.remaining()) {
    if (!word.starts_with("--")) continue;
    const std::string name = word.substr(0, word.find('='));
    return {Code::kUsage, "unknown option " + name + suggestion(name, known) + see};
  }
  return {Code::kUsage, std::string(error.what()) + see};
}

}  // namespace

Result<std::pair<std::string, std::string>> split_pair(const std::string& flag, const std::string& text) {
  const std::size_t at = text.find('=');
  if (at == std::string::npos || at == 0) return Status(Code::kUsage, flag + " " + text + ": expected NAME=VALUE");
  return std::make_pair(text.substr(0, at), text.substr(at + 1));
}

Result<std::vector<std::int64_t>> parse_shape(const std::string& flag, const std::string& text) {
  std::vector<std::int64_t> shape;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (at != end) {
    std::int64_t size = -1;
    const auto [next, error] = std::from_chars(at, end, size);
    const bool separated = next == end || (*next == ',' && next + 1 != end);
    if (error != std::errc() || size < 0 || !separated || shape.size() == EB_MAX_RANK) {
      return Status(Code::kUsage, flag + " " + text + ": expected up to 16 sizes such as 1,3,224,224");
    }
    shape.push_back(size);
    at = next == end ? end : next + 1;
  }
  return shape;
}

std::string command_name(int argc, const char* const* argv) {
  for (int i = 1; i < argc; ++i) {
    for (const std::string& name : kCommands) {
      if (argv[i] == name) return name;
    }
  }
  return "edgerun";
}

bool wants_json(int argc, const char* const* argv) {
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--json") == 0) return true;
  }
  return false;
}

Result<Command> parse_arguments(int argc, const char* const* argv) {
  CLI::App app("Runs edgebuild bundles: models with all that they need.", "edgerun");
  app.set_version_flag("--version", std::string("edgerun ") + edgebuild::version());
  app.require_subcommand(1);
  RawArguments raw;

  InspectOptions inspect;
  CLI::App* inspect_app = app.add_subcommand("inspect", "Show what a bundle holds");
  add_bundle(*inspect_app, inspect);
  add_state(*inspect_app, inspect);

  VerifyOptions verify;
  CLI::App* verify_app = app.add_subcommand("verify", "Check every hash, then the goldens on this machine");
  add_bundle(*verify_app, verify);
  add_loading(*verify_app, verify, raw);
  verify_app->add_flag("--all-variants", verify.all_variants, "Fail if a variant can't run here");

  RunCommandOptions run;
  CLI::App* run_app = app.add_subcommand("run", "Run one inference");
  add_bundle(*run_app, run);
  add_inputs(*run_app, run.inputs, raw);
  add_wait(*run_app, run);
  run_app->add_flag("--each", run.each, "One more leading axis: a run for each index");
  run_app->add_flag("--preprocess", run.preprocess, "Inputs with a recipe are uint8 images (H,W,C)");
  run_app->add_option("--outputs", run.outputs.outputs, ".npz file, or folder/ for .npy")->type_name("PATH");
  add_list(*run_app, "--output", raw.outputs, "One .npy or raw file, repeatable")->type_name("NAME=FILE");
  add_loading(*run_app, run, raw);

  BenchOptions bench;
  CLI::App* bench_app = app.add_subcommand("bench", "Measure latency, throughput and memory");
  add_bundle(*bench_app, bench);
  bench_app->add_option("--threads", raw.threads, "Threads of the engine [the variant's]")->type_name("N");
  bench_app->add_option("--concurrency", bench.concurrency, "Inferences at a time [1]")->type_name("N");
  bench_app->add_option("--seconds", bench.seconds, "How long to measure [3]")->type_name("S");
  bench_app->add_option("--warmup", bench.warmup, "Runs before that, each thread [3]")->type_name("N");
  add_wait(*bench_app, bench);
  bench_app->add_flag("--profile", bench.profile, "Time of each node");
  add_inputs(*bench_app, bench.inputs, raw);
  add_loading(*bench_app, bench, raw);

  TuneOptions tune;
  std::string tune_threads = "default";
  CLI::App* tune_app = app.add_subcommand("tune", "Measure here which variant should serve");
  add_bundle(*tune_app, tune);
  tune_app->add_option("--threads", tune_threads, "Thread counts: 1,4,default [default]")->type_name("LIST");
  tune_app->add_option("--seconds", tune.seconds, "How long to measure, each thread count [10]")->type_name("S");
  tune_app->add_option("--state-dir", tune.state_dir, "Where to keep it [$XDG_STATE_HOME/edgebuild/ID]")
      ->type_name("DIR");
  tune_app->add_option("--deadline", raw.deadline, "Limit of each load and of each inference")->type_name("SECONDS");
  add_inputs(*tune_app, tune.inputs, raw);

  PrepareOptions prepare;
  CLI::App* prepare_app = app.add_subcommand("prepare", "Make here what variants need, e.g. plans");
  add_bundle(*prepare_app, prepare);
  prepare_app->add_option("--backend", prepare.backend, "Only variants of this backend")->type_name("NAME");
  prepare_app->add_option("--variant", prepare.variant, "Only this variant")->type_name("NAME");
  prepare_app->add_flag("--all", prepare.all, "Every variant [the first that succeeds]");
  prepare_app->add_flag("--anew", prepare.anew, "Make it anew, whatever is there");
  prepare_app->add_option("--state-dir", prepare.state_dir, "Where to keep it [$XDG_STATE_HOME/edgebuild/ID]")
      ->type_name("DIR");
  add_list(*prepare_app, "--option", raw.options, "Engine option, repeatable; runs need the same")
      ->type_name("NAME=VALUE");

  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForVersion& version) {
    return Command(Message{std::string(version.what()) + "\n"});
  } catch (const CLI::CallForHelp&) {
    const auto chosen = app.get_subcommands();
    return Command(Message{chosen.empty() ? app.help() : chosen.front()->help()});
  } catch (const CLI::ParseError& error) {
    return explain(app, error, argc, argv);
  }

  if (inspect_app->parsed()) {
    EDGEBUILD_RETURN_IF_ERROR(fill_common(*inspect_app, raw, inspect));
    return Command(std::move(inspect));
  }
  if (verify_app->parsed()) {
    EDGEBUILD_RETURN_IF_ERROR(fill_common(*verify_app, raw, verify));
    return Command(std::move(verify));
  }
  if (run_app->parsed()) {
    EDGEBUILD_RETURN_IF_ERROR(fill_common(*run_app, raw, run));
    EDGEBUILD_RETURN_IF_ERROR(fill_inputs(raw, run.inputs));
    EDGEBUILD_RETURN_IF_ERROR(fill_pairs("--output", raw.outputs, run.outputs.files));
    if (run.outputs.outputs.empty() && run.outputs.files.empty()) {
      const bool no_inputs = run.inputs.inputs.empty() && run.inputs.files.empty();
      return Status(Code::kUsage, std::string("run: ") + (no_inputs ? "no inputs and " : "") +
                                      "nowhere to put the results; give " +
                                      (no_inputs ? "--inputs FILE.npz or --input NAME=FILE, and " : "") +
                                      "--outputs FILE.npz or --output NAME=FILE");
    }
    return Command(std::move(run));
  }
  if (tune_app->parsed()) {
    EDGEBUILD_RETURN_IF_ERROR(fill_common(*tune_app, raw, tune));
    EDGEBUILD_RETURN_IF_ERROR(fill_inputs(raw, tune.inputs));
    EDGEBUILD_RETURN_IF_ERROR(fill_threads(tune_threads, tune.threads));
    if (!std::isfinite(tune.seconds) || tune.seconds < 0.0) {
      return Status(Code::kUsage, "--seconds: expected a number from 0 on");
    }
    return Command(std::move(tune));
  }
  if (prepare_app->parsed()) {
    EDGEBUILD_RETURN_IF_ERROR(fill_common(*prepare_app, raw, prepare));
    return Command(std::move(prepare));
  }
  EDGEBUILD_RETURN_IF_ERROR(fill_common(*bench_app, raw, bench));
  EDGEBUILD_RETURN_IF_ERROR(fill_inputs(raw, bench.inputs));
  EDGEBUILD_RETURN_IF_ERROR(check_bench(*bench_app, raw, bench));
  return Command(std::move(bench));
}

}  // namespace edgerun
