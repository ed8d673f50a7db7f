// What must happen when the process is told to stop: no temporary file stays, and the exit code says why.

#ifndef EDGEBUILD_APPS_EDGERUN_SIGNALS_HPP_
#define EDGEBUILD_APPS_EDGERUN_SIGNALS_HPP_

#include <string>

namespace edgerun {

/// Exit code after SIGINT.
inline constexpr int kExitInterrupted = 130;

/// SIGINT, SIGTERM and SIGHUP (a connection that breaks) remove the temporary files and exit with 128 plus their
/// number, unless whoever started the program has it ignore them (nohup). With `json`, the line of `command` that says
/// so is a JSON object on stdout.
void install_signal_handlers(const char* command, bool json);

/// Where handlers write their messages, unless those are JSON; at first stderr.
void set_message_descriptor(int fd);

/// Registers a file for removal at a signal; at most 4,096 at a time. @return Its slot, or -1 if there is none left.
int remove_on_signal(const std::string& path);
/// Undoes `remove_on_signal`.
void keep_on_signal(int slot);

/// Between two programs of one process: the time that is left goes on, but does not end it before
/// `install_signal_handlers` of the second one. false undoes it.
void hold_hard_deadline(bool hold);

/// Ends the process with the deadline's exit code when `seconds` have passed, even if the engine can't be stopped.
/// Replaces what was set before; 0 or less: no limit.
void set_hard_deadline(double seconds);

}  // namespace edgerun

#endif  // EDGEBUILD_APPS_EDGERUN_SIGNALS_HPP_
