// What `edgerun tune` measured on this machine: a small file in the state folder, and whether it may be believed.

#ifndef EDGEBUILD_SRC_RUNNER_TUNING_HPP_
#define EDGEBUILD_SRC_RUNNER_TUNING_HPP_

#include <sys/types.h>

#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "edgebuild/status.hpp"
#include "runner/requirements.hpp"

namespace edgebuild::runner {

/// A file of this size or less is read; 64 variants with the longest names fit.
inline constexpr std::size_t kMaxTuningBytes = std::size_t{64} << 10;

/// What a measurement holds for.
struct TuningKey {
  std::string bundle_id;
  std::string edgebuild;     ///< Version of the runner.
  std::string cpu_model;     ///< As the system names it.
  std::string cpu_features;  ///< SHA-256 of the features that every core has.
  unsigned threads = 0;      ///< Of the engine, as asked for; 0: those of each variant.
  unsigned processors = 0;   ///< That this process may use.
};

/// A variant that ran.
struct TunedVariant {
  std::string name;
  std::string engine_version;  ///< The engine's own word.
  bool agrees = false;         ///< Whether the goldens lay within the tolerances; if not, it was not measured.
  double median_s = 0.0;       ///< Of one inference, over the rounds; then the quartiles.
  double p25_s = 0.0;
  double p75_s = 0.0;
};

struct Tuning {
  TuningKey key;
  std::vector<TunedVariant> variants;  ///< In the order in which they should be tried.
};

[[nodiscard]] TuningKey tuning_key(const std::string& bundle_id, const Machine& machine, unsigned threads);
/// The thread count that options of a load ask for; 0: none.
[[nodiscard]] unsigned asked_threads(const std::map<std::string, std::string>& options);

/// $XDG_STATE_HOME/edgebuild/ID, or ~/.local/state/edgebuild/ID; empty if neither variable is an absolute path.
[[nodiscard]] std::string default_state_dir(const std::string& bundle_id);
/// The name within a state folder: a file for each thread count, so that one tuning does not undo another.
[[nodiscard]] std::string tuning_file_name(unsigned threads);

/// The file's text: one JSON object, the last member of which is the hash of all bytes before it.
[[nodiscard]] std::string tuning_text(const Tuning& tuning);
/// The other way. @return kCorrupt: any byte differs from what tuning_text writes, or a value is impossible.
[[nodiscard]] Result<Tuning> parse_tuning(std::string_view text);

/// Why a tuning does not hold here; nothing if it does.
[[nodiscard]] std::optional<std::string> why_stale(const TuningKey& tuned, const TuningKey& here);

/// Reads what was kept. The file is input like any other: it must be a regular file (no link) of `user` or root that
/// nobody else can write, small, whole, and about this bundle, version and machine.
///
/// @return kNotFound (there is none), or another code and the reason why the file can't be used.
[[nodiscard]] Result<Tuning> read_tuning(const std::string& folder, const TuningKey& here, uid_t user);

/// Keeps a tuning: makes the folder, writes the file beside its name and moves it there, so that a reader sees the old
/// one or the new one. @return kUsage (the folder is something else), kIo, kResourceExhausted; the file's path if ok.
[[nodiscard]] Result<std::string> write_tuning(const std::string& folder, const Tuning& tuning);

/// In which order the variants of a bundle are tried, and why.
struct VariantOrder {
  std::vector<std::size_t> indices;  ///< Into the manifest's variants.
  std::optional<Tuning> tuning;      ///< What gave the order; nothing: it is the manifest's.
  std::string why;                   ///< In words, e.g. "as tuned here, …" or "the target's: …".
};

/// The order that `tuning` gives: variants that it knows change places among themselves, all others keep theirs.
[[nodiscard]] std::vector<std::size_t> tuned_order(const std::vector<std::string>& names, const Tuning& tuning);

/// A bundle, and how its variants are to be loaded.
struct OrderRequest {
  std::string bundle_id;
  std::string arch;                ///< The manifest's.
  std::vector<std::string> names;  ///< Of the variants, in the manifest's order.
  std::string state_dir;           ///< Empty: the default one.
  unsigned threads = 0;            ///< Asked for; 0: the variants' own.
  bool tuning = true;              ///< false: the manifest's order, whatever was kept.
};

/// Decides which order holds on this machine. Never fails: what can't be used is a reason.
[[nodiscard]] VariantOrder variant_order(const OrderRequest& request);

}  // namespace edgebuild::runner

#endif  // EDGEBUILD_SRC_RUNNER_TUNING_HPP_
