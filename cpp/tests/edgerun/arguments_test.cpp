#include "arguments.hpp"

#include <doctest/doctest.h>

using namespace edgerun;

namespace {

edgebuild::Result<Command> parse(std::vector<const char*> words) {
  words.insert(words.begin(), "edgerun");
  return parse_arguments(static_cast<int>(words.size()), words.data());
}

}  // namespace

TEST_CASE("run takes files, shapes and options by name") {
  auto command = parse({"run", "b.edge", "--input", "x=a=b.npy", "--input", "y=c.bin", "--shape", "y=1,3", "--outputs",
                        "o.npz", "--option", "intra_op_threads=2", "--deadline", "1.5", "--no-fallback"});
  REQUIRE_MESSAGE(command.ok(), command.status().message());
  const auto& run = std::get<RunCommandOptions>(command.value());
  CHECK(run.bundle == "b.edge");
  CHECK(run.inputs.files.size() == 2);
  CHECK(run.inputs.files[0] == std::pair<std::string, std::string>("x", "a=b.npy"));
  CHECK(run.inputs.shapes.at("y") == std::vector<std::int64_t>{1, 3});
  CHECK(run.options.at("intra_op_threads") == "2");
  CHECK(run.deadline == 1.5);
  CHECK(run.no_fallback);
}

TEST_CASE("the bundle may stand behind the flags") {
  auto command = parse({"run", "--input", "x=a.npy", "--outputs", "o.npz", "b.edge"});
  REQUIRE(command.ok());
  CHECK(std::get<RunCommandOptions>(command.value()).bundle == "b.edge");
}

TEST_CASE("tune takes thread counts as a list, each once, and by default the variants' own") {
  const auto threads = [](const std::vector<const char*>& words) {
    auto command = parse(words);
    REQUIRE_MESSAGE(command.ok(), command.status().message());
    return std::get<TuneOptions>(command.value()).threads;
  };
  CHECK(threads({"tune", "b.edge"}) == std::vector<unsigned>{0});
  CHECK(threads({"tune", "b.edge", "--threads", "1,default,4,1"}) == std::vector<unsigned>{1, 0, 4});
  auto command = parse({"tune", "--state-dir", "s", "--seconds", "0", "b.edge"});
  REQUIRE(command.ok());
  CHECK(std::get<TuneOptions>(command.value()).state_dir == "s");
  CHECK(std::get<TuneOptions>(command.value()).seconds == 0.0);
}

TEST_CASE("tuning can be switched off wherever variants are chosen") {
  auto command = parse({"run", "b.edge", "--no-tuning", "--outputs", "o.npz"});
  REQUIRE(command.ok());
  CHECK(std::get<RunCommandOptions>(command.value()).no_tuning);
  CHECK_FALSE(parse({"tune", "b.edge", "--no-tuning"}).ok());
}

TEST_CASE("wrong command lines are usage errors") {
  for (const auto& words : std::vector<std::vector<const char*>>{{},
                                                                 {"fly"},
                                                                 {"run", "b.edge"},
                                                                 {"inspect"},
                                                                 {"inspect", "b.edge", "--nonsense"},
                                                                 {"run", "b", "--outputs", "o", "--input", "x"},
                                                                 {"run", "b", "--outputs", "o", "--shape", "x=1,"},
                                                                 {"run", "b", "--outputs", "o", "--shape", "x=-1"},
                                                                 {"run", "b", "--outputs", "o", "--deadline", "0"},
                                                                 {"run", "b", "--outputs", "o", "--deadline", "nan"},
                                                                 {"bench", "b", "--concurrency", "0"},
                                                                 {"bench", "b", "--threads", "0"},
                                                                 {"bench", "b", "--seconds", "-1"},
                                                                 {"tune", "b", "--threads", ""},
                                                                 {"tune", "b", "--threads", "0"},
                                                                 {"tune", "b", "--threads", "1,"},
                                                                 {"tune", "b", "--threads", "1,all"},
                                                                 {"tune", "b", "--seconds", "nan"}}) {
    auto command = parse(words);
    REQUIRE_FALSE(command.ok());
    CHECK(edgebuild::exit_code(command.status().code()) == 2);
  }
}

TEST_CASE("a mistyped command or option is named, with the one that was probably meant") {
  const auto message = [](const std::vector<const char*>& words) {
    auto command = parse(words);
    REQUIRE_FALSE(command.ok());
    return command.status().message();
  };
  const auto has = [](const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
  };
  CHECK(has(message({"rnu"}), "unknown command rnu; did you mean run?"));
  CHECK(has(message({"verfy", "b.edge"}), "unknown command verfy; did you mean verify?"));
  CHECK(has(message({"completely"}),
            "unknown command completely (commands are inspect, verify, run, bench, tune and prepare)"));
  CHECK(has(message({"rnu"}), "unknown command rnu; did you mean run? (commands are"));
  CHECK(has(message({}), "no command is given; commands are inspect, verify, run, bench, tune and prepare"));
  CHECK(has(message({"run", "b", "--imputs", "in.npz", "--outputs", "o"}),
            "unknown option --imputs; did you mean --input"));
  CHECK(has(message({"bench", "b", "--second=3"}), "unknown option --second; did you mean --seconds?"));
  CHECK(has(message({"bench", "b", "--wholly-else"}), "unknown option --wholly-else (see"));
  CHECK(has(message({"run", "b"}), "no inputs and nowhere to put the results"));
  CHECK(has(message({"run", "b", "--inputs", "i.npz"}), "run: nowhere to put the results"));
}

TEST_CASE("the version and the help are texts, within 80 columns") {
  for (const auto& words : std::vector<std::vector<const char*>>{{"--version"},
                                                                 {"--help"},
                                                                 {"run", "--help"},
                                                                 {"bench", "--help"},
                                                                 {"tune", "--help"},
                                                                 {"verify", "--help"},
                                                                 {"inspect", "--help"}}) {
    auto command = parse(words);
    REQUIRE(command.ok());
    const std::string& text = std::get<Message>(command.value()).text;
    CHECK_FALSE(text.empty());
    for (std::size_t start = 0; start < text.size();) {
      const std::size_t end = std::min(text.find('\n', start), text.size());
      CHECK_MESSAGE(end - start <= 80, text.substr(start, end - start));
      start = end + 1;
    }
  }
}
