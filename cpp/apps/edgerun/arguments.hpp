// The command line.

#ifndef EDGEBUILD_APPS_EDGERUN_ARGUMENTS_HPP_
#define EDGEBUILD_APPS_EDGERUN_ARGUMENTS_HPP_

#include <string>
#include <variant>

#include "command.hpp"

namespace edgerun {

/// Text to print on stdout, e.g. the help.
struct Message {
  std::string text;
};
struct InspectOptions : CommonOptions {};

using Command =
    std::variant<Message, InspectOptions, VerifyOptions, RunCommandOptions, BenchOptions, TuneOptions, PrepareOptions>;

/// @return kUsage, naming the flag and what was expected.
[[nodiscard]] edgebuild::Result<Command> parse_arguments(int argc, const char* const* argv);

/// What `argv` names, also where it does not parse: for the error object.
[[nodiscard]] std::string command_name(int argc, const char* const* argv);
[[nodiscard]] bool wants_json(int argc, const char* const* argv);

/// "name=value". @return kUsage, naming `flag`.
[[nodiscard]] edgebuild::Result<std::pair<std::string, std::string>> split_pair(const std::string& flag,
                                                                                const std::string& text);
/// Sizes separated by commas; empty: a scalar. @return kUsage, naming `flag`.
[[nodiscard]] edgebuild::Result<std::vector<std::int64_t>> parse_shape(const std::string& flag,
                                                                       const std::string& text);

}  // namespace edgerun

#endif  // EDGEBUILD_APPS_EDGERUN_ARGUMENTS_HPP_
