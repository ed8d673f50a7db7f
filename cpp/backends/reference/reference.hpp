// The reference backend: a small interpreter without an engine library (docs/reference-backend.md).

#ifndef EDGEBUILD_BACKENDS_REFERENCE_REFERENCE_HPP_
#define EDGEBUILD_BACKENDS_REFERENCE_REFERENCE_HPP_

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "common/plugin.hpp"

namespace edgebuild::reference {

struct Failure {
  eb_code code = EB_OK;
  std::string message;
  [[nodiscard]] bool ok() const noexcept { return code == EB_OK; }
};

/// A value during a run: what it is, and memory that is kept from run to run.
struct Slot {
  eb_value value{};  ///< Owns nothing; `data` points into an input, a constant or `storage`.
  std::vector<std::uint64_t> storage;
  std::vector<eb_value> items;
};

struct Port {
  std::string name;
  eb_kind kind = EB_KIND_TENSOR;
  eb_dtype dtype = EB_DTYPE_UNDEFINED;
  std::optional<std::vector<std::int64_t>> shape;  ///< -1: any size. Nothing: any rank.
  std::size_t slot = 0;
};

class Run;

struct Node {
  std::string name;
  std::string op_type;
  Failure (*compute)(const Node& node, Run& run) = nullptr;
  std::vector<std::size_t> inputs;
  std::size_t output = 0;
  std::vector<std::int64_t> shape;  ///< Of reshape.
  std::int64_t axis = 0;            ///< Of concat.
  std::int64_t milliseconds = 0;    ///< Of sleep.
};

struct Constant {
  std::size_t slot = 0;
  eb_value value{};
  std::vector<std::uint64_t> storage;
};

/// A parsed model; immutable.
struct Graph {
  std::vector<Port> inputs;
  std::vector<Port> outputs;
  std::vector<Constant> constants;
  std::vector<Node> nodes;
  std::size_t slot_count = 0;
};

/// Parses a model file; nothing in it is trusted. @return EB_UNSUPPORTED (an operator or dtype), EB_CORRUPT.
Failure parse_graph(const eb_model_config& config, Graph* out);

/// The function of an operator, and how many inputs it takes; NULL if there is none of this name.
struct Operator {
  const char* name;
  Failure (*compute)(const Node& node, Run& run);
  std::size_t least_inputs;
  std::size_t most_inputs;
};
const Operator* find_operator(const std::string& name) noexcept;

/// Bits of an element; 0 if it has no name here.
unsigned dtype_bits(std::uint32_t dtype) noexcept;
std::uint32_t dtype_from_name(const std::string& name) noexcept;
/// Bytes of a tensor; nothing on overflow, a negative size or a rank above 16.
std::optional<std::uint64_t> byte_size(std::uint32_t dtype, const std::int64_t* shape, std::size_t rank) noexcept;

/// One run's state; lives in a context.
class Run {
 public:
  std::vector<Slot> slots;

  void begin(std::int64_t deadline_ns);
  void end();
  void cancel();
  /// EB_OK, EB_CANCELLED or EB_DEADLINE_EXCEEDED. Asked often.
  Failure interrupted() const;
  /// Waits, or until it is interrupted.
  Failure sleep(std::chrono::milliseconds duration);

  /// Shapes a tensor into `slot` with zeroed memory of its own.
  Failure make_tensor(std::size_t slot, std::uint32_t dtype, const std::int64_t* shape, std::size_t rank);

 private:
  std::atomic<bool> cancelled_{false};
  std::mutex mutex_;
  bool running_ = false;
  std::int64_t deadline_ns_ = 0;
};

/// Deep copy of a value into memory of the host's; `out->release` frees it.
Failure copy_value(const eb_host_api& host, const eb_value& value, eb_value* out);

struct Backend {
  const eb_host_api* host;
};

struct Model {
  Backend* backend;
  Graph graph;
};

class Context {
 public:
  explicit Context(Model& model);
  Failure run(const eb_value* inputs, std::size_t input_count, eb_value* outputs, std::size_t output_count,
              const eb_run_options* options);
  void cancel() { run_.cancel(); }
  void read_profile(const eb_profile_entry** entries, std::size_t* count);
  [[nodiscard]] const eb_host_api& host() const noexcept { return *model_.backend->host; }

 private:
  Failure execute(bool profile);
  Failure give(eb_value* outputs);

  Model& model_;
  Run run_;
  std::vector<eb_value> scratch_;
  std::vector<eb_profile_entry> profile_;
  std::vector<eb_profile_entry> published_;
};

}  // namespace edgebuild::reference

#endif  // EDGEBUILD_BACKENDS_REFERENCE_REFERENCE_HPP_
