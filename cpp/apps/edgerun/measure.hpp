// Runs the variants of a bundle in turn: first over the goldens, then against the clock.

#ifndef EDGEBUILD_APPS_EDGERUN_MEASURE_HPP_
#define EDGEBUILD_APPS_EDGERUN_MEASURE_HPP_

#include <memory>
#include <string>
#include <vector>

#include "bound_outputs.hpp"
#include "bundle/bundle.hpp"
#include "command.hpp"
#include "golden.hpp"

namespace edgerun {

/// A variant, and what running it showed.
struct Subject {
  const edgebuild::bundle::Variant* variant = nullptr;
  std::string skipped;  ///< Why it can't run here; empty: it ran.
  std::string engine_version;
  std::vector<OutputReport> goldens;  ///< Empty if the bundle has none.
  std::vector<double> seconds;        ///< Of one inference, for each round; empty if it was not measured.

  /// Whether its numbers are right, as far as there are goldens.
  [[nodiscard]] bool usable() const { return skipped.empty() && all_agree(goldens); }
};

/// Measures all variants with one thread count.
class Meter {
 public:
  /// @param threads  Of the engine; 0: the variants' own.
  Meter(const TuneOptions& options, const edgebuild::bundle::Bundle& bundle, unsigned threads);

  /// Loads every variant that can run here and holds it to the goldens.
  ///
  /// @return What failed, if it is not that a variant can't run here or is outside of its tolerance.
  edgebuild::Status check();
  /// Times the usable ones in alternating rounds: at least 7, then until `options.seconds` have passed, at most 31.
  edgebuild::Status measure();

  [[nodiscard]] const std::vector<Subject>& subjects() const noexcept { return subjects_; }

 private:
  /// What is kept of a variant between its turns.
  struct Loaded {
    edgebuild::Runner runner;
    std::unique_ptr<BoundOutputs> outputs;  // refers to the runner's memory, so it goes first
    explicit Loaded(edgebuild::Runner made) : runner(std::move(made)) {}
  };

  edgebuild::Status load(std::size_t index);
  edgebuild::Status try_load(std::size_t index);
  edgebuild::Status run(std::size_t index);
  edgebuild::Status take_turn(std::size_t index, std::size_t repeats, double* seconds);
  void unload_all();
  /// Where there is no room for all at once, a variant is loaded for its turn alone.
  void leave(std::size_t index);

  const TuneOptions& options_;
  const edgebuild::bundle::Bundle& bundle_;
  unsigned threads_;
  std::vector<Subject> subjects_;
  std::vector<std::unique_ptr<Loaded>> loaded_;
  LoadedInputs inputs_;
  bool all_fit_ = true;
};

}  // namespace edgerun

#endif  // EDGEBUILD_APPS_EDGERUN_MEASURE_HPP_
