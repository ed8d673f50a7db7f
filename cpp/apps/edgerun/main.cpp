// edgerun: inspects, verifies, runs, measures, tunes and prepares bundles.

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <exception>
#include <new>
#include <stdexcept>

#include "arguments.hpp"
#include "loader.hpp"
#include "signals.hpp"

namespace {

using namespace edgerun;  // NOLINT: this file is the program
using edgebuild::Status;

int execute(Command& command, const std::string& name, bool json, std::chrono::steady_clock::time_point started) {
  if (const auto* message = std::get_if<Message>(&command)) {
    const Status status = print(message->text);
    return status.ok() ? 0 : report_error(name, json, status);
  }
  install_signal_handlers(name.c_str(), json);
  Status status;
  int exit_code = 0;
  if (const auto* inspect = std::get_if<InspectOptions>(&command)) status = inspect_command(*inspect);
  if (const auto* verify = std::get_if<VerifyOptions>(&command)) status = verify_command(*verify, exit_code);
  if (const auto* run = std::get_if<RunCommandOptions>(&command)) status = run_command(*run);
  if (const auto* tune = std::get_if<TuneOptions>(&command)) status = tune_command(*tune, exit_code);
  if (const auto* prepare = std::get_if<PrepareOptions>(&command)) status = prepare_command(*prepare, exit_code);
  if (auto* bench = std::get_if<BenchOptions>(&command)) {
    bench->started = started;
    status = bench_command(*bench);
  }
  return status.ok() ? exit_code : report_error(name, json, status);
}

int run_program(int argc, char** argv) {
  const auto started = keep_arguments(argv);
  const std::string name = command_name(argc, argv);
  const bool json = wants_json(argc, argv);
  try {
    auto command = parse_arguments(argc, argv);
    if (!command.ok()) return report_error(name, json, command.status());
    return execute(command.value(), name, json, started);
  } catch (const std::bad_alloc&) {
    return report_error(name, json, Status(edgebuild::Code::kResourceExhausted, "not enough memory"));
  } catch (const std::length_error&) {  // more than an address space holds, on a 32-bit board
    return report_error(name, json, Status(edgebuild::Code::kResourceExhausted, "not enough memory"));
  } catch (const std::exception& error) {
    return report_error(name, json,
                        Status(edgebuild::Code::kInternal, std::string("a bug of edgerun: ") + error.what()));
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int code = run_program(argc, argv);
  std::fflush(nullptr);
  ::_exit(code);  // not exit(): an engine's threads may still be there, and its static destructors take time
}
